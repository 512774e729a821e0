"""What a page of the report holds, before it is written."""

from __future__ import annotations

from dataclasses import dataclass, field

from concord.reports.tables.table import BEST, Table


@dataclass
class Sample:
    """One line of the sample grid. files: column -> image, relative to the report folder."""

    id: str
    text: str
    files: dict[str, str] = field(default_factory=dict)


@dataclass
class FigureLink:
    """file: the PNG, relative to the report folder; vector: the same as SVG, where there is one."""

    file: str
    title: str
    text: str
    alt: str
    vector: str = ""
    size: tuple[int, int] = (0, 0)  # width and height on the page, in pixels

    @property
    def anchor(self) -> str:
        return "figure-" + self.file.rpartition("/")[2].removesuffix(".png")


@dataclass
class Viewer:
    """What the viewer's controls offer; its data lie in `source`."""

    source: str
    n: int
    metrics: list[dict[str, object]]  # name, label, decimals, higher
    columns: list[tuple[str, str]]  # row, title
    given: list[str]  # titles of the conditions that are shown
    first: str  # the row that it opens with
    second: str  # the row that this is held against


@dataclass
class Page:
    """A suite's page."""

    name: str
    title: str
    table: Table
    samples: list[Sample] = field(default_factory=list)
    sample_columns: list[tuple[str, str]] = field(default_factory=list)
    figures: list[FigureLink] = field(default_factory=list)
    grid: str = ""
    legend: list[tuple[str, str]] = field(default_factory=list)  # class of the masks, its colour
    viewer: Viewer | None = None
    paper: str = ""  # file in reports/papers, and the key of the table in it
    paper_table: str = ""

    @property
    def measured(self) -> int:
        return sum(not row.absent for row in self.table.rows)

    @property
    def first_answer(self) -> str:
        """The first sample column that is a method, to be set apart from what was asked for."""
        methods = {row.name for row in self.table.methods}
        return next((name for name, _ in self.sample_columns if name in methods), "")

    @property
    def standing(self) -> list[str]:
        """The columns that have one best row, in words."""
        found = []
        for column in self.table.columns:
            best = [row.title for row in self.table.methods if row.cells[column.name].mark == BEST]
            found += [f"{column.label}: {title} beats all others" for title in best]
        if not found and self.measured and not self.table.refusal:
            found.append("no column has a row that beats all others")
        return found
