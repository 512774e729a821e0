"""The data of the sample viewer: <suite>/viewer.js, asked for by the page when the viewer comes into sight.

Scores are float32 in base64, one text for each row and metric, decoded when they are first needed: 10,000 requests of
five rows and four metrics are about a megabyte.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from concord.reports.figures import grid as figures
from concord.reports.site.files import script_json, write_bytes
from concord.reports.site.page import Page, Viewer
from concord.reports.site.tiles import SHEET, Sheets, Tiles
from concord.reports.tables.measured import Measured, MetricFacts, add_joint, read_measured

if TYPE_CHECKING:
    from concord.benchmarks.store.run import Run, Store
    from concord.benchmarks.suite import Suite
    from concord.data.request import Conditions


def write_viewer(
    page: Page,
    suite: Suite,
    store: Store,
    facts: dict[str, MetricFacts],
    conditions: Mapping[str, Conditions],
    folder: Path,
) -> None:
    """Write the viewer's data and say on the page what its controls offer.

    A refused table has no viewer (its rows did not answer the same requests), nor has one without a sample metric.
    """
    measured = _measured(page, suite, store, facts)
    shared = [fact for fact in facts.values() if any(fact.name in one.values for one in measured.values())]
    if page.table.refusal or not measured or not shared:
        return
    sheets = Sheets(folder, suite.request_set)
    run = next(iter(measured.values())).run
    decimals = {column.name: column.decimals for column in page.table.columns}
    metrics = [
        {
            "name": fact.name,
            "label": fact.label,
            "higher": fact.higher_is_better,
            "decimals": min(4, decimals.get(fact.name, 2) + 1),
        }
        for fact in shared
    ]
    titles = {row.name: row.title for row in page.table.rows}
    rows = [name for name in titles if name in measured]
    given = [
        {"name": name, "title": figures.drawn_conditions()[name].title, "tiles": tiles.facts()}
        for name, tiles in _given_tiles(suite, run, store, sheets, conditions).items()
    ]
    columns = []
    for name in rows:
        tiles = sheets.of_run(measured[name].run)
        columns.append({"name": name, "title": titles[name], "tiles": tiles.facts() if tiles else None})
    source = f"{suite.name}/viewer.js"
    data = {
        "ids": run.ids,
        "texts": sheets.texts(run, conditions) if "text" in suite.conditions else None,
        "sheet": SHEET,
        "metrics": metrics,
        "titles": {name: titles[name] for name in rows},
        "columns": columns,
        "given": given,
        "scores": {name: _scores(measured[name], metrics) for name in rows},
        "failed": {name: _failed(measured[name], metrics) for name in rows},
    }
    write_bytes(folder / source, f"concordViewer.receive({script_json(data)});\n".encode())
    offered = [(name, titles[name]) for name in rows]
    # Papers put their own method last, and what it is held against before it.
    rivals = [row.name for row in page.table.methods if row.name in measured and not row.role] or rows
    page.viewer = Viewer(
        source, len(run.ids), metrics, offered, [str(one["title"]) for one in given], rivals[-1], rivals[-2:][0]
    )


def _measured(page: Page, suite: Suite, store: Store, facts: dict[str, MetricFacts]) -> dict[str, Measured]:
    """The scored rows that answered the requests; 'shuffled' shows the images of other requests and is left out."""
    if page.table.refusal:
        return {}
    found = {}
    for name in suite.row_names():
        run = store.run(suite.request_set, name)
        if run.scored:
            found[name] = read_measured(run, facts)
    add_joint(found, suite, facts)
    found.pop("shuffled", None)
    return found


def _given_tiles(
    suite: Suite, run: Run, store: Store, sheets: Sheets, conditions: Mapping[str, Conditions]
) -> dict[str, Tiles]:
    truth = store.run(suite.request_set, "ground-truth")
    found = {}
    for name in figures.drawn_conditions():
        if name in suite.conditions:
            every = every_condition(conditions, run)
            tiles = sheets.of_condition(name, run, every, truth if truth.finished else None)
            if tiles is not None:
                found[name] = tiles
    return found


def every_condition(conditions: Mapping[str, Conditions], run: Run) -> Iterable[tuple[str, Conditions]] | None:
    """(request, conditions) of all of a run's requests, where they can be had; None where only the grid's are there."""
    every = getattr(conditions, "every", None)
    if every is not None:
        found: Iterable[tuple[str, Conditions]] = every()
        return found
    ids = run.ids
    return ((name, conditions[name]) for name in ids) if all(name in conditions for name in ids) else None


def _scores(measured: Measured, metrics: list[dict[str, object]]) -> dict[str, str]:
    return {
        fact["name"]: base64.b64encode(np.asarray(measured.values[fact["name"]], "<f4").tobytes()).decode()
        for fact in metrics
        if fact["name"] in measured.values
    }


def _failed(measured: Measured, metrics: list[dict[str, Any]]) -> dict[str, list[int]]:
    """Metric -> places of the requests whose measurement failed; they hold the metric's worst value."""
    found = {}
    for fact in metrics:
        failed = measured.failed.get(fact["name"])
        if failed is not None and failed.any():
            found[fact["name"]] = [int(place) for place in np.flatnonzero(failed)]
    return found
