"""The store: results/<profile>/<request set>/<row>/, written by the runner and by scoring, read by reports.

    images/00000.tar + .json    shards of PNG images             trace.npz       influence maps, where told
    run.json                    manifest of generation, last     features.npz    features of the distribution metrics
    scores.parquet              one row per (request, metric)    sets.parquet    one row per set metric
    score.json                  manifest of scoring, last

A file counts only once the manifest after it stands: `run.json` for images and trace, `score.json` for the scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from concord.benchmarks.store.shards import read_images, tar_path
from concord.data.errors import ConcordError
from concord.data.files import read_json

if TYPE_CHECKING:
    from pandas import DataFrame

SCORE_FILES = ("score.json", "scores.parquet", "sets.parquet", "features.npz")


@dataclass(frozen=True)
class Run:
    """One row of one request set: its images, what they cost, and their scores."""

    path: Path

    @property
    def request_set(self) -> str:
        return self.path.parent.name

    @property
    def row(self) -> str:
        return self.path.name

    @property
    def finished(self) -> bool:
        return (self.path / "run.json").is_file()

    @property
    def scored(self) -> bool:
        return self.finished and (self.path / "score.json").is_file()

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """run.json; ConcordError when the run has not been generated."""
        if not self.finished:
            raise ConcordError(f"{self.path}: not generated yet; run `concord generate {self.request_set} {self.row}`")
        return self._json("run.json")

    @cached_property
    def score_info(self) -> dict[str, Any]:
        """score.json; ConcordError when the run has not been scored."""
        if not self.scored:
            raise ConcordError(f"{self.path}: not scored yet; run `concord score {self.request_set} {self.row}`")
        return self._json("score.json")

    @property
    def ids(self) -> list[str]:
        """Request ids in the order of the request set."""
        return [request["id"] for request in self.manifest["requests"]]

    def scores(self) -> DataFrame:
        """suite, method, request, metric, value (float64), status: one row per (request, sample metric)."""
        return with_metric_names(self._parquet("scores.parquet"))

    def sets(self) -> DataFrame:
        """suite, method, metric, value, n, n_reference, status, replicates: one row per set metric."""
        return with_metric_names(self._parquet("sets.parquet"))

    def features(self, kind: str = "pool") -> tuple[list[str], np.ndarray]:
        """Request ids and float32 features (n, D) of one kind."""
        with np.load(self.path / "features.npz", allow_pickle=False) as file:
            return [str(name) for name in file["requests"]], file[f"features_{kind}"]

    def images(self, ids: Iterable[str] | None = None) -> Iterator[tuple[str, np.ndarray]]:
        """(request id, uint8 (H, W, 3) RGB), in the order of the request set; only `ids` where given."""
        wanted = None if ids is None else set(ids)
        for shard in self.manifest["shards"]:
            if wanted is None or wanted.intersection(shard["requests"]):
                yield from read_images(tar_path(self.path / "images", shard["shard"]), wanted)

    def trace(self) -> dict[str, Any] | None:
        """What the method told about the first requests, or None.

        influence: float16 (R, S, M, h, w); influence_steps: (S,) timesteps; influence_names: (M,); requests: (R,).
        """
        if not self.finished or not (self.path / "trace.npz").is_file():
            return None
        with np.load(self.path / "trace.npz", allow_pickle=False) as file:
            return {name: file[name] for name in file.files}

    def _json(self, name: str) -> dict[str, Any]:
        content = read_json(self.path / name)
        if not isinstance(content, dict):
            raise ConcordError(f"{self.path / name}: expected a JSON object; remove the file and run again")
        return content

    def _parquet(self, name: str) -> DataFrame:
        import pandas as pd

        _ = self.score_info
        try:
            return pd.read_parquet(self.path / name)
        except (OSError, ValueError) as error:
            raise ConcordError(f"{self.path / name}: not readable ({error}); run `concord score` again") from None


def with_metric_names(frame: DataFrame) -> DataFrame:
    """Stored scores with the names that metrics have today."""
    from concord.metrics.base import metric_name

    names = {name: metric_name(str(name)) for name in frame["metric"].unique()}
    return frame.assign(metric=frame["metric"].map(names)) if any(a != b for a, b in names.items()) else frame


class Store:
    """Reads a results folder of one profile: results/<profile>, or results/<profile>/<variant>."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def run(self, request_set: str, row: str) -> Run:
        """The run of that row, which need not exist yet."""
        return Run(self.root / request_set / row)

    def runs(self, request_set: str) -> list[Run]:
        """Every finished run of a request set, by row name."""
        found = sorted((self.root / request_set).glob("*/run.json"))
        return [Run(path.parent) for path in found]
