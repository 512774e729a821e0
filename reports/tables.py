"""One model of a table, and the ways to write it: Markdown, terminal, data frame (HTML: reports/html.py).

The model holds numbers and words, no layout; every renderer shows the same things: our value, its 95 % interval, the
paper's value, the reason where a value is refused, and under the table everything that one must know to read it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from data.errors import ConcordError

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Group

BEST, TIED = "best", "tied"
TINY = 30  # below that, n is said loudly
MARKS = {BEST: "★", TIED: "≈"}
MARK_CAPTION = (
    f"{MARKS[BEST]} bold: beats every other method of the column (paired test over the same requests, two-sided, "
    f"Holm-corrected over all pairs and columns of this table, p < 0.05). {MARKS[TIED]}: the column's first, and those "
    "that the test cannot tell from it. Reference rows do not compete."
)


ColumnKind = Literal["sample", "rate", "set"]


@dataclass(frozen=True)
class Column:
    """A metric as the table shows it."""

    name: str
    label: str
    higher_is_better: bool
    decimals: int = 2
    kind: ColumnKind = "sample"
    paper_label: str = ""  # the paper's key for it, '' where the paper has no such column

    @property
    def arrow(self) -> str:
        return "↑" if self.higher_is_better else "↓"

    @property
    def direction(self) -> str:
        return "higher is better" if self.higher_is_better else "lower is better"

    def format(self, value: float) -> str:
        text = f"{value:.{self.decimals}f}"
        return text.lstrip("-") if float(text) == 0 else text  # no '-0.00'


@dataclass(frozen=True)
class Cell:
    """What one row has in one column. `refused` holds the reason where there is no value."""

    value: float | None = None
    low: float = math.nan
    high: float = math.nan
    paper: float | None = None
    refused: str = ""
    failures: int = 0
    mark: str = ""

    @property
    def has_interval(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)


@dataclass(frozen=True)
class Cost:
    """Measured by the runner, never by the method."""

    seconds_per_image: float | None = None
    peak_memory_bytes: float | None = None
    evaluations: dict[str, float] = field(default_factory=dict)  # network -> forward passes an image

    @property
    def total_evaluations(self) -> float | None:
        return sum(self.evaluations.values()) if self.evaluations else None


Kind = Literal["method", "ceiling", "floor"]


@dataclass(frozen=True)
class Row:
    """One line. A row with `absent` has no results (planned, or not run yet) and shows the paper's values only."""

    name: str
    title: str
    kind: Kind
    cells: dict[str, Cell]
    n: int | None = None
    cost: Cost = field(default_factory=Cost)
    absent: str = ""
    method: str = ""
    params: dict[str, Any] = field(default_factory=dict)
    conditions: tuple[str, ...] = ()
    citation: str = ""
    description: str = ""

    @property
    def is_reference(self) -> bool:
        return self.kind != "method"

    @property
    def failures(self) -> int:
        return sum(cell.failures for cell in self.cells.values())


@dataclass(frozen=True)
class Comparison:
    """A paired test of two rows in one column. difference = first - second, in the column's unit."""

    column: str
    first: str
    second: str
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    test: str
    paper_difference: float | None = None

    def winner(self, higher_is_better: bool, alpha: float = 0.05) -> str:
        """The row that the corrected test calls better, '' when it cannot tell."""
        if self.p_holm >= alpha:
            return ""
        return self.first if (self.difference > 0) == higher_is_better else self.second


