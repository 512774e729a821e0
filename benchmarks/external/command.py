"""Runs the command of an external method: a shard exported, the command started, its images taken back.

The command has an environment of its own: whatever interpreter it names, started in the folder of its YAML file, free
of the variables that tie a Python to Concord's. It may fail in any way; the error is one line with its exit code and
the last line that it wrote, and the finished shards stay.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from concord.benchmarks.external.exchange import (
    REQUESTS,
    Declared,
    find_answers,
    read_answer,
    read_declared,
    write_requests,
)
from concord.benchmarks.external.images import ExternalSource
from concord.benchmarks.run.image_source import GeneratedBatch, ImageSource
from concord.data.errors import ConcordError
from concord.data.own_files import refuse_links

if TYPE_CHECKING:
    from concord.benchmarks.contract import Contract
    from concord.benchmarks.external.method import External, Spec
    from concord.benchmarks.plan.requests import PlannedRequest
    from concord.benchmarks.plan.runs import RunPlan
    from concord.data.request import Request

CALL = re.compile(r"[0-9a-f]{8}")
WORK = "external"  # in the run's folder
MARK = "CONCORD_EXCHANGE"  # in the command's environment: the folder that it works for
HIDDEN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONCORD_WARM", "CONCORD_SECONDS")
GRACE = 5.0  # seconds between asking a command to end and ending it
LOOK = 0.1  # seconds between two looks at a running command
TAIL = 1 << 16  # bytes of output in which the last line is looked for


@dataclass(frozen=True)
class CommandResult:
    """What a command gave: images uint8 (B, H, W, 3), its wall seconds, its largest memory (0 where not known)."""

    images: np.ndarray
    seconds: float
    memory: int
    declared: Declared


def run_command(
    spec: Spec, folder: Path, requests: Sequence[Request], names: Sequence[str], size: int, work: Path
) -> CommandResult:
    """Run the command on some requests, in `work`, a new folder, which is removed unless something went wrong.

    Raises ConcordError with the exit code and the last line of its output, when it takes too long, and when images are
    missing, unknown or unusable.
    """
    output = work / "output"
    (work / "requests").mkdir(parents=True)
    output.mkdir()
    write_requests(work / "requests", requests, names)
    values = {"requests": work / "requests" / REQUESTS, "output": output}
    command = spec.command.format(**{name: shlex.quote(str(path)) for name, path in values.items()})
    start = time.perf_counter()
    code, memory = _run(spec, command, folder, work)
    seconds = time.perf_counter() - start
    what = f"external method '{spec.name}'"
    if code:
        raise ConcordError(f"{what}: the command ended with exit code {_exit_code(code)}: {last_line(work)}")
    try:
        paths = find_answers(output, [request.id for request in requests], size)
        images = np.stack([read_answer(path, size) for path in paths])
        declared = read_declared(output)
    except ConcordError as error:
        raise ConcordError(f"{what}: the command ended well, but {error}") from None
    shutil.rmtree(work, ignore_errors=True)
    return CommandResult(images, seconds, memory, declared)


def _exit_code(code: int) -> str:
    """As a shell tells it: 128 and more is a signal's number, which is named."""
    code = 128 - code if code < 0 else code
    named = {128 + number: number.name for number in signal.Signals}
    return f"{code} ({named[code]})" if code in named else str(code)


# ---------------------------------------------------------------------------------------------------------- the process


