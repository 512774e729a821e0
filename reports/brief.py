"""The end of a benchmark on one screen: what was made, what stands, where the page is."""

from __future__ import annotations

from collections.abc import Iterable

from concord.reports.report import Report
from concord.reports.tables.table import BEST, Table

WIDTH = 118


def screen(report: Report) -> list[str]:
    """A line a suite: its n, its finished rows, what its tests found; at the end the page, and how to open it."""
    tables = list(report.tables.values())
    wide = max((len(table.name) for table in tables), default=0)
    lines = [f"{'suite':{wide}}  {'n':>5}  {'rows':>7}  beats every other row (corrected p < 0.05)"]
    lines += [_line(table, wide) for table in tables]
    lines += [f"report: {report.index}", "read it: concord open        one table: concord table SUITE"]
    return [line if len(line) <= WIDTH else f"{line[: WIDTH - 3]}..." for line in lines]


def _line(table: Table, wide: int) -> str:
    made = sum(not row.absent for row in table.methods)
    count = f"{made}/{len(table.methods)}"
    return (
        f"{table.name:{wide}}  {'-' if table.n is None else table.n:>5}  {count:>7}  {'; '.join(_found(table, made))}"
    )


def _found(table: Table, made: int) -> Iterable[str]:
    """Who is best in which column, methods with several columns once."""
    if table.refusal:
        return ["refused: " + table.refusal]
    if not made:
        return ["not run yet"]
    best: dict[str, list[str]] = {}
    for column in table.columns:
        for row in table.methods:
            if column.name in row.cells and row.cells[column.name].mark == BEST:
                best.setdefault(row.title, []).append(column.label.partition(" (")[0])
    return [f"{title}: {', '.join(columns)}" for title, columns in best.items()] or ["no row stands out"]
