"""The engine `local`: one process a device on this machine, each kept while there are tasks."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from concord.benchmarks.engines.base import Advanced, Call, Ended, EngineSettings, Event, Given, Task, Work, register
from concord.benchmarks.engines.desk import TAIL, Desk, Trouble, do
from concord.benchmarks.engines.pool import PoolEngine
from concord.benchmarks.run.workers import PRELOAD, end_with_parent, how_it_ended, resolve_devices
from concord.data.user_code import watch_interrupts


class LocalSettings(EngineSettings):
    """devices: 'cuda:0', 'cpu', ...: a worker process on each; as --devices names them."""

    devices: list[str] = Field(default_factory=list)


@dataclass
class _Process:
    device: str
    process: BaseProcess
    link: Connection
    log: Path

    def tail(self) -> str:
        """The last that it printed."""
        try:
            return self.log.read_text(encoding="utf-8", errors="replace")[-TAIL:]
        except OSError:
            return ""


@register
class LocalEngine(PoolEngine):
    """Worker processes on this machine's devices."""

    name = "local"
    Settings: ClassVar[type[EngineSettings]] = LocalSettings

    def __init__(self, settings: EngineSettings, call: Call | None = None) -> None:
        super().__init__(settings, call)
        assert isinstance(settings, LocalSettings)
        self.devices = list(self.call.devices) or settings.devices
        self._processes: dict[str, _Process] = {}
        self._logs = tempfile.TemporaryDirectory(prefix="concord-workers-")
        self._count = 0
        self._idle: list[str] = []

    def start(self) -> None:
        self.devices = resolve_devices(",".join(self.devices) or "all")[: self.settings.workers]
        self.crew.wanted = len(self.devices)
        for device in self.devices:
            self._spawn(device)

    def _spawn(self, device: str) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        self._count += 1
        log = Path(self._logs.name) / f"{self._count}.log"
        here, there = context.Pipe()
        process = context.Process(target=serve, args=(device, there, log), daemon=True)
        process.start()
        there.close()  # so that the end of the worker is the end of the pipe
        self._processes[f"the worker on {device} (process {process.pid})"] = _Process(device, process, here, log)

    def _workers(self) -> Collection[str]:
        return list(self._processes)

    def _hand(self, worker: str, work: Work) -> None:
        with suppress(OSError):  # a dead one is found by `_hear`
            self._processes[worker].link.send(work)

    def _hear(self, seconds: float) -> list[Event]:
        links: dict[Any, str] = {self._processes[worker].link: worker for worker in self.running}
        events: list[Event] = []
        for link in wait(list(links), seconds) if links else ():
            worker = links[link]
            task, process = self.running[worker], self._processes[worker]
            try:
                kind, value = process.link.recv()
            except (EOFError, OSError):
                process.process.join()
                events += self._lost(worker, how_it_ended(process.process.exitcode or 0), tail=process.tail())
                self._remove(worker)
                self._spawn(process.device)
                continue
            if kind == "parcel":
                events.append(Given(task, value, worker))
            elif kind == "step":
                events.append(Advanced(task, value))
            elif kind == "end":
                del self.running[worker]
                events.append(Ended(task))
            else:
                line, final = value
                events += self._lost(worker, line, final=final, tail=process.tail())
        return events

    def _stop(self, worker: str) -> None:
        device = self._processes[worker].device
        self._remove(worker)
        self._idle.append(device)
        if len(self.waiting):
            self._fill()

    def submit(self, tasks: Sequence[Task]) -> None:
        super().submit(tasks)
        self._fill()

    def _fill(self) -> None:
        """Put workers on devices whose own was ended with a row that was given up."""
        while self._idle:
            self._spawn(self._idle.pop())

    def _remove(self, worker: str) -> None:
        process = self._processes.pop(worker)
        self.holds.pop(worker, None)
        process.link.close()
        if process.process.is_alive():
            process.process.terminate()
        process.process.join()

    def close(self) -> None:
        for process in self._processes.values():
            process.link.close()  # an idle worker ends by itself, and lets go of its device in order
        for worker, process in list(self._processes.items()):
            if worker not in self.running:
                process.process.join(5)
            self._remove(worker)
        self._logs.cleanup()


def serve(device: str, link: Connection, log: Path) -> None:
    """In the worker: do the works that come, one after another."""
    end_with_parent()
    watch_interrupts()
    printed = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    say = partial(_say, link)
    desk = Desk(lambda parcel: say("parcel", parcel), lambda images: say("step", images), device=device)
    while True:
        try:
            work = link.recv()
        except (EOFError, OSError):
            desk.drop()
            return  # the driver has no more, or is gone
        try:
            do(work, desk)
            say("end", None)
        except Trouble as trouble:
            if trouble.details:
                os.write(2, trouble.details.encode())
            say("trouble", (trouble.line, trouble.final))


def _say(link: Connection, kind: str, value: object) -> None:
    with suppress(OSError):
        link.send((kind, value))
