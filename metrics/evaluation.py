"""Score images that come from anywhere: `concord.metrics.evaluate(generated=..., reference=..., conditions=...,
metrics=...)`.

Every image is decoded once, every network sees it once, and all metrics read the same observation; sides are named,
since precision and recall change places where they are exchanged. What is not as asked for is an error before the first
network is loaded, where that can be known.

    generated     what is scored: a folder, a tar, a Concord row, arrays or tensors (data/datasets/images/image_sets.py)
    reference     what it is compared with: likewise, or an .npz of statistics (metrics/cache.py). Distribution metrics
                  take it as a set; metrics of pairs (LPIPS, PSNR, ...) take each image's partner in it
    conditions    one for each generated image, in order: captions, or `concord.data.request.Conditions`

Scoring runs in float32 with TF32 off. Memory grows with the number of images by their features and scores alone.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from concord.data.device import exact_float32
from concord.data.errors import ConcordError
from concord.data.request import Conditions
from concord.metrics.base import OK, Metric, Observation, SampleMetric, SetMetric, get_metric
from concord.metrics.results import ALIASES, Evaluation, Result

if TYPE_CHECKING:
    from concord.data.datasets.images.image_sets import Batch, ImageSet, Source
    from concord.metrics.cache import ReferenceCache, ReferenceKey, Statistics
    from concord.metrics.networks.perception import Perception

Progress = Callable[[int, int], None]
Bars = Callable[[str], AbstractContextManager[Progress]]
"""bars(what is being done) -> a context that gives a progress callback of (images done, images in all)."""

BATCH = 32


@contextlib.contextmanager
def no_bars(_: str) -> Iterator[Progress]:
    """Progress that nobody watches."""
    yield lambda done, total: None


# ------------------------------------------------------------------------------------------------------------- evaluate


def evaluate(
    *,
    generated: Source,
    metrics: str | Sequence[str],
    reference: Source | None = None,
    conditions: Sequence[Conditions | str] | None = None,
    profile: str = "paper",
    device: str = "auto",
    cache: bool | str | Path = True,
    batch_size: int = BATCH,
    replicates: int = 0,
    statistics: str | Path | None = None,
    perception: Perception | None = None,
    bars: Bars = no_bars,
) -> Evaluation:
    """Score `generated` by the named metrics; ConcordError naming what cannot be scored, and why.

    metrics: names (see `concord list`), or one string with commas.
    cache: where reference features are kept; True is Concord's cache, False keeps none.
    replicates: groups of the delete-a-group jackknife (32 is usual) for intervals of set metrics; 0 for none. At 2048
        dimensions each costs as much as the value.
    statistics: where the Gaussians of the generated images' features are written (metrics/cache.py), for other tools.
    perception: networks to look through instead of the profile's.
    """
    from concord.data.datasets.images.image_sets import open_images
    from concord.metrics.cache import ReferenceCache, Statistics, default_folder

    chosen = _chosen(metrics)
    images = open_images(generated, "generated")
    opened = None if reference is None else _open_reference(reference)
    work = _Work(
        profile=profile,
        device=device,
        samples=[metric for metric in chosen if isinstance(metric, SampleMetric)],
        sets=[metric for metric in chosen if isinstance(metric, SetMetric)],
        images=images,
        reference=None if isinstance(opened, Statistics) else opened,
        statistics=opened if isinstance(opened, Statistics) else None,
        conditions=conditions,
        cache=ReferenceCache(default_folder() if cache is True else Path(cache) if cache else None),
        batch_size=batch_size,
        groups=replicates,
        export=None if statistics is None else Path(statistics),
        given=perception,
        bars=bars,
    )
    work.check()
    with exact_float32():
        return work.run([metric.name for metric in chosen])


def _chosen(names: str | Sequence[str]) -> list[Metric]:
    listed = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    listed = [ALIASES.get(name, name) for name in listed if name]
    if not listed:
        raise ConcordError("metrics: none named; expected names such as fid,kid (see `concord list`)")
    return [get_metric(name) for name in dict.fromkeys(listed)]


def _open_reference(source: Source) -> ImageSet | Statistics:
    from concord.data.datasets.images.image_sets import open_images
    from concord.metrics.cache import is_statistics, read_statistics

    if isinstance(source, (str, Path)) and Path(source).suffix.lower() == ".npz" and is_statistics(Path(source)):
        return read_statistics(Path(source))
    return open_images(source, "reference")


@dataclass
class _Work:
    """One call of `evaluate`."""

    profile: str
    device: str
    samples: list[SampleMetric]
    sets: list[SetMetric]
    images: ImageSet
    reference: ImageSet | None
    statistics: Statistics | None
    conditions: Sequence[Conditions | str] | None
    cache: ReferenceCache
    batch_size: int
    groups: int
    export: Path | None
    given: Perception | None
    bars: Bars
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    # ---------------------------------------------------------------------------------------------------------- checks

    def check(self) -> None:
        """Everything that can be known to be wrong before a network is loaded."""
        if self.batch_size < 1:
            raise ConcordError(f"batch size {self.batch_size}: expected 1 or more")
        if self.groups == 1 or self.groups < 0:
            raise ConcordError(f"replicates {self.groups}: expected 0, or 2 and more groups")
        if self.conditions is not None and len(self.conditions) != len(self.images):
            raise ConcordError(
                f"conditions: {len(self.conditions)} for the {len(self.images)} images of {self.images.label}; "
                "expected one for each image, in its order"
            )
        for metric in (*self.samples, *self.sets):
            if metric.needs and self.conditions is None:
                wanted = ", ".join(sorted(metric.needs))
                raise ConcordError(
                    f"metric '{metric.name}' scores against condition {wanted}: give conditions, one for each image"
                )
            if metric.needs_originals and self.reference is None:
                raise ConcordError(
                    f"metric '{metric.name}' compares each image with its original: give the originals as reference"
                )
        for metric in self.sets:
            self._check_set(metric)
        _ = self.partners  # pairs that do not fit are an error now
        if self.export is not None:
            if self.export.suffix != ".npz":
                raise ConcordError(f"{self.export}: expected a name that ends in .npz for statistics")
            if len({kind for kind in self._kinds if kind.partition("-")[0] == "pool"}) != 1:
                raise ConcordError(
                    f"{self.export}: statistics are of one kind of pool3 features; name fid, fid-legacy or fid-tf "
                    "among the metrics, and one of them alone"
                )

    def _check_set(self, metric: SetMetric) -> None:
        self._check_number(metric, len(self.images), "generated", self.images.label)
        if not metric.needs_reference:
            return
        if self.reference is not None:
            self._check_number(metric, len(self.reference), "reference", self.reference.label)
        elif self.statistics is None:
            raise ConcordError(f"metric '{metric.name}' compares with a set of images: give a reference")
        elif self._stored(metric) is None and self._gaussian(metric) is None:
            raise ConcordError(
                f"metric '{metric.name}': {self.statistics.path} holds no features of kind '{metric.features}'; "
                "give the reference images themselves"
            )

    @staticmethod
    def _check_number(metric: SetMetric, n: int, side: str, label: str) -> None:
        if n < metric.minimum_n:
            raise ConcordError(
                f"metric '{metric.name}': {n} {side} images in {label}, at least {metric.minimum_n} are needed; "
                "give more images or leave the metric out"
            )

    @cached_property
    def partners(self) -> np.ndarray | None:
        """For each generated image, the place of its original in the reference; None where no metric asks."""
        from concord.data.datasets.images.pairing import pair

        if self.reference is None or not any(metric.needs_originals for metric in self.samples):
            return None
        return pair(self.images, self.reference)

    # -------------------------------------------------------------------------------------------------------- the work

    def run(self, order: Sequence[str]) -> Evaluation:
        kinds = self._kinds
        with self._measure("load"):
            for metric in self.sets:
                self._network(metric)
        comparing = [metric for metric in self.sets if metric.needs_reference and self.reference is not None]
        compared = list(dict.fromkeys(metric.features for metric in comparing))
        with self._measure("reference"):
            keys = {metric.features: self._key(metric) for metric in comparing}
            kept = {kind: self.cache.load(key) for kind, key in keys.items()}
        real = {kind: features for kind, features in kept.items() if features is not None}
        missing = [kind for kind in compared if kind not in real]
        scores, features, beside = self._look(kinds, missing if self.partners is not None else [])
        if missing and not beside:
            with self._measure("reference"), self.bars("reference") as progress:
                beside = self._reference_features(missing, progress)
        with self._measure("reference"):
            for kind, found in beside.items():
                self.cache.save(keys[kind], found)
                real[kind] = found
        if self.export is not None:
            self._export(features)
        by_name = {metric.name: self._sample_result(metric, *scores[metric.name]) for metric in self.samples}
        with self._measure("sets"):
            by_name |= {
                metric.name: self._set_result(metric, features[metric.features], real.get(metric.features))
                for metric in self.sets
            }
        return Evaluation(
            profile=self.profile,
            results=tuple(by_name[name] for name in order),
            images=tuple(self.images.names),
            samples=scores,
            generated=about(self.images),
            reference=self._about_reference(),
            networks=dict(self.perception.sha256),
            device=str(getattr(self.perception, "device", "cpu")),
            seconds=dict(self.seconds),
        )

    @property
    def _kinds(self) -> list[str]:
        return list(dict.fromkeys(metric.features for metric in self.sets))

    def _export(self, features: Mapping[str, np.ndarray]) -> None:
        """pool3's Gaussian, and the spatial features' of the same protocol where they were asked for."""
        from concord.metrics.cache import Gaussian, write_statistics

        assert self.export is not None
        pool = next(kind for kind in features if kind.partition("-")[0] == "pool")
        spatial = features.get(pool.replace("pool", "spatial"))
        write_statistics(self.export, Gaussian.of(features[pool]), None if spatial is None else Gaussian.of(spatial))

    @cached_property
    def perception(self) -> Perception:
        if self.given is not None:
            return self.given
        from concord.data.device import resolve_device
        from concord.metrics.networks.perception import Perception

        return Perception.load(self.profile, "judge", resolve_device(self.device))

    def _network(self, metric: SetMetric) -> str | None:
        """SHA-256 of the weights that give a metric's features; None for what is counted, not looked at."""
        if metric.counted:
            return None
        name = self.perception.feature_network(metric.features)  # loads it, so that its hash is known
        return self.perception.sha256[name]

    def _key(self, metric: SetMetric) -> ReferenceKey:
        from concord.metrics.cache import ReferenceKey

        assert self.reference is not None
        network = self._network(metric) or ""
        return ReferenceKey(self.reference.fingerprint, len(self.reference), metric.features, network)

    def _look(
        self, kinds: Sequence[str], beside: Sequence[str]
    ) -> tuple[dict[str, tuple[np.ndarray, dict[int, str]]], dict[str, np.ndarray], dict[str, np.ndarray]]:
        """One pass over the generated images: scores, features (n, D) by kind, and the originals' features `beside`."""
        n = len(self.images)
        scores: dict[str, tuple[np.ndarray, dict[int, str]]] = {
            metric.name: (np.full(n, np.nan), {}) for metric in self.samples
        }
        features, theirs = _Table(n), _Table(n)
        if not self.samples and not kinds:
            return scores, {}, {}
        by_kind = {metric.features: metric for metric in self.sets}
        looked = [kind for kind, metric in by_kind.items() if not metric.counted]
        with self.bars("score") as progress:
            done = 0
            for batch in self._batches(self.images):
                with self._measure("decode"):
                    places = None if self.partners is None else self.partners[batch.indices]
                    originals = None if places is None else self._originals(batch, places)
                with self._measure("observe"):
                    observation = Observation(
                        to_tensor(batch.images), self._conditions(batch.indices), self.perception, originals, looked
                    )
                    for sample in self.samples:
                        values, reasons = scores[sample.name]
                        for index, score in zip(batch.indices.tolist(), sample.score(observation), strict=True):
                            values[index] = score.value
                            if score.status != OK:
                                reasons[index] = score.status
                    for kind, metric in by_kind.items():
                        features.put(kind, batch.indices, metric.observe(observation))
                    if beside and originals is not None and places is not None:
                        for kind, found in self.perception.features(originals, list(beside)).items():
                            theirs.put(kind, places, found.float().cpu().numpy())
                done += len(batch.indices)
                progress(done, n)
        return scores, features.arrays, theirs.arrays

    def _reference_features(self, kinds: Sequence[str], progress: Progress) -> dict[str, np.ndarray]:
        assert self.reference is not None
        table, done = _Table(len(self.reference)), 0
        for batch in self.reference.batches(self.batch_size):
            for kind, found in self.perception.features(to_tensor(batch.images), list(kinds)).items():
                table.put(kind, batch.indices, found.float().cpu().numpy())
            done += len(batch.indices)
            progress(done, len(self.reference))
        return table.arrays

    def _batches(self, images: ImageSet) -> Iterator[Batch]:
        batches = images.batches(self.batch_size)
        while True:
            with self._measure("decode"):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def _conditions(self, indices: Iterable[int]) -> list[Conditions]:
        if self.conditions is None:
            return [Conditions() for _ in indices]
        found = [self.conditions[int(index)] for index in indices]
        return [Conditions(text=one) if isinstance(one, str) else one for one in found]

    def _originals(self, batch: Batch, places: np.ndarray) -> Any:
        """float32 (B, 3, H, W) in [0, 1]: the batch's partners, which must have its size."""
        assert self.reference is not None
        made = [to_tensor(self.reference.load(int(place))[None]) for place in places]
        height, width = batch.images.shape[1:3]
        for index, place, original in zip(batch.indices, places, made, strict=True):
            if tuple(original.shape[2:]) != (height, width):
                raise ConcordError(
                    f"{self.images.label}: '{self.images.names[index]}' is {width}x{height} pixels, its original "
                    f"'{self.reference.names[place]}' {original.shape[3]}x{original.shape[2]}; give both at one size"
                )
        import torch

        return torch.cat(made)

    # --------------------------------------------------------------------------------------------------------- results

    def _sample_result(self, metric: SampleMetric, values: np.ndarray, reasons: Mapping[int, str]) -> Result:
        paired = len(self.images) if metric.needs_originals else None
        return Result(
            metric.name,
            metric.label,
            metric.unit,
            metric.higher_is_better,
            float(values.mean()),
            len(values),
            paired,
            len(reasons),
        )

    def _set_result(self, metric: SetMetric, features: np.ndarray, real: np.ndarray | None) -> Result:
        stored = self._stored(metric)
        gaussian = None if stored is not None else self._gaussian(metric)
        replicates: tuple[float, ...] = ()
        if not metric.needs_reference:
            real = np.zeros((0, features.shape[1]), np.float32)
        elif stored is not None:
            real = stored
        groups = np.arange(len(features)) % min(self.groups, len(features)) if self.groups else None
        if gaussian is not None:
            metric.check_features(features, features[:2])  # finite, and two at least
            value = gaussian.distance(features)
            if groups is not None:
                replicates = tuple(gaussian.distance(features[groups != g]) for g in range(int(groups.max()) + 1))
        else:
            assert real is not None
            value = float(metric.compute(features, real))
            if groups is not None:
                replicates = tuple(metric.leave_group_out(features, real, groups).tolist())
        n_reference = len(real) if real is not None and metric.needs_reference else None
        return Result(
            metric.name,
            metric.label,
            metric.unit,
            metric.higher_is_better,
            value,
            len(features),
            n_reference,
            features=metric.features,
            network=self._network(metric),
            replicates=replicates,
        )

    def _gaussian(self, metric: SetMetric) -> Any:
        """The reference's Gaussian, where statistics were given and the metric is a Frechet distance."""
        from concord.metrics.distribution.fid import FID

        if self.statistics is None or not metric.needs_reference or not isinstance(metric, FID):
            return None
        return self.statistics.gaussian(metric.features)

    def _stored(self, metric: SetMetric) -> np.ndarray | None:
        """The reference's features from a file of statistics, where it holds those of this kind."""
        if self.statistics is None or not metric.needs_reference or metric.features.partition("-")[0] != "pool":
            return None
        return self.statistics.features

    def _about_reference(self) -> dict[str, Any] | None:
        if self.statistics is not None:
            return {"label": str(self.statistics.path), "n": None, "fingerprint": None}
        return None if self.reference is None else about(self.reference)

    @contextlib.contextmanager
    def _measure(self, kind: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[kind] += time.perf_counter() - start


class _Table:
    """Features by kind, filled in any order of images: float32 (n, D) each."""

    def __init__(self, n: int) -> None:
        self.n, self.arrays = n, dict[str, np.ndarray]()

    def put(self, kind: str, indices: np.ndarray, rows: np.ndarray) -> None:
        if kind not in self.arrays:
            self.arrays[kind] = np.empty((self.n, rows.shape[1]), np.float32)
        self.arrays[kind][indices] = rows


def about(images: ImageSet) -> dict[str, Any]:
    """label, n and fingerprint; `row` where the images are named by the requests of a stored row."""
    facts = {"label": images.label, "n": len(images), "fingerprint": images.fingerprint}
    return facts | {"row": True} if images.is_row else facts


def to_tensor(images: np.ndarray) -> Any:
    """(B, H, W, 3), uint8 or float32 in [0, 1] -> float32 tensor (B, 3, H, W) in [0, 1]."""
    import torch

    images = np.require(images, requirements=["C", "W"])  # copies what is read-only, mapped or flipped
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2)
    return (tensor.float().div(255) if tensor.dtype == torch.uint8 else tensor.float()).contiguous()
