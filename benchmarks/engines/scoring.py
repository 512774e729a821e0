"""The work of scoring shards, in a worker and at the driver."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from concord.benchmarks.engines.base import Engine, Parcel, Task, Work
from concord.benchmarks.engines.carry import Files, Placed, SomeShards, files_for, in_chunks, named, place, some_shards
from concord.benchmarks.engines.desk import Desk, node_name
from concord.benchmarks.generators import metric_needs, metric_uses
from concord.benchmarks.plan.keys import digest
from concord.benchmarks.plan.runs import RunPlan
from concord.benchmarks.plan.sources import Sources, use_sources
from concord.benchmarks.run.meter import Clock, PeakMemory
from concord.benchmarks.run.score import (
    KINDS,
    Looked,
    Reference,
    compares_originals,
    looked_through,
    score_parts,
    scored_metrics,
    store_scores,
)
from concord.benchmarks.store.digests import check_regular
from concord.benchmarks.store.lock import run_lock
from concord.benchmarks.store.provenance import git_commit
from concord.benchmarks.store.run import Run
from concord.benchmarks.store.shards import SHARD_SIZE, read_images, tar_path
from concord.data.device import exact_float32, resolve_device
from concord.data.errors import ConcordError
from concord.data.files import parse_json, sha256_file
from concord.data.npz import read_npz
from concord.data.profile import load_profile
from concord.metrics.base import Score, get_metric
from concord.metrics.evaluation import BATCH, ImageBatch, ScoreBatch, Scores, score_batches, to_tensor

if TYPE_CHECKING:
    from concord.data.networks import Networks
    from concord.metrics.distribution.reference_moments import ReferenceMoments

SCORES, FACTS = "scores.npz", "facts.json"
SECONDS = 0.01
"""Of one image, about: nobody states how long judges take. It orders the tasks and decides nothing else."""
CHUNK = 8
"""Shards in a scoring task: 512 images."""
assert SHARD_SIZE % BATCH == 0  # so that a shard's batches are the same, whatever task it is scored in


@dataclass(frozen=True)
class ScoreShards(Work):
    """Some shards of a finished row. tars: shard -> its file as (path here, SHA-256, bytes where paths say nothing)."""

    profile: str
    row: str
    metrics: tuple[str, ...]
    requests: SomeShards
    tars: Mapping[int, StoredTar]
    originals: Mapping[int, StoredTar]  # of the row that holds them; none where they are the items' own pictures
    paired: bool
    threads: int
    files: Files
    blobs: Mapping[str, str]
    commit: str | None

    def run(self, desk: Desk) -> None:
        clock = Clock(*KINDS)
        with clock.measure("load"):
            loaded = desk.keep(f"score {self.profile} {self.threads}", lambda: _Judges(self, desk))
        metrics = [get_metric(name) for name in self.metrics]
        for number in sorted(set(self.requests.numbers) - set(desk.done)):
            found: list[ScoreBatch] = []
            with exact_float32():
                for batch in score_batches(self._batches(number), metrics, loaded.networks, measure=clock.measure):
                    found.append(batch)
                    desk.step(len(batch.indices))
            looked = looked_through(loaded.networks, loaded.memory)
            facts = {
                "networks": looked.networks,
                "cards": looked.cards,
                "provenance": {**looked.provenance, "git_commit": self.commit, "node": node_name()},
                "peak_memory_bytes": looked.peak_memory_bytes,
                "time": clock.split(),
            }
            clock = Clock(*KINDS)
            desk.take(Parcel({"shard": number}, pack_scores(found, facts)))

    def _batches(self, number: int) -> Iterator[ImageBatch]:
        """The images of a shard, decoded once, with their conditions and originals."""
        requests, size = self.requests.shards[number], self.requests.image_size
        images = self.tars[number].images(size)
        partners = self.originals[number].images(size) if self.originals else None
        for start in range(0, len(requests), BATCH):
            planned = requests[start : start + BATCH]
            ids, originals = [request.id for request in planned], None
            if partners is not None:
                originals = to_tensor(_named(partners, ids, "the originals"))
            elif self.paired and all(request.item.has_image for request in planned):
                originals = to_tensor(np.stack([request.item.image(size) for request in planned]))
            yield ImageBatch(
                np.arange(number * SHARD_SIZE + start, number * SHARD_SIZE + start + len(ids)),
                to_tensor(_named(images, ids, f"row '{self.row}'")),
                [self.requests.conditions_of(request, self.requests.conditions) for request in planned],
                originals,
            )


@dataclass(frozen=True)
class StoredTar:
    """A shard's images: at a path that the worker sees, or carried."""

    path: Path
    sha256: str
    content: bytes | None = None

    def images(self, size: int) -> Iterator[tuple[str, np.ndarray]]:
        """(request id, uint8 (H, W, 3))."""
        if self.content is not None:
            return read_images(self.path, None, size, self.content)
        check_regular(self.path)
        if sha256_file(self.path) != self.sha256:
            raise ConcordError(f"{self.path}: has changed since it was written; generate the row again")
        return read_images(self.path, None, size)


