"""Score images that come from anywhere: `concord.metrics.evaluate(generated=..., reference=..., conditions=...,
metrics=...)`.

Sides are named, since precision and recall change places where they are exchanged. What is not as asked for is an error
before the first network is loaded, where that can be known; what fails beside the scores (a cache that cannot be
written) is told with them.

    generated     what is scored: a folder, a tar, a Concord row, arrays or tensors (data/datasets/images/image_sets.py)
    reference     what it is compared with: likewise, or an .npz of statistics (metrics/cache.py). Distribution metrics
                  take it as a set; metrics of pairs (LPIPS, PSNR, ...) take each image's partner in it
    conditions    one for each generated image, in order: captions, or `concord.data.request.Conditions`
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from concord.data.device import exact_float32
from concord.data.errors import ConcordError
from concord.data.profile import load_profile
from concord.data.request import Conditions
from concord.metrics.base import Metric, SampleMetric, SetMetric, get_metric
from concord.metrics.cache import (
    Gaussian,
    ReferenceCache,
    Statistics,
    default_folder,
    is_statistics,
    read_statistics,
    write_statistics,
)
from concord.metrics.evaluation import (
    BATCH,
    Bars,
    ImageBatch,
    ReferenceFeatures,
    Scores,
    fill,
    network_of,
    no_bars,
    score_batches,
    score_set,
    set_metrics,
    to_tensor,
)
from concord.metrics.networks.judges import judge_sha256
from concord.metrics.results import Evaluation, Result

if TYPE_CHECKING:
    from torch import Tensor

    from concord.data.datasets.images.image_sets import Batch, ImageSet, Source
    from concord.data.networks import Networks


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
    networks: Networks | None = None,
    bars: Bars = no_bars,
) -> Evaluation:
    """Score `generated` by the named metrics; ConcordError naming what cannot be scored, and why.

    metrics: names (see `concord list`), or one string with commas.
    cache: where reference features are kept; True is Concord's cache, False keeps none.
    replicates: groups of the delete-a-group jackknife (32 is usual) for intervals of set metrics; 0 for none. At 2048
        dimensions each costs as much as the value.
    statistics: where the Gaussians of the generated images' features are written (metrics/cache.py), for other tools.
    networks: networks to look through instead of the profile's.
    """
    from concord.data.datasets.images.image_sets import open_images

    chosen = chosen_metrics(metrics)
    images = open_images(generated, "generated")
    opened = None if reference is None else _open_reference(reference)
    evaluator = _Evaluator(
        profile=load_profile(profile).name,
        device=device,
        metrics=chosen,
        images=images,
        reference=None if isinstance(opened, Statistics) else opened,
        statistics=opened if isinstance(opened, Statistics) else None,
        conditions=conditions,
        cache=ReferenceCache(default_folder() if cache is True else Path(cache) if cache else None),
        batch_size=batch_size,
        groups=replicates,
        export=None if statistics is None else Path(statistics),
        given=networks,
        bars=bars,
    )
    evaluator.check()
    with exact_float32():
        return evaluator.run()


def chosen_metrics(names: str | Sequence[str]) -> list[Metric]:
    """The metrics of names, or of one string with commas, each once; ConcordError for none and for an unknown one."""
    listed = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    if not any(listed):
        raise ConcordError("metrics: none named; expected names such as fid,kid (see `concord list`)")
    chosen = [get_metric(name) for name in listed if name]
    return list({metric.name: metric for metric in chosen}.values())


def _open_reference(source: Source) -> ImageSet | Statistics:
    from concord.data.datasets.images.image_sets import open_images

    if isinstance(source, (str, Path)) and Path(source).suffix.lower() == ".npz" and is_statistics(Path(source)):
        return read_statistics(Path(source))
    return open_images(source, "reference")


@dataclass
class _Evaluator:
    """One call of `evaluate`."""

    profile: str
    device: str
    metrics: list[Metric]
    images: ImageSet
    reference: ImageSet | None
    statistics: Statistics | None
    conditions: Sequence[Conditions | str] | None
    cache: ReferenceCache
    batch_size: int
    groups: int
    export: Path | None
    given: Networks | None
    bars: Bars
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    notes: list[str] = field(default_factory=list)

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
        for metric in self.metrics:
            if metric.needs and self.conditions is None:
                lacking = ", ".join(sorted(metric.needs))
                raise ConcordError(
                    f"metric '{metric.name}' scores against condition {lacking}: give conditions, one for each image"
                )
            if metric.needs_originals and self.reference is None:
                raise ConcordError(
                    f"metric '{metric.name}' compares each image with its original: give the originals as reference"
                )
        for metric in set_metrics(self.metrics):
            self._check_set(metric)
        _ = self.partners  # pairs that do not fit are an error now
        if self.export is not None:
            if self.export.suffix != ".npz":
                raise ConcordError(f"{self.export}: expected a name that ends in .npz for statistics")
            kinds = {metric.features for metric in set_metrics(self.metrics)}
            if len({kind for kind in kinds if kind.partition("-")[0] == "pool"}) != 1:
                raise ConcordError(
                    f"{self.export}: statistics are of one kind of pool3 features; name fid, fid-legacy or fid-tf "
                    "among the metrics, and one of them alone"
                )

    def _check_set(self, metric: SetMetric) -> None:
        _check_number(metric, len(self.images), "generated", self.images.label)
        if not metric.needs_reference:
            return
        if self.reference is not None:
            _check_number(metric, len(self.reference), "reference", self.reference.label)
        elif self.statistics is None:
            raise ConcordError(f"metric '{metric.name}' compares with a set of images: give a reference")
        elif self._of_statistics(metric) is None:
            raise ConcordError(
                f"metric '{metric.name}': {self.statistics.path} holds no features of kind '{metric.features}'; "
                "give the reference images themselves"
            )

    @cached_property
    def partners(self) -> np.ndarray | None:
        """For each generated image, the place of its original in the reference; None where no metric asks."""
        from concord.data.datasets.images.pairing import pair

        if self.reference is None or not any(metric.needs_originals for metric in self.metrics):
            return None
        return pair(self.images, self.reference)

    # -------------------------------------------------------------------------------------------------------- the work

    def run(self) -> Evaluation:
        with self._measure("load"):
            for metric in set_metrics(self.metrics):
                network_of(metric, self.networks)
        real = self._cached_reference()
        scores = self._score([] if real is None or self.partners is None else real.missing, real)
        if real is not None and real.missing:
            with self._measure("reference"), self.bars("reference") as progress:
                real.compute(self.batch_size, progress)
        if real is not None and real.not_kept:
            self.notes.append(f"the reference's features are not kept for the next time: {real.not_kept}")
        if self.export is not None:
            self._export(self.export, scores)
        return Evaluation(
            profile=self.profile,
            results=tuple(self._result(metric, scores, real) for metric in self.metrics),
            images=tuple(self.images.names),
            samples={name: (values, scores.reasons[name]) for name, values in scores.values.items()},
            generated=about(self.images),
            reference=self._about_reference(),
            networks=judge_sha256(self.networks),
            device=str(self.networks.device),
            seconds=dict(self.seconds),
            notes=tuple(self.notes),
        )

    @cached_property
    def networks(self) -> Networks:
        if self.given is not None:
            return self.given
        from concord.data.device import resolve_device
        from concord.metrics.networks import judges

        return judges.open_judges(self.profile, resolve_device(self.device))

    def _cached_reference(self) -> ReferenceFeatures | None:
        compared = set_metrics(self.metrics, compared=True)
        if self.reference is None or not compared:
            return None
        with self._measure("reference"):
            return ReferenceFeatures(self.reference, compared, self.networks, self.cache)

    def _score(self, original_kinds: Sequence[str], real: ReferenceFeatures | None) -> Scores:
        """One pass over the generated images; the originals' features, decoded for the pairs anyway, come beside."""
        scores, beside = Scores(len(self.images)), dict[str, np.ndarray]()
        with self.bars("score") as progress:
            done = 0
            for batch in score_batches(
                self._batches(), self.metrics, self.networks, original_kinds=original_kinds, measure=self._measure
            ):
                scores.add(batch)
                if batch.of_originals and real is not None and self.partners is not None:
                    fill(beside, len(real.images), self.partners[batch.indices], batch.of_originals)
                done += len(batch.indices)
                progress(done, len(self.images))
        if real is not None:
            real.add(beside)
        return scores

    def _batches(self) -> Iterator[ImageBatch]:
        for batch in self.images.batches(self.batch_size):
            places = None if self.partners is None else self.partners[batch.indices]
            originals = None if places is None else self._originals(batch, places)
            yield ImageBatch(batch.indices, to_tensor(batch.images), self._conditions(batch.indices), originals)

    def _conditions(self, indices: Iterable[int]) -> list[Conditions]:
        if self.conditions is None:
            return [Conditions() for _ in indices]
        given = [self.conditions[int(index)] for index in indices]
        return [Conditions(text=one) if isinstance(one, str) else one for one in given]

    def _originals(self, batch: Batch, places: np.ndarray) -> Tensor:
        """float32 (B, 3, H, W) in [0, 1]: the batch's partners, which must have its size."""
        import torch

        assert self.reference is not None
        originals = [to_tensor(self.reference.load(int(place))[None]) for place in places]
        height, width = batch.images.shape[1:3]
        for index, place, original in zip(batch.indices, places, originals, strict=True):
            if tuple(original.shape[2:]) != (height, width):
                raise ConcordError(
                    f"{self.images.label}: '{self.images.names[index]}' is {width}x{height} pixels, its original "
                    f"'{self.reference.names[place]}' {original.shape[3]}x{original.shape[2]}; give both at one size"
                )
        return torch.cat(originals)

    # --------------------------------------------------------------------------------------------------------- results

    def _result(self, metric: Metric, scores: Scores, real: ReferenceFeatures | None) -> Result:
        facts = metric.name, metric.label, metric.unit, metric.higher_is_better
        n = len(self.images)
        if isinstance(metric, SampleMetric):
            mean, paired = float(scores.values[metric.name].mean()), n if metric.needs_originals else None
            return Result(*facts, mean, n, paired, len(scores.reasons[metric.name]))
        assert isinstance(metric, SetMetric)
        with self._measure("sets"):
            compared = real.by_kind[metric.features] if real is not None and metric.needs_reference else None
            reference = self._of_statistics(metric) if self.statistics is not None else compared
            value, replicates = score_set(metric, scores.features[metric.features], reference, self.groups)
        n_reference = len(reference) if isinstance(reference, np.ndarray) else None
        network = network_of(metric, self.networks)
        return Result(
            *facts, value, n, n_reference, features=metric.features, network=network, replicates=tuple(replicates)
        )

    def _of_statistics(self, metric: SetMetric) -> np.ndarray | Gaussian | None:
        """What a file of statistics holds for a metric: features, or for a Frechet distance their Gaussian."""
        from concord.metrics.distribution.fid import FID

        if self.statistics is None or not metric.needs_reference:
            return None
        if self.statistics.features is not None and metric.features.partition("-")[0] == "pool":
            return self.statistics.features
        return self.statistics.gaussian(metric.features) if isinstance(metric, FID) else None

    def _export(self, path: Path, scores: Scores) -> None:
        """pool3's Gaussian, and the spatial features' of the same protocol where they were asked for."""
        pool = next(kind for kind in scores.features if kind.partition("-")[0] == "pool")
        spatial = scores.features.get(pool.replace("pool", "spatial"))
        try:
            pair = Gaussian.of(scores.features[pool]), None if spatial is None else Gaussian.of(spatial)
            write_statistics(path, *pair)
        except (ConcordError, OSError) as error:
            self.notes.append(f"the statistics are not written: {error}")

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


def _check_number(metric: SetMetric, n: int, side: str, label: str) -> None:
    if n < metric.minimum_n:
        raise ConcordError(
            f"metric '{metric.name}': {n} {side} images in {label}, at least {metric.minimum_n} are needed; "
            "give more images or leave the metric out"
        )


def about(images: ImageSet) -> dict[str, Any]:
    """label, n and fingerprint; `row` where the images are named by the requests of a stored row."""
    facts = {"label": images.label, "n": len(images), "fingerprint": images.fingerprint}
    return facts | {"row": True} if images.is_row else facts
