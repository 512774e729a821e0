"""Rows of a table against each other: every pair in every column, corrected together, and what they let one mark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, islice

import numpy as np

from concord.benchmarks.claims import Claim
from concord.reports import statistics as st
from concord.reports.compare.margins import Margins
from concord.reports.families import ALPHA, family_of
from concord.reports.published import PublishedTable
from concord.reports.tables.comparisons import Comparisons
from concord.reports.tables.measured import Measured, sample_interval
from concord.reports.tables.table import BEST, SECOND, TIED, Column, Comparison, Row

BLOCK = 1_000  # pairs whose differences are in memory at once
Tested = tuple[float, float, float, float, str]


def compare_rows(
    rows: list[Row],
    columns: list[Column],
    measured: dict[str, Measured],
    declared: PublishedTable,
    margins: Margins | None = None,
    registered: Sequence[Claim] = (),
) -> Sequence[Comparison]:
    """Every pair of methods in every measured column, paired over requests; Holm over all pairs, and in families.

    registered: claims that were there before the results, which join the family of the paper's claims.
    """
    margins = margins or Margins()
    named = {(claim.metric, frozenset((claim.winner, claim.loser))) for claim in registered}
    names = [row.name for row in rows if row.kind == "method" and row.name in measured]
    found = Comparisons(max((len(measured[name].requests) for name in names), default=0))
    for column in columns:
        if column.part:
            continue
        able = [name for name in names if column.name in measured[name].values or column.name in measured[name].sets]
        pairs = combinations([name for name in able if column.name not in measured[name].refused], 2)
        while block := list(islice(pairs, BLOCK)):
            for (a, b), (value, low, high, p, test) in zip(block, _test_pairs(column, block, measured), strict=True):
                first, second = declared.value(a, column.paper_label), declared.value(b, column.paper_label)
                paper = first - second if first is not None and second is not None else None
                family = family_of(declared, column.paper_label, a, b)
                if (column.name, frozenset((a, b))) in named:
                    family = "claims"
                margin = margins.of(column.name.partition("@")[0]).at(_mean_value(rows, column, a, b))
                found.add(column.name, a, b, value, low, high, p, test, paper, family, margin)
    found.correct()
    return found


def _mean_value(rows: list[Row], column: Column, first: str, second: str) -> float:
    """What a relative margin is a share of: the mean of the two rows' values."""
    cells = [row.cells.get(column.name) for row in rows if row.name in (first, second)]
    values = [cell.value for cell in cells if cell is not None and cell.value is not None]
    return float(np.mean(values)) if values else 0.0


def _test_pairs(column: Column, pairs: list[tuple[str, str]], measured: dict[str, Measured]) -> list[Tested]:
    name = column.name
    if column.kind == "set":
        tested = [st.paired_jackknife(*measured[a].sets[name], *measured[b].sets[name]) for a, b in pairs]
        return [(t.value, t.low, t.high, t.p, "paired jackknife t") for t in tested]
    items = measured[pairs[0][0]].items
    differences = [measured[a].values[name] - measured[b].values[name] for a, b in pairs]
    intervals = [
        sample_interval(
            difference,
            items,
            failed=_either_failed(name, measured[a], measured[b]),
            weights=measured[a].weights.get(name),
        )
        for (a, b), difference in zip(pairs, differences, strict=True)
    ]
    if column.kind == "rate":
        p_values = [st.paired_rate(measured[a].values[name], measured[b].values[name], items) for a, b in pairs]
        test = "McNemar, exact" if len(set(items)) == len(items) else "sign flips over items"
    else:
        weights = measured[pairs[0][0]].weights.get(name, np.ones(len(items)))
        weighted = np.stack([weights * difference for difference in differences], axis=1)
        p_values, test = [float(p) for p in st.sign_flip(weighted, items)], "sign flips"
    return [(i.value, i.low, i.high, p, test) for i, p in zip(intervals, p_values, strict=True)]


def _either_failed(name: str, first: Measured, second: Measured) -> np.ndarray | None:
    if name not in first.failed or name not in second.failed:
        return None
    return first.failed[name] | second.failed[name]


def mark_rows(rows: list[Row], columns: list[Column], comparisons: Sequence[Comparison]) -> list[Row]:
    """Mark a column's best row where it beats every other method, and the second where it beats the rest.

    Where the first does not beat all, it and those that it is not told from are marked as tied. Ceilings and floors
    are passed over, and columns that are part of another one.
    """
    orders = {column.name: _order(rows, column) for column in columns if not column.part}
    higher = {column.name: column.higher_is_better for column in columns}
    won: dict[str, set[tuple[str, str]]] = {name: set() for name in orders}
    for c in comparisons:  # only those of the first two are asked for
        if c.column in won and {c.first, c.second}.intersection(orders[c.column][:2]):
            winner = c.winner(higher[c.column], ALPHA)
            if winner:
                won[c.column].add((winner, c.second if winner == c.first else c.first))
    marks: dict[tuple[str, str], str] = {}
    for name, order in orders.items():
        if len(order) < 2:
            continue
        unbeaten = [other for other in order[1:] if (order[0], other) not in won[name]]
        if unbeaten:
            marks.update({(row, name): TIED for row in [order[0], *unbeaten]})
            continue
        marks[order[0], name] = BEST
        if len(order) > 2 and _beats_all(order[1], order[2:], won[name]):
            marks[order[1], name] = SECOND
    return [
        replace(row, cells={c: replace(cell, mark=marks.get((row.name, c), "")) for c, cell in row.cells.items()})
        for row in rows
    ]


def _order(rows: list[Row], column: Column) -> list[str]:
    """Names of the methods that have a value in the column, the best first."""
    values = {
        row.name: value
        for row in rows
        if not row.role and (cell := row.cells.get(column.name)) is not None and (value := cell.value) is not None
    }
    return sorted(values, key=lambda name: values[name], reverse=column.higher_is_better)


def _beats_all(name: str, others: Sequence[str], won: set[tuple[str, str]]) -> bool:
    return all((name, other) in won for other in others)
