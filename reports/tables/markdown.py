"""A table as GitHub Markdown."""

from __future__ import annotations

from concord.data.printable import no_link, printable
from concord.reports.tables.comparisons import listed
from concord.reports.tables.table import BEST, MARKS, Cell, Row, Table
from concord.reports.tables.words import (
    COST_HEADS,
    captions,
    cell_parts,
    comparison_sentence,
    cost_parts,
    count_parts,
    judge_sentence,
    size_words,
    verdict_suffix,
)


def to_markdown(table: Table) -> str:
    """GitHub Markdown with everything; one table row a line, cells use <br> between value, interval and paper."""
    lines = [f"# {_escape(table.title)}", ""]
    if table.paper_title:
        lines += [f"Answers {_escape(table.paper_title)}.", ""]
    lines += [f"**Profile `{table.profile}`, {size_words(table)}.**", ""]
    for text in ([f"REFUSED: {table.refusal}"] if table.refusal else []) + table.warnings:
        lines += [f"> **{_escape(text)}**", ""]
    heads = ["Method", *(f"{c.label} {c.arrow}" for c in table.columns), "n", "failed", *COST_HEADS]
    lines += ["| " + " | ".join(_escape(h) for h in heads) + " |", "|:---|" + "---:|" * (len(heads) - 1)]
    if any(column.protocol for column in table.columns):
        words = [_escape(column.protocol) or "–" for column in table.columns]
        lines.append("| " + " | ".join(["*How measured*", *words, *["–"] * (len(heads) - 1 - len(words))]) + " |")
    for row in [*table.methods, *table.references]:
        title = _escape(row.title)
        lines.append(_markdown_row(table, row, f"*{title} ({row.role})*" if row.role else title))
    lines += ["", *(part for text in captions(table) for part in (_escape(text), ""))]
    for heading, sentences in table.notes.items():
        lines += [f"**{_escape(heading)}**", "", *(f"- {_escape(s)}" for s in sentences), ""]
    if table.judges:
        lines += ["**How wrong the scoring networks are (held-out items, against the exact truth)**", ""]
        lines += [f"- {_escape(judge_sentence(judge))}" for judge in table.judges] + [""]
    if table.comparisons:
        shown, others = listed(table.comparisons)
        lines += ["**What the tests say**", ""]
        lines += [f"- {_escape(comparison_sentence(table, c))}{verdict_suffix(table, c)}" for c in shown]
        lines += [f"- {_escape(others)}", ""] if others else [""]
    if table.provenance:
        lines += ["**Provenance**", "", *(f"- {_escape(k)}: {_escape(v)}" for k, v in table.provenance.items()), ""]
    return "\n".join(lines).rstrip() + "\n"


def _escape(text: str) -> str:
    """Text that cannot break out of a Markdown table cell or become HTML or a link."""
    text = printable(text)
    for character, replacement in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|")):
        text = text.replace(character, replacement)
    return no_link(text)


def _markdown_row(table: Table, row: Row, head: str) -> str:
    if row.absent:
        head += f"<br>{_escape(row.absent)}"
    cells = [head]
    for column in table.columns:
        cell = row.cells.get(column.name, Cell())
        parts = cell_parts(cell, column, row.absent)
        value = _escape(parts["value"])
        if cell.mark:
            value = f"{f'**{value}**' if cell.mark == BEST else value} {MARKS[cell.mark]}"
        refused = f"**{_escape(parts['refused'])}**" if parts["refused"] else ""
        shown = [
            value + parts["guided"],
            refused,
            parts["interval"],
            parts["paper"],
            parts["difference"],
            parts["failures"],
        ]
        cells.append("<br>".join(part for part in shown if part) or "–")
    return "| " + " | ".join([*cells, *count_parts(row), *cost_parts(row.cost)]) + " |"
