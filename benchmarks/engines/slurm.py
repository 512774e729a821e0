"""The engine `slurm`: job arrays of a Slurm cluster with a shared file system, submitted through submitit.

A task is an element of an array. What it gives lies in `<results>/.slurm/<task>/` until the driver takes it, so that
the driver may end and come back: `--detach` submits and returns, `concord status` shows, and the same command picks up,
also what it had submitted before it was killed. A job that Slurm requeues goes on with the shards that it lacks.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from concord.benchmarks.engines.base import (
    Call,
    Ended,
    Engine,
    EngineSettings,
    Event,
    Failed,
    Given,
    Parcel,
    Task,
    Work,
    register,
)
from concord.benchmarks.engines.desk import Desk, Trouble, check_versions, do, node_name, own_versions
from concord.benchmarks.engines.spool import PARCEL, SPOOL, Spooled, spooled
from concord.data.errors import ConcordError
from concord.data.files import atomic_path, read_json, write_json

LIVE = {
    "PENDING",
    "RUNNING",
    "CONFIGURING",
    "COMPLETING",
    "SUSPENDED",
    "REQUEUED",
    "REQUEUE_HOLD",
    "RESIZING",
    "SIGNALING",
    "STAGE_OUT",
    "STOPPED",
    "REQUEUE_FED",
    "SPECIAL_EXIT",
}
LOST = {"NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "REVOKED"}
"""States of jobs whose end is no fault of the task's."""
SAID = {
    "TIMEOUT": "ran into its time limit; set engines.slurm.minutes higher, or task_seconds lower",
    "OUT_OF_MEMORY": "was killed for its memory; set engines.slurm.memory_gib higher",
    "CANCELLED": "was cancelled",
    "NODE_FAIL": "its node was lost",
    "PREEMPTED": "was preempted",
}
TOO_OFTEN = "timed-out too many times"
"""What submitit says of a job that it does not requeue once more."""
GRACE = 3  # looks at a job that is over before its missing last word counts: files of other nodes appear late


class SlurmSettings(EngineSettings):
    """engines: slurm: of params.yaml or ~/.config/concord.yaml."""

    partition: str | None = None  # None: the cluster's default
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    cpus: int = Field(default=1, ge=1)  # of a task
    gpus: int = Field(default=0, ge=0)  # of a task
    memory_gib: float | None = Field(default=None, gt=0)
    minutes: int = Field(default=240, ge=1)  # time limit of a task
    setup: list[str] = Field(default_factory=list)  # lines of shell before each task: module load cuda
    container: str | None = None  # before the interpreter: apptainer exec --nv image.sif
    array: int = Field(default=500, ge=1, le=5000)  # tasks in one array; the cluster's MaxArraySize limits it
    requeues: int = Field(default=3, ge=0)  # of a task that runs into its time limit
    signal_seconds: int = Field(default=90, ge=1)  # before the time limit a task is told, and requeued
    additional: dict[str, str | int] = Field(default_factory=dict)  # other options of sbatch
    poll_seconds: float = Field(default=10, gt=0)
    answer_seconds: float = Field(default=30, gt=0)  # until Slurm counts as not answering
    allow_versions: bool = False


# --------------------------------------------------------------------------------------------------------- asking Slurm


def ask(command: Sequence[str], seconds: float) -> str:
    """What a command of Slurm's prints; ConcordError in one line where it does not answer."""
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except FileNotFoundError:
        raise ConcordError(f"engine 'slurm': no `{command[0]}` on the PATH: no cluster to submit to") from None
    except subprocess.TimeoutExpired:
        raise ConcordError(f"engine 'slurm': `{command[0]}`: no answer within {seconds:g} s; is it up?") from None
    if told.returncode:
        said = " ".join(told.stderr.split())[:200] or f"exit code {told.returncode}"
        raise ConcordError(f"engine 'slurm': `{command[0]}`: {said}")
    return told.stdout


def job_states(seconds: float = 30) -> dict[str, tuple[str, str]]:
    """Job -> (state, nodes) of all jobs of this user that Slurm still knows, elements of arrays each."""
    told = ask(["squeue", "-h", "-r", "-t", "all", "-u", str(os.getuid()), "-o", "%i|%T|%N"], seconds)
    found = {}
    for line in told.splitlines():
        job, state, nodes = (*line.split("|"), "", "")[:3]
        found[job.strip()] = (state, nodes)
    return found


# ----------------------------------------------------------------------------------------------------------- the engine


@dataclass
class _Watched:
    """A task of this call. own: the job that was submitted for it. waits: earlier jobs that make parts of it."""

    task: Task
    own: Spooled | None = None
    waits: list[Spooled] = field(default_factory=list)


