"""The report: one static folder of pages, tables and pictures that needs nothing from outside it.

    index.html  <suite>.html  <suite>.md  <suite>.csv  <suite>.parquet  <suite>/grid.png influence*.png samples/*.webp

Every text goes through the templates' escaping; captions are data, whatever they hold.
"""

from __future__ import annotations

import datetime
import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import ConcordError
from data.files import atomic_path, read_json, write_json
from reports import figures, guidance_figures, notes, tables
from reports.assemble import MetricFacts, build_table
from reports.cards import method_cards
from reports.figures import Shown
from reports.tables import BEST, TIED, Row, Table

if TYPE_CHECKING:
    import numpy as np
    from jinja2 import Environment

    from benchmarks.store import Store
    from benchmarks.suite import Suite
    from data.requests import Conditions

TEMPLATES = Path(__file__).parent / "templates"
THUMBNAIL = 192  # pixels; shown at 128, so that it is sharp on fine screens too
MARK_TITLES = {BEST: "beats every other method of the column", TIED: "not told apart from the column's first"}


@dataclass
class Sample:
    """One line of the sample grid. files: column -> picture, relative to the report folder."""

    id: str
    text: str
    files: dict[str, str] = field(default_factory=dict)


@dataclass
class FigureLink:
    file: str
    title: str
    text: str
    alt: str
    narrow: bool = False


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

    @property
    def measured(self) -> int:
        return sum(not row.absent for row in self.table.rows)

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


def write_report(
    suites: Sequence[Suite],
    store: Store,
    profile: str,
    conditions: Mapping[str, Mapping[str, Conditions]] | None = None,
    facts: dict[str, MetricFacts] | None = None,
) -> list[Page]:
    """Write the report of the given suites under <store>/report; returns its pages.

    conditions: request set -> request id -> conditions, for the requests of the sample grids; without them the
    grids show images alone.
    facts: facts of the metrics, where they are not those of the registry.
    """
    folder = store.root / "report"
    pages = []
    for suite in suites:
        table = describe_methods(build_table(suite, store, profile, facts))
        page = Page(suite.name, suite.title, table)
        shown = shown_requests(suite, store, (conditions or {}).get(suite.request_set, {}))
        if shown:
            _write_samples(page, suite, shown, folder)
            _draw_figures(page, suite, store, shown, folder)
        pages.append(page)
    for page in pages:
        _write_tables(page, folder)
    _render(pages, store, profile, folder)
    return pages


def describe_methods(table: Table) -> Table:
    """Titles, citations and descriptions of the methods; a row of a plugin keeps what the store knows of it."""
    cards = method_cards()

    def described(row: Row) -> Row:
        card = cards.get(row.method)
        if card is None:
            return row
        return replace(row, citation=card.reference, description=card.description)

    return replace(table, rows=[described(row) for row in table.rows])


# ------------------------------------------------------------------------------------------------------------- samples


def shown_requests(suite: Suite, store: Store, conditions: Mapping[str, Conditions]) -> list[Shown]:
    """The first `suite.grid` requests with the images of every finished row."""
    runs = {name: store.run(suite.request_set, name) for name in suite.row_names()}
    runs = {name: run for name, run in runs.items() if run.finished}
    if not runs or not suite.grid:
        return []
    ids = next(iter(runs.values())).ids[: suite.grid]
    shown = {name: Shown(name) for name in ids}
    for request, given in conditions.items():
        if request in shown:
            for name in ("text", *figures.CONDITIONS):
                if name in suite.conditions:
                    setattr(shown[request], name, getattr(given, name))
    for name, run in runs.items():
        for request, image in run.images(ids):
            if name == "ground-truth":
                shown[request].truth = image
            elif name != "shuffled":
                shown[request].images[name] = image
    return list(shown.values())


def _columns(table: Table, shown: Sequence[Shown]) -> list[tuple[str, str]]:
    """Methods that have images, in the table's order, with their titles."""
    return [(row.name, row.title) for row in table.methods if any(row.name in s.images for s in shown)]


