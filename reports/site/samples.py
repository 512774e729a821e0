"""A page's sample grid: the first requests of the set, conditions as people read them, every method's image."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from concord.data.own_files import remove_own
from concord.data.request import Conditions
from concord.reports.figures import grid as figures
from concord.reports.figures.grid import GridRow
from concord.reports.site.files import write_bytes
from concord.reports.site.kept import Kept
from concord.reports.site.page import Page, Sample
from concord.reports.tables.table import Table

if TYPE_CHECKING:
    import numpy as np

    from concord.benchmarks.store.run import Store
    from concord.benchmarks.suite import Suite

THUMBNAIL = 192  # pixels; shown at 128, so that it is sharp on fine screens too
THUMBNAIL_NAME = re.compile(r"[0-9a-f]{16}\.(png|webp)")


def used_conditions(suite: Suite) -> list[str]:
    """The suite's conditions that a row is given or a metric scores against: others only choose the items."""
    from concord.metrics.base import all_metrics

    known = all_metrics()
    used = {name for row in suite.rows if row.planned is None for name in suite.row_conditions(row)}
    used |= {name for metric in suite.metrics if metric in known for name in known[metric].needs}
    return [name for name in suite.conditions if name in used]


def shown_requests(suite: Suite, store: Store, conditions: Mapping[str, Conditions]) -> list[GridRow]:
    """The first `suite.grid` requests with the images of every finished row."""
    runs = {name: store.run(suite.request_set, name) for name in suite.row_names()}
    runs = {name: run for name, run in runs.items() if run.finished}
    if not runs or not suite.grid:
        return []
    ids = next(iter(runs.values())).ids[: suite.grid]
    shown, used = {name: GridRow(name) for name in ids}, used_conditions(suite)
    for request, given in conditions.items():
        if request in shown:
            shown[request].conditions = Conditions(**{name: value for name, value in given.items() if name in used})
    for name, run in runs.items():
        for request, image in run.images(ids):
            if name == "ground-truth":
                shown[request].truth = image
            elif name != "shuffled":
                shown[request].images[name] = image
    return list(shown.values())


def method_columns(table: Table, shown: Sequence[GridRow]) -> list[tuple[str, str]]:
    """Methods that have images, in the table's order, with their titles."""
    return [(row.name, row.title) for row in table.methods if any(row.name in s.images for s in shown)]


def write_samples(page: Page, suite: Suite, shown: Sequence[GridRow], folder: Path) -> None:
    """Fill the page's grid and write its images; images of an earlier grid are removed."""
    conditions = figures.condition_columns(shown)
    truth = [("truth", "Ground truth")] if any(s.truth is not None for s in shown) else []
    page.sample_columns = [*conditions, *truth, *method_columns(page.table, shown)]
    page.legend = figures.legend(shown)
    kept = Kept(folder, folder / suite.name / "samples.json")
    for request in shown:
        sample = Sample(request.id, request.caption or ("(no caption)" if "text" in used_conditions(suite) else ""))
        given = {
            name: figures.condition_image(name, request.conditions, request.truth, THUMBNAIL) for name, _ in conditions
        }
        images: dict[str, np.ndarray | None] = {"truth": request.truth, **request.images}
        for name, image in images.items():
            over = None if image is None else figures.with_overlays(image, request.conditions, THUMBNAIL)
            images[name] = image if over is None else over
        for name, image in {**given, **images}.items():
            if image is not None:
                kind = figures.drawn_conditions().get(name)
                exact = kind is not None and kind.drawing != "image"
                sample.files[name] = _thumbnail(kept, suite.name, image, exact)
        page.samples.append(sample)
    shown_files = {file for sample in page.samples for file in sample.files.values()}
    kept.entries = {file: entry for file, entry in kept.entries.items() if file in shown_files}
    kept.write()
    remove_own(folder / suite.name / "samples", THUMBNAIL_NAME, {Path(file).name for file in shown_files})


def _thumbnail(kept: Kept, suite: str, pixels: np.ndarray, exact: bool) -> str:
    """A small image file; its name follows from its content, so that it is written only when it is new."""
    from PIL import Image

    digest = hashlib.sha256(pixels.tobytes() + f"{pixels.shape}{exact}{THUMBNAIL}".encode()).hexdigest()[:16]
    place = f"{suite}/samples/{digest}.{'png' if exact else 'webp'}"
    if kept.files(place, digest) is None:
        image = Image.fromarray(pixels)
        content = io.BytesIO()
        if exact:  # enlarged by the browser without smoothing
            image.save(content, "PNG", optimize=True)
        else:
            image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS).save(content, "WEBP", quality=90)
        write_bytes(kept.folder / place, content.getvalue())
        kept.keep(place, digest, [place], write=False)
    return place
