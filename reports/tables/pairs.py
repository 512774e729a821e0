"""Rows of a table against each other: every pair in every column, corrected together, and what they let one mark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations, islice

import numpy as np

from concord.benchmarks.claims import Claim
from concord.reports import statistics as st
from concord.reports.compare.margins import Margins
from concord.reports.families import ALPHA, family_of
from concord.reports.published import PublishedTable
from concord.reports.tables.comparisons import Comparisons
from concord.reports.tables.measured import BOOTSTRAP_FAILURES, Measured, sample_interval
from concord.reports.tables.table import BEST, SECOND, TIED, Column, Comparison, Row

EXACT_PAIRS = 20_000  # of a column: those of 200 rows
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
    many = is_many(len(names))
    found = Comparisons(max((len(measured[name].requests) for name in names), default=0))
    for column in columns:
        if column.part:
            continue
        able = [name for name in names if column.name in measured[name].values or column.name in measured[name].sets]
        cells = {row.name: row.cells[column.name].value for row in rows if column.name in row.cells}
        values = {name: value for name, value in cells.items() if value is not None}
        pairs = combinations([name for name in able if column.name not in measured[name].refused], 2)
        while block := list(islice(pairs, BLOCK)):
            tested = _test_pairs(column, block, measured, many)
            for (a, b), (value, low, high, p, test) in zip(block, tested, strict=True):
                first, second = declared.value(a, column.paper_label), declared.value(b, column.paper_label)
                paper = first - second if first is not None and second is not None else None
                family = family_of(declared, column.paper_label, a, b)
                if (column.name, frozenset((a, b))) in named:
                    family = "claims"
                margin = margins.of(column.name.partition("@")[0]).at(_mean_value(values, a, b))
                found.add(column.name, a, b, value, low, high, p, test, paper, family, margin)
    found.correct()
    return found


def _mean_value(values: Mapping[str, float], first: str, second: str) -> float:
    """What a relative margin is a share of: the mean of the two rows' values."""
    known = [values[name] for name in (first, second) if name in values]
    return float(np.mean(known)) if known else 0.0


def is_many(rows: int) -> bool:
    """Whether a table has so many rows that its pairs are tested by what costs a hundredth of the exact tests."""
    return rows * (rows - 1) // 2 > EXACT_PAIRS


def many_note(rows: int) -> str:
    """What a table says of that."""
    return (
        f"{rows} methods are {rows * (rows - 1) // 2:,} pairs a column: from {st.APPROXIMATE_FROM} items on, sign "
        "flips are by the saddlepoint approximation (p within a few per cent), intervals of differences by "
        "Student's t."
    )


def _test_pairs(
    column: Column, pairs: list[tuple[str, str]], measured: dict[str, Measured], many: bool = False
) -> list[Tested]:
    name = column.name
    if column.kind == "set":
        tested = [st.paired_jackknife(*measured[a].sets[name], *measured[b].sets[name]) for a, b in pairs]
        return [(t.value, t.low, t.high, t.p, "paired jackknife t") for t in tested]
    items = measured[pairs[0][0]].items
    differences = np.stack([measured[a].values[name] - measured[b].values[name] for a, b in pairs])
    weights = measured[pairs[0][0]].weights.get(name)
    intervals = _intervals(name, pairs, differences, items, measured, many)
    if column.kind == "rate":
        p_values = [st.paired_rate(measured[a].values[name], measured[b].values[name], items) for a, b in pairs]
        test = "McNemar, exact" if len(set(items)) == len(items) else "sign flips over items"
    else:
        weighted = differences if weights is None else weights * differences
        p_values, test = [float(p) for p in st.sign_flip(weighted.T, items, many)], "sign flips"
    return [(i.value, i.low, i.high, p, test) for i, p in zip(intervals, p_values, strict=True)]


def _intervals(
    name: str,
    pairs: list[tuple[str, str]],
    differences: np.ndarray,
    items: list[str],
    measured: dict[str, Measured],
    many: bool,
) -> list[st.Interval]:
    """Of each pair's mean difference: by the bootstrap where many measurements failed, else by Student's t."""
    weights = measured[pairs[0][0]].weights.get(name)
    failed = [None if many else _either_failed(name, measured[a], measured[b]) for a, b in pairs]
    if weights is not None or any(one is not None and one.sum() >= BOOTSTRAP_FAILURES for one in failed):
        return [
            sample_interval(difference, items, failed=one, weights=weights)
            for difference, one in zip(differences, failed, strict=True)
        ]
    return st.mean_intervals(differences, items)


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
