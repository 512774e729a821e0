"""One model of a table, and its Markdown (terminal, LaTeX, CSV and parquet: reports/tables/export.py; HTML:
reports/site/html.py).

The model holds numbers and words, no layout; every renderer shows the same things: our value, its 95 % interval, the
paper's value, the difference and how the two were measured, the reason where a value is refused, and under the table
everything that one must know to read it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from concord.data.errors import ConcordError

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Group

BEST, SECOND, TIED = "best", "second", "tied"
TINY = 30  # below that, n is said loudly
MARKS = {BEST: "★", SECOND: "☆", TIED: "≈"}
MARK_TITLES = {
    BEST: "beats every other method of the column",
    SECOND: "beats every other method of the column but the best",
    TIED: "not told apart from the column's first",
}
MARK_CAPTION = (
    f"{MARKS[BEST]} bold: beats every other method of the column (paired test over the same requests, two-sided, "
    f"Holm-corrected over all pairs and columns of this table, p < 0.05). {MARKS[SECOND]}: beats all but that one. "
    f"{MARKS[TIED]}: the column's first, and those that the test cannot tell from it. Ceilings and floors do not "
    "compete."
)
PAPER_ONLY = "paper:"  # how names of columns begin that only the paper has
NOT_SCORED = "not scored"  # how the reason begins of a value that nobody has looked for yet
GUIDED = "†"
GUIDED_CAPTION = f"{GUIDED}: scored by the very network that guided the row, which is no independent judge of it."
BACKWARD, SECOND_ORDER = "backward", "second-order"  # how methods name passes that are no forward passes


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
    unit: str = ""
    protocol: str = ""  # how the paper's number and ours were measured, '' where the paper has no such column
    paper_decimals: int | None = None  # as the paper prints them
    part: bool = False  # of another column, which is tested in its place

    @property
    def arrow(self) -> str:
        return "↑" if self.higher_is_better else "↓"

    @property
    def direction(self) -> str:
        return "higher is better" if self.higher_is_better else "lower is better"

    def format(self, value: float) -> str:
        text = f"{value:.{self.decimals}f}"
        return text.lstrip("-") if float(text) == 0 else text  # no '-0.00'

    def signed(self, value: float) -> str:
        text = self.format(value)
        return text if text.startswith("-") or float(text) == 0 else f"+{text}"


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
    unclear: bool = False  # the paper's print cannot be read for certain
    own_guide: bool = False  # scored by the network that guided the row
    n: int | None = None  # images that enter it, where they are not all of the row's

    @property
    def difference(self) -> float | None:
        """Ours less the paper's."""
        return None if self.value is None or self.paper is None else self.value - self.paper

    @property
    def has_interval(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)


@dataclass(frozen=True)
class Cost:
    """Measured by the runner, never by the method."""

    seconds_per_image: float | None = None
    peak_memory_bytes: float | None = None
    evaluations: dict[str, float] = field(default_factory=dict)  # network -> passes an image
    paper_seconds: float | None = None  # where the paper prints its own, on its own machine

    @property
    def total_evaluations(self) -> float | None:
        """Passes of every kind, forward and backward."""
        return sum(self.evaluations.values()) if self.evaluations else None

    @property
    def forward(self) -> float | None:
        """Forward passes of the counted networks."""
        passes = [count for name, count in self.evaluations.items() if name not in (BACKWARD, SECOND_ORDER)]
        return sum(passes) if self.evaluations else None

    @property
    def backward(self) -> float | None:
        """Passes backwards through them, for gradients; None where the method takes none."""
        return self.evaluations.get(BACKWARD)

    @property
    def second_order(self) -> float | None:
        """Passes backwards through a backward pass, for Hessian products; None where the method takes none."""
        return self.evaluations.get(SECOND_ORDER)


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
    floor: bool = False  # a method that was given no condition: what a method reaches without being asked for anything

    @property
    def is_reference(self) -> bool:
        return self.kind != "method"

    @property
    def role(self) -> str:
        """'ceiling', 'floor', or '' for a row that competes."""
        return self.kind if self.is_reference else "floor" if self.floor else ""

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


COST_HEADS = ("s / image", "peak MiB", "passes / image")
COST_TITLES = (
    "seconds an image",
    "peak memory in MiB",
    "network evaluations an image: forward passes of the denoising and influence networks, and passes backwards "
    "through them where a method takes gradients",
)
COST_CAPTION = (
    "Passes an image: forward passes of the denoising and influence networks, each image of a batch counted; '+ back': "
    "passes backwards through them for gradients; '+ second-order': passes backwards through a backward pass. Guides "
    "and decoders are not counted."
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


# ------------------------------------------------------------------------------------------------ the other renderers


def to_terminal(table: Table) -> Group:
    """The table for a rich console (reports/tables/export.py)."""
    from concord.reports.tables.export import to_terminal as render

    return render(table)


def to_frame(table: Table) -> pd.DataFrame:
    """One row per (row, column) with every number of the cell (reports/tables/export.py)."""
    from concord.reports.tables.export import to_frame as render

    return render(table)
