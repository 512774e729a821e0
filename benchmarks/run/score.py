"""Scores one run by the one scorer (metrics/evaluation.py) and stores what it finds."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from concord.benchmarks.generators import metric_uses
from concord.benchmarks.plan.keys import differences, digest
from concord.benchmarks.plan.runs import RunPlan
from concord.benchmarks.plan.sources import (
    PACKAGES,
    Sources,
    changed_weights,
    metric_sources,
    use_sources,
    versions,
)
from concord.benchmarks.run.generate import RunResult
from concord.benchmarks.run.meter import Clock, PeakMemory
from concord.benchmarks.store.digests import fits, make_way, record
from concord.benchmarks.store.lock import run_lock
from concord.benchmarks.store.provenance import provenance
from concord.benchmarks.store.run import SCORE_FILES, Run
from concord.data.datasets.images.image_sets import Batch
from concord.data.errors import ConcordError
from concord.data.files import atomic_path, sha256_file, write_json
from concord.data.profile import load_profile
from concord.metrics.base import OK, Metric, MomentMetric, SampleMetric, SetMetric, get_metric
from concord.metrics.cache import ReferenceCache
from concord.metrics.distribution.reference_moments import (
    LargeReference,
    ReferenceMoments,
    read_large_reference,
)
from concord.metrics.evaluation import (
    BATCH,
    ImageBatch,
    Progress,
    ReferenceFeatures,
    Scores,
    score_batches,
    score_items,
    set_metrics,
    to_tensor,
)
from concord.metrics.networks.judges import features_sha256, judge_cards, judge_sha256

if TYPE_CHECKING:
    from concord.data.datasets.faces.dataset import FaceDataset, FaceItem
    from concord.data.networks import Networks

KINDS = ("load", "decode", "observe", "sets", "write")
"""Seconds of scoring: networks loaded, images decoded, networks and sample metrics, set metrics, files written."""
SCORER = frozenset(["concord.benchmarks.run.score", "concord.metrics.cache", "concord.metrics.evaluation"])
"""What scores and stores scores: it knows plans and runs, so that its own imports say nothing of a score."""


# ------------------------------------------------------------------------------------------------------------ reference


@dataclass
class Reference:
    """What set metrics compare with: the features of a folder's images, kept in `folder`.

    limit: the first so many images; all of them for None.
    moments: a file of moments of a large reference, for the metrics that need no more; None without one.
    """

    dataset: FaceDataset
    folder: Path
    image_size: int
    limit: int | None = None
    own: bool = False  # the requests' own folder: the ground-truth row is then part of its reference
    moments: Path | None = None

    @cached_property
    def items(self) -> list[FaceItem]:
        return [item for item in self.dataset.items if item.has_image][: self.limit]

    @cached_property
    def fingerprint(self) -> str:
        return replace(self.dataset, items=self.items).listing

    @cached_property
    def content(self) -> str:
        """SHA-256 of the bytes of the images."""
        return replace(self.dataset, items=self.items).fingerprint

    @cached_property
    def large(self) -> LargeReference | None:
        """The large reference's moments; ConcordError where their file is damaged."""
        return None if self.moments is None else read_large_reference(self.moments)

    @cached_property
    def moments_sha256(self) -> str | None:
        return None if self.moments is None else sha256_file(self.moments)

    def moments_of(self, networks: Networks, metrics: Sequence[SetMetric]) -> dict[str, ReferenceMoments]:
        """The large reference's moments by metric, of those that need no more."""
        found = {}
        for metric in metrics:
            if self.large is not None and isinstance(metric, MomentMetric) and metric.features in self.large.kinds:
                moments = self.large.moments(metric.features, features_sha256(networks, metric.features))
                if moments is not None:
                    found[metric.name] = moments
        return found

    def compared(
        self, networks: Networks, metrics: Sequence[SetMetric], progress: Progress | None = None
    ) -> dict[str, np.ndarray | ReferenceMoments]:
        """What each metric compares with, by its name: the large reference's moments, or features (M, D)."""
        found: dict[str, np.ndarray | ReferenceMoments] = dict(self.moments_of(networks, metrics))
        counted = [metric for metric in metrics if metric.name not in found]
        features = self.features(networks, counted, progress) if counted else {}
        return found | {metric.name: features[metric.features] for metric in counted}

    def features(
        self, networks: Networks, metrics: Sequence[SetMetric], progress: Progress | None = None
    ) -> dict[str, np.ndarray]:
        """float32 (M, D) by kind; computed where they are not kept yet, or their network has changed since."""
        uses = [use for metric in metrics for role in metric.roles() for use in networks.profile.uses([role])]
        code = use_sources(uses, networks.profile).code  # what reads the images stands in `content`
        facts = {"fingerprint": self.fingerprint, "content": self.content, "size": self.image_size, "code": code}
        images = _ItemImages(self.items, self.image_size, digest(facts | {"versions": versions()}))
        found = ReferenceFeatures(images, metrics, networks, ReferenceCache(self.folder))
        found.compute(BATCH, progress or (lambda done, total: None))
        if found.not_kept:
            raise ConcordError(found.not_kept)
        return found.by_kind


