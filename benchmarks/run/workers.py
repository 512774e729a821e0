"""One worker process a device, for one run: each makes its share of the missing shards, as `generate_run` would.

Which images come out does not depend on the workers: a shard's batches are its own. The parent holds the run's lock and
writes the manifest; a worker writes whole shards and nothing else. One that dies is named, and what the others have
made stays: the same command goes on from there.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from concord.benchmarks.plan.runs import RunPlan
from concord.benchmarks.plan.sources import method_file
from concord.benchmarks.run.generate import (
    Generation,
    Progress,
    RunResult,
    check_batch_size,
    generate_run,
    is_current,
    remove_leftovers,
    valid_shards,
)
from concord.benchmarks.run.meter import PeakMemory
from concord.benchmarks.store.lock import run_lock
from concord.data.errors import ConcordError
from concord.data.notes import note
from concord.data.user_code import UserCodeError, failure, traceback_of, user_code, watch_interrupts


def resolve_devices(names: str) -> list[str]:
    """'cuda:0,cuda:1' or 'cpu,cpu' as a list, each of them there; 'all': every visible GPU, or the CPU without one."""
    import torch

    from concord.data.device import resolve_device

    if names == "all":
        visible = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        if not visible:
            note("--devices all: no GPU is visible here; one process on the CPU does the work")
        return visible or ["cpu"]
    found = [name.strip() for name in names.split(",") if name.strip()]
    if not found:
        raise ConcordError(f"--devices {names!r}: expected names separated by commas, such as cuda:0,cuda:1, or all")
    for name in found:
        if name != "cpu" and found.count(name) > 1:
            raise ConcordError(f"--devices {names}: '{name}' is named twice; expected one worker a GPU")
        resolve_device(name)
    return found


PRELOAD = [
    "concord.benchmarks.generators",
    "concord.benchmarks.run.generate",
    "concord.methods.base",
    "concord.data.networks",
    "concord.methods.networks.experts",
]
"""What the server of worker processes imports once: each worker is a fork of it that has touched no device yet."""


@dataclass(frozen=True)
class Job:
    """What one worker does. key: the run's, as the parent found it. method: a plugin's file."""

    run: RunPlan
    key: str
    device: str
    shards: tuple[int, ...]
    batch_size: int
    grid: int
    threads: int
    method: Path


@dataclass
class Worker:
    """A worker as the parent sees it."""

    job: Job
    process: BaseProcess
    link: Connection
    left: set[int]
    is_ready: bool = False
    problem: str | None = None
    details: str = ""  # the traceback of the problem, where it was an exception
    making: Sequence[str] = ()  # requests of the batch that it makes now

    @property
    def name(self) -> str:
        """How errors call it: its device and process."""
        return f"the worker on {self.job.device} (process {self.process.pid})"


def generate_with_workers(
    run: RunPlan,
    devices: Sequence[str],
    batch_size: int,
    grid: int = 0,
    progress: Progress | None = None,
    apart: bool = False,
) -> RunResult:
    """Make what is missing of a run on several devices at once.

    apart: in a process of its own even where one shard is missing or one device is given: for code that may end it.
    Raises UserCodeError that names a worker that died or failed, and what it was doing; the shards of the others stay.
    """
    from concord.benchmarks.image_sources import open_image_source

    check_batch_size(batch_size)
    if is_current(run, grid):
        return RunResult(False)
    with run_lock(run.path):
        if is_current(run, grid):  # another process has just finished it
            return RunResult(False)
        remove_leftovers(run.path)
        generation = Generation(run, lambda: open_image_source(run, devices[0]), batch_size, grid, progress)
        missing = [index for index, info in enumerate(generation.infos) if info is None]
        if len(missing) > 1 or (apart and missing):
            _share(generation, missing, devices[: len(missing)])
            generation.infos = valid_shards(run)
            generation.write_manifest()
            return RunResult(True, generation.clock.split())
    return generate_run(run, lambda: open_image_source(run, devices[0]), batch_size, grid, progress)


def _share(generation: Generation, missing: Sequence[int], devices: Sequence[str]) -> None:
    """Run the workers until every one of them is done or gone."""
    workers = _start(generation, missing, devices)
    try:
        with generation.clock.measure("load"):
            while any(not worker.is_ready and worker.problem is None for worker in workers):
                _listen(workers, generation)
        if any(worker.is_ready for worker in workers):
            generation.begin()  # the old run stays until networks are loaded
        for worker in workers:
            if worker.is_ready and worker.problem is None:
                with contextlib.suppress(OSError):
                    worker.link.send("go")
        with generation.clock.measure("generate"):
            while any(worker.left and worker.problem is None for worker in workers):
                _listen(workers, generation)
        for worker in workers:
            if worker.problem is None:
                worker.process.join()
    finally:
        for worker in workers:
            if worker.process.is_alive():
                worker.process.terminate()
                worker.process.join()
            worker.link.close()
    problems: dict[str, str] = {}  # reason -> who says so: two workers that fail alike are one line
    for worker in workers:
        if worker.problem:
            said = worker.problem if worker.details else f"{generation.who}, {worker.name}: {worker.problem}"
            problems.setdefault(said.partition(": ")[2] if worker.details else said, said)
    if problems:
        lost = sorted(index for worker in workers for index in worker.left)
        raise UserCodeError(
            f"{'; '.join(problems.values())}; {len(missing) - len(lost)} of {len(missing)} shards were finished and "
            f"stay, {len(lost)} are missing: run the same command again",
            "\n".join(worker.details for worker in workers if worker.details),
        )


def _start(generation: Generation, missing: Sequence[int], devices: Sequence[str]) -> list[Worker]:
    from concord.data.device import usable_cores

    assert generation.run.row.method is not None
    # without what was read for this process: masks of thousands of faces
    run = replace(generation.run, requests=replace(generation.run.requests))
    # as many threads as one process takes: with fewer, sums are taken in another order, and images change
    context, threads = multiprocessing.get_context("forkserver"), usable_cores()
    context.set_forkserver_preload(PRELOAD)
    workers = []
    for place, device in enumerate(devices):
        shards = tuple(missing[place :: len(devices)])
        job = Job(
            run,
            generation.run.key,
            device,
            shards,
            generation.batch_size,
            generation.grid,
            threads,
            method_file(generation.run.row.method),
        )
        here, there = context.Pipe()
        process = context.Process(target=work, args=(job, there), daemon=True)
        process.start()
        there.close()  # so that the end of the worker is the end of the pipe
        workers.append(Worker(job, process, here, set(shards)))
    return workers


def _listen(workers: Sequence[Worker], generation: Generation) -> None:
    """Take what the next worker says; one that hangs up before its work is done has died."""
    open_links: dict[Any, Worker] = {worker.link: worker for worker in workers if worker.left and not worker.problem}
    for link in wait(list(open_links)):
        worker = open_links[link]
        try:
            kind, value = worker.link.recv()
        except (EOFError, OSError):
            worker.process.join()
            worker.problem = end_of(worker.process.exitcode or 0, worker.making)
            continue
        if kind == "ready":
            worker.is_ready = True
        elif kind == "batch":
            worker.making = value
        elif kind == "shard":
            worker.left.discard(value)
            done = sum(len(generation.run.requests.shards[i]) for w in workers for i in set(w.job.shards) - w.left)
            kept = sum(info["n"] for info in generation.infos if info is not None)
            if generation.progress is not None:
                generation.progress(kept + done, len(generation.run.requests))
        else:
            worker.problem, worker.details = value


def how_it_ended(code: int) -> str:
    """An exit code in words; a negative one is a signal's number, as Python has it."""
    named = {number.value: number.name for number in signal.Signals}
    return f"was killed by {named.get(-code, f'signal {-code}')}" if code < 0 else f"ended with exit code {code}"


