"""What the small world is worth: do its rows rank as the paper's do?

For each metric of a table that the paper prints too, Kendall's tau-b between our values and the paper's over the rows
that both have. Its interval is that of our own sampling: the values are drawn again from their 95 % intervals (normal,
each row by itself, which is wider than paired), and tau's 2.5 and 97.5 percentiles are taken; how few rows there are is
said beside it. tau = 1 where all pairs of rows are ordered as in the paper, -1 where all are reversed, 0 where as many
are as are not. Claims of a suite and metric below `STATED` are marked: whatever a test says of them, this world does
not rank methods as the paper's did.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from concord.reports import statistics as st
from concord.reports.tables.table import Table

STATED = 1 / 3
"""Two thirds of the pairs in the paper's order."""
DRAWS = 1_000
LEAST_ROWS = 3


@dataclass(frozen=True)
class Agreement:
    """One metric of one suite. rows: how many values both have."""

    suite: str
    title: str
    metric: str
    rows: int
    tau: float
    low: float
    high: float

    @property
    def is_low(self) -> bool:
        return self.tau < STATED

    @property
    def words(self) -> str:
        return f"{self.tau:+.2f} [{self.low:+.2f}, {self.high:+.2f}], {self.rows} rows"


def kendall_tau(ours: np.ndarray, theirs: np.ndarray) -> float:
    """tau-b of two lists of values; 0 where one of them has no order at all."""
    from scipy import stats

    tau = float(stats.kendalltau(ours, theirs).statistic)
    return tau if np.isfinite(tau) else 0.0


def agreements(table: Table, seed: int = 0) -> list[Agreement]:
    """Every column with at least three rows that were measured here and in the paper; none of a refused table."""
    found = []
    for column in [] if table.refusal else table.columns:
        cells = [row.cells[column.name] for row in table.methods if column.name in row.cells]
        known = [(c.value, c.paper, c.low, c.high) for c in cells if c.value is not None and c.paper is not None]
        if column.part or len(known) < LEAST_ROWS:
            continue
        values, paper, low, high = (np.array(part, dtype=np.float64) for part in zip(*known, strict=True))
        error = np.nan_to_num((high - low) / (2 * st.t_quantile(10**6)))
        rng = np.random.default_rng(seed)
        drawn = [kendall_tau(values + error * rng.normal(size=len(values)), paper) for _ in range(DRAWS)]
        ends = np.quantile(drawn, [0.025, 0.975])
        tau = kendall_tau(values, paper)
        found.append(
            Agreement(table.name, table.title, column.label, len(known), tau, min(tau, ends[0]), max(tau, ends[1]))
        )
    return found
