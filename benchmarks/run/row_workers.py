"""One worker process a device, for many rows: each makes whole rows, one after another, until none is left.

Where rows have fewer shards than there are devices, sharing one row between them (benchmarks/run/workers.py) leaves
most of them idle; here every device has a row of its own. Which images come out does not depend on it: a row is made
as `generate_run` makes it, under its own lock. A worker that dies is named, and its row with it; the other rows stay.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from concord.benchmarks.plan.runs import RunPlan
from concord.benchmarks.plan.sources import method_file
from concord.benchmarks.run.generate import OnBatch, RunResult, check_batch_size, generate_run, valid_shards
from concord.benchmarks.run.workers import PRELOAD, end_of
from concord.data.errors import ConcordError
from concord.data.user_code import UserCodeError, failure, traceback_of, watch_interrupts


@dataclass(frozen=True)
class RowJob:
    """A row to be made. parts: what its images follow from, as the parent found it. method: a plugin's file."""

    run: RunPlan
    parts: dict[str, object]
    batch_size: int
    grid: int
    method: Path


@dataclass
class _Worker:
    device: str
    process: BaseProcess
    link: Connection
    job: RowJob | None = None
    making: Sequence[str] = ()  # requests of the batch that it makes now

    @property
    def name(self) -> str:
        return f"the worker on {self.device} (process {self.process.pid})"


def row_job(run: RunPlan, batch_size: int, grid: int) -> RowJob:
    """A job of a method's row, without what was read for this process: masks of thousands of faces."""
    assert run.row.method is not None
    check_batch_size(batch_size)
    bare = replace(run, requests=replace(run.requests))
    return RowJob(bare, run.parts, batch_size, grid, method_file(run.row.method))


def missing_shards(run: RunPlan) -> int:
    """How many shards of a run are to be made."""
    return sum(info is None for info in valid_shards(run))


def generate_rows(
    jobs: Sequence[RowJob], devices: Sequence[str], done: Callable[[RunPlan, RunResult], None]
) -> dict[str, UserCodeError]:
    """Make rows on several devices at once, those with the most shards first; `done` is called after each.

    Returns what went wrong: 'request set/row' -> whose code, at which request, and why. The other rows are made all the
    same.
    """
    from concord.data.device import usable_cores

    waiting = sorted(jobs, key=lambda job: missing_shards(job.run))
    problems: dict[str, UserCodeError] = {}
    # as many threads as one process takes: with fewer, sums are taken in another order, and images change
    context, threads = multiprocessing.get_context("forkserver"), usable_cores()
    context.set_forkserver_preload(PRELOAD)
    workers: list[_Worker] = []
    try:
        for device in devices[: len(jobs)]:
            here, there = context.Pipe()
            process = context.Process(target=work, args=(device, threads, there), daemon=True)
            process.start()
            there.close()  # so that the end of the worker is the end of the pipe
            workers.append(_Worker(device, process, here))
        for worker in workers:
            _next(worker, waiting, problems)
        while busy := {worker.link: worker for worker in workers if worker.job is not None}:
            for link in wait(list(busy)):
                worker = busy[link]  # type: ignore[index]  # `wait` gives back what it was given
                _take(worker, problems, done)
                _next(worker, waiting, problems)
        for job in waiting:  # no worker is left
            problems[_name(job)] = UserCodeError("not made: every worker has ended; run the same command again")
    finally:
        for worker in workers:
            worker.link.close()
            worker.process.join(5)
            if worker.process.is_alive():
                worker.process.terminate()
                worker.process.join()
    return problems


def _name(job: RowJob) -> str:
    return f"{job.run.requests.name}/{job.run.row.name}"


def _next(worker: _Worker, waiting: list[RowJob], problems: dict[str, UserCodeError]) -> None:
    """Give a worker that lives its next row."""
    if not waiting or worker.job is not None or not worker.process.is_alive():
        return
    worker.job = waiting.pop()
    try:
        worker.link.send(worker.job)
    except OSError:
        _take(worker, problems, lambda run, result: None)  # it is gone: this says so


def _take(worker: _Worker, problems: dict[str, UserCodeError], done: Callable[[RunPlan, RunResult], None]) -> None:
    """What a worker says of its row."""
    job = worker.job
    assert job is not None
    try:
        kind, value = worker.link.recv()
    except (EOFError, OSError):
        worker.process.join()
        how = end_of(worker.process.exitcode or 0, worker.making)
        who = f"method '{job.run.row.method}' ({job.method}), {worker.name}"
        kind, value = "error", (f"{who}: {how}; what it had finished stays: run the same command again", "")
    if kind == "batch":
        worker.making = value
        return
    worker.job, worker.making = None, ()
    if kind == "done":
        done(job.run, value)
    else:
        problems[_name(job)] = UserCodeError(*value)


def work(device: str, threads: int, link: Connection) -> None:
    """In the worker: make the rows that come, one after another."""
    from concord.benchmarks.run.workers import end_with_parent, share_cores

    end_with_parent()
    watch_interrupts()
    share_cores(device, threads)
    while True:
        try:
            job = link.recv()
        except (EOFError, OSError):
            return  # the parent has no more, or is gone
        try:
            answer: tuple[str, object] = ("done", _make(job, device, lambda ids: link.send(("batch", ids))))
        except ConcordError as error:
            answer = ("error", (str(error), error.details))
        except BaseException as error:  # whatever it is, the other rows go on
            answer = ("error", (failure(error), traceback_of(error)))
        try:
            link.send(answer)
        except OSError:
            return


def _make(job: RowJob, device: str, on_batch: OnBatch) -> RunResult:
    from concord.benchmarks.image_sources import open_image_source
    from concord.methods.base import all_methods
    from concord.methods.plugins import load_plugin

    job.run.__dict__["parts"] = job.parts  # source that is edited meanwhile makes no run of two keys
    if job.run.row.method not in all_methods():
        load_plugin(job.method)
    opener = partial(open_image_source, job.run, device)
    return generate_run(job.run, opener, job.batch_size, job.grid, on_batch=on_batch)