def _write_samples(page: Page, suite: Suite, shown: Sequence[Shown], folder: Path) -> None:
    columns = _columns(page.table, shown)
    conditions = figures.condition_columns(shown)
    truth = [("truth", "Ground truth")] if any(s.truth is not None for s in shown) else []
    page.sample_columns = [*conditions, *truth, *columns]
    kept: set[str] = set()
    for request in shown:
        sample = Sample(request.id, request.text or ("(no caption)" if "text" in suite.conditions else ""))
        dots = None if request.landmarks is None else figures.landmark_picture(request.landmarks, request.truth)
        references = {"identity": request.identity, "style": request.style, "landmarks": dots}
        pictures: dict[str, np.ndarray | None] = {**references, "truth": request.truth, **request.images}
        for name, picture in pictures.items():
            if picture is not None:
                sample.files[name] = _thumbnail(folder, suite.name, request.id, name, picture)
        if request.mask is not None:
            from data.labels import colourise

            sample.files["mask"] = _thumbnail(
                folder, suite.name, request.id, "mask", colourise(request.mask), exact=True
            )
        kept.update(Path(file).name for file in sample.files.values())
        page.samples.append(sample)
    for path in (folder / suite.name / "samples").glob("*"):
        if path.name not in kept:
            path.unlink()


def _thumbnail(folder: Path, suite: str, request: str, name: str, picture: np.ndarray, exact: bool = False) -> str:
    """A small picture file; its name follows from its content, so that it is written only when it is new."""
    from PIL import Image

    digest = hashlib.sha256(picture.tobytes() + f"{picture.shape}{exact}{THUMBNAIL}".encode()).hexdigest()[:16]
    place = f"{suite}/samples/{digest}.{'png' if exact else 'webp'}"
    if not (folder / place).is_file():
        image = Image.fromarray(picture)
        content = io.BytesIO()
        if exact:  # enlarged by the browser without smoothing
            image.save(content, "PNG", optimize=True)
        else:
            image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS).save(content, "WEBP", quality=90)
        _write_bytes(folder / place, content.getvalue())
    return place


# ------------------------------------------------------------------------------------------------------------- figures


def _draw_figures(page: Page, suite: Suite, store: Store, shown: Sequence[Shown], folder: Path) -> None:
    """Draw what is not drawn yet: figures take seconds, and mostly nothing has changed since the last report."""
    columns = _columns(page.table, shown)
    titles = {row.name: row.title for row in page.table.rows}
    seen = [(s.id, s.text, s.mask, s.identity, s.landmarks, s.style, s.truth, sorted(s.images.items())) for s in shown]
    drawn = _Drawn(folder)
    if columns:
        page.grid = f"{suite.name}/grid.png"
        title = f"{suite.title}: the same requests across methods"
        drawn.once(page.grid, (seen, columns, title), partial(figures.sample_grid, shown, columns, title))
    traces = {name: store.run(suite.request_set, name).trace() for name, _ in columns}
    told = {name: trace for name, trace in traces.items() if trace is not None and "influence" in trace}
    for name, trace in told.items():
        branches = " and ".join(str(branch) for branch in trace["influence_names"])
        file, title = (
            f"{suite.name}/influence-{name}.png",
            f"Influence of the {branches} branch over time: {titles[name]}",
        )
        draw = partial(figures.influence_figure, trace, shown, name, title)
        drawn.once(file, (seen, sorted(trace.items()), title), draw)
        text = (
            "After the softmax over the branches: at each pixel and step they sum to 1. From noise (left) to image "
            "(right); compare Figure 10 of the paper."
        )
        alt = f"Maps of how much each branch ({branches}) leads at each pixel, from the first step to the last"
        page.figures.append(FigureLink(file, title, text, alt))
    if told:
        file, title = f"{suite.name}/influence-mean.png", "Mean influence over time"
        named = {titles[name]: trace for name, trace in told.items()}
        facts = [(name, sorted(trace.items())) for name, trace in named.items()]
        drawn.once(file, (facts, title), partial(figures.influence_curve, named, title))
        n = len(next(iter(told.values()))["requests"])
        text = f"Mean over all pixels and the {n} traced requests; bands: 10th to 90th percentile of the requests."
        alt = "Curves of the mean influence of each branch over the steps"
        page.figures.append(FigureLink(file, title, text, alt, narrow=True))
    named = {titles[name]: trace for name, trace in traces.items() if trace is not None}
    for drawing in guidance_figures.drawings(suite.name, named):
        drawn.once(drawing.file, drawing.content, drawing.draw)
        page.figures.append(FigureLink(*drawing[:4]))


