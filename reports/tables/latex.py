r"""A table as LaTeX with booktabs: a document that compiles alone, or the float that a paper takes in as it is.

Every text is escaped: nothing that a caption, a title or a reason holds can become a command, end a cell or stop the
run. Signs that pdfTeX's fonts lack are written as \uni{code}{sign}: the sign under XeTeX and LuaTeX, its code under
pdfTeX.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence

from concord.data.errors import ConcordError
from concord.reports.tables.comparisons import listed
from concord.reports.tables.table import BEST, MARK_TITLES, PAPER_ONLY, SECOND, TIED, Cell, Column, Row, Table
from concord.reports.tables.table import MARKS as SIGNS
from concord.reports.tables.words import (
    COST_HEADS,
    captions,
    cell_parts,
    comparison_sentence,
    cost_parts,
    count_parts,
    judge_sentence,
    size_words,
)

PREAMBLE = r"""\documentclass[10pt]{article}
\usepackage{iftex}
\ifPDFTeX
  \usepackage[utf8]{inputenc}
  \usepackage[T1]{fontenc}
\fi
\usepackage{textcomp}
\usepackage[a4paper,landscape,margin=15mm]{geometry}
\usepackage{booktabs}
\usepackage{graphicx}
\DeclareRobustCommand{\uni}[2]{\ifPDFTeX[U+#1]\else#2\fi}
\begin{document}
"""
NEEDS = "% needs booktabs, graphicx, textcomp and \\uni: see the preamble of the standalone document\n"
END = "\\end{document}\n"

_ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "`": r"\textasciigrave{}",
    "[": "{[}", "]": "{]}",  # at the start of a line of a table they would be an option of the line above
    "*": "{*}",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "→": r"$\rightarrow$", "←": r"$\leftarrow$", "≈": r"$\approx$",
    "≥": r"$\geq$", "≤": r"$\leq$", "×": r"$\times$", "±": r"$\pm$", "−": r"$-$", "∞": r"$\infty$", "Δ": r"$\Delta$",
    "α": r"$\alpha$", "β": r"$\beta$", "η": r"$\eta$", "ρ": r"$\rho$", "σ": r"$\sigma$", "★": r"$\star$",
    "☆": r"$\circ$", "†": r"$\dagger$", "–": r"\textendash{}", "—": r"\textemdash{}", "…": r"\ldots{}",
    "“": r"\textquotedblleft{}", "”": r"\textquotedblright{}", "‘": r"\textquoteleft{}", "’": "'",
    "«": r"\textquotedbl{}", "»": r"\textquotedbl{}", "°": r"$^{\circ}$", "·": r"$\cdot$", "\u00a0": "~",
    "ß": r"{\ss}",
}  # fmt: skip  # a table
COSTS = {"n": "n", "failed": "failed", "seconds": "s / image", "memory": "peak MiB", "passes": "NFE"}
"""Columns of a fragment that are no metrics, by name."""
MARKS = {BEST: r"$\star$", SECOND: r"$\circ$", TIED: r"$\approx$"}


def escape(text: str) -> str:
    """Text that LaTeX sets as it reads, whatever it holds."""
    escaped = "".join(_escaped(character) for character in unicodedata.normalize("NFC", text))
    return re.sub(r"([-',])(?=\1)", r"\1{}", escaped)  # '--' would become a dash, two quotes one


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    code = ord(character)
    if 0x20 <= code < 0x7F or 0xC0 <= code <= 0xFF:  # ASCII, and the letters that T1 has
        return character
    kind = unicodedata.category(character)
    if character.isspace() or kind in ("Zl", "Zp", "Cc"):
        return " "
    if kind in ("Cf", "Cs", "Co", "Cn", "Mn", "Me"):  # nothing to set by itself: direction marks, lone surrogates, ...
        return f"{{[}}U+{code:04X}{{]}}"
    return rf"\uni{{{code:04X}}}{{{character}}}"


def to_latex(table: Table) -> str:
    """A document of the table with all that it says, its caption and its notes."""
    return PREAMBLE + "\n".join([*_float(table), *_notes(table)]) + "\n" + END


def to_fragment(table: Table, columns: Sequence[str] | None = None) -> str:
    """The float for a column of a paper: values with their intervals, marks, a short caption; no notes.

    columns: metrics and costs (`COSTS`) in that order; the metrics without single levels if absent.
    Raises ConcordError that lists the columns for an unknown one.
    """
    own = [column.name for column in table.columns if not column.part and not column.name.startswith(PAPER_ONLY)]
    chosen = list(columns or own)
    for name in chosen:
        if name not in COSTS and name not in {column.name for column in table.columns}:
            known = ", ".join([*(column.name for column in table.columns), *COSTS])
            raise ConcordError(f"table '{table.name}' has no column '{name}': expected one of {known}")
    named = {column.name: column for column in table.columns}
    heads = [f"{named[name].label} {named[name].arrow}" if name in named else COSTS[name] for name in chosen]
    shown = [row for row in table.methods if not row.absent] or table.methods
    lines = [
        r"\begin{table}[tb]",
        r"\centering",
        r"\footnotesize",
        rf"\caption{{{_short_caption(table, [named[name] for name in chosen if name in named])}}}",
        rf"\label{{{label(table)}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{@{{}}l{'r' * len(heads)}@{{}}}}",
        r"\toprule",
        " & ".join(["Method", *map(escape, heads)]) + r" \\",
        r"\midrule",
        *(_short_line(row, chosen, named) for row in shown),
    ]
    references = [row for row in table.references if not row.absent]
    if references:
        lines += [r"\midrule", *(_short_line(row, chosen, named) for row in references)]
    return NEEDS + "\n".join([*lines, r"\bottomrule", r"\end{tabular}%", "}", r"\end{table}"]) + "\n"


def to_notes(table: Table) -> str:
    """What stands under the table, as LaTeX for an appendix."""
    return NEEDS + "\n".join(_notes(table)) + "\n"


def _short_caption(table: Table, columns: Sequence[Column]) -> str:
    marks = {cell.mark for row in table.rows for column in columns if (cell := row.cells.get(column.name))}
    told = [f"{SIGNS[mark]}: {MARK_TITLES[mark]}" for mark in (BEST, SECOND, TIED) if mark in marks]
    head = f"{table.title} (profile '{table.profile}', {size_words(table)}); 95 % intervals in brackets."
    return escape(" ".join([head, *([f"{'; '.join(told)}."] if told else [])]))


def _short_line(row: Row, chosen: Sequence[str], named: Mapping[str, Column]) -> str:
    title = escape(row.title)
    cells = [rf"\emph{{{title} ({row.role})}}" if row.role else title]
    for name in chosen:
        if name in named:
            cells.append(_short_cell(row.cells.get(name, Cell()), named[name]))
        else:
            cells.append(escape(_cost(row, name)))
    return " & ".join(cells) + r" \\"


def _short_cell(cell: Cell, column: Column) -> str:
    if cell.value is None:
        return "--"
    value = _minus(escape(column.format(cell.value)))
    value = rf"\textbf{{{value}}}" if cell.mark == BEST else value
    value += rf"\,{MARKS[cell.mark]}" if cell.mark else ""
    if cell.has_interval:
        reach = escape(f"[{column.format(cell.low)}, {column.format(cell.high)}]")
        value += rf" {{\scriptsize {_minus(reach)}}}"
    return value


def _cost(row: Row, name: str) -> str:
    cost = row.cost
    value = {
        "n": row.n,
        "failed": None if row.n is None else row.failures,
        "seconds": cost.seconds_per_image,
        "memory": None if cost.peak_memory_bytes is None else cost.peak_memory_bytes / 2**20,
        "passes": cost.total_evaluations,
    }[name]
    return "–" if value is None else f"{value:.0f}" if name != "seconds" else f"{value:.3g}"


def label(table: Table) -> str:
    """The name to \\ref the table by: letters, digits and dashes alone."""
    return "tab:" + re.sub(r"[^A-Za-z0-9]+", "-", table.name).strip("-")


def _float(table: Table) -> list[str]:
    heads = [*(f"{c.label} {c.arrow}" for c in table.columns), "n", "failed", *COST_HEADS]
    lines = [
        r"\begin{table}[p]",
        r"\centering",
        r"\footnotesize",
        rf"\caption[]{{{_caption(table)}}}",
        rf"\label{{{label(table)}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{@{{}}l{'r' * len(heads)}@{{}}}}",
        r"\toprule",
        " & ".join(["Method", *map(escape, heads)]) + r" \\",
    ]
    if any(column.protocol for column in table.columns):
        words = [_words(column.protocol) for column in table.columns]
        lines.append(" & ".join([r"\emph{How measured}", *words, *[""] * (len(heads) - len(words))]) + r" \\")
    lines.append(r"\midrule")
    lines += [_line(table, row) for row in table.methods]
    if table.references:
        lines += [r"\midrule", *(_line(table, row) for row in table.references)]
    return [*lines, r"\bottomrule", r"\end{tabular}%", "}", r"\end{table}"]


def _caption(table: Table) -> str:
    answers = f" Answers {table.paper_title}." if table.paper_title else ""
    head = f"{table.title}. Profile '{table.profile}', {size_words(table)}.{answers}"
    return escape(" ".join([head, *table.notes.get("Guidance", []), *captions(table)]))


def _words(text: str) -> str:
    return rf"\parbox[t]{{28mm}}{{\raggedleft\tiny {escape(text)}}}" if text else ""


def _line(table: Table, row: Row) -> str:
    title = escape(row.title)
    head = rf"\emph{{{title} ({row.role})}}" if row.role else title
    if row.absent:
        head = _stack([head, rf"\tiny {escape(row.absent)}"], "l")
    cells = [_cell(row.cells.get(column.name, Cell()), column, row.absent) for column in table.columns]
    return " & ".join([head, *cells, *map(escape, count_parts(row)), *map(escape, cost_parts(row.cost))]) + r" \\[2pt]"


def _cell(cell: Cell, column: Column, absent: str) -> str:
    parts = {key: _minus(escape(text)) for key, text in cell_parts(cell, column, absent).items()}
    value = rf"\textbf{{{parts['value']}}}" if cell.mark == BEST else parts["value"]
    value += rf"\,{MARKS[cell.mark]}" if cell.mark else ""
    refused = rf"\parbox[t]{{28mm}}{{\raggedleft {parts['refused']}}}" if parts["refused"] else ""
    small = [parts["interval"], parts["paper"], parts["difference"], parts["failures"]]
    shown = [value + parts["guided"], refused, *(rf"\scriptsize {text}" for text in small if text)]
    return _stack([one for one in shown if one]) or "--"


def _minus(text: str) -> str:
    """A minus sign before numbers in place of the hyphen."""
    return re.sub(r"(?<![\w-])-(?=\d)", "$-$", text)


def _stack(lines: list[str], align: str = "r") -> str:
    """Lines of one cell below each other, the first on the row's base line."""
    if len(lines) < 2:
        return "".join(lines)
    return rf"\begin{{tabular}}[t]{{@{{}}{align}@{{}}}}" + r" \\ ".join(lines) + r"\end{tabular}"


def _notes(table: Table) -> list[str]:
    """Everything that is printed below a table, as paragraphs of lists."""
    loud = ([f"REFUSED: {table.refusal}"] if table.refusal else []) + table.warnings
    parts = {"Read this first": loud, **table.notes}
    if table.judges:
        parts["How wrong the scoring networks are"] = [judge_sentence(judge) for judge in table.judges]
    if table.comparisons:
        shown, others = listed(table.comparisons)
        parts["What the tests say"] = [comparison_sentence(table, one) for one in shown] + [others] * bool(others)
    if table.provenance:
        parts["Provenance"] = [f"{key}: {value}" for key, value in table.provenance.items()]
    lines = []
    for heading, sentences in parts.items():
        if sentences:
            items = [rf"\item {escape(text)}" for text in sentences]
            lines += [rf"\subsection*{{{escape(heading)}}}", r"\begin{itemize}", *items, r"\end{itemize}"]
    return [r"\begingroup\footnotesize\sloppy", *lines, r"\endgroup"] if lines else []
