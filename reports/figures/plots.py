"""Figures made from tables: quality against seconds, and a metric against one parameter.

All as vector figures with PNG beside them (reports/figures/grid.py: save_plot), one panel a metric, three panels a
line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from concord.data.conditions.drawing import LINES
from concord.reports.figures.grid import EDGE, FAINT, GRID, INK, new_figure, save_plot
from concord.reports.figures.guidance import Drawing

if TYPE_CHECKING:
    from concord.reports.tables.table import Column, Row, Table

MARKERS = "osD^vPX*"
MOST_PANELS = 6
LEAST_VALUES = 3  # fewer values of a parameter are rows of a table, not a curve


@dataclass(frozen=True)
class Sweep:
    """Rows that differ in one number alone. points: (value of the parameter, row), in its order."""

    method: str
    parameter: str
    points: list[tuple[float, Row]]


def drawings(suite: str, table: Table) -> list[Drawing]:
    """The figures that this table allows; files lie below the suite's folder."""
    found = []
    columns, rows = pareto_columns(table), pareto_rows(table)
    if columns and len(rows) > 1:
        title = "Quality against seconds"
        found.append(
            Drawing(
                f"{suite}/pareto.png",
                title,
                "Each point is a method: seconds an image (logarithmic, measured on the machine of this run) against "
                "the metric with its 95 % interval. The line joins those that no other method beats in both by their "
                "values alone; whether a difference stands is for the tests to say.",
                f"Points of {len(rows)} methods: seconds an image against {', '.join(c.label for c in columns)}",
                (title, _facts(rows, columns)),
                partial(pareto_figure, rows, columns, title),
            )
        )
    for sweep in sweeps(table):
        title = f"{sweep.points[0][1].method}: metrics against {sweep.parameter}"
        rows = [row for _, row in sweep.points]
        found.append(
            Drawing(
                f"{suite}/sweep-{sweep.method}-{sweep.parameter.replace('/', '.')}.png",
                title,
                f"Rows that differ in {sweep.parameter} alone, each with its 95 % interval; seconds an image as they "
                "were measured on the machine of this run, once.",
                f"Curves of each metric and of the seconds an image against {sweep.parameter}",
                (title, _facts(rows, overall(table))),
                partial(sweep_figure, sweep, overall(table), title),
            )
        )
    return found


def overall(table: Table) -> list[Column]:
    """The columns without those of single levels: a panel for each of these shows more than it tells."""
    return [column for column in table.columns if "@L" not in column.name]


def _facts(rows: Sequence[Row], columns: Sequence[Column]) -> list[object]:
    return [
        [row.title, sorted(row.params.items(), key=str), row.cost.seconds_per_image]
        + [
            (c.label, c.higher_is_better, row.cells[c.name].value, row.cells[c.name].low, row.cells[c.name].high)
            for c in columns
        ]
        for row in rows
    ]


# ---------------------------------------------------------------------------------------------------------- Pareto


def pareto_rows(table: Table) -> list[Row]:
    """Methods whose seconds were measured."""
    return [row for row in table.methods if row.cost.seconds_per_image and not row.absent]


def pareto_columns(table: Table) -> list[Column]:
    """Columns with at least two such methods."""
    rows = pareto_rows(table)
    return [c for c in overall(table) if sum(row.cells[c.name].value is not None for row in rows) > 1][:MOST_PANELS]


def front(points: Sequence[tuple[float, float]], higher_is_better: bool) -> list[int]:
    """Indices of the (seconds, value) that no other point beats in both, from fast to slow."""
    sign = 1 if higher_is_better else -1
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -sign * points[i][1]))
    kept: list[int] = []
    for index in order:
        if not kept or sign * points[index][1] > sign * points[kept[-1]][1]:
            kept.append(index)
    return kept


def pareto_figure(rows: Sequence[Row], columns: Sequence[Column], title: str, path: Path) -> None:
    """Write each metric against seconds an image, with the rows that no other one beats joined by a line."""
    figure, panels = _panels(len(columns))
    handles: dict[str, object] = {}
    for axes, column in zip(panels, columns, strict=True):
        shown = [(index, row) for index, row in enumerate(rows) if row.cells[column.name].value is not None]
        points = [
            (float(row.cost.seconds_per_image or 0), float(row.cells[column.name].value or 0)) for _, row in shown
        ]
        best = [points[i] for i in front(points, column.higher_is_better)]
        axes.plot(*zip(*best, strict=True), color=FAINT, linewidth=1.1, linestyle=":", zorder=1, drawstyle="steps-post")
        for (index, row), (seconds, value) in zip(shown, points, strict=True):
            cell = row.cells[column.name]
            reach = [[value - cell.low], [cell.high - value]] if cell.has_interval else None
            handles[_plain(row.title)] = axes.errorbar(
                seconds,
                value,
                yerr=reach,
                color=LINES[index % len(LINES)],
                marker=MARKERS[index % len(MARKERS)],
                markersize=7,
                linestyle="none",
                elinewidth=1.3,
                capsize=2.5,
                zorder=2,
            )
        axes.set_xscale("log")
        axes.margins(x=0.18, y=0.12)
        _seconds_ticks(axes, [seconds for seconds, _ in points])
        _dress(axes, f"{column.label} {'(higher is better)' if column.higher_is_better else '(lower is better)'}")
        axes.set_xlabel("seconds an image", fontsize=8.5, color=FAINT)
    _finish(figure, handles, title, path)