def _named(images: Iterator[tuple[str, np.ndarray]], ids: list[str], whose: str) -> np.ndarray:
    batch = list(itertools.islice(images, len(ids)))
    if [name for name, _ in batch] != ids:
        raise ConcordError(f"{whose}: holds other requests than '{ids[0]}' and the next; generate that row again")
    return np.stack([image for _, image in batch])


class _Judges:
    """The networks that score, in a worker."""

    def __init__(self, work: ScoreShards, desk: Desk) -> None:
        from concord.data.networks import Networks

        placed: Placed = place(work.files, desk, work.profile)
        self.networks: Networks = Networks(work.profile, device=resolve_device(desk.device), paths=placed.weights)
        self.memory = PeakMemory()

    def close(self) -> None:
        self.networks.pool.loaded.clear()


def pack_scores(batches: list[ScoreBatch], facts: Mapping[str, object]) -> dict[str, bytes]:
    """Scores as files: arrays, and the statuses of images that failed."""
    arrays: dict[str, np.ndarray] = {"indices": np.concatenate([batch.indices for batch in batches])}
    statuses: dict[str, list[str]] = {}
    for name in batches[0].scores:
        scores = [score for batch in batches for score in batch.scores[name]]
        arrays[f"value {name}"] = np.array([score.value for score in scores], np.float64)
        statuses[name] = [score.status for score in scores]
    for kind in batches[0].features:
        arrays[f"features {kind}"] = np.concatenate([batch.features[kind] for batch in batches])
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # its stub takes `allow_pickle` for one of the arrays
    return {SCORES: buffer.getvalue(), FACTS: json.dumps({**facts, "statuses": statuses}).encode()}


def unpack_scores(files: Mapping[str, bytes], where: str) -> tuple[ScoreBatch, dict[str, Any]]:
    """What was packed; ConcordError naming `where` for what is none."""
    if not {SCORES, FACTS} <= set(files):
        raise ConcordError(f"{where}: came as {', '.join(files)}; expected {SCORES} and {FACTS}")
    facts = parse_json(files[FACTS].decode(), where)
    arrays = read_npz(files[SCORES], where)
    scores = {
        name: [Score(float(value), status) for value, status in zip(arrays[f"value {name}"], statuses, strict=True)]
        for name, statuses in facts["statuses"].items()
    }
    features = {name.removeprefix("features "): rows for name, rows in arrays.items() if name.startswith("features ")}
    return ScoreBatch(arrays["indices"], scores, features), facts


# ------------------------------------------------------------------------------------------------------- at the driver


