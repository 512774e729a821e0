"""Scores one run: every image is decoded once, every network sees it once, all metrics read the same observation."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from concord.benchmarks.plan.keys import differences, digest
from concord.benchmarks.plan.runs import RunPlan
from concord.benchmarks.plan.sources import (
    PACKAGES,
    PERCEPTION,
    Sources,
    changed_weights,
    loader_sources,
    metric_sources,
    versions,
)
from concord.benchmarks.run.generate import Progress, RunResult
from concord.benchmarks.run.meter import Clock, PeakMemory
from concord.benchmarks.store.lock import run_lock
from concord.benchmarks.store.provenance import provenance
from concord.benchmarks.store.run import SCORE_FILES, Run
from concord.data.errors import ConcordError
from concord.data.files import atomic_path, read_json, write_json
from concord.metrics.base import get_metric

if TYPE_CHECKING:
    from concord.data.datasets.faces.dataset import FaceDataset, FaceItem
    from concord.metrics.base import Observation, SampleMetric, SetMetric
    from concord.metrics.networks.perception import Perception

KINDS = ("load", "decode", "observe", "sets", "write")
"""Seconds of scoring: networks loaded, images decoded, networks and sample metrics, set metrics, files written."""
SCORER = frozenset(["concord.benchmarks.run.score"])
"""What stores scores: it knows plans and runs, so that its own imports say nothing of a score."""
GROUPS = 32
"""Groups of the delete-a-group jackknife; request i is in group i mod 32, in every row of a table."""
BATCH = 32


# ------------------------------------------------------------------------------------------------------------ reference


@dataclass
class Reference:
    """What FID and KID compare with: the features of a folder's images, kept in `folder`/<fingerprint>-<kind>.npz.

    limit: the first so many images; all of them for None.
    """

    dataset: FaceDataset
    folder: Path
    image_size: int
    limit: int | None = None
    own: bool = False  # the requests' own folder: the ground-truth row is then part of its reference

    @cached_property
    def items(self) -> list[FaceItem]:
        return [item for item in self.dataset.items if item.has_image][: self.limit]

    @cached_property
    def fingerprint(self) -> str:
        return replace(self.dataset, items=self.items).fingerprint

    @cached_property
    def content(self) -> str:
        """SHA-256 of the bytes of the images."""
        return replace(self.dataset, items=self.items).content

    def features(
        self, perception: Perception, kinds: Sequence[str] = ("pool",), progress: Progress | None = None
    ) -> dict[str, np.ndarray]:
        """float32 (M, D) by kind; computed where they are not kept yet, or their network has changed since."""
        facts = {kind: self._facts(perception, kind) for kind in kinds}
        kept = {kind: _kept_features(self._path(kind), facts[kind]) for kind in kinds}
        missing = [kind for kind in kinds if kept[kind] is None]
        parts: dict[str, list[np.ndarray]] = {kind: [] for kind in missing}
        for start in range(0, len(self.items) if missing else 0, BATCH):
            images = np.stack([item.image(self.image_size) for item in self.items[start : start + BATCH]])
            for kind, found in perception.features(to_float(images), missing).items():
                parts[kind].append(found.float().cpu().numpy())
            if progress is not None:
                progress(start + len(images), len(self.items))
        for kind in missing:
            made = np.concatenate(parts[kind])
            with atomic_path(self._path(kind)) as temporary, open(temporary, "wb") as file:
                np.savez(file, features=made, facts=np.array(facts[kind]))
            kept[kind] = made
        return {kind: value for kind, value in kept.items() if value is not None}

    def _path(self, kind: str) -> Path:
        return self.folder / f"{self.fingerprint}-{kind}.npz"

    def _facts(self, perception: Perception, kind: str) -> str:
        name = perception.feature_network(kind)  # loads it: only then is its hash known
        network = perception.sha256[name]
        code = loader_sources([PERCEPTION]).code  # what reads the images stands in `content`
        facts = {"network": network, "image_size": self.image_size, "items": [item.id for item in self.items]}
        return json.dumps(facts | {"content": self.content, "code": digest(code), "versions": versions()})


def _kept_features(path: Path, facts: str) -> np.ndarray | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            return np.asarray(file["features"]) if str(file["facts"]) == facts else None
    except (OSError, ValueError, KeyError):
        return None


# -------------------------------------------------------------------------------------------------------------- scoring


def score_parts(
    run: RunPlan, metrics: Sequence[str], reference: Reference | None, originals: Run | None = None
) -> dict[str, object]:
    """What a run's scores follow from, by name, but for the networks' weights, which score.json names by hash."""
    images = digest({"shards": read_json(run.path / "run.json")["shards"]})
    parts: dict[str, object] = {
        "images": images,
        "metrics": {name: f"version {get_metric(name).version}" for name in sorted(metrics)},
        "suites": {name: f"version {version}" for name, version in sorted(run.suites.items())},
        "conditions": list(run.requests.conditions),
        "data": run.requests.content,
        "reference": reference.content if reference else None,
        "code": (metric_sources(metrics) | Sources(alone=SCORER)).code,
        "versions": versions((*PACKAGES, "scipy")),
    }
    if originals is not None and _paired(metrics):
        parts["originals"] = digest({"shards": read_json(originals.path / "run.json")["shards"]})
    return parts


def _paired(metrics: Sequence[str]) -> list[str]:
    """Those that compare each image with its original."""
    return [name for name in metrics if get_metric(name).needs_originals]


def is_scored(
    run: RunPlan, metrics: Sequence[str], reference: Reference | None, originals: Run | None = None
) -> bool:  # fmt: skip
    """Whether the scores are those of the stored images, by today's metrics and networks."""
    return not stale_score_reasons(run, metrics, reference, originals)


