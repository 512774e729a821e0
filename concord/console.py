"""What the verbs print at their end: which rows were made, what each cost, where the seconds went."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TextIO, cast

import typer

from concord.data.errors import ConcordError
from concord.data.printable import for_stream, printable

if TYPE_CHECKING:
    from pandas import DataFrame

    from concord.benchmarks.plan.runs import RunPlan
    from concord.benchmarks.session import Session

SECONDS = "CONCORD_SECONDS"
"""The environment's name of the file in which all stages of one command leave where their seconds went."""


def print_summary(runs: Sequence[RunPlan], made: Sequence[RunPlan], scored: Sequence[RunPlan]) -> None:
    """What each row cost, and whether anything had to be done."""
    from concord.benchmarks.store.run import Run

    rows = []
    for run in runs:
        stored = Run(run.path)
        if not stored.finished:
            continue
        facts = stored.manifest
        evaluations = ", ".join(f"{name} {count:g}" for name, count in facts["evaluations_per_image"].items()) or "-"
        state = "made" if run in made else "up to date"
        state += ", scored" if run in scored else ""
        known = facts["seconds_per_image"], facts["peak_memory_bytes"]  # of an imported row they may not be
        seconds = "-" if known[0] is None else f"{known[0]:.3f}"
        memory = "-" if known[1] is None else f"{known[1] / 2**20:.0f}"
        rows.append((run.row.name, str(facts["n"]), seconds, evaluations, memory, state))
    print_table("Rows", ("row", "n", "s / image", "network evaluations / image", "peak MiB", "state"), rows)
    if not made and not scored:
        typer.echo("everything is up to date")


def print_reasons(session: Session, runs: Sequence[RunPlan]) -> None:
    """A line for each row that is made or scored again: why. What is made for the first time needs no reason."""
    from concord.benchmarks.run.generate import stale_reasons

    for run in runs:
        reasons, verb = stale_reasons(run, session.grid), "generate"
        if not reasons:
            reasons, verb = session.stale_score_reasons(run), "score"
        if reasons and reasons not in (["not made yet"], ["not scored yet"]):
            typer.echo(f"{verb} {run.requests.name}/{run.row.name} again: {'; '.join(reasons)}")


def print_timing(sessions: Sequence[Session]) -> None:
    """Where the time of this process went, the largest part first; also as a line of the file that `SECONDS` names."""
    from concord.benchmarks.session import overhead_of, split_of

    split = split_of(sessions)
    path = os.environ.get(SECONDS)
    if path:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(split) + "\n")
    ordered = sorted(split.items(), key=lambda pair: -pair[1])
    parts = ", ".join(f"{kind} {seconds:.1f}" for kind, seconds in ordered if seconds >= 0.05)
    typer.echo(f"seconds: {parts}; {overhead_of(split):.0%} outside methods and networks")


def raise_failed(sessions: Sequence[Session], problems: Sequence[str] = (), details: Sequence[str] = ()) -> None:
    """End with an error where something was not done: which rows were not made and why, and what else is wrong.

    problems: lines of other things, such as what a report lacks; details: tracebacks of theirs. All else was done.
    """
    failed = {
        f"{session.plan.requests.name}/{row}": error for session in sessions for row, error in session.failed.items()
    }
    lines = list(problems)
    if failed:
        what = f"row{'s' if len(failed) > 1 else ''} not made: "
        lines.insert(0, what + "; ".join(f"{row}: {error}" for row, error in failed.items()))
    if lines:
        raise ConcordError("; ".join(lines), "\n".join([*(error.details for error in failed.values()), *details]))


class SafeStream:
    """A text stream that no text can give orders to: titles, names and messages of others go through it.

    Colours pass where it is a terminal, since bars and drawn tables need them.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(for_stream(text, self._stream.isatty()))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


@contextlib.contextmanager
def safe_streams() -> Iterator[None]:
    """Let everything that is printed inside go through `SafeStream`."""
    kept = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, SafeStream(stream)) for stream in kept)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = kept


_collected: list[dict[str, object]] | None = None
"""Tables that `--json` keeps instead of printing them; None where it was not given."""


@contextlib.contextmanager
def tables_as_json() -> Iterator[None]:
    """Print the tables of what runs inside as one JSON document at its end; all else goes to the error stream."""
    global _collected
    _collected, out = [], sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        try:
            yield
        finally:
            found, _collected = _collected, None
            text = json.dumps(_finite({"tables": found}), indent=1, ensure_ascii=False, allow_nan=False)
            out.write(text + "\n")


def collect(title: str, rows: Sequence[Mapping[str, object]]) -> bool:
    """Keep a table for `--json`; False where it is to be printed."""
    if _collected is None:
        return False
    _collected.append({"title": title, "rows": [dict(row) for row in rows]})
    return True


def _value(cell: str) -> object:
    """What a cell says to a program: a number where it is one, nothing for a dash."""
    if cell in ("-", "–", ""):
        return None
    try:
        return json.loads(cell.replace(",", "")) if cell.strip("-+.,eE0123456789") == "" else cell
    except ValueError:
        return cell


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def records(frame: DataFrame) -> list[dict[str, object]]:
    """A frame's lines as plain values."""
    plain = frame.astype(object).where(frame.notna(), None)
    return [{str(key): value for key, value in line.items()} for line in plain.to_dict("records")]


def print_table(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """A drawn table; under `--json` a part of its document."""
    heads = [head or "note" for head in columns]
    if collect(title, [dict(zip(heads, map(_value, row), strict=True)) for row in rows]):
        return
    """Print rows under their columns; 160 characters wide where the output is no terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(*columns, title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for row in rows:
        shown.add_row(*(Text(printable(cell)) for cell in row))
    console = Console()
    if not console.is_terminal:
        console.width = 160
    console.print(shown)
    console.print()