@dataclass
class _ItemImages:
    """The images of a dataset's items at one size, as reference features are computed from them."""

    items: Sequence[FaceItem]
    image_size: int
    fingerprint: str

    def __len__(self) -> int:
        return len(self.items)

    def batches(self, size: int) -> Iterator[Batch]:
        for start in range(0, len(self), size):
            images = np.stack([item.image(self.image_size) for item in self.items[start : start + size]])
            yield Batch(np.arange(start, start + len(images)), images)


# -------------------------------------------------------------------------------------------------------------- scoring


def score_parts(
    run: RunPlan, metrics: Sequence[str], reference: Reference | None, originals: Run | None = None
) -> dict[str, object]:
    """What a run's scores follow from, by name, but for the networks' weights, which score.json names by hash."""
    images = digest({"shards": Run(run.path).manifest["shards"]})
    uses = [use for name in metrics for use in metric_uses(run.profile, name)]
    parts: dict[str, object] = {
        "images": images,
        "metrics": {name: f"version {get_metric(name).version}" for name in sorted(metrics)},
        "suites": {name: f"version {version}" for name, version in sorted(run.suites.items())},
        "conditions": list(run.requests.conditions),
        "data": run.requests.content,
        "reference": reference.content if reference else None,
        "code": (metric_sources(metrics, uses, load_profile(run.profile)) | Sources(alone=SCORER)).code,
        "networks": {use.role: use.entry.model_dump() for use in uses},
        "versions": versions((*PACKAGES, "scipy")),
    }
    if (
        reference is not None
        and reference.moments_sha256
        and any(isinstance(get_metric(m), MomentMetric) for m in metrics)
    ):
        parts["moments"] = reference.moments_sha256
    if originals is not None and _paired(metrics):
        parts["originals"] = digest({"shards": originals.manifest["shards"]})
    return parts


def _paired(metrics: Sequence[str]) -> list[str]:
    """Those that compare each image with its original."""
    return [name for name in metrics if get_metric(name).needs_originals]


def is_scored(run: RunPlan, metrics: Sequence[str], reference: Reference | None, originals: Run | None = None) -> bool:
    """Whether the scores are those of the stored images, by today's metrics and networks."""
    return not stale_score_reasons(run, metrics, reference, originals)


def stale_score_reasons(
    run: RunPlan, metrics: Sequence[str], reference: Reference | None, originals: Run | None = None
) -> list[str]:
    """Why a finished run is to be scored, a line each; none where its scores are up to date."""
    if not all((run.path / name).is_file() for name in ("run.json", *SCORE_FILES)):
        return ["not scored yet"]
    if not fits(run.path, ("run.json", *SCORE_FILES)):
        return ["its stored files are not those that were written"]
    try:
        info = Run(run.path).score_info
        parts = score_parts(run, metrics, reference, originals)
        if info["key"] != digest(parts):
            return differences(info.get("key_parts", {}), parts) if info.get("key_parts") else ["scored by other code"]
        return [f"weights {name} changed" for name in changed_weights(info["weights"])]
    except (ConcordError, KeyError, TypeError, AttributeError):
        return ["its scores cannot be read"]


def score_run(
    run: RunPlan,
    metrics: Sequence[str],
    networks: Callable[[], Networks],
    reference: Reference | None,
    progress: Progress | None = None,
    originals: Run | None = None,
) -> RunResult:
    """Score a finished run by the named metrics, unless it is scored already.

    networks: called only when there is something to compute.
    reference: None where the dataset has no images; distribution metrics are then refused, with the reason.
    originals: a finished run of the same requests whose images metrics of pairs compare with; None for the items' own
        images. That run itself has no value in them.
    """
    if not Run(run.path).finished:
        raise ConcordError(f"{run.path}: not generated yet; run `concord generate SUITE {run.row.name}` first")
    if is_scored(run, metrics, reference, originals):
        return RunResult(False)
    with run_lock(run.path):
        if is_scored(run, metrics, reference, originals):  # another process has just done it
            return RunResult(False)
        return RunResult(True, _score(run, metrics, networks, reference, progress, originals))


