"""The report: one static folder of pages, tables and images that needs nothing from outside it.

    index.html  methods.html  papers.html       overview; every method; every table of the papers
    methodology.html                            what intervals and verdicts mean, and how often they are wrong
    <suite>.html  <suite>/                      a suite's page, its figures, samples, image sheets and scores
    <paper>-<table>.html  method-<name>.html    a table that no suite answers; a method
    <table>.md .tex .csv .parquet               every table as files (reports/tables/export.py)
    assets/                                     style and scripts

Every text goes through the templates' escaping, or as text into the page by a script; captions are data, whatever they
hold. The parts: reports/site.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from concord.reports.agreement import STATED, agreements
from concord.reports.assemble import build_table, unanswered_tables
from concord.reports.site.cards import method_cards
from concord.reports.site.claims import FAMILY_WORDS, claims_of, tally
from concord.reports.site.drawn import draw_figures
from concord.reports.site.facts import machine_facts, runs_of, weights_of
from concord.reports.site.files import write_bytes
from concord.reports.site.methods import draw_histories, method_file, method_pages
from concord.reports.site.page import FigureLink, Page, Sample
from concord.reports.site.papers import listed_papers
from concord.reports.site.parts import Unmade, part_or_error
from concord.reports.site.samples import shown_requests, write_samples
from concord.reports.site.viewer import write_viewer
from concord.reports.tables import export, notes, words
from concord.reports.tables import table as tables
from concord.reports.tables.measured import MetricFacts, metric_facts
from concord.reports.tables.table import Row, Table
from concord.reports.validation.results import read_table

if TYPE_CHECKING:
    from jinja2 import Environment

    from concord.benchmarks.store.run import Store
    from concord.benchmarks.suite import Suite
    from concord.data.request import Conditions
    from concord.reports.figures.grid import GridRow

__all__ = ["FigureLink", "Page", "Sample", "describe_methods", "method_cards", "write_report"]

TEMPLATES = Path(__file__).resolve().parents[1] / "templates"
ASSETS = ("report.css", "table.js", "viewer.js")


def write_report(
    suites: Sequence[Suite],
    store: Store,
    profile: str,
    conditions: Mapping[str, Mapping[str, Conditions]] | None = None,
    facts: dict[str, MetricFacts] | None = None,
    tables: Mapping[str, Table] | None = None,
    unmade: Unmade | None = None,
) -> list[Page]:
    """Write the report of the given suites under <store>/report; returns its pages.

    conditions: request set -> request id -> conditions, for the requests of the sample grids; without them the
    grids show images alone. Where they can give those of every request (reports/figures/conditions.py: `every`), the
    viewer
    shows them too.
    facts: facts of the metrics, where they are not those of the registry.
    tables: the suites' tables, where they are built already.
    unmade: where a figure, a file or a page cannot be made, it is written down there and said on the pages, and the
    others are made all the same; without it, the first failure is raised.
    """
    part = part_or_error if unmade is None else unmade.part
    folder = store.root / "report"
    suites = [suite.in_profile(profile) for suite in suites]
    pages = []
    for suite in suites:
        table = tables[suite.name] if tables is not None else report_table(suite, store, profile, facts)
        page = Page(suite.name, suite.title, table, paper=suite.paper, paper_table=suite.table)
        given = (conditions or {}).get(suite.request_set, {})
        shown: list[GridRow] = []
        with part(f"{suite.name}: samples"):
            shown = shown_requests(suite, store, given)
            if shown:
                write_samples(page, suite, shown, folder)
        with part(f"{suite.name}: figures"):
            draw_figures(page, suite, store, shown, folder, part)
        with part(f"{suite.name}: viewer"):
            known = facts or metric_facts(suite.metrics, profile)
            write_viewer(page, suite, store, {name: known[name] for name in suite.metrics}, given, folder)
        pages.append(page)
    alone = unanswered_tables(profile)
    for page in pages:
        images = [("The same requests across methods", page.grid)] if page.grid else []
        with part(f"{page.name}.md, .csv and .parquet"):
            export.write_table(page.table, folder, [*images, *((one.title, one.file) for one in page.figures)])
    with part("tables.csv and .parquet"):
        export.write_tables([page.table for page in pages], alone, folder)
    _render(pages, alone, suites, store, profile, folder, unmade)
    return pages


def report_table(suite: Suite, store: Store, profile: str, facts: dict[str, MetricFacts] | None = None) -> Table:
    """A suite's table as the report shows it."""
    return describe_methods(build_table(suite.in_profile(profile), store, profile, facts))


