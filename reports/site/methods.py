"""A page for each method: what it says of itself, the parameters as run, and where it appears."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from concord.data.errors import ConcordError
from concord.reports.figures.plots import flat
from concord.reports.site.cards import MethodCard, method_cards
from concord.reports.site.compared import Compared, of_method
from concord.reports.site.drawn import FigureCache
from concord.reports.site.page import FigureLink, Page
from concord.reports.tables.table import Row

if TYPE_CHECKING:
    from concord.benchmarks.store.run import Store


@dataclass(frozen=True)
class Appearance:
    """A row of a suite that this method made or is to make."""

    page: Page
    row: Row

    @property
    def params(self) -> dict[str, object]:
        return flat(self.row.params)


@dataclass
class MethodPage:
    """A method's page: its card, and where its rows stand."""

    name: str
    title: str
    card: MethodCard
    appearances: list[Appearance] = field(default_factory=list)
    history: FigureLink | None = None

    @property
    def file(self) -> str:
        return method_file(self.name)

    @property
    def measured(self) -> list[Appearance]:
        return [one for one in self.appearances if not one.row.absent]

    @property
    def presets(self) -> list[str]:
        return list(dict.fromkeys(str(one.params["preset"]) for one in self.appearances if "preset" in one.params))

    @property
    def compared(self) -> dict[str, list[Compared]]:
        """Preset -> what the tests compared it with; 'official' only where it is another than 'paper'."""
        found = of_method(self.name)
        if not self.card.has_official and not found["official"]:
            del found["official"]
        return found

    @property
    def citation(self) -> str:
        return self.card.reference or next((one.row.citation for one in self.appearances if one.row.citation), "")

    @property
    def arxiv(self) -> str:
        found = re.search(r"arXiv:(\d{4}\.\d{4,5})", self.card.paper or self.card.citation)
        return f"https://arxiv.org/abs/{found[1]}" if found else ""

    @property
    def same(self) -> dict[str, object]:
        """Parameters that have one value in every row."""
        every = [one.params for one in self.appearances]
        return {
            key: every[0][key]
            for key in (every[0] if every else {})
            if all(key in params and params[key] == every[0][key] for params in every)
        }

    @property
    def differing(self) -> list[str]:
        """Parameters that do not: they stand in the table of rows."""
        names = dict.fromkeys(key for one in self.appearances for key in one.params)
        return [key for key in names if key not in self.same]


def method_file(name: str) -> str:
    """A method's page; a plugin may be called anything."""
    return f"method-{re.sub(r'[^A-Za-z0-9._-]', '-', name)}.html"


def method_pages(pages: Sequence[Page]) -> list[MethodPage]:
    """Every method that a row names, by title."""
    cards = method_cards()
    found: dict[str, MethodPage] = {}
    for page in pages:
        for row in page.table.methods:
            if not row.method:
                continue
            card = cards.get(row.method) or MethodCard(row.method, citation=row.citation, description=row.description)
            one = found.setdefault(row.method, MethodPage(row.method, card.title or row.title.partition(", ")[0], card))
            one.appearances.append(Appearance(page, row))
    return sorted(found.values(), key=lambda one: one.title.lower())


def draw_histories(methods: Sequence[MethodPage], store: Store, profile: str, folder: Path) -> None:
    """Metric values over the commits that changed the committed baseline, for results of this checkout.

    Left out for results of another place, where history says nothing of them, and with fewer than two commits.
    """
    from concord.benchmarks.settings import ROOT

    if store.root.resolve() != (ROOT / "results" / profile).resolve():
        return
    try:
        from concord.reports.compare import git as compare_git
        from concord.reports.compare import history

        commits = [commit.sha for commit in compare_git.commits_of(ROOT, f"reports/baseline/{profile}")]
    except (ImportError, ConcordError):  # a folder without the module, or outside git
        return
    baseline = ROOT / "reports" / "baseline" / profile / "baseline.json"
    state = hashlib.sha256(baseline.read_bytes()).hexdigest() if baseline.is_file() else ""
    drawn = FigureCache(folder)
    for method in methods:
        rows = {one.row.name for one in method.measured}
        row = method.name if method.name in rows else min(rows, default="")
        file = f"history/{method_file(method.name).removesuffix('.html')}.png"
        try:
            drawn.once(file, [profile, row, commits, state], partial(_draw_history, history, ROOT, profile, row))
        except ConcordError:  # the baseline has no such row, or one commit alone
            continue
        text = (
            f"Row {row} of the committed baseline, with 95 % intervals; the line is broken where two commits cannot be "
            "compared."
        )
        method.history = drawn.link(
            file, "Metric values over commits", text, f"Metrics of {method.title} over the commits of the baseline"
        )


def _draw_history(history: Any, root: Path, profile: str, row: str, path: Path) -> None:
    found = history.read_history(root, profile, row, last=12)
    if all(len(line.points) < 2 for line in found.lines):
        raise ConcordError(f"{row}: fewer than two commits of the baseline")
    history.draw(found, path)