class ScoringRow:
    """A finished row that workers score, and its folder, which is locked until `close`.

    real: what each metric compares with (`Reference.compared`). beside: the run that holds the originals.
    """

    def __init__(
        self,
        run: RunPlan,
        metrics: list[str],
        reference: Reference | None,
        real: Mapping[str, np.ndarray | ReferenceMoments],
        beside: Run | None,
        engine: Engine,
    ) -> None:
        self.plan, self.metrics, self.reference, self.real = run, metrics, reference, real
        self.beside, self.engine = beside, engine
        self.name = f"{run.requests.name}/{run.row.name}"
        self._lock: AbstractContextManager[None] = run_lock(run.path)
        self._lock.__enter__()
        self.scores, self.clock = Scores(len(run.requests)), Clock(*KINDS)
        self.looked: Looked | None = None
        self.seconds = dict.fromkeys(KINDS, 0.0)
        self.missing = set(range(len(run.requests.shards)))

    def close(self) -> None:
        """Let go of the folder."""
        self._lock.__exit__(None, None, None)

    @property
    def images(self) -> int:
        return sum(len(self.plan.requests.shards[index]) for index in self.missing)

    def tasks(self) -> list[Task]:
        """The shards in chunks."""
        found = []
        key = digest({"score": score_parts(self.plan, self.metrics, self.reference, self.beside)})
        for chunk in in_chunks(self.missing, CHUNK):
            images = sum(len(self.plan.requests.shards[index]) for index in chunk)
            row, work = f"score {self.name}", self._work_of(chunk)
            found.append(Task(f"{row}, {named(chunk)}", row, SECONDS * images, images, work, key, chunk))
        return found

    def _work_of(self, chunk: tuple[int, ...]) -> Callable[[], ScoreShards | None]:
        return lambda: self.work(chunk)

    @cached_property
    def files(self) -> Files:
        """What a worker needs that does not see the files here."""
        if self.engine.shares_files:
            return Files()
        profile = self.plan.profile
        uses = [use for name in self.metrics for use in metric_uses(profile, name)]
        sources = Sources(files=use_sources(uses, load_profile(profile)).files)
        return files_for(profile, metric_needs(profile, self.metrics), sources)

    def work(self, chunk: tuple[int, ...]) -> ScoreShards | None:
        """What is still missing of a chunk; None for nothing."""
        run, left = self.plan, tuple(index for index in chunk if index in self.missing)
        if not left:
            return None
        by_value = not self.engine.shares_files
        metrics = [get_metric(name) for name in self.metrics]
        paired = compares_originals(run, metrics, self.beside)
        own = paired and self.beside is None
        requests = some_shards(run.requests, left, run.requests.conditions, by_value, images=own)
        beside = self.beside if paired else None
        return ScoreShards(
            run.profile,
            self.name,
            tuple(metric.name for metric in scored_metrics(run, metrics, self.beside)),
            requests,
            _tars(Run(run.path), left, by_value),
            _tars(beside, left, by_value) if beside is not None else {},
            paired,
            self.engine.threads,
            self.files,
            self.files.blobs,
            git_commit(),
        )

    def take(self, parcel: Parcel, worker: str) -> int:
        """Put the scores of a shard in their place; returns its images."""
        index = parcel.about["shard"]
        if index not in self.missing:
            return 0
        where = f"scores of row '{self.name}', shard {index} from {worker}"
        batch, facts = unpack_scores(parcel.files, where)
        first, n = index * SHARD_SIZE, len(self.plan.requests.shards[index])
        if batch.indices.tolist() != list(range(first, first + n)):
            raise ConcordError(f"{where}: answer other images than were asked")
        looked = Looked(facts["networks"], facts["cards"], facts["provenance"], facts["peak_memory_bytes"])
        if self.looked is not None and self.looked.networks != looked.networks:
            raise ConcordError(f"{where}: scored through other weights than the shards before")
        self.looked = looked
        for kind, value in facts["time"].items():
            self.seconds[kind] = self.seconds.get(kind, 0.0) + value
        self.scores.add(batch)
        self.missing.discard(index)
        return n

    def finish(self) -> dict[str, float]:
        """Compute the set metrics and write all; returns the seconds of all by kind."""
        assert self.looked is not None
        clock = Clock(*KINDS)  # of the sets and of writing; the workers have told theirs
        clock.seconds.update({kind: self.seconds[kind] for kind in KINDS})
        return store_scores(
            self.plan, self.metrics, self.scores, self.reference, self.real, self.beside, self.looked, clock
        )


def _tars(run: Run, numbers: tuple[int, ...], by_value: bool) -> dict[int, StoredTar]:
    """A run's shards as a worker gets them."""
    known = {shard["shard"]: shard for shard in run.manifest["shards"]}
    found = {}
    for number in numbers:
        path = tar_path(run.path / "images", number)
        if number not in known:
            raise ConcordError(f"{run.path}: has no shard {number}; generate the row again")
        tar = StoredTar(path.resolve(), known[number]["sha256"])
        if by_value:
            check_regular(path)
            if sha256_file(path) != tar.sha256:
                raise ConcordError(f"{path}: has changed since it was written; generate the row again")
            tar = replace(tar, content=path.read_bytes())
        found[number] = tar
    return found