@dataclass(frozen=True)
class Table:
    """A table with everything that is printed with it."""

    name: str
    title: str
    profile: str
    columns: list[Column]
    rows: list[Row]
    comparisons: list[Comparison] = field(default_factory=list)
    n: int | None = None
    paper_title: str = ""  # 'Table 1 of Collaborative Diffusion ...'
    paper_citation: str = ""
    paper_url: str = ""
    warnings: list[str] = field(default_factory=list)  # loud, above the table
    refusal: str = ""  # why the whole table is refused (unequal n, other judges)
    notes: dict[str, list[str]] = field(default_factory=dict)  # heading -> sentences, below the table
    provenance: dict[str, str] = field(default_factory=dict)
    judges: list[dict[str, Any]] = field(default_factory=list)  # one a scoring network: its measured error

    def column(self, name: str) -> Column:
        for column in self.columns:
            if column.name == name:
                return column
        raise ConcordError(
            f"table '{self.name}' has no column '{name}': expected one of {[c.name for c in self.columns]}"
        )

    def row(self, name: str) -> Row:
        for row in self.rows:
            if row.name == name:
                return row
        raise ConcordError(f"table '{self.name}' has no row '{name}': expected one of {[r.name for r in self.rows]}")

    @property
    def methods(self) -> list[Row]:
        return [row for row in self.rows if row.kind == "method"]

    @property
    def references(self) -> list[Row]:
        return [row for row in self.rows if row.kind != "method"]


# --------------------------------------------------------------------------------------------------- words of cells


def decimals_for(half_widths: list[float], values: list[float]) -> int:
    """How many decimals a column deserves: two figures of the interval's half width, at most 5."""
    known = sorted(w for w in half_widths if math.isfinite(w) and w > 0)
    scale = known[len(known) // 2] if known else max((abs(v) for v in values), default=1.0) / 50 or 1.0
    return min(5, max(0, 1 - math.floor(math.log10(scale))))


def format_paper(value: float) -> str:
    """The paper's digits (at least two decimals below 1000, as papers print)."""
    text = repr(float(value))
    if value >= 1000:
        return text.removesuffix(".0")
    whole, _, fraction = text.partition(".")
    return f"{whole}.{fraction.ljust(2, '0')}"


def cell_parts(cell: Cell, column: Column, absent: str = "") -> dict[str, str]:
    """The texts of one cell: 'value', 'interval', 'paper', 'refused', 'failures'; '' where there is nothing to say."""
    parts = dict.fromkeys(("value", "interval", "paper", "refused", "failures"), "")
    if cell.refused:
        parts["refused"] = f"refused: {cell.refused}"
    elif cell.value is not None:
        parts["value"] = column.format(cell.value)
        if cell.has_interval:
            parts["interval"] = f"[{column.format(cell.low)}, {column.format(cell.high)}]"
        else:
            parts["interval"] = "[no interval]"
    elif absent:
        parts["value"] = "not yet"
    if cell.paper is not None:
        parts["paper"] = f"paper: {format_paper(cell.paper)}"
    if cell.failures:
        parts["failures"] = f"{cell.failures} failed"
    return parts


def cost_parts(cost: Cost) -> tuple[str, str, str]:
    """Seconds, memory and network evaluations of one image, as text; '–' where unknown."""
    seconds, memory, evaluations = cost.seconds_per_image, cost.peak_memory_bytes, cost.total_evaluations
    return (
        "–" if seconds is None else (f"{seconds:.2f}" if seconds >= 0.1 else f"{seconds:.3f}"),
        "–" if memory is None else f"{memory / 2**20:,.0f}",
        "–" if evaluations is None else f"{evaluations:,.0f}",
    )


COST_HEADS = ("s / image", "peak MiB", "evaluations / image")
COST_TITLES = (
    "seconds an image",
    "peak memory in MiB",
    "network evaluations an image (forward passes of the denoising networks)",
)


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
    return "p < 0.001" if p < 0.001 else f"p = {min(p, 1.0):.3f}"


def paper_verdict(comparison: Comparison, column: Column) -> str:
    """Whether the paper's order of two rows was found again: 'holds', 'reversed', 'cannot tell', '' without one."""
    if comparison.paper_difference is None or comparison.paper_difference == 0:
        return ""
    winner = comparison.winner(column.higher_is_better)
    if not winner:
        return "cannot tell"
    declared = comparison.first if (comparison.paper_difference > 0) == column.higher_is_better else comparison.second
    return "holds" if winner == declared else "reversed"


# --------------------------------------------------------------------------------------------------- Markdown


def to_markdown(table: Table) -> str:
    """GitHub Markdown with everything; one table row a line, cells use <br> between value, interval and paper."""
    lines = [f"# {_escape(table.title)}", ""]
    if table.paper_title:
        lines += [f"Answers {_escape(table.paper_title)}.", ""]
    lines += [
        f"**Profile `{table.profile}`, n = {table.n if table.n is not None else 'none yet'} requests a row.**",
        "",
    ]
    for text in ([f"REFUSED: {table.refusal}"] if table.refusal else []) + table.warnings:
        lines += [f"> **{_escape(text)}**", ""]
    heads = ["Method", *(f"{c.label} {c.arrow}" for c in table.columns), *COST_HEADS]
    lines += ["| " + " | ".join(_escape(h) for h in heads) + " |", "|:---|" + "---:|" * (len(heads) - 1)]
    for row in table.methods:
        lines.append(_markdown_row(table, row, row.title))
    for row in table.references:
        lines.append(_markdown_row(table, row, f"*{row.title} ({row.kind})*"))
    lines += ["", f"Cells: our value, [95 % interval], the paper's value. {MARK_CAPTION}", ""]
    for heading, sentences in table.notes.items():
        lines += [f"**{_escape(heading)}**", "", *(f"- {_escape(s)}" for s in sentences), ""]
    if table.judges:
        lines += ["**How wrong the scoring networks are (held-out items, against the exact truth)**", ""]
        lines += [f"- {_escape(judge_sentence(judge))}" for judge in table.judges] + [""]
    if table.comparisons:
        lines += ["**What the tests say**", ""]
        lines += [
            f"- {_escape(comparison_sentence(table, c))}{_verdict_suffix(table, c)}" for c in table.comparisons
        ] + [""]
    if table.provenance:
        lines += ["**Provenance**", "", *(f"- {_escape(k)}: {_escape(v)}" for k, v in table.provenance.items()), ""]
    return "\n".join(lines).rstrip() + "\n"


def _verdict_suffix(table: Table, comparison: Comparison) -> str:
    verdict = paper_verdict(comparison, table.column(comparison.column))
    return f"; the paper's order: {verdict}" if verdict else ""


def _escape(text: str) -> str:
    """Text that cannot break out of a Markdown table cell or become HTML."""
    for character, replacement in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("\n", " ")):
        text = text.replace(character, replacement)
    return text


