"""Generates one run: shard by shard, so that a killed one goes on where it stopped and gives the same images.

Batches never cross a shard: after a kill the remaining shards are cut into the very batches that they would have had.
What an earlier version of the run left behind is removed only when the first new shard is ready.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from concord.benchmarks.plan.keys import differences
from concord.benchmarks.plan.requests import PlannedRequest
from concord.benchmarks.plan.runs import RunPlan
from concord.benchmarks.plan.sources import changed_files, changed_weights
from concord.benchmarks.run.foreign import foreign_facts, plugin_file
from concord.benchmarks.run.image_source import GeneratedBatch, ImageSource
from concord.benchmarks.run.meter import Clock, PeakMemory
from concord.benchmarks.store.digests import DIGESTS, fits, make_way, record
from concord.benchmarks.store.lock import run_lock
from concord.benchmarks.store.provenance import provenance
from concord.benchmarks.store.regular import check_regular
from concord.benchmarks.store.run import SCORE_FILES, Run
from concord.benchmarks.store.shards import SHARD_NAME, encode_png, json_path, read_info, tar_path, write_shard
from concord.data.errors import ConcordError
from concord.data.files import atomic_path, sha256_file, write_json
from concord.data.npz import read_npz
from concord.data.own_files import PART, own_files, refuse_links, remove_own
from concord.data.user_code import user_code

Progress = Callable[[int, int], None]
"""progress(images done, images in all)"""

OnBatch = Callable[[Sequence[str]], None]
"""on_batch(ids of the requests that are made next)"""

KINDS = ("load", "generate", "decode", "write")
"""Seconds of a run: loading code and weights, the method itself, reading the dataset, encoding and writing images."""


@dataclass(frozen=True)
class RunResult:
    """What a call did: nothing where all was up to date, else the seconds that it took by kind of work."""

    ran: bool
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Status:
    """How far a run is: 'up to date', 'to do', 'changed' (finished under another key) or 'partial'."""

    state: str
    shards_done: int
    shards: int
    reasons: tuple[str, ...] = ()  # why it is not up to date


def run_status(run: RunPlan, grid: int = 0) -> Status:
    """Read from the store alone; nothing is loaded or written."""
    total = len(run.requests.shards)
    if is_current(run, grid):
        return Status("up to date", total, total)
    reasons = tuple(stale_reasons(run, grid))
    if Run(run.path).finished:
        return Status("changed", 0, total, reasons)
    done = sum(info is not None for info in valid_shards(run))
    return Status("partial" if done else "to do", done, total, reasons)


def is_current(run: RunPlan, grid: int = 0) -> bool:
    """Whether the finished run is the one that the plan asks for, every file of it whole."""
    try:
        manifest = Run(run.path).manifest
    except ConcordError:
        return False
    if not manifest["finished"] or manifest.get("key") != run.key or not fits(run.path, ["run.json"], SCORE_FILES):
        return False
    shards = valid_shards(run)
    return None not in shards and not _trace_is_missing(run, shards, grid)


def valid_shards(run: RunPlan) -> list[dict[str, Any] | None]:
    """The JSON of each shard that belongs to this plan and is whole; None for the others."""
    found = [read_info(run.path / "images", index) for index in range(len(run.requests.shards))]
    return [
        info if info is not None and info.get("key") == run.key and not _changed_since(info) else None for info in found
    ]


def _changed_since(info: Mapping[str, Any]) -> list[str]:
    """What is another file now of those that were read while a shard was made."""
    weights = [f"weights {name} changed" for name in changed_weights(info["weights"])]
    return weights + [f"file {name} changed" for name in changed_files(info.get("files", {}))]


def stale_reasons(run: RunPlan, grid: int = 0) -> list[str]:
    """Why a run is to be made, a line each; none for one that is up to date."""
    if is_current(run, grid):
        return []
    try:
        manifest = Run(run.path).manifest if Run(run.path).finished else None
    except ConcordError as error:
        return [str(error)]
    if manifest is None or not manifest["finished"]:
        done = sum(info is not None for info in valid_shards(run))
        return [f"{done} of {len(run.requests.shards)} shards are made" if done else "not made yet"]
    if manifest.get("key") != run.key:
        known = manifest.get("key_parts")
        if not isinstance(known, dict):
            return ["made by a version of Concord that did not keep what its images follow from"]
        return differences(known, run.parts) or ["made under another key"]
    found: dict[str, None] = {}
    for index in range(len(run.requests.shards)):
        info = read_info(run.path / "images", index)
        problems = [f"shard {index} is missing or damaged"] if info is None else _changed_since(info)
        found |= dict.fromkeys(problems)
    if not found and not fits(run.path, ["run.json"], SCORE_FILES):
        return ["a stored file is not the one that was written"]
    return list(found) or ["traces of the first images are missing"]


def _trace_is_missing(run: RunPlan, shards: list[dict[str, object] | None], grid: int) -> bool:
    """Whether the first shard stands without the traces of its first `grid` requests, though its method tells some."""
    first, wanted = shards[0], min(grid, len(run.requests.shards[0]))
    if first is None or not first["traces"] or not wanted:
        return False
    try:
        path = run.path / "trace.npz"
        check_regular(path)
        if sha256_file(path) != first.get("trace_sha256"):
            return True
        traced = len(read_npz(path)["requests"])
    except (ConcordError, OSError, KeyError):
        return True
    return traced < wanted


def generate_run(
    run: RunPlan,
    open_source: Callable[[], ImageSource],
    batch_size: int,
    grid: int = 0,
    progress: Progress | None = None,
    on_batch: OnBatch | None = None,
) -> RunResult:
    """Make what is missing of a run.

    open_source: called only when there is something to make.
    grid: the first so many requests keep the method's traces. on_batch: told the ids of every batch before it is made.
    Raises ConcordError when another process writes this run, or the folder cannot be written.
    """
    check_batch_size(batch_size)
    if is_current(run, grid):
        return RunResult(False)
    with run_lock(run.path):
        if is_current(run, grid):  # another process has just finished it
            return RunResult(False)
        remove_leftovers(run.path)
        generation = Generation(run, open_source, batch_size, grid, progress)
        generation.on_batch = on_batch
        return RunResult(True, generation.work())


def check_batch_size(batch_size: int) -> None:
    """ConcordError unless a batch fits into a shard."""
    if not 1 <= batch_size <= 64:
        raise ConcordError(f"--batch-size {batch_size}: expected 1..64 (a batch never crosses a shard of 64)")


def remove_leftovers(folder: Path) -> None:
    """Temporary files of killed processes; the lock is held, so nobody is writing them.

    Raises ConcordError where the run's folder, or one in it that is written to, is a link.
    """
    refuse_links(folder.parent.parent, folder, folder / "images")
    for place in (folder, folder / "images"):
        remove_own(place, PART)


class Generation:
    """One session of making a run: from its first missing shard to the manifest."""

    def __init__(
        self,
        run: RunPlan,
        open_source: Callable[[], ImageSource],
        batch_size: int,
        grid: int,
        progress: Progress | None,
    ) -> None:
        self.run, self.batch_size, self.grid, self.progress = run, batch_size, grid, progress
        self.open_source = open_source
        self.images = run.path / "images"
        self.clock = Clock(*KINDS)
        self.infos = valid_shards(run)
        if _trace_is_missing(run, self.infos, grid):
            self.infos[0] = None
        self.begun = False
        self.on_batch: OnBatch | None = None

    def work(self) -> dict[str, float]:
        """Returns the seconds of this session by kind."""
        memory = PeakMemory()
        with self.clock.measure("load"), user_code(f"{self.who}, loading", names_itself=True):
            source = self.open_source()
        if source.device is not None and source.device.type == "cuda":
            memory = PeakMemory(source.device)
        try:
            self._report()
            for index, info in enumerate(self.infos):
                if info is None:
                    self.make_shard(index, source, memory)
        finally:
            source.close()
        self.begin()  # nothing was missing but the manifest, or shards of a longer plan are left
        self.write_manifest()
        return self.clock.split()

    def make_shard(self, index: int, source: ImageSource, memory: PeakMemory) -> None:
        """Make shard `index` and write it: images and facts, whole or not at all."""
        shard = self.run.requests.shards[index]
        before, counts, start = dict(self.clock.seconds), source.evaluations(), time.perf_counter()
        pngs: list[bytes] = []
        traced: list[GeneratedBatch] = []
        for first in range(0, len(shard), self.batch_size):
            batch = shard[first : first + self.batch_size]
            with self.clock.measure("decode"):
                prepared = source.prepare(batch)
            tell = bool(source.traces) and index == 0 and first < self.grid
            if self.on_batch is not None:
                self.on_batch([request.id for request in batch])
            doing = partial(self._doing, batch, source)
            with self.clock.measure("generate"), user_code(doing, names_itself=True):
                made = source.make(prepared, tell)
                self._check(made.images, batch[0].id, len(batch))
            with self.clock.measure("write"):
                pngs += [encode_png(image) for image in made.images]
            if tell:
                traced.append(made)
            self._report(len(pngs))
        self.begin()
        with self.clock.measure("write"):
            if traced:
                self._write_trace(traced)
        told = {"trace_sha256": sha256_file(self.run.path / "trace.npz")} if traced else {}
        after = source.evaluations()
        facts: dict[str, Any] = {
            "key": self.run.key,
            "weights": source.weights(),
            "files": source.files(),
            "seconds": round(time.perf_counter() - start, 4),
            "time": {kind: round(self.clock.seconds[kind] - before[kind], 4) for kind in KINDS},
            "evaluations": {name: after[name] - counts.get(name, 0) for name in after},
            "peak_memory_bytes": memory.bytes(),
            "batch_size": self.batch_size,
            "traces": list(source.traces),
            "provenance": provenance(source.device),
            **told,
        }
        known = source.shard_facts(len(shard))
        facts |= {**known, "time": {**facts["time"], **known.get("time", {})}}
        with self.clock.measure("write"):
            self.infos[index] = write_shard(self.images, index, [request.id for request in shard], pngs, facts)
        self._report()

    @cached_property
    def who(self) -> str:
        """Whose code makes the images: "method 'mine' (mine.py)"."""
        method, outside = self.run.row.method, self.run.external is not None
        if method is None or outside:
            return f"external method '{method}'" if outside else f"row '{self.run.row.name}'"
        place = plugin_file(method)
        return f"method '{method}'" + ("" if place is None else f" ({place})")

    def _doing(self, batch: Sequence[PlannedRequest], source: ImageSource) -> str:
        """What is going on, for an error: whose code, which request, and which step where that is known."""
        more = f" and {len(batch) - 1} more of its batch" if len(batch) > 1 else ""
        step = "" if source.step is None else f", after step {source.step}"
        return f"{self.who}, request {batch[0].id}{more}{step}"

    def begin(self) -> None:
        """Before the first write: the old manifest and scores go, and shards that are not of this plan."""
        if self.begun:
            return
        self.begun = True
        with _writable(self.run.path):
            for name in (DIGESTS, "run.json", *SCORE_FILES):  # in this order: what is half removed counts for nothing
                make_way(self.run.path / name)
                (self.run.path / name).unlink(missing_ok=True)
            if self.infos and self.infos[0] is None:
                make_way(self.run.path / "trace.npz")
                (self.run.path / "trace.npz").unlink(missing_ok=True)
            for index, info in enumerate(self.infos):
                if info is None:
                    make_way(tar_path(self.images, index))
                    make_way(json_path(self.images, index))
            ours = {f"{index:05d}" for index, info in enumerate(self.infos) if info is not None}
            for path in own_files(self.images, SHARD_NAME):
                if path.stem not in ours:
                    path.unlink()

    def _check(self, images: np.ndarray, first: str, expected: int) -> None:
        size = self.run.requests.image_size
        if images.shape != (expected, size, size, 3):
            raise ConcordError(
                f"row '{self.run.row.name}', request {first}: images of shape {images.shape}; "
                f"expected ({expected}, {size}, {size}, 3)"
            )

    def _write_trace(self, traced: list[GeneratedBatch]) -> None:
        """Keep the traces of the first `grid` requests, before the shard's JSON vouches for them."""
        shard = self.run.requests.shards[0]
        ids = [request.id for request in shard[: self.grid]]
        arrays: dict[str, Any] = {"requests": np.array(ids)}
        with user_code(f"{self.who}, traces"):
            self._gather_traces(traced, ids, arrays)
        with atomic_path(self.run.path / "trace.npz") as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)

    def _gather_traces(self, traced: list[GeneratedBatch], ids: list[str], arrays: dict[str, object]) -> None:
        for name in traced[0].traces:
            arrays[name] = np.concatenate([made.traces[name] for made in traced])[: len(ids)]  # (R, S, M, ...)
            arrays[f"{name}_steps"] = np.array(traced[0].steps[name])
            arrays[f"{name}_names"] = np.array(traced[0].parts[name], dtype=np.str_)

    def _report(self, unwritten: int = 0) -> None:
        if self.progress is not None:
            done = sum(info["n"] for info in self.infos if info is not None)
            self.progress(min(done + unwritten, len(self.run.requests)), len(self.run.requests))

    def _check_whole(self) -> None:
        """Every shard still lies where it was written: somebody may have removed results while they were made."""
        gone = [
            index
            for index, info in enumerate(self.infos)
            if info is None or not all(path(self.images, index).is_file() for path in (tar_path, json_path))
        ]
        if gone:
            raise ConcordError(
                f"{self.images}: {len(gone)} of {len(self.infos)} shards vanished while the run went on, the first is "
                f"{tar_path(self.images, gone[0]).name}; run the same command again"
            )

    def write_manifest(self) -> None:
        """Write run.json, the last file of a run; ConcordError where a shard is missing."""
        self._check_whole()
        shards = [info for info in self.infos if info is not None]
        n = len(self.run.requests)
        split = _merge([info["time"] for info in shards])
        session = self.clock.split()
        split.update(load=session["load"], other=session["other"])
        seconds = sum(info["seconds"] for info in shards) + session["load"]
        counts = _merge([info["evaluations"] for info in shards])
        last = shards[-1]
        manifest = {
            "finished": True,
            "key": self.run.key,
            "key_parts": self.run.parts,
            "request_set": self.run.requests.name,
            "row": self.run.row.name,
            "method": self.run.row.method,
            "profile": self.run.profile,
            **({"generator": self.run.generator} if self.run.generator else {}),
            "params": self.run.params,
            "conditions": list(self.run.conditions),
            "n": n,
            "image_size": self.run.requests.image_size,
            "data": {
                "name": self.run.requests.dataset.name,
                "fingerprint": self.run.requests.fingerprint,
            },
            "left_out": self.run.requests.left_out,
            "weights": {name: digest for info in shards for name, digest in info["weights"].items()},
            "provenance": last["provenance"],
            "device": "+".join(sorted({info["provenance"]["device"] for info in shards})),
            "dtype": "bfloat16" if self.run.dtype == "bf16" else "float32",
            "batch_size": last["batch_size"],
            "seconds_total": round(seconds, 3),
            "seconds_per_image": round(split["generate"] / n, 5),
            "peak_memory_bytes": max(info["peak_memory_bytes"] for info in shards),
            "evaluations_per_image": {name: round(count / n, 4) for name, count in counts.items()},
            "time": {kind: round(value, 3) for kind, value in split.items()},
            "shards": [{key: info[key] for key in ("shard", "n", "sha256", "requests")} for info in shards],
            "requests": [request.facts() for request in self.run.requests.requests],
        }
        if about := foreign_facts(self.run.row.method):
            manifest["about"] = about
        if self.run.external is not None:
            costs = _worst([info["costs"] for info in shards])
            manifest |= {name: None for name, how in costs.items() if how == "not known"}
            manifest["external"] = {**self.run.external.facts(), "costs": costs}
        write_json(self.run.path / "run.json", manifest)
        traced = ["trace.npz"] if shards[0].get("trace_sha256") else []
        files = [f"images/{json_path(self.images, info['shard']).name}" for info in shards]
        record(self.run.path, ["run.json", *traced, *files], drop=None)


def _merge(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Sums by name."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: sum(part.get(name, 0) for part in parts) for name in names}


def _worst(parts: list[dict[str, str]]) -> dict[str, str]:
    """How each cost is known: what holds for all shards; 'not known' where one of them lacks it."""
    found = {name: {part[name] for part in parts} for name in parts[0]}
    return {name: "not known" if "not known" in how else " and ".join(sorted(how)) for name, how in found.items()}


@contextlib.contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConcordError(
            f"{folder}: cannot be changed ({error.strerror}); free it or choose another --results"
        ) from None
