"""The one scorer: batches of decoded images go in, batches of scores come out.

Every image is decoded once, every network sees it once, and all metrics read the same observation. What becomes of the
scores is the caller's: a benchmark stores them (benchmarks/run/score.py), tuning takes their means
(benchmarks/tune.py), and `concord.metrics.evaluate` returns them (metrics/api.py).

Scoring runs in float32 with TF32 off. Memory grows with the number of images by their features and scores alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from concord.data.request import Conditions
from concord.metrics.base import GROUPS, OK, Metric, MomentMetric, Observation, SampleMetric, Score, SetMetric
from concord.metrics.cache import Gaussian, ReferenceCache, ReferenceKey
from concord.metrics.networks.judges import features_sha256, set_features

if TYPE_CHECKING:
    from torch import Tensor

    from concord.data.datasets.images.image_sets import Batch
    from concord.data.networks import Networks
    from concord.metrics.distribution.reference_moments import ReferenceMoments

BATCH = 32

Progress = Callable[[int, int], None]
Bars = Callable[[str], AbstractContextManager[Progress]]
"""bars(what is being done) -> a context that gives a progress callback of (images done, images in all)."""
Measure = Callable[[str], AbstractContextManager[None]]
"""measure(kind of work) -> a context whose seconds count as that kind: 'decode', 'observe'."""


@contextlib.contextmanager
def no_bars(_: str) -> Iterator[Progress]:
    """Progress that nobody watches."""
    yield lambda done, total: None


def unmeasured(_: str) -> AbstractContextManager[None]:
    """Seconds that nobody counts."""
    return contextlib.nullcontext()


def to_tensor(images: np.ndarray) -> Tensor:
    """(B, H, W, 3), uint8 or float32 in [0, 1] -> float32 tensor (B, 3, H, W) in [0, 1]."""
    import torch

    images = np.require(images, requirements=["C", "W"])  # copies what is read-only, mapped or flipped
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2)
    return (tensor.float().div(255) if tensor.dtype == torch.uint8 else tensor.float()).contiguous()


# --------------------------------------------------------------------------------------------------- batches of scores


@dataclass(frozen=True)
class ImageBatch:
    """Decoded images to be scored.

    indices: int64 (B,), their places in the set. images: float32 (B, 3, H, W) RGB in [0, 1]. conditions: one for each.
    originals: like images, what metrics of pairs compare with; None where there are none.
    """

    indices: np.ndarray
    images: Tensor
    conditions: Sequence[Conditions]
    originals: Tensor | None = None


@dataclass(frozen=True)
class ScoreBatch:
    """What the metrics say of a batch.

    scores: sample metric -> one `Score` an image. features: kind -> float32 (B, D), what set metrics are computed from.
    of_originals: likewise, of the originals.
    """

    indices: np.ndarray
    scores: Mapping[str, Sequence[Score]]
    features: Mapping[str, np.ndarray]
    of_originals: Mapping[str, np.ndarray] = field(default_factory=dict)


def score_batches(
    batches: Iterable[ImageBatch],
    metrics: Sequence[Metric],
    networks: Networks,
    *,
    kinds: Sequence[str] = (),
    original_kinds: Sequence[str] = (),
    measure: Measure = unmeasured,
) -> Iterator[ScoreBatch]:
    """Score batch after batch by all metrics, one observation each.

    kinds: features wanted beside those of the set metrics. original_kinds: features wanted of the originals.
    """
    samples = [metric for metric in metrics if isinstance(metric, SampleMetric)]
    by_kind = {metric.features: metric for metric in metrics if isinstance(metric, SetMetric)}
    looked = [*(kind for kind, metric in by_kind.items() if not metric.counted), *kinds]
    coming = iter(batches)
    while True:
        with measure("decode"):
            batch = next(coming, None)
        if batch is None:
            return
        with measure("observe"):
            observation = Observation(batch.images, batch.conditions, networks, batch.originals, looked)
            scores = {metric.name: metric.score(observation) for metric in samples}
            features = {kind: metric.observe(observation) for kind, metric in by_kind.items()}
            features |= {kind: observation.features(kind) for kind in kinds}
            originals = {}
            if original_kinds and batch.originals is not None:
                originals = numpy_features(networks, batch.originals, original_kinds)
        yield ScoreBatch(batch.indices, scores, features, originals)


def numpy_features(networks: Networks, images: Tensor, kinds: Sequence[str]) -> dict[str, np.ndarray]:
    """Features float32 (B, D) by kind, one pass of each network."""
    return {kind: rows.float().cpu().numpy() for kind, rows in set_features(networks, images, kinds).items()}


class Scores:
    """The scores of a set of n images. Batches are added in any order, from wherever they were made.

    values: sample metric -> float64 (n,). reasons: sample metric -> why an image failed, by its index.
    features: kind -> float32 (n, D).
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self.values: dict[str, np.ndarray] = {}
        self.reasons: dict[str, dict[int, str]] = {}
        self.features: dict[str, np.ndarray] = {}

    def add(self, batch: ScoreBatch) -> None:
        """Put a batch's scores and features in their images' places."""
        for name, scores in batch.scores.items():
            values = self.values.setdefault(name, np.full(self.n, np.nan))
            reasons = self.reasons.setdefault(name, {})
            for index, score in zip(batch.indices.tolist(), scores, strict=True):
                values[index] = score.value
                if score.status != OK:
                    reasons[index] = score.status
        fill(self.features, self.n, batch.indices, batch.features)


