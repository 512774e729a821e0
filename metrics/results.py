"""What an evaluation found: one number a metric, one row an image, and everything that they follow from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from concord.metrics.base import OK, metric_name

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Result:
    """One metric's number and where it comes from."""

    metric: str
    label: str
    unit: str
    higher_is_better: bool
    value: float  # of a sample metric: the mean over all images, failures counted at their worst value
    n: int
    n_reference: int | None  # None where no reference is looked at, or a file of statistics does not tell
    failed: int = 0  # images that could not be measured
    features: str | None = None  # of a set metric: the kind of features, which names the protocol
    network: str | None = None  # of a set metric: the SHA-256 of the weights that gave the features
    replicates: tuple[float, ...] = ()  # of a set metric: delete-a-group jackknife, where it was asked for


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found. `samples`: per sample metric, values float64 (n,) and the reasons of failures by image."""

    profile: str
    results: tuple[Result, ...]
    images: tuple[str, ...]
    samples: Mapping[str, tuple[np.ndarray, Mapping[int, str]]]
    generated: Mapping[str, object]  # label, n, fingerprint
    reference: Mapping[str, object] | None
    networks: Mapping[str, str]  # SHA-256 of the weight files used, by network
    device: str
    seconds: Mapping[str, float]
    dtype: str = "float32"
    notes: tuple[str, ...] = ()  # what was asked for beside the scores and could not be done, and why

    @property
    def values(self) -> dict[str, float]:
        """metric -> value"""
        return {result.metric: result.value for result in self.results}

    def __getitem__(self, metric: str) -> Result:
        for result in self.results:
            if result.metric == metric_name(metric):
                return result
        raise KeyError(f"'{metric}' was not asked for; there are {', '.join(self.values)}")

    def rows(self) -> Iterator[dict[str, Any]]:
        """One row per (image, sample metric): image, metric, value, status."""
        for metric, (values, reasons) in self.samples.items():
            for index, (image, value) in enumerate(zip(self.images, values.tolist(), strict=True)):
                yield {"image": image, "metric": metric, "value": value, "status": reasons.get(index, OK)}

    def frame(self) -> pd.DataFrame:
        """`rows` as a table."""
        import pandas as pd

        return pd.DataFrame(self.rows(), columns=["image", "metric", "value", "status"])

    def facts(self) -> dict[str, Any]:
        """Everything but the rows, for JSON."""
        return {
            "profile": self.profile,
            "generated": dict(self.generated),
            "reference": dict(self.reference) if self.reference else None,
            "metrics": [
                {**{k: v for k, v in vars(result).items() if k != "replicates"}, "replicates": list(result.replicates)}
                for result in self.results
            ],
            "networks": dict(self.networks),
            "device": self.device,
            "dtype": self.dtype,
            "seconds": {kind: round(value, 3) for kind, value in self.seconds.items()},
            "notes": list(self.notes),
        }
