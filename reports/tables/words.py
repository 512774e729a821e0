"""The texts of a table that all renderers share: cells, costs, captions, what the tests say."""

from __future__ import annotations

import math
from typing import Any

from concord.reports.families import ALPHA
from concord.reports.tables.comparisons import Comparison
from concord.reports.tables.table import (
    BEST,
    MARKS,
    NOT_SCORED,
    PAPER_ONLY,
    SECOND,
    SECOND_ORDER,
    TIED,
    Cell,
    Column,
    Cost,
    Row,
    Table,
)

MARK_CAPTION = (
    f"{MARKS[BEST]} bold: beats every other method of the column (paired test over the same requests, two-sided, "
    f"Holm-corrected over all pairs and columns of this table, p < 0.05). {MARKS[SECOND]}: beats all but that one. "
    f"{MARKS[TIED]}: the column's first, and those that the test cannot tell from it. Ceilings and floors do not "
    "compete."
)
GUIDED = "†"
GUIDED_CAPTION = f"{GUIDED}: scored by the very network that guided the row, which is no independent judge of it."
COST_HEADS = ("s / image", "peak MiB", "NFE")
COST_TITLES = (
    "seconds an image",
    "peak memory in MiB",
    "network evaluations an image: forward passes of the denoising and influence networks, and passes backwards "
    "through them where a method takes gradients",
)
COST_CAPTION = (
    "NFE, network evaluations an image: forward passes of the denoising and influence networks, each image of a batch "
    "counted; '+ back': passes backwards through them for gradients; '+ second-order': passes backwards through a "
    "backward pass. Guides and decoders are not counted."
)


