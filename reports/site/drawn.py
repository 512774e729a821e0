"""The figures of a suite's page: which there are, and drawing only those whose data have changed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from concord.benchmarks.plan.sources import versions
from concord.benchmarks.store.digests import make_way
from concord.data.code import code_hash
from concord.data.conditions.base import all_conditions
from concord.reports.figures import grid as figures
from concord.reports.figures import guidance as guidance_figures
from concord.reports.figures import plots, satisfaction
from concord.reports.figures.grid import GridRow
from concord.reports.site.kept import Kept
from concord.reports.site.page import FigureLink, Page
from concord.reports.site.parts import Part, part_or_error
from concord.reports.site.samples import method_columns
from concord.reports.tables import trainings

if TYPE_CHECKING:
    from concord.benchmarks.store.run import Store
    from concord.benchmarks.suite import Suite

LIBRARIES = ("matplotlib", "numpy", "pillow")


def draw_figures(
    page: Page, suite: Suite, store: Store, shown: Sequence[GridRow], folder: Path, part: Part = part_or_error
) -> None:
    """Draw what is not drawn yet: figures take seconds, and mostly nothing has changed since the last report.

    part: each figure is one, so that one which cannot be drawn leaves the others.
    """
    drawn = FigureCache(folder)

    def draw(drawing: guidance_figures.Drawing) -> None:
        with part(drawing.file):
            drawn.once(drawing.file, drawing.content, drawing.draw)
            page.figures.append(drawn.link(*drawing[:4]))

    for drawing in plots.drawings(suite.name, page.table):
        draw(drawing)
    columns = method_columns(page.table, shown)
    titles = {row.name: row.title for row in page.table.rows}
    kinds = all_conditions()
    seen = [
        [
            s.id,
            [[name, kinds[name].code(), kinds[name].digest(value)] for name, value in s.conditions.items()],
            s.truth,
            sorted(s.images.items()),
        ]
        for s in shown
    ]
    if columns:
        file = f"{suite.name}/grid.png"
        title = f"{suite.title}: the same requests across methods"
        with part(file):
            drawn.once(file, (seen, columns, title), partial(figures.sample_grid, shown, columns, title))
            page.grid = file
    traces: dict[str, dict[str, Any]] = {}
    for name, _ in columns:
        with part(f"{suite.name}: traces of {name}"):
            trace = store.run(suite.request_set, name).trace()
            if trace is not None:
                traces[name] = trace
    told = {name: trace for name, trace in traces.items() if "influence" in trace}
    for name, trace in told.items():
        branches = " and ".join(str(branch) for branch in trace["influence_names"])
        title = f"Influence of the {branches} branch over time: {titles[name]}"
        text = (
            "After the softmax over the branches: at each pixel and step they sum to 1. From noise (left) to image "
            "(right); compare Figure 10 of the paper."
        )
        alt = f"Maps of how much each branch ({branches}) leads at each pixel, from the first step to the last"
        how = partial(figures.influence_figure, trace, shown, name, title)
        content = (seen, sorted(trace.items()), title)
        draw(guidance_figures.Drawing(f"{suite.name}/influence-{name}.png", title, text, alt, content, how))
    if told:
        file, title = f"{suite.name}/influence-mean.png", "Mean influence over time"
        named = {titles[name]: trace for name, trace in told.items()}
        facts = [(name, sorted(trace.items())) for name, trace in named.items()]
        n = len(next(iter(told.values()))["requests"])
        text = f"Mean over all pixels and the {n} traced requests; bands: 10th to 90th percentile of the requests."
        alt = "Curves of the mean influence of each branch over the steps"
        curve = partial(figures.influence_curve, named, title)
        draw(guidance_figures.Drawing(file, title, text, alt, (facts, title), curve))
    named = {titles[name]: trace for name, trace in traces.items()}
    worst = {row.title: page.table.worst[row.name] for row in page.table.methods if row.name in page.table.worst}
    trained = trainings.drawings(suite.name) if page.table.profile == "embedded" else []
    for drawing in [
        *satisfaction.drawings(suite.name, worst),
        *guidance_figures.drawings(suite.name, named),
        *trained,
    ]:
        draw(drawing)


class FigureCache:
    """Draws each figure once: figures.json holds a hash of what every figure of the folder was drawn from.

    That is its content, the code that draws it, and the libraries that put it on paper. What a figure became stands
    there too, so that one that was damaged is drawn again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.kept = folder, Kept(folder, folder / "figures.json")

    def once(self, file: str, content: object, draw: Callable[[Path], None]) -> None:
        """Draw `file` unless its content and the code that draws it are those of last time."""
        modules = (figures.__name__, _module_of(draw))
        digest = hashlib.sha256(f"{code_hash(modules)} {versions(LIBRARIES)}".encode())
        feed(digest, content)
        key = digest.hexdigest()
        if self.kept.files(file, key):
            return
        make_way(self.folder / file)
        draw(self.folder / file)
        vector = _vector(file)
        self.kept.keep(file, key, [file, vector] if (self.folder / vector).is_file() else [file])

    def link(self, file: str, title: str, text: str, alt: str) -> FigureLink:
        """The figure on a page, at its own size there: room is kept for it before it is loaded."""
        from PIL import Image

        with Image.open(self.folder / file) as image:
            width, height = (round(side * 100 / figures.DPI) for side in image.size)
        vector = _vector(file)
        return FigureLink(file, title, text, alt, vector if (self.folder / vector).is_file() else "", (width, height))


def _vector(file: str) -> str:
    """The same figure as SVG."""
    return file.removesuffix(".png") + ".svg"


def _module_of(draw: Callable[[Path], None]) -> str:
    """The module that a drawing's function is written in."""
    while isinstance(draw, partial):
        draw = draw.func
    return str(draw.__module__)


def feed(digest: Any, value: Any) -> None:
    """Nested lists, tuples, texts, numbers and arrays into a hash."""
    import numpy as np

    if isinstance(value, np.ndarray):
        digest.update(f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
    elif isinstance(value, list | tuple):
        digest.update(f"[{len(value)}".encode())
        for part in value:
            feed(digest, part)
    else:
        digest.update(repr(value).encode() + b"\0")