@register
class SlurmEngine(Engine):
    """Job arrays on a Slurm cluster."""

    name = "slurm"
    Settings: ClassVar[type[EngineSettings]] = SlurmSettings
    detaches = True

    def __init__(self, settings: EngineSettings, call: Call | None = None) -> None:
        super().__init__(settings, call)
        assert isinstance(settings, SlurmSettings)
        self.own = settings
        self.folder = self.call.folder / SPOOL
        self._watched: dict[str, _Watched] = {}
        self._taken: set[tuple[Path, int]] = set()
        self._silent: dict[Path, int] = {}  # jobs that are over and have said nothing: how often they were looked at
        self._done: list[Path] = []  # folders whose parcels the driver has written
        self._resting: list[Task] = []  # of which earlier jobs made a part, that the driver is about to write
        self._last = 0.0
        self._states: dict[str, tuple[str, str]] = {}

    @property
    def unfinished(self) -> int:
        return len(self._watched) + len(self._resting)

    def start(self) -> None:
        try:
            import submitit  # noqa: F401
        except ImportError:
            raise ConcordError("engine 'slurm': package submitit is not installed; install concord[slurm]") from None
        self._check_partition()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.crew.wanted = self.own.workers or 64
        self._states = job_states(self.own.answer_seconds)

    def _check_partition(self) -> None:
        """Raise ConcordError where the partition is none, or no node of it can hold a task, saying what there is."""
        told = ask(["sinfo", "-h", "-N", "-o", "%R|%c|%m|%G"], self.own.answer_seconds)
        nodes: dict[str, list[tuple[int, int, int]]] = {}
        for line in told.splitlines():
            name, cpus, memory, gres = line.strip().split("|")
            nodes.setdefault(name, []).append((_number(cpus), _number(memory), _gpus(gres)))
        if not nodes:
            raise ConcordError("engine 'slurm': the cluster has no nodes (`sinfo` lists none)")
        wanted = self.own.partition
        if wanted is not None and wanted not in nodes:
            known = ", ".join(sorted(nodes))
            raise ConcordError(f"engine 'slurm': engines.slurm.partition: no '{wanted}'; expected one of {known}")
        among = nodes[wanted] if wanted is not None else [node for found in nodes.values() for node in found]
        memory_mib = (self.own.memory_gib or 0) * 1024
        if not any(c >= self.own.cpus and g >= self.own.gpus and m >= memory_mib for c, m, g in among):
            asked = f"{self.own.cpus} CPUs, {self.own.gpus} GPUs, {self.own.memory_gib or 0:g} GiB"
            most = max(among, key=lambda node: (node[2], node[0], node[1]))
            place = f"partition '{wanted}'" if wanted else "the cluster"
            raise ConcordError(
                f"engine 'slurm': a task asks for {asked}; the largest node of {place} "
                f"has {most[0]} CPUs, {most[2]} GPUs, {most[1] / 1024:.1f} GiB: ask for less, or name another partition"
            )

    def submit(self, tasks: Sequence[Task]) -> None:
        """Take tasks on: those that an earlier call submitted are watched, the others submitted, the longest first."""
        earlier: dict[str, list[Spooled]] = {}
        mine = {watched.own.folder for watched in self._watched.values() if watched.own is not None}
        for one in spooled(self.call.folder):
            if one.folder not in mine and one.folder not in self._done:
                earlier.setdefault(one.key, []).append(one)
        new = []
        for task in sorted(tasks, key=lambda one: -one.seconds):
            waits = [one for one in earlier.get(task.key, []) if set(one.parts) & set(task.parts)] if task.key else []
            watched = self._watched[task.name] = _Watched(task, waits=waits)
            if not waits:
                new.append(watched)
        self._send(new)
        self._last = 0.0

    def _send(self, watched: Sequence[_Watched]) -> None:
        """Submit what is missing of tasks, as arrays."""
        works = [(one, work) for one in watched if (work := one.task.work()) is not None]
        for start in range(0, len(works), self.own.array):
            lot = works[start : start + self.own.array]
            folders = [self._folder(one.task) for one, _ in lot]
            jobs = [
                Job(work, folder, own_versions(), self.own.allow_versions, bool(self.own.gpus))
                for (_, work), folder in zip(lot, folders, strict=True)
            ]
            for (one, _), folder, job in zip(lot, folders, self._sbatch(jobs), strict=True):
                facts = {
                    "name": one.task.name,
                    "row": one.task.row,
                    "key": one.task.key,
                    "images": one.task.images,
                    "parts": list(one.task.parts),
                    "job": job.job_id,
                    "log": str(job.paths.stdout),
                    "submitted": time.time(),
                }
                write_json(folder / "task.json", facts)
                one.own = Spooled.read(folder)
                one.waits = [one.own] if one.own is not None else []

    def _folder(self, task: Task) -> Path:
        word = hashlib.sha256(f"{task.name}\x00{task.key}\x00{time.time_ns()}".encode()).hexdigest()[:16]
        folder = self.folder / word
        folder.mkdir(parents=True)
        return folder

    def _sbatch(self, jobs: Sequence[Job]) -> list[Any]:
        """submitit's jobs of an array."""
        from submitit import SlurmExecutor

        own = self.own
        python = f"{own.container} {sys.executable}" if own.container else None
        executor = SlurmExecutor(self.folder / "jobs" / "%j", max_num_timeout=own.requeues, python=python)
        optional = {
            "partition": own.partition,
            "account": own.account,
            "qos": own.qos,
            "constraint": own.constraint,
            "gpus_per_node": own.gpus or None,
            "mem": f"{int(own.memory_gib * 1024)}M" if own.memory_gib else None,
        }
        executor.update_parameters(
            job_name="concord",
            time=own.minutes,
            cpus_per_task=own.cpus,
            signal_delay_s=own.signal_seconds,
            array_parallelism=own.workers or 10_000,
            stderr_to_stdout=True,
            setup=[*own.setup, f"export OMP_NUM_THREADS={self.threads}"],
            additional_parameters={"requeue": True, **own.additional},
            **{name: value for name, value in optional.items() if value is not None},
        )
        try:
            return list(executor.submit_array(jobs))
        except subprocess.CalledProcessError as error:
            raise ConcordError(
                f"engine 'slurm': sbatch: {' '.join(str(error.output or error).split())[:300]}"
            ) from None
        except Exception as error:  # submitit wraps what sbatch says in errors of its own
            raise ConcordError(f"engine 'slurm': {' '.join(str(error).split())[-300:]}") from None

    # ------------------------------------------------------------------------------------------------------- watching

    def wait(self, seconds: float) -> list[Event]:
        for folder in self._done:  # whatever it gave was written by the driver since
            shutil.rmtree(folder, ignore_errors=True)
        self._done.clear()
        if rest := self._rest():
            return rest
        if time.monotonic() - self._last < self.own.poll_seconds:
            time.sleep(min(seconds, self.own.poll_seconds))
            if time.monotonic() - self._last < self.own.poll_seconds:
                return []
        with contextlib.suppress(ConcordError):  # a controller that restarts: what it said last holds until it is back
            self._states = job_states(self.own.answer_seconds)
        self._last = time.monotonic()
        events: list[Event] = []
        for watched in list(self._watched.values()):
            events += self._look(watched)
        jobs = {one.job for watched in self._watched.values() for one in watched.waits}
        live = [state for job, (state, _) in self._states.items() if job in jobs]
        self.crew.busy = live.count("RUNNING")
        self.crew.ready = sum(state in LIVE for state in live)
        return events

    def _look(self, watched: _Watched) -> list[Event]:
        """What the jobs of a task have given, and whether they are over."""
        events: list[Event] = []
        failed: Failed | None = None
        for one in list(watched.waits):
            end = one.end  # before the parcels: what stands behind it is whole
            state, nodes = self._states.get(one.job, ("", ""))
            worker = f"job {one.job}{f' on {nodes}' if nodes else ''}"
            for part in one.given:
                if (one.folder, part) in self._taken or (watched.task.parts and part not in watched.task.parts):
                    continue
                self._taken.add((one.folder, part))
                try:
                    events.append(Given(watched.task, one.parcel(part), worker))
                except (ConcordError, OSError) as error:
                    failed = Failed(watched.task, str(error), worker)
            if end is None and (state in LIVE or not self._is_over(one)):
                continue
            watched.waits.remove(one)
            if end is None or end["line"] is not None:
                failed = self._failure(watched.task, one, end, state, worker)
            else:
                self._done += [one.folder, *self._failed_before(one.key)]
        if watched.waits:
            return events
        del self._watched[watched.task.name]
        if failed is not None and (watched.own is not None or failed.final):
            return [*events, failed]
        if watched.own is not None:
            return [*events, Ended(watched.task)]
        # earlier jobs are over: what they gave is written when these events have been read, then the rest is submitted
        self._resting.append(watched.task)
        return events

    def _is_over(self, one: Spooled) -> bool:
        """Slurm no longer has it among its live jobs, and its last word has had time to appear."""
        self._silent[one.folder] = self._silent.get(one.folder, 0) + 1
        return self._silent[one.folder] > GRACE

    def _rest(self) -> list[Event]:
        """Submit what earlier jobs have left of tasks."""
        events: list[Event] = []
        left = []
        for task in self._resting:
            if task.work() is None:
                events.append(Ended(task))
            else:
                left.append(self._watched.setdefault(task.name, _Watched(task)))
        self._resting.clear()
        self._send(left)
        return events

    def _failure(self, task: Task, one: Spooled, end: dict[str, Any] | None, state: str, worker: str) -> Failed:
        tail = one.tail()
        with contextlib.suppress(OSError):
            (one.folder / "task.json").rename(one.folder / "failed.json")
        if end is not None:
            return Failed(task, str(end["line"]), worker, bool(end.get("final")), tail=tail)
        if not one.log.exists():
            line = (
                f"left no trace in {self.folder}: its node does not see that folder; choose a --results on the "
                "shared file system"
            )
            return Failed(task, line, worker, final=True)
        if TOO_OFTEN in tail:  # submitit ended it before Slurm would have
            state = "TIMEOUT"
        line = SAID.get(state.split()[0] if state else "", f"ended without a word ({state or 'unknown to Slurm'})")
        return Failed(task, f"{line} (log {one.log})", worker, node=state in LOST, tail=tail)

    def _failed_before(self, key: str) -> list[Path]:
        """Folders of jobs that failed where another one has done the same since."""
        found = []
        for path in self.folder.glob("*/failed.json"):
            with contextlib.suppress(ConcordError, KeyError, TypeError):
                if read_json(path)["key"] == key:
                    found.append(path.parent)
        return found

    def cancel(self, row: str | None = None) -> None:
        jobs = []
        for name, watched in list(self._watched.items()):
            if row is None or watched.task.row == row:
                jobs += [one.job for one in watched.waits if one.job and one.end is None]
                del self._watched[name]
        cancel_jobs(jobs)

    def close(self) -> None:
        for folder in self._done:
            shutil.rmtree(folder, ignore_errors=True)
        if not any(self.folder.glob("*/task.json")) and not any(self.folder.glob("*/failed.json")):
            shutil.rmtree(self.folder, ignore_errors=True)


