"""A method over time: its metrics in every commit that changed the committed baseline.

Each commit is compared with the one before it as `concord compare` does, so that a step in the drawing comes with its
verdict; where two cannot be compared (other weights, another n), the line is broken and the reason stands in the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from concord.data.errors import ConcordError
from concord.data.files import atomic_path
from concord.reports.compare import git as git
from concord.reports.compare import sides as sides
from concord.reports.compare.baseline import intervals
from concord.reports.compare.comparison import compare_sides
from concord.reports.compare.margins import Margins, read_margins
from concord.reports.compare.render import escape
from concord.reports.statistics import Interval
from concord.reports.tables.measured import MetricFacts, metric_facts
from concord.reports.tables.words import decimals_for

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DRAWINGS = (".svg", ".png")
UNCOMMITTED = "uncommitted"
FIRST = "first"


@dataclass(frozen=True)
class Point:
    """A metric at a commit; `step`: the verdict against the commit before, or why there is none."""

    commit: git.Commit
    n: int
    interval: Interval
    step: str
    joined: bool  # whether it may be compared with the point before


@dataclass(frozen=True)
class Line:
    """One metric of one run over the commits, oldest first."""

    run: str
    fact: MetricFacts
    points: list[Point]


@dataclass(frozen=True)
class History:
    """Every line of one row, and what could not be read."""

    method: str
    profile: str
    lines: list[Line]
    notes: list[str] = field(default_factory=list)


def read_history(
    root: Path, profile: str, method: str, metrics: Sequence[str] | None = None, last: int | None = None
) -> History:
    """The history of a row; ConcordError outside a repository, or for a row or metric that no commit has."""
    place = f"reports/baseline/{profile}"
    commits = git.commits_of(root, place)
    notes = []
    if git.is_shallow(root):
        notes.append("this clone is shallow: older commits are not here; `git fetch --unshallow` brings them")
    states, skipped = _states(root, place, profile, commits[-last:] if last else commits)
    notes += skipped
    if not states:
        raise ConcordError(f"{root}: no commit has a readable {place} yet; `concord compare --accept` writes the first")
    runs = _runs(method, [side for _, side in states])
    found = {metric for _, side in states for run in runs if run in side.runs for metric in _metrics(side.runs[run])}
    for metric in metrics or []:
        if metric not in found:
            raise ConcordError(
                f"no commit has metric '{metric}' of '{method}': expected one of {', '.join(sorted(found))}"
            )
    wanted = [metric for metric in sorted(found) if not metrics or metric in metrics]
    lines = [Line(run, _fact(metric), []) for run in runs for metric in wanted]
    margins = read_margins(profile)
    before: sides.Side | None = None
    for commit, side in states:
        steps = _steps(before, side, runs, margins)
        for line in lines:
            run = side.runs.get(line.run)
            interval = intervals(run).get(line.fact.name) if run else None
            if run is not None and interval is not None:
                step, joined = steps.get((line.run, line.fact.name), (FIRST, False))
                line.points.append(Point(commit, int(run.facts["n"]), interval, step, joined and bool(line.points)))
        before = side
    return History(method, profile, [line for line in lines if line.points], notes)


def _states(
    root: Path, place: str, profile: str, commits: Sequence[git.Commit]
) -> tuple[list[tuple[git.Commit, sides.Side]], list[str]]:
    """The baseline at each commit, and as it lies in the working tree where that differs."""
    states, notes = [], []
    newest: bytes | None = None
    for commit in commits:

        def read(name: str, sha: str = commit.sha) -> bytes | None:
            return git.show(root, sha, f"{place}/{name}")

        newest = read("baseline.json")
        if newest is None:
            notes.append(f"{commit.sha[:12]}: the baseline was removed there")
            continue
        try:
            states.append((commit, sides.read_side(read, f"{commit.sha[:12]}:{place}", without=("features.npz",))))
        except ConcordError as error:
            notes.append(f"left out: {error}")
    here = root / place / "baseline.json"
    if here.is_file() and here.read_bytes() != newest:
        folder = sides.baseline_folder(root / place, "working tree")
        states.append((git.Commit(UNCOMMITTED, "", "the working tree's baseline"), folder))
    return states, notes


def _runs(method: str, states: Sequence[sides.Side]) -> list[str]:
    known = sorted({name for side in states for name in side.runs})
    found = [name for name in known if name == method or name.partition("/")[2] == method]
    if not found:
        rows = sorted({name.partition("/")[2] for name in known})
        raise ConcordError(f"no baseline has a row '{method}': expected one of {', '.join(rows)}")
    return found


def _metrics(run: sides.SideRun) -> list[str]:
    return [*run.values, *run.sets]


def _fact(metric: str) -> MetricFacts:
    try:
        return metric_facts([metric])[metric]
    except ConcordError:  # an old metric that is no more
        return MetricFacts(metric, metric, True, False)


def _steps(
    before: sides.Side | None, side: sides.Side, runs: Sequence[str], margins: Margins
) -> dict[tuple[str, str], tuple[str, bool]]:
    """(run, metric) -> the verdict against the state before, and whether the two may be compared."""
    if before is None:
        return {}
    result = compare_sides(before, side, margins, only=set(runs))
    steps: dict[tuple[str, str], tuple[str, bool]] = {}
    steps.update({(change.run, change.metric): (change.verdict, True) for change in result.changes})
    for one in result.incomparable:
        named = [one.metric] if one.metric else _metrics(before.runs[one.run])
        steps.update({(one.run, metric): (one.reason, False) for metric in named})
    return steps


# ----------------------------------------------------------------------------------------------------------- the table


def to_markdown(found: History) -> str:
    """One table a metric and suite, oldest commit first."""
    parts = [f"# {escape(found.method)} over {_count(found)} commits, profile {found.profile}", ""]
    for line in found.lines:
        arrow = "higher is better" if line.fact.higher_is_better else "lower is better"
        parts += [f"## {escape(line.run)}: {escape(line.fact.label)} ({arrow})", ""]
        parts += ["| Commit | Day | n | Value [95 %] | Against the one before | |", "|:---|:---|---:|---:|:---|:---|"]
        values = [point.interval for point in line.points]
        decimals = decimals_for([interval.half_width for interval in values], [interval.value for interval in values])
        for point in line.points:
            value, low, high = (f"{end:.{decimals}f}" for end in point.interval)
            sha = point.commit.sha if point.commit.sha == UNCOMMITTED else point.commit.sha[:9]
            cells = (
                sha,
                point.commit.day,
                str(point.n),
                f"{value} [{low}, {high}]",
                point.step,
                point.commit.subject[:60],
            )
            parts.append("| " + " | ".join(map(escape, cells)) + " |")
        parts.append("")
    return "\n".join(parts)


def _count(found: History) -> int:
    return len({point.commit.sha for line in found.lines for point in line.points})


# --------------------------------------------------------------------------------------------------------- the drawing


def draw(found: History, path: Path) -> None:
    """A panel for each metric, a line for each suite, the 95 % interval at each commit; broken where not comparable."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    metrics = list(dict.fromkeys(line.fact.name for line in found.lines))
    commits = _order(found)
    width = min(14.0, max(6.0, 0.5 * len(commits) + 3))
    figure = Figure(figsize=(width, 1.1 + 2.3 * len(metrics)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(metrics), 1, squeeze=False, sharex=True)[:, 0]
    for panel, metric in zip(panels, metrics, strict=True):
        for line in found.lines:
            if line.fact.name == metric:
                _draw_line(panel, line, commits)
                panel.set_ylabel(f"{line.fact.label} {'↑' if line.fact.higher_is_better else '↓'}")
        panel.grid(axis="y", alpha=0.3)
        panel.legend(fontsize=8, frameon=False)
    panels[-1].set_xticks(range(len(commits)), [sha[:9] for sha in commits], rotation=45, ha="right", fontsize=8)
    figure.suptitle(f"{found.method}, profile {found.profile}: 95 % intervals", fontsize=11)
    with atomic_path(path) as temporary:
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(temporary, format=path.suffix[1:], dpi=150, metadata=metadata)


def _draw_line(panel: Axes, line: Line, commits: list[str]) -> None:
    places = [commits.index(point.commit.sha) for point in line.points]
    values = [point.interval.value for point in line.points]
    ends = [
        [max(0.0, point.interval.value - point.interval.low) for point in line.points],
        [max(0.0, point.interval.high - point.interval.value) for point in line.points],
    ]
    bars = panel.errorbar(places, values, yerr=ends, fmt="o", ms=4, capsize=3, lw=1, label=line.run)
    for k in range(1, len(line.points)):
        if line.points[k].joined:
            panel.plot(places[k - 1 : k + 1], values[k - 1 : k + 1], color=bars[0].get_color(), lw=1.4)


def _order(found: History) -> list[str]:
    """The commits of all lines, oldest first; a line may lack some of them."""
    longest: list[str] = []
    for line in sorted(found.lines, key=lambda one: -len(one.points)):
        for position, point in enumerate(line.points):
            if point.commit.sha not in longest:
                earlier = [p.commit.sha for p in line.points[:position]]
                place = 1 + max((longest.index(sha) for sha in earlier), default=-1)
                longest.insert(place, point.commit.sha)
    return longest
