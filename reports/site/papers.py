"""Every table and figure of the papers: which page shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from concord.reports.published import Paper, PublishedTable, load_paper, paper_names
from concord.reports.site.page import Page
from concord.reports.tables.table import Table


@dataclass
class Listed:
    """One table of a paper. pages: the suites that answer it; alone: the page with the paper's values only."""

    declared: PublishedTable
    pages: list[Page] = field(default_factory=list)
    alone: Table | None = None

    @property
    def status(self) -> str:
        """Whether the paper's table is answered; why not, where it is not."""
        if self.pages:
            measured = sum(page.measured > 0 for page in self.pages)
            return "answered" if measured else "has a suite, no row is run yet"
        return self.declared.not_run or "no suite answers it"


@dataclass
class ListedPaper:
    """A paper with its tables, each with a link where a page shows it."""

    paper: Paper
    tables: list[Listed]


def listed_papers(pages: Sequence[Page], unanswered: Sequence[Table]) -> list[ListedPaper]:
    """The papers with all their tables; a table that neither a page nor `unanswered` shows is listed without a link."""
    alone = {table.name: table for table in unanswered}
    found = []
    for name in paper_names():
        paper = load_paper(name)
        tables = []
        for key, declared in paper.tables.items():
            answering = [page for page in pages if (page.paper, page.paper_table) == (name, key)]
            tables.append(Listed(declared, answering, None if answering else alone.get(f"{name}-{key}")))
        found.append(ListedPaper(paper, tables))
    return found