def cancel_jobs(jobs: Sequence[str]) -> None:
    """End jobs of Slurm's, as many as still live."""
    for start in range(0, len(jobs), 200):
        with contextlib.suppress(ConcordError):
            ask(["scancel", *jobs[start : start + 200]], 60)


def _number(text: str) -> int:
    digits = "".join(letter for letter in text if letter.isdigit())
    return int(digits or 0)


def _gpus(gres: str) -> int:
    """'gpu:a100:4(S:0-1)' -> 4."""
    found = 0
    for part in gres.split(","):
        name, _, rest = part.partition(":")
        if name.strip() == "gpu":
            found += _number(rest.split("(")[0].rpartition(":")[2] or "1")
    return found


# -------------------------------------------------------------------------------------------------------------- the job


@dataclass
class Job:
    """A work as an element of an array; what it gives goes into `folder`, each part whole or not at all."""

    work: Work
    folder: Path
    versions: Mapping[str, str]
    allowed: bool
    cuda: bool
    requeued: bool = False  # submitit has had this very process requeued, and ends it

    def __call__(self) -> None:
        if not self.folder.is_dir():
            raise ConcordError(f"{self.folder}: {node_name()} does not see this folder; choose another --results")
        done = {int(path.name.removeprefix(PARCEL)) for path in self.folder.glob(f"{PARCEL}[0-9]*")}
        desk = Desk(self._take, lambda images: None, device="cuda" if self.cuda else "cpu", done=done)
        try:
            check_versions(self.versions, own_versions(), node_name(), self.allowed)
            do(self.work, desk)
            write_json(self.folder / "end.json", {"line": None})
        except ConcordError as error:
            write_json(self.folder / "end.json", {"line": str(error), "final": True})
        except Trouble as trouble:
            print(trouble.details, file=sys.stderr)
            if self.requeued and TOO_OFTEN not in trouble.line:
                return  # no last word: the next process of this job has it
            line = SAID["TIMEOUT"] if TOO_OFTEN in trouble.line else trouble.line
            write_json(self.folder / "end.json", {"line": line, "final": trouble.final})

    def checkpoint(self) -> Any:
        """Called near the time limit and on preemption: requeued, it goes on with the parts that are missing."""
        from submitit.helpers import DelayedSubmission

        self.requeued = True
        return DelayedSubmission(Job(self.work, self.folder, self.versions, self.allowed, self.cuda))

    def _take(self, parcel: Parcel) -> None:
        part = parcel.about["shard"]
        temporary = self.folder / f".{part}.{os.getpid()}"
        temporary.mkdir()
        for name, content in parcel.files.items():
            with atomic_path(temporary / name) as place:
                place.write_bytes(content)
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in parcel.files.items()}
        write_json(temporary / "sha256.json", digests)
        temporary.rename(self.folder / f"{PARCEL}{part}")