def describe_methods(table: Table) -> Table:
    """Titles, citations and descriptions of the methods; a row of a plugin keeps what the store knows of it."""
    cards = method_cards()

    def described(row: Row) -> Row:
        card = cards.get(row.method)
        if card is None:
            return row
        return replace(row, citation=card.reference, description=card.description)

    return replace(table, rows=[described(row) for row in table.rows])


# --------------------------------------------------------------------------------------------------------------- pages


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        cell_parts=words.cell_parts,
        cost_parts=words.cost_parts,
        count_parts=words.count_parts,
        captions=words.captions,
        cost_heads=words.COST_HEADS,
        cost_titles=words.COST_TITLES,
        format_p=words.format_p,
        paper_verdict=words.paper_verdict,
        marks=tables.MARKS,
        mark_titles=tables.MARK_TITLES,
        embedded_note=notes.EMBEDDED,
        method_file=method_file,
        judge_parts=judge_parts,
    )
    return environment


def judge_parts(judge: Mapping[str, Any]) -> tuple[str, dict[str, str], dict[str, dict[str, str]]]:
    """A scoring network's measured error: n, its single numbers, and its numbers by group (IoU of each class)."""
    held_out = dict(judge.get("held_out") or {})
    n = str(held_out.pop("n", ""))

    def words(value: object) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    single = {key.replace("_", " "): words(v) for key, v in held_out.items() if not isinstance(v, dict)}
    groups = {
        key.replace("_", " "): {str(name).replace("_", " "): words(one) for name, one in value.items()}
        for key, value in held_out.items()
        if isinstance(value, dict)
    }
    return n, single, groups


def _render(
    pages: Sequence[Page],
    alone: Sequence[Table],
    suites: Sequence[Suite],
    store: Store,
    profile: str,
    folder: Path,
    unmade: Unmade | None,
) -> None:
    part = part_or_error if unmade is None else unmade.part
    environment = _environment()
    for name in ASSETS:
        with part(f"assets/{name}"):
            write_bytes(folder / "assets" / name, (TEMPLATES / name).read_bytes())
    methods = method_pages(pages)
    with part("history of methods"):
        draw_histories(methods, store, profile, folder)
    runs = runs_of(suites, store)
    claims = claims_of(pages)
    common: dict[str, object] = {
        "pages": sorted(pages, key=lambda page: page.measured == 0),  # what was run first, else as given
        "profile": profile,
        "variant": store.root.name if store.root.name != profile else "",
        "store": store.root.as_posix() if not store.root.is_absolute() else store.root.name,
        "made": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    }

    def write(file: str, template: str, **values: object) -> None:
        lacking = {} if unmade is None else unmade.parts
        with part(file):
            text = environment.get_template(template).render(here=file, lacking=lacking, **common, **values)
            write_bytes(folder / file, text.encode())

    for page in pages:
        names = {row.name: row.title for row in page.table.rows}
        write(f"{page.name}.html", "suite.html", page=page, names=names)
    for table in alone:
        write(f"{table.name}.html", "paper.html", table=table)
    for method in methods:
        write(method.file, "method.html", method=method)
    write("methods.html", "methods.html", methods=methods)
    with part("simulations"):
        simulated = {name: read_table(name) for name in ("families", "set_metrics")}
        write("methodology.html", "methodology.html", **simulated)
    write("papers.html", "papers.html", papers=listed_papers(pages, alone))
    write(
        "index.html",
        "index.html",
        claims=claims,
        tallies=[(name, what, tally([c for c in claims if c.family == name])) for name, what in FAMILY_WORDS.items()],
        agreements=[one for page in pages for one in agreements(page.table)],
        stated_agreement=STATED,
        machine=machine_facts(runs),
        weights=weights_of(runs),
    )