def _seconds_ticks(axes: Any, seconds: Sequence[float]) -> None:
    """Few round numbers: a logarithmic axis over less than a decade would otherwise have one label, or twenty."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

    low, high = min(seconds) / 1.6, max(seconds) * 1.6
    steps = [m * 10.0**e for e in range(-4, 6) for m in (1, 2, 5)]
    ticks = [step for step in steps if low <= step <= high]
    axes.xaxis.set_major_locator(FixedLocator(ticks if len(ticks) < 7 else [t for t in ticks if f"{t:e}"[0] == "1"]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(low, high)


# ---------------------------------------------------------------------------------------------------------- sweeps


def sweeps(table: Table) -> list[Sweep]:
    """Every group of rows of one method whose parameters differ in one number alone."""
    groups: dict[tuple[str, str, str], dict[float, Row]] = {}
    for row in table.methods:
        if row.absent or not row.method:
            continue
        numbers = _numbers(row.params)
        for name, value in numbers.items():
            rest = repr(sorted((key, repr(other)) for key, other in flat(row.params).items() if key != name))
            groups.setdefault((row.method, name, rest + repr(row.conditions)), {})[value] = row
    return [
        Sweep(method, name, sorted(points.items()))
        for (method, name, _), points in groups.items()
        if len(points) >= LEAST_VALUES
    ]


def flat(params: Mapping[str, object], before: str = "") -> dict[str, object]:
    """{'strengths': {'text': 1}} -> {'strengths.text': 1}."""
    found: dict[str, object] = {}
    for key, value in params.items():
        found.update(flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": value})
    return found


def _numbers(params: Mapping[str, object]) -> dict[str, float]:
    return {k: float(v) for k, v in flat(params).items() if isinstance(v, int | float) and not isinstance(v, bool)}


def sweep_figure(sweep: Sweep, columns: Sequence[Column], title: str, path: Path) -> None:
    """Write each metric, and seconds an image, against the parameter that the sweep changes."""
    measured = [c for c in columns if any(row.cells[c.name].value is not None for _, row in sweep.points)]
    seconds = [(x, row.cost.seconds_per_image) for x, row in sweep.points if row.cost.seconds_per_image]
    figure, panels = _panels(len(measured) + bool(seconds))
    if seconds:
        axes = panels[-1]
        axes.plot(*zip(*seconds, strict=True), color=LINES[1], marker="s", markersize=5, linewidth=1.8)
        _dress(axes, "Seconds an image (lower is better)")
        axes.set_ylim(bottom=0)
        axes.set_xlabel(_plain(sweep.parameter), fontsize=8.5, color=FAINT)
    for axes, column in zip(panels, measured, strict=False):
        points = [(x, row.cells[column.name]) for x, row in sweep.points if row.cells[column.name].value is not None]
        xs, ys = [x for x, _ in points], [float(cell.value or 0) for _, cell in points]
        lows = [cell.low if cell.has_interval else y for (_, cell), y in zip(points, ys, strict=True)]
        highs = [cell.high if cell.has_interval else y for (_, cell), y in zip(points, ys, strict=True)]
        axes.fill_between(xs, lows, highs, color=LINES[0], alpha=0.15, linewidth=0)
        axes.plot(xs, ys, color=LINES[0], marker="o", markersize=5, linewidth=1.8)
        _dress(axes, f"{column.label} {'(higher is better)' if column.higher_is_better else '(lower is better)'}")
        axes.set_xlabel(_plain(sweep.parameter), fontsize=8.5, color=FAINT)
    _finish(figure, {}, title, path)


# ---------------------------------------------------------------------------------------------------------- layout


def _panels(count: int) -> tuple[Any, list[Any]]:
    across = min(3, count)
    down = math.ceil(count / across)
    figure = new_figure(max(330 * across + 60, 520), 280 * down + 80)
    panels = list(figure.subplots(down, across, squeeze=False).reshape(-1))
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure, panels[:count]


def _dress(axes: Any, title: str) -> None:
    axes.set_title(_plain(title), fontsize=9, color=INK)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_facecolor("none")
    axes.tick_params(labelsize=8, colors=FAINT, length=2)
    for spine in axes.spines.values():
        spine.set_edgecolor(EDGE)


def _finish(figure: Any, handles: Mapping[str, object], title: str, path: Path) -> None:
    """One legend for all panels, below them: no point is covered by it."""
    width, height = figure.get_size_inches() * 100
    figure.suptitle(_plain(title), x=0.02, ha="left", fontsize=11, weight="bold", color=INK)
    figure.tight_layout(rect=(0, (14 + 17 * math.ceil(len(handles) / 4)) / height, 1, 1 - 8 / height))
    if handles:
        figure.legend(
            list(handles.values()),
            list(handles),
            loc="lower left",
            ncols=4,
            fontsize=8,
            frameon=False,
            labelcolor=INK,
            bbox_to_anchor=(10 / width, 2 / height),
        )
    save_plot(figure, path)


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # a name is data: a '$' in it must not start mathematics
