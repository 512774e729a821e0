"""The work of making shards, in a worker and at the driver."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from concord.benchmarks.cost import Rate, row_cost
from concord.benchmarks.engines.base import Engine, Parcel, Task, Work
from concord.benchmarks.engines.carry import (
    Files,
    files_for,
    in_chunks,
    load_method,
    named,
    place,
    plugin_path,
    some_shards,
)
from concord.benchmarks.engines.desk import Desk, node_name
from concord.benchmarks.generators import needs
from concord.benchmarks.image_sources import open_method
from concord.benchmarks.plan.runs import RunPlan
from concord.benchmarks.plan.sources import Sources
from concord.benchmarks.run.generate import Generation, remove_leftovers
from concord.benchmarks.run.image_source import ImageSource
from concord.benchmarks.run.meter import PeakMemory
from concord.benchmarks.store.lock import run_lock
from concord.benchmarks.store.provenance import git_commit
from concord.benchmarks.store.shards import SHARD_SIZE, digest_of_info, json_path, tar_path
from concord.data.errors import ConcordError
from concord.data.files import atomic_path, parse_json, write_json
from concord.data.user_code import user_code

TRACE = "trace.npz"


@dataclass(frozen=True)
class MakeShards(Work):
    """Some shards of a row. parts: what its images follow from, as the driver found it; plugin: its method's file."""

    run_plan: RunPlan
    parts: Mapping[str, object]
    shards: tuple[int, ...]
    batch_size: int
    grid: int
    threads: int
    plugin: Path | None
    files: Files
    blobs: Mapping[str, str]
    commit: str | None  # of the driver's checkout: what came here as a package knows none

    def run(self, desk: Desk) -> None:
        with tempfile.TemporaryDirectory(prefix="concord-shards-") as folder:
            run = replace(self.run_plan, path=Path(folder) / self.run_plan.requests.name / self.run_plan.row.name)
            run.__dict__["parts"] = dict(self.parts)  # the driver's: here only a part of the requests is known
            loaded = desk.keep(f"make {run.key} {self.threads}", lambda: _Loaded(self, run, desk))
            generation = Generation(run, lambda: loaded.source, self.batch_size, self.grid, None)
            generation.begun = True  # nothing of the row's own folder is touched here
            loaded.source.requests = run.requests
            generation.on_batch = lambda ids: desk.step(len(ids))
            for index in sorted(set(self.shards) - set(desk.done)):
                generation.make_shard(index, loaded.source, loaded.memory)
                self._give(desk, generation, index, loaded)

    def _give(self, desk: Desk, generation: Generation, index: int, loaded: _Loaded) -> None:
        info = generation.infos[index]
        assert info is not None
        paths = [tar_path(generation.images, index), json_path(generation.images, index)]
        # files that a plugin opened go by the names that they have at the driver
        info["files"] = {loaded.placed.there(name): digest for name, digest in info["files"].items()}
        info["provenance"] |= {"git_commit": self.commit, "node": node_name()}
        info["digest"] = digest_of_info(info)
        write_json(paths[1], info)
        if "trace_sha256" in info:
            paths.append(generation.run.path / TRACE)
        desk.take(Parcel({"shard": index}, {path.name: path.read_bytes() for path in paths}))
        for path in paths:
            path.unlink()


class _Loaded:
    """A row's networks in a worker."""

    def __init__(self, work: MakeShards, run: RunPlan, desk: Desk) -> None:
        assert run.row.method is not None
        self.placed = place(work.files, desk, run.profile)
        load_method(run.row.method, work.plugin, self.placed)
        who = Generation(run, lambda: self.source, work.batch_size, work.grid, None).who
        with user_code(f"{who}, loading", names_itself=True):
            self.source = open_method(run, desk.device, self.placed.weights)
        device = self.source.device
        self.memory = PeakMemory(device if device is not None and device.type == "cuda" else None)

    def close(self) -> None:
        self.source.close()


# ------------------------------------------------------------------------------------------------------- at the driver


def _no_source() -> ImageSource:
    raise AssertionError("the driver makes no image of a row that an engine makes")


