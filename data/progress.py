"""Progress bars on stderr, with the time that is left; in a log file, a line every half minute and one at the end."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

BYTES = "bytes"
EVERY = 30.0  # seconds between two lines of a log

T = TypeVar("T")


class Report(Protocol):
    """Tells a bar how many are done, of how many (None: nobody knows), and a few words beside."""

    def __call__(self, done: int, total: int | None, note: str = "") -> None: ...


@contextlib.contextmanager
def bar(what: str, unit: str = "", show: bool = True) -> Iterator[Report]:
    """A bar that shows `what`, how many of how many, seconds gone and left.

    unit: what is counted, for a rate beside ('images' a second); `BYTES` are shown as MB. show: False for
    a bar that nobody sees.
    """
    if not show:
        yield lambda done, total, note="": None
        return
    if not sys.stderr.isatty():
        yield from _lines(what, unit)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    counted = (DownloadColumn(), TransferSpeedColumn()) if unit == BYTES else (MofNCompleteColumn(),)
    columns = (
        TextColumn("{task.description:32}"),
        BarColumn(),
        *counted,
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(compact=True),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=unit == BYTES, speed_estimate_period=120) as progress:
        task, start = progress.add_task(what, total=None, note=""), time.monotonic()

        def report(done: int, total: int | None, note: str = "") -> None:
            if unit and unit != BYTES and not note:
                note = _rate(done, start, unit)
            progress.update(task, completed=done, total=total, note=note)

        yield report


def watched(items: Iterable[T], what: str, total: int, show: bool = True) -> Iterator[T]:
    """The items, with a bar that counts them unless `show` is False."""
    with bar(what, show=show) as report:
        for done, item in enumerate(items, start=1):
            yield item
            report(done, total)


def _lines(what: str, unit: str) -> Iterator[Report]:
    """For a log. The time left counts from the first report, after loading."""
    start = last = time.monotonic()
    first: tuple[float, int] | None = None
    seen: tuple[int, int | None] = (0, 0)

    def report(done: int, total: int | None, note: str = "") -> None:
        nonlocal last, first, seen
        now, seen = time.monotonic(), (done, total)
        first = first or (now, done)
        if now - last >= EVERY and done > first[1]:
            last = now
            left = (
                "" if total is None else f", about {(now - first[0]) / (done - first[1]) * (total - done):.0f} s left"
            )
            _say(f"{what}: {_amount(done, total, unit)}{left}{f', {note}' if note else ''}")

    yield report
    if (seen[0] or seen[1]) and unit != BYTES:  # else there was nothing to do, or the next file says more
        rate = f", {_rate(seen[0], start, unit)}" if unit else ""
        _say(f"{what}: {_amount(*seen, unit)}, {time.monotonic() - start:.1f} s{rate}")


def _amount(done: int, total: int | None, unit: str) -> str:
    if unit == BYTES:
        return f"{done / 1e6:,.0f}{'' if total is None else f' of {total / 1e6:,.0f}'} MB"
    return f"{done}{'' if total is None else f' of {total}'}{f' {unit}' if unit else ''}"


def _rate(done: int, start: float, unit: str) -> str:
    return f"{done / max(time.monotonic() - start, 1e-9):.1f} {unit}/s"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