def _markdown_row(table: Table, row: Row, title: str) -> str:
    head = title if title.startswith("*") else _escape(title)
    if row.absent:
        head += f"<br>{_escape(row.absent)}"
    cells = [head]
    for column in table.columns:
        cell = row.cells.get(column.name, Cell())
        parts = cell_parts(cell, column, row.absent)
        value = _escape(parts["value"])
        if cell.mark == BEST:
            value = f"**{value}** {MARKS[BEST]}"
        elif cell.mark == TIED:
            value = f"{value} {MARKS[TIED]}"
        refused = f"**{_escape(parts['refused'])}**" if parts["refused"] else ""
        shown = [value, refused, parts["interval"], parts["paper"], parts["failures"]]
        cells.append("<br>".join(part for part in shown if part) or "–")
    return "| " + " | ".join([*cells, *cost_parts(row.cost)]) + " |"


def judge_sentence(judge: dict[str, Any]) -> str:
    """'parser (judge): pixel accuracy 0.973, miou 0.81 (n = 1000)'."""
    held_out = dict(judge.get("held_out") or {})
    n = held_out.pop("n", None)
    numbers = _numbers(held_out)
    return f"{judge['name']}: {numbers or 'no held-out measurement in its card'}" + (f" (n = {n})" if n else "")