class _Drawn:
    """Draws each figure once: figures.json holds a hash of what every figure of the folder was drawn from."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "figures.json"
        try:
            known = read_json(self.path)
        except ConcordError:
            known = {}
        self.keys: dict[str, str] = known if isinstance(known, dict) else {}

    def once(self, file: str, content: Any, draw: Callable[[Path], None]) -> None:
        digest = hashlib.sha256(Path(figures.__file__).read_bytes())
        _feed(digest, content)
        key = digest.hexdigest()
        if self.keys.get(file) == key and (self.folder / file).is_file():
            return
        draw(self.folder / file)
        self.keys[file] = key
        write_json(self.path, self.keys)


def _feed(digest: Any, value: Any) -> None:
    """Nested lists, tuples, texts, numbers and arrays into a hash."""
    import numpy as np

    if isinstance(value, np.ndarray):
        digest.update(f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
    elif isinstance(value, list | tuple):
        digest.update(f"[{len(value)}".encode())
        for part in value:
            _feed(digest, part)
    else:
        digest.update(repr(value).encode() + b"\0")


# --------------------------------------------------------------------------------------------------------------- files


def _write_tables(page: Page, folder: Path) -> None:
    markdown = tables.to_markdown(page.table)
    if page.grid:
        markdown += f"\n![The same requests across methods]({page.grid})\n"
    for figure in page.figures:
        markdown += f"\n![{figure.title}]({figure.file})\n"
    _write_bytes(folder / f"{page.name}.md", markdown.encode())
    frame = tables.to_frame(page.table)
    _write_bytes(folder / f"{page.name}.csv", frame.to_csv(index=False).encode())
    with atomic_path(folder / f"{page.name}.parquet") as temporary:
        frame.to_parquet(temporary, index=False)


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
        cell_parts=tables.cell_parts,
        cost_parts=tables.cost_parts,
        cost_heads=tables.COST_HEADS,
        cost_titles=tables.COST_TITLES,
        format_p=tables.format_p,
        paper_verdict=tables.paper_verdict,
        judge_numbers=lambda judge: tables.judge_sentence(judge).partition(": ")[2],
        mark_caption=tables.MARK_CAPTION,
        marks=tables.MARKS,
        mark_titles=MARK_TITLES,
        embedded_note=notes.EMBEDDED,
    )
    return environment


def _render(pages: Sequence[Page], store: Store, profile: str, folder: Path) -> None:
    environment = _environment()
    variant = store.root.name if store.root.name != profile else ""
    common: dict[str, Any] = {
        "pages": pages,
        "profile": profile,
        "variant": variant,
        "store": store.root.as_posix() if not store.root.is_absolute() else store.root.name,
        "made": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    }
    provenance = [page.table.provenance for page in pages if page.table.provenance]
    facts = [
        f"{key.lower()} {provenance[0][key]}"
        for key in ("Commit", "Device", "Data")
        if provenance and key in provenance[0]
    ]
    index = environment.get_template("index.html").render(here="index", facts=facts, **common)
    _write_bytes(folder / "index.html", index.encode())
    for page in pages:
        names = {row.name: row.title for row in page.table.rows}
        text = environment.get_template("suite.html").render(here=page.name, page=page, names=names, **common)
        _write_bytes(folder / f"{page.name}.html", text.encode())


def _write_bytes(path: Path, content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
