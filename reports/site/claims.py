"""Which orders of the papers were found again: every pair of rows that a paper's table ranks, by the paired tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from concord.reports.site.page import Page
from concord.reports.tables.words import format_p, paper_verdict

VERDICTS = {
    "holds": "the corrected test finds the paper's order",
    "reversed": "the corrected test finds the opposite order",
    "cannot tell": "the corrected test finds no difference at this n",
}


@dataclass(frozen=True)
class Claim:
    """One ranking of a paper, and what our tests say of it. difference: winner's less loser's, in the metric's unit;
    ours with the column's digits, the paper's with its own.
    """

    winner: str  # in the paper
    loser: str
    metric: str
    page: str
    suite: str
    paper: str
    verdict: str
    difference: str
    paper_difference: str
    p: float

    @property
    def p_text(self) -> str:
        return format_p(self.p)

    @property
    def sentence(self) -> str:
        return f"{self.winner} beats {self.loser} on {self.metric}"


def claims_of(pages: Sequence[Page]) -> list[Claim]:
    """In the order of the pages and their columns; tables that are refused claim nothing."""
    found = []
    for page in pages:
        table = page.table
        titles = {row.name: row.title for row in table.rows}
        for comparison in [] if table.refusal else table.comparisons:
            column = table.column(comparison.column)
            verdict, declared = paper_verdict(comparison, column), comparison.paper_difference
            if not verdict or declared is None:
                continue
            first_wins = (declared > 0) == column.higher_is_better
            sign = 1 if first_wins else -1
            ends = (comparison.first, comparison.second) if first_wins else (comparison.second, comparison.first)
            low, high = sorted((sign * comparison.low, sign * comparison.high))
            reach = f" [{column.format(low)}, {column.format(high)}]" if low == low and high == high else ""
            found.append(
                Claim(
                    titles[ends[0]],
                    titles[ends[1]],
                    column.label,
                    page.name,
                    page.title,
                    table.paper_title,
                    verdict,
                    column.signed(sign * comparison.difference) + reach,
                    f"{sign * declared:+.4g}",
                    comparison.p_holm,
                )
            )
    return found


def tally(claims: Sequence[Claim]) -> list[tuple[str, int, str]]:
    """(verdict, how many, what it means), in the order of `VERDICTS`."""
    counts = Counter(claim.verdict for claim in claims)
    return [(verdict, counts[verdict], meaning) for verdict, meaning in VERDICTS.items()]
