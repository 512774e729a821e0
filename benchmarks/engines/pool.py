"""Engines whose workers stay: which waiting task a worker gets next, and what is told when one ends or dies."""

from __future__ import annotations

import time
from abc import abstractmethod
from bisect import insort
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence

from concord.benchmarks.engines.base import Call, Ended, Engine, EngineSettings, Event, Failed, Task, Work
from concord.data.errors import ConcordError


class Waiting:
    """Tasks that no worker has yet. A task that failed on a worker goes to another one, where there is another one."""

    def __init__(self) -> None:
        self._rows: dict[str, list[tuple[float, int, Task]]] = {}  # each ordered: the longest last, the first of equals
        self._count = 0
        self._failed: dict[str, set[str]] = defaultdict(set)

    def __len__(self) -> int:
        return sum(map(len, self._rows.values()))

    def add(self, tasks: Sequence[Task]) -> None:
        """Take tasks on."""
        for task in tasks:
            self._count += 1
            insort(self._rows.setdefault(task.row, []), (task.seconds, -self._count, task), key=lambda one: one[:2])

    def failed(self, task: Task, worker: str) -> None:
        """Remember where a task failed."""
        self._failed[task.name].add(worker)

    def take(self, row: str | None, worker: str, workers: Collection[str]) -> Task | None:
        """The next task of a worker: one of the row whose networks it holds, else the longest of all.

        None where nothing waits, or what waits failed here and another of the workers has not tried it yet.
        """
        for name in self._in_order(row):
            tasks = self._rows[name]
            for place in range(len(tasks) - 1, -1, -1):
                task = tasks[place][2]
                tried = self._failed.get(task.name, set())
                if worker in tried and not tried.issuperset(workers):
                    continue
                del tasks[place]
                if not tasks:
                    del self._rows[name]
                return task
        return None

    def _in_order(self, row: str | None) -> Iterator[str]:
        """Rows: the one that is held, then by their longest task. Few callers look beyond the first two."""
        if row in self._rows:
            yield row
        others = [name for name in self._rows if name != row]
        if others:
            first = max(others, key=lambda name: self._rows[name][-1][:2])
            yield first
            others.remove(first)
            yield from sorted(others, key=lambda name: self._rows[name][-1][:2], reverse=True)

    def drop(self, row: str | None = None) -> None:
        """Forget the tasks of a row, or all."""
        if row is None:
            self._rows.clear()
        else:
            self._rows.pop(row, None)


class PoolEngine(Engine):
    """Workers that take one task after another. A subclass starts them, hands works over and hears them."""

    def __init__(self, settings: EngineSettings, call: Call | None = None) -> None:
        super().__init__(settings, call)
        self.waiting = Waiting()
        self.running: dict[str, Task] = {}  # worker -> its task
        self.holds: dict[str, str] = {}  # worker -> the row whose networks it has loaded

    @property
    def unfinished(self) -> int:
        return len(self.waiting) + len(self.running)

    def submit(self, tasks: Sequence[Task]) -> None:
        self.waiting.add(tasks)

    def wait(self, seconds: float) -> list[Event]:
        events = self._assign()
        if not events:
            events = self._hear(seconds)
            events += self._assign()
        return events

    @abstractmethod
    def _workers(self) -> Collection[str]:
        """The workers that live and are ready."""

    @abstractmethod
    def _hand(self, worker: str, work: Work) -> None:
        """Give an idle worker its next work; ConcordError where its files cannot be had."""

    @abstractmethod
    def _hear(self, seconds: float) -> list[Event]:
        """What the workers say, after so many seconds at most."""

    @abstractmethod
    def _stop(self, worker: str) -> None:
        """End a worker that is at a task which nobody wants any more."""

    def _assign(self) -> list[Event]:
        """Give every idle worker something to do."""
        events: list[Event] = []
        workers = self._workers()
        for worker in workers:
            while worker not in self.running:
                task = self.waiting.take(self.holds.get(worker), worker, workers)
                if task is None:
                    break
                try:
                    work = task.work()
                    if work is None:
                        events.append(Ended(task))
                        continue
                    self._hand(worker, work)
                except ConcordError as error:  # what the work is made of: data that are gone
                    events.append(Failed(task, str(error), "here", final=True))
                    continue
                self.running[worker], self.holds[worker] = task, task.row
        self.crew.busy, self.crew.ready = len(self.running), len(workers)
        if self.crew.ready_since is None and len(workers) >= self.crew.wanted > 0:
            self.crew.ready_since = time.monotonic()
        return events

    def _lost(self, worker: str, line: str, *, final: bool = False, node: bool = False, tail: str = "") -> list[Event]:
        """The event of a worker's task that ended before; none where it had none."""
        task = self.running.pop(worker, None)
        if task is None:
            return []
        if not node:
            self.waiting.failed(task, worker)
        return [Failed(task, line, worker, final, node, tail)]

    def cancel(self, row: str | None = None) -> None:
        self.waiting.drop(row)
        for worker, task in list(self.running.items()):
            if row is None or task.row == row:
                del self.running[worker]
                self.holds.pop(worker, None)
                self._stop(worker)