def stale_score_reasons(
    run: RunPlan, metrics: Sequence[str], reference: Reference | None, originals: Run | None = None
) -> list[str]:
    """Why a finished run is to be scored, a line each; none where its scores are up to date."""
    if not all((run.path / name).is_file() for name in ("run.json", *SCORE_FILES)):
        return ["not scored yet"]
    try:
        info = read_json(run.path / "score.json")
        parts = score_parts(run, metrics, reference, originals)
        if info["key"] != digest(parts):
            return differences(info.get("key_parts", {}), parts) if info.get("key_parts") else ["scored by other code"]
        return [f"weights {name} changed" for name in changed_weights(info["weights"])]
    except (ConcordError, KeyError, TypeError, AttributeError):
        return ["its scores cannot be read"]


def score_run(
    run: RunPlan,
    metrics: Sequence[str],
    perception: Callable[[], Perception],
    reference: Reference | None,
    progress: Progress | None = None,
    originals: Run | None = None,
) -> RunResult:
    """Score a finished run by the named metrics, unless it is scored already.

    perception: called only when there is something to compute.
    reference: None where the dataset has no images; distribution metrics are then refused, with the reason.
    originals: a finished run of the same requests whose images metrics of pairs compare with; None for the items' own
        pictures. That run itself has no value in them.
    """
    if not Run(run.path).finished:
        raise ConcordError(f"{run.path}: not generated yet; run `concord generate SUITE {run.row.name}` first")
    if is_scored(run, metrics, reference, originals):
        return RunResult(False)
    with run_lock(run.path):
        if is_scored(run, metrics, reference, originals):  # another process has just done it
            return RunResult(False)
        return RunResult(True, _score(run, metrics, perception, reference, progress, originals))