def end_of(code: int, making: Sequence[str]) -> str:
    """How a process ended that did not say why, and at which requests it was."""
    if not making:
        return f"{how_it_ended(code)} while it was loading"
    more = f" and {len(making) - 1} more of its batch" if len(making) > 1 else ""
    return f"{how_it_ended(code)} while it made request {making[0]}{more}"


def share_cores(device: str, threads: int) -> None:
    """Let processes on one CPU have this many threads each, unless the user says how many."""
    if device == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        import torch

        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)


def work(job: Job, link: Connection) -> None:
    """In the worker: load, say so, make the shards one after another."""
    end_with_parent()
    watch_interrupts()
    share_cores(job.device, job.threads)
    try:
        _work(job, link)
    except ConcordError as error:
        _say(link, str(error), error.details if isinstance(error, UserCodeError) else "")
    except (BrokenPipeError, EOFError):
        pass  # the parent is gone
    except BaseException as error:  # whatever it is: the parent says it, and goes on with other rows
        _say(link, failure(error), traceback_of(error))
    finally:
        link.close()


def _say(link: Connection, problem: str, details: str) -> None:
    with contextlib.suppress(OSError):
        link.send(("error", (problem, details)))


LEAVE = os._exit  # as it is now: while a plugin is imported, `os._exit` raises (data/user_code.py)


def end_with_parent() -> None:
    """End this process as soon as the one that started it has ended, however that was."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    sentinel = parent.sentinel

    def watch() -> None:
        wait([sentinel])
        LEAVE(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def _work(job: Job, link: Connection) -> None:
    from concord.benchmarks.image_sources import open_image_source
    from concord.methods.base import all_methods
    from concord.methods.plugins import load_plugin

    job.run.__dict__["key"] = job.key  # source that is edited meanwhile makes no run of two keys
    if job.run.row.method not in all_methods():
        load_plugin(job.method)  # under the guard: it may raise anything
    generation = Generation(job.run, lambda: open_image_source(job.run, job.device), job.batch_size, job.grid, None)
    generation.begun = True  # the parent clears what is old
    generation.on_batch = lambda ids: link.send(("batch", ids))
    with user_code(f"{generation.who}, loading", names_itself=True):
        source = generation.open_source()
    memory = PeakMemory(source.device if source.device is not None and source.device.type == "cuda" else None)
    try:
        link.send(("ready", None))
        link.recv()
        for index in job.shards:
            generation.make_shard(index, source, memory)
            link.send(("shard", index))
    finally:
        source.close()