def decimals_for(half_widths: list[float], values: list[float]) -> int:
    """How many decimals a column deserves: two figures of the interval's half width, at most 5."""
    known = sorted(w for w in half_widths if math.isfinite(w) and w > 0)
    scale = known[len(known) // 2] if known else max((abs(v) for v in values), default=1.0) / 50 or 1.0
    return min(5, max(0, 1 - math.floor(math.log10(scale))))


def format_paper(value: float, decimals: int | None = None) -> str:
    """The paper's digits; at least two decimals below 1000, as papers print, where it is not known how many."""
    if decimals is not None:
        return f"{value:.{decimals}f}"
    text = repr(float(value))
    if value >= 1000:
        return text.removesuffix(".0")
    whole, _, fraction = text.partition(".")
    return f"{whole}.{fraction.ljust(2, '0')}"


def cell_parts(cell: Cell, column: Column, absent: str = "") -> dict[str, str]:
    """The texts of one cell, '' where there is nothing to say.

    'value', 'interval', 'paper', 'difference' (ours less the paper's), 'refused', 'failures', 'guided' (the sign of a
    row that was scored by its own guide).
    """
    parts = dict.fromkeys(("value", "interval", "paper", "difference", "refused", "failures", "guided"), "")
    if cell.refused:
        parts["refused"] = refusal_words(cell)
    elif cell.value is not None:
        parts["value"] = column.format(cell.value)
        if cell.has_interval:
            parts["interval"] = f"[{column.format(cell.low)}, {column.format(cell.high)}]"
        else:
            parts["interval"] = "[no interval]"
    elif absent.startswith("not run:"):
        parts["value"] = "not run"
    elif column.name.startswith(PAPER_ONLY):
        parts["value"] = "not measured" if cell.paper is not None else ""
    elif absent:
        parts["value"] = "not yet"
    if cell.paper is not None:
        printed = format_paper(cell.paper, column.paper_decimals)
        parts["paper"] = f"paper: {printed}{' (?)' if cell.unclear else ''}"
    if cell.difference is not None:
        parts["difference"] = f"difference: {column.signed(cell.difference)}"
    if cell.own_guide and cell.value is not None:
        parts["guided"] = GUIDED
    if cell.failures:
        parts["failures"] = f"{cell.failures} failed"
    return parts


def refusal_words(cell: Cell) -> str:
    """'refused: why'; 'not scored' of what lacks a file, whose name and command stand below the table."""
    if cell.refused.startswith(f"{NOT_SCORED}:"):
        return f"{NOT_SCORED}, see below"
    return cell.refused if cell.refused.startswith(NOT_SCORED) else f"refused: {cell.refused}"


def cost_parts(cost: Cost) -> tuple[str, str, str]:
    """Seconds, memory and network passes of one image, as text; '–' where unknown.

    Passes: forward ones alone are a bare number; '40 + 60 back + 20 second-order' where a method takes gradients.
    """
    seconds, memory, forward = cost.seconds_per_image, cost.peak_memory_bytes, cost.forward
    more = [
        f" + {count:,.0f} {what}"
        for count, what in ((cost.backward, "back"), (cost.second_order, SECOND_ORDER))
        if count
    ]
    return (
        ("–" if seconds is None else (f"{seconds:.2f}" if seconds >= 0.1 else f"{seconds:.3f}"))
        + ("" if cost.paper_seconds is None else f" (paper: {format_paper(cost.paper_seconds)})"),
        "–" if memory is None else f"{memory / 2**20:,.0f}",
        "–" if forward is None else f"{forward:,.0f}{''.join(more)}",
    )


def count_parts(row: Row) -> tuple[str, str]:
    """n, and how many values failed in all columns together; '–' where nothing was run."""
    return ("–", "–") if row.n is None else (str(row.n), str(row.failures))


def comparison_sentence(table: Table, comparison: Comparison) -> str:
    """'A beats B in M by d [low, high] (p = ...)', or that it cannot be told."""
    column = table.column(comparison.column)
    names = {row.name: row.title for row in table.rows}
    winner = comparison.winner(column.higher_is_better)
    reach = (
        f" [{column.format(comparison.low)}, {column.format(comparison.high)}]" if math.isfinite(comparison.low) else ""
    )
    p = format_p(comparison.p_holm)
    if not winner:
        return (
            f"{column.label}: {names[comparison.first]} and {names[comparison.second]} cannot be told apart "
            f"(difference {column.format(comparison.difference)}{reach}, {p})"
        )
    loser = comparison.second if winner == comparison.first else comparison.first
    return (
        f"{column.label}: {names[winner]} beats {names[loser]} "
        f"(difference {column.format(comparison.difference)}{reach}, {p})"
    )


def format_p(p: float) -> str:
    """A p value in words, in [0, 1]; below 0.001 not told apart."""
    return "p < 0.001" if p < 0.001 else f"p = {min(p, 1.0):.3f}"


def paper_verdict(comparison: Comparison, column: Column) -> str:
    """Whether the paper's order of two rows was found again, by the tests of its family (reports/families.py).

    'holds', 'reversed', 'equivalent', 'cannot tell', '' without an order.
    """
    if comparison.paper_difference is None or comparison.paper_difference == 0:
        return ""
    higher = (comparison.paper_difference > 0) == column.higher_is_better
    return claim_verdict(comparison, column, comparison.first if higher else comparison.second)


def claim_verdict(comparison: Comparison, column: Column, claimed: str) -> str:
    """What the tests of its family say of the claim that the row `claimed` is the better one of the two."""
    winner = comparison.in_family.winner(column.higher_is_better)
    if not winner:
        return "equivalent" if comparison.p_same < ALPHA else "cannot tell"
    return "holds" if winner == claimed else "reversed"


def size_words(table: Table) -> str:
    """'n = 300 requests a row', or why there is no n."""
    if table.n is not None:
        return f"n = {table.n} requests a row"
    return "no row has been run" if all(row.absent for row in table.rows) else "no common n"


def captions(table: Table) -> list[str]:
    """The sentences that explain the signs of a table, in one paragraph; none where it has no signs."""
    cells = [cell for row in table.rows for cell in row.cells.values()]
    ours = "our value, [95 % interval]" if any(cell.value is not None for cell in cells) else ""
    theirs = "the paper's value" if any(cell.paper is not None for cell in cells) else ""
    both = "ours less the paper's" if any(cell.difference is not None for cell in cells) else ""
    said = [f"Cells: {', '.join(part for part in (ours, theirs, both) if part)}."] if ours or theirs else []
    for sentence, needed in (
        (MARK_CAPTION, bool(ours)),
        (GUIDED_CAPTION, any(cell.own_guide for cell in cells)),
        ("(?): the paper's print cannot be read for certain, see below.", any(cell.unclear for cell in cells)),
        ("failed: values that a metric could not give, in all columns together.", any(cell.failures for cell in cells)),
        (COST_CAPTION, any(row.cost.evaluations for row in table.rows)),
    ):
        said += [sentence] if needed else []
    return [" ".join(said)] if said else []


def judge_sentence(judge: dict[str, Any]) -> str:
    """'parser (judge): pixel accuracy 0.973, miou 0.81 (n = 1000)'."""
    held_out = dict(judge.get("held_out") or {})
    n = held_out.pop("n", None)
    numbers = _numbers(held_out)
    return f"{judge['name']}: {numbers or 'no held-out measurement in its card'}" + (f" (n = {n})" if n else "")


def _numbers(values: dict[str, object]) -> str:
    """'miou 0.81, accuracy (Smiling 0.99, Young 0.98)': groups of numbers stand in brackets."""
    parts = []
    for key, value in values.items():
        said = (
            f"({_numbers(value)})" if isinstance(value, dict) else f"{value:.4g}" if isinstance(value, float) else value
        )
        parts.append(f"{key.replace('_', ' ')} {said}")
    return ", ".join(parts)


def verdict_suffix(table: Table, comparison: Comparison) -> str:
    """'; the paper's order: ...' behind a comparison, '' where the paper has none."""
    verdict = paper_verdict(comparison, table.column(comparison.column))
    return f"; the paper's order: {verdict}{n_words(comparison, verdict)}" if verdict else ""


def n_words(comparison: Comparison, verdict: str) -> str:
    """' (n = 412 would tell)' after a verdict that n is too small for."""
    if verdict != "cannot tell" or not comparison.family:
        return ""
    if comparison.n_needed is None:
        return " (no n in sight would tell)"
    return f" (n = {comparison.n_needed:,} would tell)"