def _score(
    run: RunPlan,
    names: Sequence[str],
    open_perception: Callable[[], Perception],
    reference: Reference | None,
    progress: Progress | None,
    beside: Run | None,
) -> dict[str, float]:
    """Returns the seconds by kind. beside: the run that holds the originals."""
    from concord.metrics.base import Observation, SampleMetric, SetMetric

    clock, memory = Clock(*KINDS), PeakMemory()
    with clock.measure("load"):
        perception = open_perception()
        metrics = [get_metric(name) for name in names]
        samples = [metric for metric in metrics if isinstance(metric, SampleMetric)]
        sets = [metric for metric in metrics if isinstance(metric, SetMetric)]
        by_kind = {metric.features: metric for metric in sets}
        kinds, looked = list(by_kind), [kind for kind, metric in by_kind.items() if not metric.counted]
        compared = feature_kinds([metric for metric in sets if metric.needs_reference])
        real = reference.features(perception, compared) if reference else {}
    ids: list[str] = []
    rows: list[dict[str, Any]] = []
    features: dict[str, list[np.ndarray]] = {kind: [] for kind in kinds}
    paired = any(metric.needs_originals for metric in samples)
    itself = beside is not None and beside.path == run.path
    partners = beside.images() if beside is not None and paired and not itself else None
    for batch_ids, images in _batches(run, clock):
        with clock.measure("decode"):
            planned = [run.requests.requests[len(ids) + offset] for offset in range(len(batch_ids))]
            if [request.id for request in planned] != batch_ids:
                raise ConcordError(f"{run.path}: holds other requests than planned; generate the row again")
            conditions = [run.requests.conditions_of(request, run.requests.conditions) for request in planned]
            if partners is not None and beside is not None:
                originals = _partners(partners, batch_ids, beside)
            else:
                originals = _originals(planned, run.requests.image_size) if paired and not itself else None
            observation = Observation(to_float(images), conditions, perception, originals, looked)
        with clock.measure("observe"):
            rows += _sample_rows(run, samples, batch_ids, observation, itself)
            for kind, metric in by_kind.items():
                features[kind].append(metric.observe(observation))
        ids += batch_ids
        if progress is not None:
            progress(len(ids), len(run.requests))
    found = {kind: np.concatenate(parts) for kind, parts in features.items()}
    with clock.measure("sets"):
        set_rows = [_set_row(run, metric, found[metric.features], real.get(metric.features)) for metric in sets]
    with clock.measure("write"):
        _write(run, rows, set_rows, ids, found)
    split = clock.split()
    parts = score_parts(run, names, reference, beside)
    info = {
        "key": digest(parts),
        "key_parts": parts,
        "metrics": list(names),
        "n": len(ids),
        "networks": perception.sha256,
        "weights": {card.get("name", kind): card["sha256"] for kind, card in perception.cards.items()},
        "cards": {kind: {"name": card.get("name", kind), "held_out": card.get("held_out", {})}
                  for kind, card in perception.cards.items()},
        "data": {"name": run.requests.dataset.name, "fingerprint": run.requests.fingerprint},
        "reference": {"name": reference.dataset.name, "fingerprint": reference.fingerprint,
                      "n": len(reference.items), "own": reference.own} if reference else None,
        "originals": beside.row if beside is not None and paired else None,
        "provenance": provenance(getattr(perception, "device", None)),
        "seconds_total": round(sum(split.values()), 3),
        "peak_memory_bytes": memory.bytes(),
        "time": {kind: round(value, 3) for kind, value in split.items()},
    }  # fmt: skip
    write_json(run.path / "score.json", info)
    return split


def feature_kinds(metrics: Sequence[SetMetric]) -> list[str]:
    """The kinds of features that set metrics read, each once."""
    return list(dict.fromkeys(metric.features for metric in metrics))


def _originals(planned: Sequence[Any], image_size: int) -> Any:
    """The items' own pictures, float32 (B, 3, H, W) in [0, 1]; None where an item has none."""
    if not all(request.item.has_image for request in planned):
        return None
    return to_float(np.stack([request.item.image(image_size) for request in planned]))


def _partners(images: Iterator[tuple[str, np.ndarray]], ids: Sequence[str], beside: Run) -> Any:
    """The pictures that another run has of these requests, float32 (B, 3, H, W) in [0, 1]."""
    found = list(itertools.islice(images, len(ids)))
    if [name for name, _ in found] != list(ids):
        raise ConcordError(f"{beside.path}: holds other requests than '{ids[0]}' and the next; make that row again")
    return to_float(np.stack([image for _, image in found]))