def _score(
    run: RunPlan,
    names: Sequence[str],
    open_networks: Callable[[], Networks],
    reference: Reference | None,
    progress: Progress | None,
    beside: Run | None,
) -> dict[str, float]:
    """Returns the seconds by kind. beside: the run that holds the originals."""
    clock, memory, n = Clock(*KINDS), PeakMemory(), len(run.requests)
    with clock.measure("load"):
        networks = open_networks()
        metrics = [get_metric(name) for name in names]
        real = reference.compared(networks, set_metrics(metrics, compared=True)) if reference else {}
    scores, done = Scores(n), 0
    batches = _batches(run, compares_originals(run, metrics, beside), beside)
    for batch in score_batches(batches, scored_metrics(run, metrics, beside), networks, measure=clock.measure):
        scores.add(batch)
        done += len(batch.indices)
        if progress is not None:
            progress(done, n)
    if done < n:
        raise ConcordError(f"{run.path}: holds {done} images for {n} requests; generate the row again")
    return store_scores(run, names, scores, reference, real, beside, looked_through(networks, memory), clock)


def compares_originals(run: RunPlan, metrics: Sequence[Metric], beside: Run | None) -> bool:
    """Whether a run's images are compared with their originals; the run that holds them is not."""
    return any(metric.needs_originals for metric in metrics) and not _is_run(run, beside)


def scored_metrics(run: RunPlan, metrics: Sequence[Metric], beside: Run | None) -> list[Metric]:
    """Of the metrics those that a run has a value in: the run of the originals has no distance from itself."""
    return [metric for metric in metrics if not (_is_run(run, beside) and metric.needs_originals)]


def _is_run(run: RunPlan, beside: Run | None) -> bool:
    return beside is not None and beside.path == run.path


@dataclass(frozen=True)
class Looked:
    """What images were scored through. networks: kind -> SHA-256. cards: kind -> what is known of its weights."""

    networks: Mapping[str, str]
    cards: Mapping[str, Mapping[str, Any]]
    provenance: Mapping[str, object]
    peak_memory_bytes: int


def looked_through(networks: Networks, memory: PeakMemory) -> Looked:
    """Of networks that have scored here."""
    cards = {kind: {"name": card.get("name", kind), **card} for kind, card in judge_cards(networks).items()}
    return Looked(judge_sha256(networks), cards, provenance(networks.device), memory.bytes())


def store_scores(
    run: RunPlan,
    names: Sequence[str],
    scores: Scores,
    reference: Reference | None,
    real: Mapping[str, np.ndarray | ReferenceMoments],
    beside: Run | None,
    looked: Looked,
    clock: Clock,
) -> dict[str, float]:
    """Compute the set metrics of a run whose images are scored, and write all of it; returns the seconds by kind.

    real: what each metric compares with (`Reference.compared`). The caller holds the run's lock.
    """
    metrics = [get_metric(name) for name in names]
    paired = any(metric.needs_originals for metric in metrics)
    with clock.measure("sets"):
        set_rows = [
            _set_row(run, metric, scores.features[metric.features], real.get(metric.name))
            for metric in set_metrics(metrics)
        ]
    with clock.measure("write"):
        _write(run, _sample_rows(run, metrics, scores), set_rows, scores)
    split = clock.split()
    parts = score_parts(run, names, reference, beside)
    cards = looked.cards
    info = {
        "key": digest(parts),
        "key_parts": parts,
        "metrics": list(names),
        "n": len(run.requests),
        "networks": looked.networks,
        "weights": {card["name"]: card["sha256"] for card in cards.values()},
        "cards": {kind: {"name": card["name"], "held_out": card.get("held_out", {})} for kind, card in cards.items()},
        "data": {"name": run.requests.dataset.name, "fingerprint": run.requests.fingerprint},
        "reference": {
            "name": reference.dataset.name,
            "fingerprint": reference.fingerprint,
            "n": len(reference.items),
            "own": reference.own,
            **(
                {"moments": reference.moments_sha256}
                if any(isinstance(one, ReferenceMoments) for one in real.values())
                else {}
            ),
        }
        if reference
        else None,
        "originals": beside.row if beside is not None and paired else None,
        "provenance": looked.provenance,
        "seconds_total": round(sum(split.values()), 3),
        "peak_memory_bytes": looked.peak_memory_bytes,
        "time": {kind: round(value, 3) for kind, value in split.items()},
    }
    write_json(run.path / "score.json", info)
    record(run.path, SCORE_FILES)
    return split


