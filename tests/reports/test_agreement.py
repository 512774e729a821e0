"""Rank agreement with a paper's table."""

from __future__ import annotations

import numpy as np
import pytest

from concord.reports.agreement import agreements, kendall_tau
from concord.reports.tables.table import Cell, Column, Row, Table


def table(values: list[float], paper: list[float | None], half: float) -> Table:
    rows = [
        Row(f"r{k}", f"R{k}", "method", {"m": Cell(v, v - half, v + half, p)})
        for k, (v, p) in enumerate(zip(values, paper, strict=True))
    ]
    return Table("s", "S", "embedded", [Column("m", "M", True)], rows)


def test_tau_counts_pairs_in_the_papers_order() -> None:
    (one,) = agreements(table([1, 2, 3, 4], [10, 30, 20, 40], 1e-6))
    assert one.tau == pytest.approx(4 / 6)  # five pairs as in the paper, one not
    assert (one.low, one.high) == pytest.approx((4 / 6, 4 / 6))
    assert not one.is_low
    (back,) = agreements(table([4, 3, 2, 1], [10, 20, 30, 40], 1e-6))
    assert back.tau == -1
    assert back.is_low
    assert back.words == "-1.00 [-1.00, -1.00], 4 rows"


def test_wide_intervals_make_a_wide_tau() -> None:
    (one,) = agreements(table([1, 2, 3, 4], [10, 20, 30, 40], 5))
    assert one.tau == 1
    assert one.low < 0


def test_two_rows_have_no_rank_agreement() -> None:
    assert agreements(table([1, 2, 3], [10, None, 20], 0.1)) == []
    assert kendall_tau(np.ones(4), np.arange(4)) == 0