def _batches(run: RunPlan, clock: Clock) -> Iterator[tuple[list[str], np.ndarray]]:
    """(request ids, uint8 (B, H, W, 3)) over the stored images, each decoded once."""
    images = Run(run.path).images()
    while True:
        with clock.measure("decode"):
            batch = list(itertools.islice(images, BATCH))
        if not batch:
            return
        yield [name for name, _ in batch], np.stack([image for _, image in batch])


def _sample_rows(
    run: RunPlan, metrics: Sequence[SampleMetric], ids: Sequence[str], observation: Observation, itself: bool = False
) -> list[dict[str, Any]]:
    """itself: the run's images are the originals of the other rows, and are not compared with themselves."""
    rows = []
    for metric in metrics:
        if itself and metric.needs_originals:
            rows += [{**_place(run), "request": request, "metric": metric.name, "value": float("nan"),
                      "status": "refused: the other rows are compared with this one"} for request in ids]  # fmt: skip
            continue
        for request, score in zip(ids, metric.score(observation), strict=True):
            rows.append({**_place(run), "request": request, "metric": metric.name,
                         "value": float(score.value), "status": score.status})  # fmt: skip
    return rows


def _set_row(run: RunPlan, metric: SetMetric, features: np.ndarray, real: np.ndarray | None) -> dict[str, Any]:
    n = len(features)
    row = {**_place(run), "metric": metric.name, "value": float("nan"), "n": n,
           "n_reference": 0 if real is None else len(real), "status": "ok", "replicates": []}  # fmt: skip
    if not metric.needs_reference:
        real = np.zeros((0, features.shape[1]), np.float32)
    if real is None:
        row["status"] = "refused: the dataset has no images to compare with"
    elif n < metric.minimum_n or (metric.needs_reference and len(real) < metric.minimum_n):
        which = f"n = {n}" if n < metric.minimum_n else f"{len(real)} reference images"
        row["status"] = f"refused: {which}, at least {metric.minimum_n} needed"
    else:
        row["value"] = float(metric.compute(features, real))
        groups = np.arange(n) % min(GROUPS, n)
        row["replicates"] = [float(v) for v in metric.leave_group_out(features, real, groups)]
    return row


def _place(run: RunPlan) -> dict[str, str]:
    return {"suite": run.requests.name, "method": run.row.name}


def _write(
    run: RunPlan, rows: list[dict[str, Any]], set_rows: list[dict[str, Any]], ids: list[str],
    features: dict[str, np.ndarray],
) -> None:  # fmt: skip
    """The files that score.json will vouch for; an older score.json goes first."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    place = [("suite", pa.string()), ("method", pa.string())]
    value = [("metric", pa.string()), ("value", pa.float64())]
    scores = pa.schema([*place, ("request", pa.string()), *value, ("status", pa.string())])
    sets = pa.schema([*place, *value, ("n", pa.int64()), ("n_reference", pa.int64()), ("status", pa.string()),
                      ("replicates", pa.list_(pa.float64()))])  # fmt: skip
    try:
        (run.path / "score.json").unlink(missing_ok=True)
    except OSError as error:
        raise ConcordError(f"{run.path}: cannot be changed ({error.strerror}); choose another --results") from None
    for name, schema, content in (("scores.parquet", scores, rows), ("sets.parquet", sets, set_rows)):
        with atomic_path(run.path / name) as temporary:
            pq.write_table(pa.Table.from_pylist(content, schema=schema), temporary)
    with atomic_path(run.path / "features.npz") as temporary, open(temporary, "wb") as file:
        arrays: dict[str, Any] = {f"features_{kind}": value for kind, value in features.items()}
        np.savez(file, requests=np.array(ids), **arrays)


def to_float(images: np.ndarray) -> Any:
    """uint8 (B, H, W, 3) -> float32 tensor (B, 3, H, W) in [0, 1]."""
    import torch

    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255).contiguous()
