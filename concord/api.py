"""Concord from Python: run a suite, read its results as pandas frames, look at its images, draw its figures.

    import concord

    concord.run("face-generation", limit=8, methods=["composable", "amdm"])
    found = concord.results("face-generation", data_set="limit-8")
    found.samples       one line a row, request and metric        found.sets    set metrics with their intervals
    found.costs         passes, seconds and memory of each row    found.comparisons   every pair of rows, tested
    found.images("composable", ["27000-0"])                       request -> uint8 (H, W, 3), RGB
    found.plot("mask-accuracy")                                   matplotlib axes, to be changed at will

Errors are `concord.data.errors.ConcordError`, one line that says what was wrong and what was expected. Nothing here is
imported before it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from concord.data.errors import ConcordError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.axes import Axes

    from concord.benchmarks.changes import Change
    from concord.benchmarks.store.run import Run, Store
    from concord.benchmarks.suite import Suite
    from concord.reports.tables.table import Table

SILENT: Callable[[str], None] = lambda line: None  # noqa: E731


def run(
    suite: str | Path,
    *,
    methods: Sequence[str] | None = None,
    changes: Mapping[str, object] | None = None,
    plugins: Sequence[str | Path] = (),
    externals: Sequence[str | Path] = (),
    data: str | Path | None = None,
    limit: int | None = None,
    size: str = "default",
    seed_set: int = 0,
    seeds: int = 1,
    profile: str = "embedded",
    device: str = "auto",
    batch_size: int | None = None,
    results: str | Path = "results",
    say: Callable[[str], None] = SILENT,
) -> Results:
    """Make what is missing of a suite, score it, and give its results; what is up to date is left as it is.

    suite: a name (`concord list`) or the path of a YAML file. methods: only these rows or methods; reference rows come
    along. changes: other parameters of the chosen rows, such as {"steps": 20, "composable.weight": [1, 2]}; a list
    makes a row of each value. seeds: so many images of every item, pooled in one row; items are the units of all tests.
    say: what is told on the way, a line each.
    Raises ConcordError for wrong input, and UserCodeError where a method of yours fails; other rows are made first.
    """
    from concord.benchmarks.opening import Additions, open_plan
    from concord.benchmarks.plan.requests import Options
    from concord.benchmarks.session import Session
    from concord.benchmarks.suite import read_suite
    from concord.data.user_code import UserCodeError
    from concord.reports.published import answer_mistakes

    chosen = None if methods is None else list(methods)
    asked = read_suite(str(suite))
    options = Options(profile, size, limit, None if data is None else Path(data), seed_set, Path(results), seeds)
    additions = Additions(
        [Path(p) for p in plugins], [Path(p) for p in externals], chosen or (), _changes(changes), chosen
    )
    plan = open_plan(str(suite), options, additions, say=say, mistakes=answer_mistakes(asked.paper, asked.table))
    session = Session(plan, device, batch_size, apart=True)
    runs = plan.select(chosen)
    made = session.generate(runs)
    scored = session.score(runs)
    say(f"{len(made)} rows made, {len(scored)} scored")
    for what, reason in [*session.not_run.items(), *session.metrics_not_run.items()]:
        say(f"'{what}': {reason}")
    if session.failed:
        told = "; ".join(f"row '{row}': {error}" for row, error in session.failed.items())
        raise UserCodeError(told, "\n".join(error.details for error in session.failed.values()))
    from concord.benchmarks.store.run import Store
    from concord.reports.stored import with_extra_rows, with_plan_rows, with_reasons

    store = Store(plan.root)
    shown = with_reasons(with_extra_rows(with_plan_rows(plan), store), store, profile)
    return Results(shown, store, profile)


def results(
    suite: str | Path, *, profile: str = "embedded", results: str | Path = "results", data_set: str | None = None
) -> Results:
    """What is stored of a suite. data_set: results below the profile's folder, by name: limit-8, quick, data-...

    Raises ConcordError where nothing of it is stored.

    >>> concord.results("no-such-suite")
    Traceback (most recent call last):
        ...
    concord.data.errors.ConcordError: unknown suite 'no-such-suite': expected one of ...
    """
    from concord.benchmarks.plan.requests import Options
    from concord.benchmarks.store.run import Store
    from concord.benchmarks.suite import read_suite
    from concord.data.profile import QUICK
    from concord.reports.stored import stored_root, with_extra_rows, with_reasons

    found = read_suite(str(suite)).in_profile(profile)
    store = Store(stored_root(Options(profile, results=Path(results)), data_set))
    if QUICK in store.root.name.split("+"):
        found = found.in_size(QUICK)
    if not store.runs(found.request_set):
        raise ConcordError(f"{store.root}: no results of {found.name}; run `concord run {found.name}`")
    return Results(with_reasons(with_extra_rows(found, store), store, profile), store, profile)


def _changes(changes: Mapping[str, object] | None) -> list[Change]:
    from concord.benchmarks.changes import Change

    return [
        Change(name, tuple(values) if isinstance(values, list) else (values,))
        for name, values in (changes or {}).items()
    ]


@dataclass(frozen=True)
class Results:
    """One suite of one results folder, as frames, images and figures."""

    suite: Suite
    store: Store
    profile: str

    @cached_property
    def table(self) -> Table:
        """The table as reports print it."""
        from concord.reports.assemble import build_table

        return build_table(self.suite, self.store, self.profile)

    @cached_property
    def summary(self) -> pd.DataFrame:
        """One line a row and metric: value, low, high (95 %), paper_value, mark, n, status, and the row's costs."""
        from concord.reports.tables.export import to_frame

        return to_frame(self.table)

    @cached_property
    def samples(self) -> pd.DataFrame:
        """One line a row, request and metric: row, item, request, metric, value (in the metric's unit), status."""
        return self._stacked(lambda run: run.scores(), ("row", "item", "request", "metric", "value", "status"))

    @cached_property
    def sets(self) -> pd.DataFrame:
        """One line a row and set metric: row, metric, value, n, n_reference, status, replicates (of the jackknife)."""
        return self._stacked(
            lambda run: run.sets(), ("row", "metric", "value", "n", "n_reference", "status", "replicates")
        )

    @cached_property
    def costs(self) -> pd.DataFrame:
        """One line a row: row, n, seconds_per_image, peak_memory_bytes, passes (an image, of all kinds), device."""
        import pandas as pd

        lines = []
        for row, run in self._runs.items():
            told = run.manifest
            passes = sum((told.get("evaluations_per_image") or {}).values())
            kept = {key: told.get(key) for key in ("n", "seconds_per_image", "peak_memory_bytes", "device")}
            lines.append({"row": row, **kept, "passes": passes})
        return pd.DataFrame(lines, columns=["row", "n", "seconds_per_image", "peak_memory_bytes", "passes", "device"])

    @cached_property
    def comparisons(self) -> pd.DataFrame:
        """One line a pair of rows and metric: first, second, metric, difference, low, high, p, p_holm, test."""
        import pandas as pd

        lines = [
            (c.first, c.second, c.column, c.difference, c.low, c.high, c.p, c.p_holm, c.test)
            for c in self.table.comparisons
        ]
        columns = ["first", "second", "metric", "difference", "low", "high", "p", "p_holm", "test"]
        return pd.DataFrame(lines, columns=columns)

    @property
    def rows(self) -> list[str]:
        """The rows that have results, in the table's order."""
        return list(self._runs)

    def images(self, row: str, ids: Iterable[str] | None = None) -> dict[str, np.ndarray]:
        """Request -> image uint8 (H, W, 3), RGB, in the order of the requests; all of them without `ids`."""
        run = self._run(row)
        wanted = None if ids is None else list(ids)
        unknown = sorted(set(wanted or ()) - set(run.ids))
        if unknown:
            raise ConcordError(f"row '{row}': no request '{unknown[0]}'; the first are {', '.join(run.ids[:3])}")
        return dict(run.images(wanted))

    # ---------------------------------------------------------------------------------------------------------- figures

    def plot(self, metric: str, ax: Axes | None = None) -> Axes:
        """Every row's value with its 95 % interval, the best at the top."""
        column = self.table.column(metric)
        rows = [(value, row) for row in self.table.rows if (value := row.cells[metric].value) is not None]
        if not rows:
            raise ConcordError(f"suite '{self.suite.name}': no row has a value of '{metric}'")
        rows.sort(key=lambda pair: pair[0], reverse=not column.higher_is_better)
        axes = _axes(ax)
        for place, (value, row) in enumerate(rows):
            cell = row.cells[metric]
            reach = [[value - cell.low], [cell.high - value]] if cell.has_interval else None
            axes.errorbar([value], [place], xerr=reach, fmt="D" if row.role else "o", capsize=3)
        axes.set_yticks(range(len(rows)), [row.title for _, row in rows])
        axes.set_xlabel(f"{column.label} ({column.direction})")
        return axes

    def plot_cost(self, metric: str, ax: Axes | None = None) -> Axes:
        """Value against seconds an image (logarithmic), a point a method."""
        column = self.table.column(metric)
        rows = [
            (seconds, value, row.title)
            for row in self.table.methods
            if (seconds := row.cost.seconds_per_image) and (value := row.cells[metric].value) is not None
        ]
        if not rows:
            raise ConcordError(f"suite '{self.suite.name}': no row has seconds and a value of '{metric}'")
        axes = _axes(ax)
        for seconds, value, title in rows:
            axes.plot([seconds], [value], "o", label=title)
        axes.set_xscale("log")
        axes.set_xlabel("seconds an image")
        axes.set_ylabel(f"{column.label} ({column.direction})")
        axes.legend(fontsize="small")
        return axes

    def plot_parameter(self, metric: str, parameter: str, ax: Axes | None = None) -> Axes:
        """Value against a parameter, a curve for each method of which several rows differ in it alone."""
        from concord.reports.figures.plots import sweeps

        column = self.table.column(metric)
        found = [
            sweep
            for sweep in sweeps(self.table)
            if sweep.parameter == parameter and any(row.cells[metric].value is not None for _, row in sweep.points)
        ]
        if not found:
            raise ConcordError(
                f"suite '{self.suite.name}': no three rows of a method differ in '{parameter}' alone; make some with "
                f"changes={{'{parameter}': [...]}}"
            )
        axes = _axes(ax)
        for sweep in found:
            points = [
                (x, value, cell.low, cell.high)
                for x, row in sweep.points
                if (value := (cell := row.cells[metric]).value) is not None
            ]
            places, values, lows, highs = zip(*points, strict=True)
            axes.plot(places, values, "o-", label=sweep.method)
            axes.fill_between(places, lows, highs, alpha=0.2)
        axes.set_xlabel(parameter)
        axes.set_ylabel(f"{column.label} ({column.direction})")
        axes.legend(fontsize="small")
        return axes

    # ----------------------------------------------------------------------------------------------------------- inside

    @cached_property
    def _runs(self) -> dict[str, Run]:
        named = {name: self.store.run(self.suite.request_set, name) for name in self.suite.row_names()}
        return {name: run for name, run in named.items() if run.finished}

    def _run(self, row: str) -> Run:
        if row not in self._runs:
            raise ConcordError(
                f"suite '{self.suite.name}': no results of row '{row}'; there are {', '.join(self._runs)}"
            )
        return self._runs[row]

    def _stacked(self, read: Callable[[Run], pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
        """The frames of all scored rows below each other, with the row's name and, of requests, their item."""
        import pandas as pd

        parts = []
        for row, run in self._runs.items():
            if run.scored:
                part = read(run).assign(row=row)
                if "request" in part:
                    part["item"] = part["request"].astype(str).str.rsplit("-", n=1).str[0]
                parts.append(part[list(columns)])
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(columns))


def _axes(ax: Axes | None) -> Axes:
    """The given axes, or those of a new figure, which no window manages."""
    if ax is not None:
        return ax
    from matplotlib.figure import Figure

    return Figure(figsize=(7, 4), layout="constrained").add_subplot()