class MakingRow:
    """A row that workers make, and its folder, which is locked until `close`."""

    def __init__(self, run: RunPlan, batch_size: int, grid: int, engine: Engine) -> None:
        self.plan, self.batch_size, self.grid, self.engine = run, batch_size, grid, engine
        self.name = f"{run.requests.name}/{run.row.name}"
        self._lock: AbstractContextManager[None] = run_lock(run.path)
        self._lock.__enter__()
        try:
            remove_leftovers(run.path)
            self.generation = Generation(run, _no_source, batch_size, grid, None)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the folder."""
        self._lock.__exit__(None, None, None)

    @property
    def missing(self) -> list[int]:
        return [index for index, info in enumerate(self.generation.infos) if info is None]

    @property
    def images(self) -> int:
        """Of the shards that are missing."""
        return sum(len(self.plan.requests.shards[index]) for index in self.missing)

    def tasks(self, rates: list[Rate], workers: int) -> list[Task]:
        """The missing shards in chunks of about `task_seconds`; of one shard each where nobody knows its seconds."""
        cost = row_cost(self.plan, rates)
        each = cost.seconds[0] if cost.seconds is not None else None
        share = math.ceil(len(self.missing) / max(workers, 1))
        size = 1 if each is None else int(self.engine.settings.task_seconds / max(each * SHARD_SIZE, 1e-6))
        weight = each if each is not None else sum((cost.counts or {}).values()) / 100 or 0.01
        found = []
        for chunk in in_chunks(self.missing, max(1, min(size, share))):
            images = sum(len(self.plan.requests.shards[index]) for index in chunk)
            name, work = f"{self.name}, {named(chunk)}", self._work_of(chunk)
            found.append(Task(name, self.name, weight * images, images, work, self.plan.key, chunk))
        return found

    def _work_of(self, chunk: tuple[int, ...]) -> Callable[[], MakeShards | None]:
        return lambda: self.work(chunk)

    @cached_property
    def files(self) -> Files:
        """What a worker needs that does not see the files here."""
        if self.engine.shares_files:
            return Files()
        return files_for(self.plan.profile, needs(self.plan), self.plan.sources)

    def work(self, chunk: tuple[int, ...]) -> MakeShards | None:
        """What is still missing of a chunk; None for nothing."""
        run, left = self.plan, tuple(index for index in chunk if self.generation.infos[index] is None)
        if not left:
            return None
        requests = some_shards(run.requests, left, run.conditions, by_value=not self.engine.shares_files)
        bare = replace(run, requests=requests, sources=Sources(), path=Path())
        return MakeShards(
            bare,
            run.parts,
            left,
            self.batch_size,
            self.grid,
            self.engine.threads,
            plugin_path(run),
            self.files,
            self.files.blobs,
            git_commit(),
        )

    def take(self, parcel: Parcel, worker: str) -> int:
        """Put a shard that came back in its place; returns its images. ConcordError for one that is not what was asked.

        What a worker gives twice (a task that was begun again) is the same, and is left as it is.
        """
        generation, index = self.generation, parcel.about["shard"]
        if generation.infos[index] is not None:
            return 0
        info, tar = self._checked(parcel, index, worker)
        generation.begin()  # the old run stays until there is something new
        if TRACE in parcel.files:
            _write(self.plan.path / TRACE, parcel.files[TRACE])
        _write(tar_path(generation.images, index), tar)
        write_json(json_path(generation.images, index), info)
        generation.infos[index] = info
        return int(info["n"])

    def _checked(self, parcel: Parcel, index: int, worker: str) -> tuple[dict[str, Any], bytes]:
        import hashlib

        where = f"row '{self.name}', shard {index} from {worker}"
        names = (tar_path(Path(), index).name, json_path(Path(), index).name)
        if not set(names) <= set(parcel.files):
            raise ConcordError(f"{where}: came as {', '.join(parcel.files)}; expected {' and '.join(names)}")
        tar = parcel.files[names[0]]
        info = parse_json(parcel.files[names[1]].decode(), where)
        if not isinstance(info, dict) or info.get("digest") != digest_of_info(info):
            raise ConcordError(f"{where}: its record is not the one that was written")
        if info["sha256"] != hashlib.sha256(tar).hexdigest():
            raise ConcordError(f"{where}: its images are not those that were sent (SHA-256)")
        if info["key"] != self.plan.key or info["requests"] != [one.id for one in self.plan.requests.shards[index]]:
            raise ConcordError(f"{where}: answers other requests than were asked")
        if TRACE in parcel.files and info["trace_sha256"] != hashlib.sha256(parcel.files[TRACE]).hexdigest():
            raise ConcordError(f"{where}: its traces are not those that were sent (SHA-256)")
        return info, tar

    def finish(self) -> dict[str, float]:
        """Write the manifest; returns the seconds of the workers by kind."""
        self.generation.begin()
        self.generation.write_manifest()
        kinds: dict[str, float] = {}
        for info in self.generation.infos:
            for kind, value in (info or {}).get("time", {}).items():
                kinds[kind] = kinds.get(kind, 0.0) + value
        return kinds


def _write(path: Path, content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
