"""Tables as files and on the terminal: Markdown, LaTeX, CSV, parquet, and a drawn table for a console.

<folder>/<table>.md .tex .csv .parquet      one table each
<folder>/tables.csv .parquet                all of them: one line for every (suite, method, metric)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from concord.data.errors import ConcordError
from concord.data.files import atomic_path
from concord.data.printable import no_link, printable, sheet_cell
from concord.reports.tables.latex import to_latex
from concord.reports.tables.markdown import to_markdown
from concord.reports.tables.table import BEST, MARKS, NOT_SCORED, Cell, Column, Row, Table
from concord.reports.tables.words import COST_HEADS, captions, cell_parts, cost_parts, count_parts

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Group

ALL = "tables"  # the name of the files that hold every table
NUMBERS = (
    "value",
    "low",
    "high",
    "paper_value",
    "difference",
    "seconds_per_image",
    "peak_memory_bytes",
    "forward_per_image",
    "backward_per_image",
    "second_order_per_image",
)


# --------------------------------------------------------------------------------------------------------- data frame


def to_frame(table: Table) -> pd.DataFrame:
    """Tidy: one line for every (row, column) with every number of the cell and what is needed to read it.

    'unit' is '%', '' or another; 'direction' 'higher' or 'lower'; 'protocol' how the paper's number and ours were
    measured, '' where the paper has no such column; 'status' 'ok', why a value is refused, or why a row has none.
    """
    import pandas as pd

    records = [_record(table, row, column) for row in table.rows for column in table.columns]
    frame = pd.DataFrame.from_records(records, columns=list(_record(table, _NO_ROW, _NO_COLUMN)))
    frame[list(NUMBERS)] = frame[list(NUMBERS)].astype("float64")
    frame["n"] = frame["n"].astype("Int64")
    frame["failures"] = frame["failures"].astype("int64")
    return frame


_NO_ROW, _NO_COLUMN = Row("", "", "method", {}), Column("", "", True)


def _record(table: Table, row: Row, column: Column) -> dict[str, object]:
    cell, cost = row.cells.get(column.name, Cell()), row.cost
    refused = f"refused: {cell.refused}" if cell.refused and not cell.refused.startswith(NOT_SCORED) else cell.refused
    status = row.absent or refused or ("no value" if cell.value is None else "ok")
    return {
        "suite": table.name,
        "profile": table.profile,
        "row": row.name,
        "method": row.method,
        "title": row.title,
        "role": row.role or "method",
        "metric": column.name,
        "label": column.label,
        "unit": column.unit,
        "direction": "higher" if column.higher_is_better else "lower",
        "value": cell.value,
        "low": cell.low,
        "high": cell.high,
        "n": row.n if cell.n is None else cell.n,
        "failures": cell.failures,
        "paper_value": cell.paper,
        "difference": cell.difference,
        "paper_table": table.paper_title,
        "paper_unclear": cell.unclear,
        "protocol": column.protocol,
        "mark": cell.mark,
        "own_guide": cell.own_guide,
        "status": status,
        "seconds_per_image": cost.seconds_per_image,
        "peak_memory_bytes": cost.peak_memory_bytes,
        "forward_per_image": cost.forward,
        "backward_per_image": cost.backward,
        "second_order_per_image": cost.second_order,
    }


def to_csv(table: Table) -> str:
    """`to_frame` as CSV."""
    return frame_csv(to_frame(table))


def frame_csv(frame: pd.DataFrame) -> str:
    """CSV whose text cells are one line each, and none of which a spreadsheet takes for a formula."""
    from pandas.api import types as pd_types

    safe = frame.copy()
    for name in frame.columns:
        if not pd_types.is_numeric_dtype(frame[name]):
            safe[name] = [sheet_cell(one) if isinstance(one, str) else one for one in frame[name]]
    return str(safe.to_csv(index=False, lineterminator="\n"))


FORMATS: dict[str, Callable[[Table], str]] = {"markdown": to_markdown, "latex": to_latex, "csv": to_csv}


def render(table: Table, format: str) -> str:
    """A table as text; raises ConcordError that lists the formats."""
    if format not in FORMATS:
        raise ConcordError(f"format '{format}': expected one of {', '.join(FORMATS)}")
    return FORMATS[format](table)


# -------------------------------------------------------------------------------------------------------------- files


def write_table(table: Table, folder: Path, images: Iterable[tuple[str, str]] = ()) -> None:
    """<table>.md, .tex, .csv and .parquet in the folder; images: (title, file) put under the Markdown."""
    drawn = "".join(f"\n![{no_link(printable(title))}]({file})\n" for title, file in images)
    _write(folder / f"{table.name}.md", to_markdown(table) + drawn)
    _write(folder / f"{table.name}.tex", to_latex(table))
    _write_frame(to_frame(table), folder / table.name)


def write_tables(answered: Iterable[Table], unanswered: Iterable[Table], folder: Path) -> None:
    """What a report holds beside its pages.

    answered: tables of suites, whose pages bring their own Markdown and data: their LaTeX.
    unanswered: the papers' other tables, in every format. tables.csv and .parquet: all of them below each other.
    """
    import pandas as pd

    shown = {table.name: table for table in answered}
    others = [table for table in unanswered if table.name not in shown]
    for table in shown.values():
        _write(folder / f"{table.name}.tex", to_latex(table))
    for table in others:
        write_table(table, folder)
    frames = [to_frame(table) for table in [*shown.values(), *others]]
    filled = [frame for frame in frames if len(frame)]
    if filled:
        _write_frame(pd.concat(filled, ignore_index=True), folder / ALL)


def _write_frame(frame: pd.DataFrame, path: Path) -> None:
    _write(path.with_name(f"{path.name}.csv"), frame_csv(frame))
    with atomic_path(path.with_name(f"{path.name}.parquet")) as temporary:
        frame.to_parquet(temporary, index=False)


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode())


# ----------------------------------------------------------------------------------------------------------- terminal


def to_terminal(table: Table) -> Group:
    """The table for a rich console: values and costs, then what must not be missed."""
    from rich import box
    from rich.console import Group
    from rich.table import Table as RichTable
    from rich.text import Text

    n = f"n = {table.n}" if table.n is not None else "no results yet"
    head = Text(printable(f"{table.title}  ({table.profile}, {n})"), style="bold")
    loud = [Text(printable(f"REFUSED: {table.refusal}"), style="bold red")] if table.refusal else []
    loud += [Text(printable(warning), style="bold yellow") for warning in table.warnings]
    values = RichTable(box=box.SIMPLE_HEAD, show_lines=False, pad_edge=False)
    values.add_column("Method")
    for column in table.columns:
        values.add_column(f"{column.label} {column.arrow}", justify="right", no_wrap=False)
    for index, row in enumerate([*table.methods, *table.references]):
        if row.is_reference and index and row is table.references[0]:
            values.add_section()
        title = Text(printable(row.title), style="italic" if row.role else "")
        if row.role:
            title.append(f"\n({row.role})", style="dim")
        if row.absent:
            title.append("\n" + printable(row.absent), style="dim")
        values.add_row(title, *(_rich_cell(row, column) for column in table.columns))
    costs = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    costs.add_column("Method")
    for cost_head in ("n", "failed", *COST_HEADS):
        costs.add_column(cost_head, justify="right")
    for row in table.rows:
        if not row.absent:
            costs.add_row(Text(printable(row.title)), *count_parts(row), *cost_parts(row.cost))
    caption = Text("\n".join(map(printable, captions(table))), style="dim")
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
        ("difference", "cyan"),
        ("failures", "yellow"),
    ):
        if parts[key]:
            sign = parts["guided"] + (f" {MARKS[cell.mark]}" if cell.mark else "") if key == "value" else ""
            text.append(("\n" if text.plain else "") + parts[key] + sign, style=style)
    return text