def _numbers(values: dict[str, Any]) -> str:
    """'miou 0.81, accuracy (Smiling 0.99, Young 0.98)': groups of numbers stand in brackets."""
    parts = []
    for key, value in values.items():
        said = (
            f"({_numbers(value)})" if isinstance(value, dict) else f"{value:.4g}" if isinstance(value, float) else value
        )
        parts.append(f"{key.replace('_', ' ')} {said}")
    return ", ".join(parts)


# --------------------------------------------------------------------------------------------------- terminal


def to_terminal(table: Table) -> Group:
    """The table for a rich console: values and costs, then what must not be missed."""
    from rich import box
    from rich.console import Group
    from rich.table import Table as RichTable
    from rich.text import Text

    n = f"n = {table.n}" if table.n is not None else "no results yet"
    head = Text(f"{table.title}  ({table.profile}, {n})", style="bold")
    loud = [Text(f"REFUSED: {table.refusal}", style="bold red")] if table.refusal else []
    loud += [Text(warning, style="bold yellow") for warning in table.warnings]
    values = RichTable(box=box.SIMPLE_HEAD, show_lines=False, pad_edge=False)
    values.add_column("Method")
    for column in table.columns:
        values.add_column(f"{column.label} {column.arrow}", justify="right", no_wrap=False)
    for index, row in enumerate([*table.methods, *table.references]):
        if row.is_reference and index and not table.rows[0].is_reference and row is table.references[0]:
            values.add_section()
        title = Text(row.title, style="italic" if row.is_reference else "")
        if row.is_reference:
            title.append(f"\n({row.kind})", style="dim")
        if row.absent:
            title.append(f"\n{row.absent}", style="dim")
        values.add_row(title, *(_rich_cell(row, column) for column in table.columns))
    costs = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    costs.add_column("Method")
    for cost_head in COST_HEADS:
        costs.add_column(cost_head, justify="right")
    for row in table.methods:
        if not row.absent:
            costs.add_row(row.title, *cost_parts(row.cost))
    caption = Text(f"Value, 95 % interval, the paper's value. {MARK_CAPTION}", style="dim")
    return Group(head, *loud, values, costs, caption)


def _rich_cell(row: Row, column: Column) -> Any:
    from rich.text import Text

    cell = row.cells.get(column.name, Cell())
    parts = cell_parts(cell, column, row.absent)
    text = Text()
    for key, style in (
        ("value", "bold green" if cell.mark == BEST else ""),
        ("refused", "bold red"),
        ("interval", "dim"),
        ("paper", "cyan"),
        ("failures", "yellow"),
    ):
        if parts[key]:
            mark = f" {MARKS[cell.mark]}" if key == "value" and cell.mark else ""
            text.append(("\n" if text.plain else "") + parts[key] + mark, style=style)
    return text


# --------------------------------------------------------------------------------------------------- data frame


def to_frame(table: Table) -> pd.DataFrame:
    """One row per (row, column) with every number of the cell: for CSV and parquet."""
    import pandas as pd

    records = []
    for row in table.rows:
        for column in table.columns:
            cell = row.cells.get(column.name, Cell())
            records.append(
                {
                    "suite": table.name, "profile": table.profile, "row": row.name, "kind": row.kind,
                    "metric": column.name, "higher_is_better": column.higher_is_better, "n": row.n,
                    "value": cell.value, "low": cell.low, "high": cell.high, "paper": cell.paper,
                    "status": row.absent or (f"refused: {cell.refused}" if cell.refused else "ok"),
                    "failures": cell.failures, "mark": cell.mark,
                    "seconds_per_image": row.cost.seconds_per_image, "peak_memory_bytes": row.cost.peak_memory_bytes,
                    "evaluations_per_image": row.cost.total_evaluations,
                }
            )  # fmt: skip
    frame = pd.DataFrame.from_records(records)
    numeric = ["value", "low", "high", "paper", "seconds_per_image", "peak_memory_bytes", "evaluations_per_image"]
    frame[numeric] = frame[numeric].astype("float64")
    frame["n"] = frame["n"].astype("Int64")
    return frame
