"""What a whole benchmark says of itself while it runs: all suites with their state, the time left, a report to read."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from concord.console import print_table
from concord.data.errors import ConcordError
from concord.data.files import read_json

if TYPE_CHECKING:
    from concord.benchmarks.plan.requests import Options
    from concord.benchmarks.plan.runs import RunPlan
    from concord.benchmarks.session import Session

PATIENCE = 180.0  # seconds between two reports at least
SHARE = 15.0  # and at least so many times what the last one took


@dataclass(frozen=True)
class Work:
    """What is to be made of a suite. seconds: as its rows took before, here or where the baseline was made."""

    suite: str
    rows: int
    to_make: int
    images: int
    seconds: float
    unknown: int = 0  # rows that nobody has timed yet


@dataclass
class Overview:
    """The suites of one call, in the order in which they are worked on."""

    works: Sequence[Work]
    options: Options
    started: float = field(default_factory=time.perf_counter)
    finished: int = 0
    reported: float = 0.0  # when the last report was ready
    took: float = 0.0  # seconds that it took

    def begin(self) -> None:
        """Every suite with its state, before anything is made."""
        columns = ("suite", "rows", "to make", "images", "estimate")
        lines = [
            (w.suite, str(w.rows), str(w.to_make), f"{w.images:,}", "up to date" if not w.to_make else minutes(w))
            for w in self.works
        ]
        print_table("Suites", columns, lines)
        if any(work.to_make for work in self.works):
            typer.echo(f"to make: {self.left()}; what is finished can be read meanwhile: `concord open`")

    def done(self) -> None:
        """After a suite: how many are done, how long the others take, and now and then the report."""
        work = self.works[self.finished]
        self.finished += 1
        if not work.to_make:
            return
        rest = "" if self.finished == len(self.works) else f"; {self.left()}"
        typer.echo(f"[{self.finished} of {len(self.works)}] {work.suite} is done{rest}")
        now = time.perf_counter()
        if self.finished < len(self.works) and now - (self.reported or self.started) > max(PATIENCE, SHARE * self.took):
            self.report()

    def left(self) -> str:
        """The time of what is left, by the estimates and by how much slower or faster the work has gone so far."""
        behind, ahead = self.works[: self.finished], self.works[self.finished :]
        known = sum(work.seconds for work in behind)
        pace = (time.perf_counter() - self.started) / known if known > 30 else 1.0
        seconds = pace * sum(work.seconds for work in ahead)
        unknown = sum(work.unknown for work in ahead)
        about = f"about {max(1, round(seconds / 60))} min" if seconds else "time not known"
        return f"{about} left" + (f", and {unknown} rows that nobody has timed yet" if unknown and seconds else "")

    def report(self) -> None:
        """Write the pages of what is there; whatever is wrong with them is said and stops nothing."""
        from concord.reports.report import stored_report

        begun = time.perf_counter()
        try:
            report = stored_report([], self.options)
            report.write()
            typer.echo(f"report so far: {report.index}")
            if report.unmade.parts:
                typer.echo(report.unmade.line, err=True)
        except (ConcordError, OSError) as error:
            typer.echo(f"the report so far is not written: {error}", err=True)
        self.reported = time.perf_counter()
        self.took = self.reported - begun


def minutes(work: Work) -> str:
    """The estimate of one suite in words."""
    if not work.seconds:
        return "not known"
    more = " or more" if work.unknown else ""
    return (f"{work.seconds:.0f} s" if work.seconds < 90 else f"{work.seconds / 60:.0f} min") + more


def overview(sessions: Sequence[Session], rows: Sequence[Sequence[RunPlan]], options: Options) -> Overview:
    """What every session of a call has to make, by the seconds an image that its rows took before."""
    known = baseline_seconds(options.profile)
    works = []
    for session, runs in zip(sessions, rows, strict=True):
        images, seconds, to_make, unknown = 0, 0.0, 0, 0
        for run in runs:
            missing = images_to_make(run, session.grid)
            if not missing:
                continue
            each = seconds_each(run, known)
            to_make, images = to_make + 1, images + missing
            unknown += each is None
            seconds += missing * (each or 0.0)
        works.append(Work(session.plan.suite.name, len(runs), to_make, images, seconds, unknown))
    return Overview(works, options)


def images_to_make(run: RunPlan, grid: int) -> int:
    """How many images of a row are missing; none where it is up to date, or cannot be made here."""
    from concord.benchmarks.generators import why_not
    from concord.benchmarks.run.generate import is_current
    from concord.benchmarks.run.row_workers import missing_shards
    from concord.benchmarks.store.shards import SHARD_SIZE

    if is_current(run, grid) or why_not(run) is not None:
        return 0
    return min(len(run.requests), missing_shards(run) * SHARD_SIZE) or len(run.requests)


def seconds_each(run: RunPlan, known: dict[str, float]) -> float | None:
    """Seconds an image, as this row took when it was made last; None where nobody has timed it."""
    from concord.benchmarks.store.run import Run

    if run.is_reference:
        return 0.005
    try:
        told = Run(run.path).manifest["seconds_per_image"] if Run(run.path).finished else None
    except ConcordError:
        told = None
    return told or known.get(f"{run.requests.name}/{run.row.name}")


def baseline_seconds(profile: str) -> dict[str, float]:
    """'<request set>/<row>' -> seconds an image where the committed baseline was made; empty where it says none."""
    from concord.reports.compare.sides import BASELINE

    path: Path = BASELINE / profile / "baseline.json"
    try:
        runs = read_json(path)["runs"]
        costs = {name: (facts.get("cost") or {}).get("seconds") for name, facts in runs.items()}
    except (ConcordError, KeyError, TypeError, AttributeError):
        return {}
    return {name: float(seconds) for name, seconds in costs.items() if seconds}
