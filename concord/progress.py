"""Progress bars with the time that is left; in a log file, one line when a step is done."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr that shows `what`, how many of how many, seconds gone and left."""
    if not sys.stderr.isatty():
        yield from _lines(what)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:32}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(compact=True),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), speed_estimate_period=120) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _lines(what: str, every: float = 30.0) -> Iterator[Callable[[int, int], None]]:
    """For a log: a line every half minute, and one at the end. The rate counts from the first report, after loading."""
    start = last = time.monotonic()
    first: tuple[float, int] | None = None
    seen = (0, 0)

    def report(done: int, total: int) -> None:
        nonlocal last, first, seen
        now, seen = time.monotonic(), (done, total)
        first = first or (now, done)
        if now - last >= every and done > first[1]:
            last = now
            left = (now - first[0]) / (done - first[1]) * (total - done)
            print(f"{what}: {done} of {total}, about {left:.0f} s left", file=sys.stderr, flush=True)

    yield report
    if seen[1]:  # else there was nothing to do
        print(f"{what}: {seen[0]} of {seen[1]}, {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)
