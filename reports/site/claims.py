"""Which orders of the papers were found again: every pair of rows that a paper's table ranks, by the paired tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from concord.reports.agreement import agreements
from concord.reports.site.page import Page
from concord.reports.tables.words import claim_verdict, format_p, n_words, paper_verdict

VERDICTS = {
    "holds": "the corrected test finds the paper's order",
    "reversed": "the corrected test finds the opposite order",
    "equivalent": "two one-sided tests find the difference inside the metric's margin",
    "cannot tell": "neither, at this n; the n that would tell stands beside it",
}


FAMILY_WORDS = {
    "claims": "what the papers claim: a column's best row against each other, their own rows against their baselines",
    "orders": "what else their tables state",
    "post hoc": "registered after the results were there, corrected over all pairs",
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
    family: str = ""  # 'claims' or 'orders'
    agreement: str = ""  # said where this world does not rank the rows as the paper does (reports/agreement.py)
    n_needed: str = ""

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
        disagreeing = {one.metric: f"rank agreement {one.words}" for one in agreements(table) if one.is_low}
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
                    comparison.in_family.p_holm,
                    comparison.family,
                    disagreeing.get(column.label, ""),
                    n_words(comparison, verdict).strip(" ()"),
                )
            )
        found += _registered_of(page)
    return found


def _registered_of(page: Page) -> list[Claim]:
    """The user's own claims of a page, with their age; those whose rows were not tested are not told."""
    table, found = page.table, []
    titles = {row.name: row.title for row in table.rows}
    for one in [] if table.refusal else table.registered:
        claim = one.claim
        ends = {claim.winner, claim.loser}
        tested = (c for c in table.comparisons if c.column == claim.metric and {c.first, c.second} == ends)
        comparison = next(tested, None)
        if comparison is None:
            continue
        column = table.column(claim.metric)
        better = claim_verdict(comparison, column, claim.winner)
        sign = 1 if comparison.first == claim.winner else -1
        found.append(
            Claim(
                titles[claim.winner],
                titles[claim.loser],
                column.label,
                page.name,
                page.title,
                one.words,
                better,
                column.signed(sign * comparison.difference),
                one.words,
                comparison.in_family.p_holm,
                "post hoc" if one.post_hoc else "claims",
                "",
                n_words(comparison, better).strip(" ()"),
            )
        )
    return found


def tally(claims: Sequence[Claim]) -> list[tuple[str, int, str]]:
    """(verdict, how many, what it means), in the order of `VERDICTS`."""
    counts = Counter(claim.verdict for claim in claims)
    return [(verdict, counts[verdict], meaning) for verdict, meaning in VERDICTS.items()]