def _run(spec: Spec, command: str, folder: Path, work: Path) -> tuple[int, int]:
    """Exit code (negative: the signal), and the largest memory of the command and all that it started."""
    environment = {name: value for name, value in os.environ.items() if name not in HIDDEN}
    environment[MARK] = str(work)
    memory = 0
    with open(work / "stdout.txt", "wb") as out, open(work / "stderr.txt", "wb") as err:
        process = subprocess.Popen(
            command,
            shell=True,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        guard = _end_with_us(process.pid)
        try:
            (work / "pid").write_text(str(process.pid))
            deadline = time.monotonic() + (spec.timeout or float("inf"))
            while process.poll() is None:
                if time.monotonic() > deadline:
                    raise ConcordError(
                        f"external method '{spec.name}': the command took longer than its timeout, {spec.timeout:g} s"
                    )
                memory = max(memory, session_memory(process.pid))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(LOOK)
        finally:
            if process.returncode is None:  # too slow, or Concord was interrupted
                _end(process)
            guard.kill()
            guard.communicate()
    return process.returncode, memory


def _end_with_us(leader: int) -> subprocess.Popen[bytes]:
    """A small process that ends the command's group when this one has ended, however that was: its input ends then."""
    return subprocess.Popen(
        ["sh", "-c", f"cat >/dev/null; kill -KILL -- -{leader}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    _signal_group(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)
    _signal_group(process.pid, signal.SIGKILL)  # also what outlived the leader
    process.wait()


def _signal_group(leader: int, number: int) -> None:
    with contextlib.suppress(OSError):
        os.killpg(leader, number)


def session_memory(leader: int) -> int:
    """Bytes that the processes of a session hold now, the leader's among them; 0 where the system does not tell.

    Sampled, and not read from the system's accounts of ended children: those count what a child held before it became
    another program, which is all of Concord's own memory.
    """
    memory = 0
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):  # it has ended, or is another user's
            if os.getsid(process.pid) == leader:
                memory += process.memory_info().rss
    return memory


def last_line(work: Path) -> str:
    """The last line of stderr, else of stdout, that is not empty."""
    for name in ("stderr.txt", "stdout.txt"):
        with open(work / name, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            text = file.read().decode("utf-8", errors="replace")
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)  # colours
        lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
        if lines:
            return "".join(letter if letter.isprintable() else " " for letter in lines[-1])[:300]
    return "it wrote nothing"


def clear_work(folder: Path) -> None:
    """Remove what earlier calls left in the folder; a command of a killed Concord that still runs there is ended.

    Only folders that such calls named, and nothing through a link.
    """
    refuse_links(folder.parents[2], folder)
    for work in folder.glob("*/"):
        if not CALL.fullmatch(work.name) or work.is_symlink():
            continue
        with contextlib.suppress(OSError, ValueError, psutil.Error):
            leader = int((work / "pid").read_text())
            if psutil.Process(leader).environ().get(MARK) == str(work):
                _signal_group(leader, signal.SIGKILL)
        shutil.rmtree(work, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.rmdir()  # empty unless somebody keeps files of his own there


# ------------------------------------------------------------------------------------------------------------ adapters


class CommandSource(ExternalSource):
    """A row made by a command, a shard at a time."""

    def __init__(self, spec: Spec, folder: Path, run: RunPlan) -> None:
        self.spec, self.folder, self.run = spec, folder, run
        self.work = (run.path / WORK).absolute()
        self.measured: Mapping[str, float] = {}
        clear_work(self.work)

    def prepare(self, batch: Sequence[PlannedRequest]) -> object:
        return [self.run.requests.request(planned, self.run.conditions) for planned in batch]

    def make(self, prepared: Any, tell: bool) -> GeneratedBatch:
        size = self.run.requests.image_size
        work = self.work / secrets.token_hex(4)
        try:
            answer = run_command(self.spec, self.folder, prepared, self.run.conditions, size, work)
        except ConcordError as error:
            raise ConcordError(f"{error}; what it wrote is in {work}") from None
        self.declared = answer.declared
        self.measured = {"seconds_per_image": answer.seconds / len(prepared)}
        if answer.memory:
            self.measured["peak_memory_bytes"] = answer.memory
        return GeneratedBatch(answer.images)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.work.rmdir()  # empty unless a command failed: what it wrote is kept


def open_external(run: RunPlan) -> ImageSource:
    """What makes a row outside; ConcordError where nothing here can make it."""
    external = run.external
    assert external is not None
    if external.spec is None or external.folder is None:
        what = "import it again" if external.kind == "folder" else "give its YAML file with --external to make it again"
        raise ConcordError(f"{run.path}: images of the external row '{run.row.name}' are damaged or missing; {what}")
    return CommandSource(external.spec, external.folder, run)


def command_contract(external: External, work: Path) -> Contract:
    """The contract tests of a command, each a call of it on three faces of 64x64 pixels; it works in `work`."""

    import torch

    from concord.benchmarks.contract import Contract
    from concord.data.networks import Networks
    from concord.methods.base import Method

    assert external.spec is not None
    assert external.folder is not None
    call = partial(run_command, external.spec, external.folder)

    class Command(Method):
        name, title, paper = external.name, external.title, external.paper
        conditions = frozenset(external.conditions)
        training_free = True

        def sample(self, batch: Any, trace: Any) -> Any:
            answer = call(batch.requests, external.conditions, 64, work / secrets.token_hex(4))
            return torch.from_numpy(answer.images).permute(0, 3, 1, 2).float() / 255

    return Contract(Command(Command.Params(), Networks.of({})))