def fill(table: dict[str, np.ndarray], n: int, indices: np.ndarray, features: Mapping[str, np.ndarray]) -> None:
    """Put rows of features in their images' places of a table by kind, float32 (n, D) each."""
    for kind, rows in features.items():
        if kind not in table:
            table[kind] = np.empty((n, rows.shape[1]), np.float32)
        table[kind][indices] = rows


# ----------------------------------------------------------------------------------------------------------------- sets


def set_metrics(metrics: Iterable[Metric], compared: bool = False) -> list[SetMetric]:
    """Those that have one value a set; `compared`: of these, those that compare it with a reference."""
    chosen = [metric for metric in metrics if isinstance(metric, SetMetric)]
    return [metric for metric in chosen if metric.needs_reference] if compared else chosen


def score_set(
    metric: SetMetric, features: np.ndarray, reference: np.ndarray | Gaussian | None, groups: int = GROUPS
) -> tuple[float, list[float]]:
    """The value of features (n, D), and its replicates without each of `groups` groups of images (0: none).

    reference: features (m, D), or the Gaussian that stands for them; None for a metric that looks at no reference.
    """
    n = len(features)
    members = np.arange(n) % min(groups, n) if groups else None
    if isinstance(reference, Gaussian):
        metric.check_features(features, features[:2])  # finite, and two at least
        left = range(0 if members is None else int(members.max()) + 1)
        return reference.distance(features), [reference.distance(features[members != g]) for g in left]
    if reference is None or not metric.needs_reference:
        reference = np.zeros((0, features.shape[1]), np.float32)
    value = float(metric.compute(features, reference))
    return value, [] if members is None else metric.leave_group_out(features, reference, members).tolist()


def score_items(
    metric: SetMetric, features: np.ndarray, reference: np.ndarray | ReferenceMoments | None, items: np.ndarray
) -> tuple[float, list[float]]:
    """The value of features (n, D) and the replicates of its interval and its tests (`SetMetric.replicates`).

    reference: features (m, D), or for a metric that needs no more, their moments; None for one that looks at neither.
    items: int (n,), which item each image is of.
    """
    if reference is None or not metric.needs_reference:
        reference = np.zeros((0, features.shape[1]), np.float32)
    if isinstance(reference, np.ndarray):
        return float(metric.compute(features, reference)), metric.replicates(features, reference, items).tolist()
    if not isinstance(metric, MomentMetric):
        raise ValueError(f"metric '{metric.name}' compares with features of images, not with moments")
    return float(metric.compute(features, reference)), metric.replicates(features, reference, items).tolist()


class ReferenceImages(Protocol):
    """What reference features are computed from, such as `data.datasets.images.image_sets.ImageSet`."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the images in their order."""
        ...

    def __len__(self) -> int: ...

    def batches(self, size: int) -> Iterator[Batch]:
        """All images, each once, in batches of one size."""
        ...


class ReferenceFeatures:
    """What set metrics compare with: features of the reference's images by kind, from the cache where it has them."""

    def __init__(
        self, images: ReferenceImages, metrics: Sequence[SetMetric], networks: Networks, cache: ReferenceCache
    ) -> None:
        self.images, self.networks, self.cache = images, networks, cache
        self._keys = {
            metric.features: ReferenceKey(
                images.fingerprint, len(images), metric.features, network_of(metric, networks) or ""
            )
            for metric in metrics
        }
        cached = {kind: cache.load(key) for kind, key in self._keys.items()}
        self.by_kind = {kind: features for kind, features in cached.items() if features is not None}
        self.not_kept = ""

    @property
    def missing(self) -> list[str]:
        """The kinds that are still to be computed."""
        return [kind for kind in self._keys if kind not in self.by_kind]

    def compute(self, batch_size: int, progress: Progress) -> None:
        """Compute what is missing, in one pass over the images."""
        kinds, n, done = self.missing, len(self.images), 0
        table: dict[str, np.ndarray] = {}
        for batch in self.images.batches(batch_size) if kinds else ():
            fill(table, n, batch.indices, numpy_features(self.networks, to_tensor(batch.images), kinds))
            done += len(batch.indices)
            progress(done, n)
        self.add(table)

    def add(self, table: Mapping[str, np.ndarray]) -> None:
        """Take computed features, and keep them for the next time; `not_kept` says why that was not possible."""
        for kind, features in table.items():
            self.by_kind[kind] = features
            self.not_kept = self.cache.save(self._keys[kind], features) or self.not_kept


def network_of(metric: SetMetric, networks: Networks) -> str | None:
    """SHA-256 of the weights that give a metric's features; None for what is counted, not looked at."""
    if metric.counted:
        return None
    return features_sha256(networks, metric.features)