def _batches(run: RunPlan, paired: bool, beside: Run | None) -> Iterator[ImageBatch]:
    """The stored images, each decoded once, with their conditions; `paired`: with their originals too.

    These are the images of the same requests in the run `beside`, without it the items' own.
    """
    images, partners = Run(run.path).images(), beside.images() if beside is not None and paired else None
    for start in itertools.count(0, BATCH):
        planned = run.requests.requests[start : start + BATCH]
        batch = list(itertools.islice(images, BATCH))
        if not batch:
            return
        ids = [request.id for request in planned]
        if [name for name, _ in batch] != ids:
            raise ConcordError(f"{run.path}: holds other requests than planned; generate the row again")
        originals = None
        if partners is not None and beside is not None:
            pairs = list(itertools.islice(partners, len(ids)))
            if [name for name, _ in pairs] != ids:
                place = f"{beside.path}: holds other requests than '{ids[0]}' and the next"
                raise ConcordError(f"{place}; make that row again")
            originals = to_tensor(np.stack([image for _, image in pairs]))
        elif paired and all(request.item.has_image for request in planned):
            originals = to_tensor(np.stack([request.item.image(run.requests.image_size) for request in planned]))
        yield ImageBatch(
            np.arange(start, start + len(ids)),
            to_tensor(np.stack([image for _, image in batch])),
            [run.requests.conditions_of(request, run.requests.conditions) for request in planned],
            originals,
        )


def _sample_rows(run: RunPlan, metrics: Sequence[Metric], scores: Scores) -> list[dict[str, object]]:
    """One row per (sample metric, request)."""
    ids = [request.id for request in run.requests.requests]
    rows = []
    for metric in metrics:
        if not isinstance(metric, SampleMetric):
            continue
        place = {"suite": run.requests.name, "method": run.row.name, "metric": metric.name}
        if metric.name in scores.values:
            values, reasons = scores.values[metric.name].tolist(), scores.reasons[metric.name]
            told = [reasons.get(index, OK) for index in range(len(ids))]
        else:
            values = [float("nan")] * len(ids)
            told = ["refused: the other rows are compared with this one"] * len(ids)
        rows += [
            {**place, "request": request, "value": value, "status": status}
            for request, value, status in zip(ids, values, told, strict=True)
        ]
    return rows


def _set_row(
    run: RunPlan, metric: SetMetric, features: np.ndarray, real: np.ndarray | ReferenceMoments | None
) -> dict[str, object]:
    n, m = len(features), 0 if real is None else len(real)
    value, replicates, status = float("nan"), list[float](), OK
    if metric.needs_reference and real is None:
        status = "refused: the dataset has no images to compare with"
    elif n < metric.minimum_n or (metric.needs_reference and m < metric.minimum_n):
        which = f"n = {n}" if n < metric.minimum_n else f"{m} reference images"
        status = f"refused: {which}, at least {metric.minimum_n} needed"
    else:
        value, replicates = score_items(metric, features, real, _item_numbers(run))
    place = {"suite": run.requests.name, "method": run.row.name, "metric": metric.name}
    return {**place, "value": value, "n": n, "n_reference": m, "status": status, "replicates": replicates}


def _item_numbers(run: RunPlan) -> np.ndarray:
    """Of each request, which item it asks for: int (n,), 0..G-1."""
    names = [request.id.rsplit("-", 1)[0] for request in run.requests.requests]
    return np.asarray(np.unique(names, return_inverse=True)[1])


def _write(run: RunPlan, rows: list[dict[str, object]], set_rows: list[dict[str, object]], scores: Scores) -> None:
    """The files that score.json will vouch for; an older score.json goes first."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    place = [("suite", pa.string()), ("method", pa.string())]
    value = [("metric", pa.string()), ("value", pa.float64())]
    samples = pa.schema([*place, ("request", pa.string()), *value, ("status", pa.string())])
    sets = pa.schema(
        [
            *place,
            *value,
            ("n", pa.int64()),
            ("n_reference", pa.int64()),
            ("status", pa.string()),
            ("replicates", pa.list_(pa.float64())),
        ]
    )
    try:
        record(run.path, (), drop=SCORE_FILES)
        for name in SCORE_FILES:
            make_way(run.path / name)
        (run.path / "score.json").unlink(missing_ok=True)
    except OSError as error:
        raise ConcordError(f"{run.path}: cannot be changed ({error.strerror}); choose another --results") from None
    for name, schema, content in (("scores.parquet", samples, rows), ("sets.parquet", sets, set_rows)):
        with atomic_path(run.path / name) as temporary:
            pq.write_table(pa.Table.from_pylist(content, schema=schema), temporary)
    with atomic_path(run.path / "features.npz") as temporary, open(temporary, "wb") as file:
        arrays: dict[str, Any] = {f"features_{kind}": value for kind, value in scores.features.items()}
        np.savez(file, requests=np.array([request.id for request in run.requests.requests]), **arrays)
