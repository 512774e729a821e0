"""One display for all workers: rows, images, images a second, how busy the GPUs are, what is left.

On a terminal one bar a row under a line for all; in a log file a line every half minute.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from concord.benchmarks.engines.base import Crew

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

EVERY = 30.0  # seconds between two lines of a log
SHOWN = 12  # rows that have a bar at a time


@dataclass
class Board:
    """How far all rows are. parts: row -> (images done, of how many)."""

    crew: Callable[[], Crew]
    parts: dict[str, tuple[int, int]] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    first: float | None = None  # when the first image came: what is left is reckoned from there
    skipped: int = 0  # images that were done at `first`
    show: bool = True
    _bars: Progress | None = None
    _lines: dict[str, TaskID] = field(default_factory=dict)
    _said: float = field(default_factory=time.monotonic)

    def expect(self, row: str, images: int) -> None:
        """A row has so many images to come."""
        self.parts[row] = (0, images)
        self._draw()

    def add(self, row: str, images: int) -> None:
        """So many more of them are there."""
        done, total = self.parts[row]
        if self.first is None:
            self.first, self.skipped = time.monotonic(), images
        self.parts[row] = (min(done + images, total), total)
        self._draw(row)

    def back(self, row: str, images: int) -> None:
        """So many of them are there after all: a worker was lost with what it had computed."""
        self.parts[row] = (images, self.parts[row][1])
        self._draw(row)

    @property
    def done(self) -> int:
        return sum(done for done, _ in self.parts.values())

    @property
    def total(self) -> int:
        return sum(total for _, total in self.parts.values())

    @property
    def rate(self) -> float | None:
        """Images a second since the first came; None while nobody can tell."""
        if self.first is None or self.done <= self.skipped:
            return None
        return (self.done - self.skipped) / max(time.monotonic() - self.first, 1e-9)

    def text(self) -> str:
        """All of it in one line."""
        crew, rows = self.crew(), sum(done == total for done, total in self.parts.values())
        told = [f"{rows} of {len(self.parts)} rows", f"{self.done:,} of {self.total:,} images"]
        if self.rate is not None:
            told.append(f"{self.rate:.2f} images/s")
        told.append(f"{crew.busy} of {crew.ready} workers at work")
        if crew.gpu_busy is not None:
            told.append(f"GPUs {crew.gpu_busy:.0%} busy")
        if self.rate:
            told.append(f"about {(self.total - self.done) / self.rate:.0f} s left")
        return ", ".join(told)

    def tick(self) -> None:
        """Time has passed."""
        self._draw()
        if self._bars is None and self.show and time.monotonic() - self._said >= EVERY:
            self._said = time.monotonic()
            print(self.text(), file=sys.stderr, flush=True)

    def _draw(self, row: str | None = None) -> None:
        if self._bars is None:
            return
        for name in [row] if row is not None else []:
            done, total = self.parts[name]
            if name not in self._lines and len(self._lines) < SHOWN:
                self._lines[name] = self._bars.add_task(name, total=total)
            if name in self._lines:
                self._bars.update(self._lines[name], completed=done, total=total)
                if done == total:
                    self._bars.remove_task(self._lines.pop(name))
        self._bars.update(self._bars.task_ids[0], description=self.text(), completed=self.done, total=self.total)

    @contextmanager
    def drawn(self) -> Iterator[Board]:
        """Show it while the block lasts."""
        if not self.show or not sys.stderr.isatty():
            yield self
            if self.show and self.parts:
                print(self.text(), file=sys.stderr, flush=True)
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True)) as self._bars:
            self._bars.add_task("", total=None)
            yield self
            self._bars = None
