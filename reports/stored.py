"""Which suites and rows the report of a results folder shows: those of the suites, and what else is stored there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from concord.benchmarks.generators import row_reason
from concord.benchmarks.plan.requests import Options
from concord.benchmarks.plan.runs import Plan
from concord.benchmarks.planner import open_items, results_root
from concord.benchmarks.settings import load_settings
from concord.benchmarks.store.run import Run, Store
from concord.benchmarks.suite import Row, Suite, read_suite, suite_names
from concord.data.datasets.faces.dataset import FaceDataset
from concord.data.datasets.open import kind_of, open_dataset
from concord.data.errors import ConcordError
from concord.data.request import Conditions
from concord.reports.own_suites import kept_suites

if TYPE_CHECKING:
    from concord.reports.tables.table import Table


def with_reasons(suite: Suite, store: Store, profile: str) -> Suite:
    """The suite with, for every row of profile 'paper' that cannot be made here, the reason in place of its numbers."""

    reasons = {
        row.name: row_reason(suite, row, profile)
        for row in suite.rows
        if row.method and not store.run(suite.request_set, row.name).finished
    }
    rows = [
        row.model_copy(update={"planned": reasons[row.name]}) if reasons.get(row.name) else row for row in suite.rows
    ]
    return suite.model_copy(update={"rows": rows})


def with_extra_rows(suite: Suite, store: Store) -> Suite:
    """The suite with stored rows that no suite names (--set, --methods, --plugin); they show in their set's own suite.

    Only rows with the same requests as the suite's own join: an experiment never gets a whole table refused.
    """

    if suite.name != suite.request_set:
        return suite
    named = set(suite.row_names())
    for name in suite_names():
        other = read_suite(name)
        if other.request_set == suite.request_set:
            named.update(other.row_names())
    runs = store.runs(suite.request_set)
    own = [_answers(run) for run in runs if run.row in suite.row_names()]
    extra = [
        Row(
            name=run.row,
            method=run.manifest["method"],
            conditions=run.manifest["conditions"],
            params=run.manifest["params"],
        )
        for run in runs
        if run.row not in named and run.manifest.get("method") and (not own or _answers(run) == own[0])
    ]
    there = {run.row for run in runs} | named
    lost = [name for name in store.lost(suite.request_set) if name not in there]
    extra += [Row(name=name, planned="its results are gone") for name in lost]
    return suite.model_copy(update={"rows": [*suite.rows, *extra]})


def _answers(run: Run) -> tuple[list[str], str]:
    """What a run answers: its requests, over which data."""
    return run.ids, run.manifest["data"]["fingerprint"]


def with_plan_rows(plan: Plan) -> Suite:
    """The plan's suite with the rows that --set renamed beside the rows that they come from."""

    known = {row.name for row in plan.suite.rows}
    made = (run for run in plan.runs if Run(run.path).finished)  # --methods chooses some of those that --set renames
    changed = [run.row for run in made if not run.is_reference and run.row.name not in known]
    reference = [name for name in plan.suite.reference if name not in plan.skipped]  # the folder may have no images
    return plan.suite.model_copy(update={"rows": [*plan.suite.rows, *changed], "reference": reference})


def stored_root(options: Options, data_set: str | None) -> Path:
    """results/<profile>, or the folder below it that the options or the name mean."""

    if data_set is not None:
        base = options.results / options.profile
        found = sorted(
            path.parent.name
            for path in base.glob("*/*/")
            if (path.parent.name.startswith(("data-", "limit-", "seeds-", "pooled-", "quick")))
        )
        matches = [name for name in dict.fromkeys(found) if name == data_set or name.startswith(f"data-{data_set}")]
        if len(matches) != 1:
            known = ", ".join(dict.fromkeys(found)) or "none yet"
            raise ConcordError(f"--data-set {data_set}: expected one of {known} (in {base})")
        return base / matches[0]
    if options.data is None:
        return results_root(options, FaceDataset(Path(), "", "all", None, [], []))

    return results_root(options, open_dataset(kind_of(options.data), options.data))


def conditions_of(
    suite: Suite, store: Store, options: Options, suites: Sequence[Suite]
) -> tuple[Mapping[str, Conditions], str]:
    """Conditions of the grid's requests: kept beside the report, else from the dataset; none, and why, without it."""
    from concord.reports.figures.conditions import dataset_conditions, kept_conditions
    from concord.reports.site.tiles import conditions_drawn

    runs = store.runs(suite.request_set)
    if not runs:
        return {}, ""
    grid = max(other.grid for other in suites if other.request_set == suite.request_set)
    shown = runs[0].ids[:grid]
    kept = kept_conditions(store.root / "report", suite.request_set, shown)
    if len(kept) == len(shown) and conditions_drawn(store.root / "report", runs[0], suite.conditions):
        return kept, ""
    try:
        items = open_items(suite, load_settings(), options)
        return dataset_conditions(items, runs[0], grid, suite.conditions, suite.options), ""
    except ConcordError as error:
        if len(kept) == len(shown):  # the grids are whole without the dataset; the viewer shows images alone
            return kept, ""
        return {}, f"sample grids show no masks and captions: {error}"


def find_table(name: str, store: Store, profile: str) -> Table:
    """The table of a suite, or one that the papers print and no suite answers; ConcordError lists the names."""
    from concord.reports.assemble import build_table, unanswered_tables

    own = {suite.name: suite for suite in kept_suites(store)}
    if name in own or name in suite_names() or name.endswith((".yaml", ".yml")):
        suite = with_reasons(with_extra_rows(own.get(name) or read_suite(name), store), store, profile)
        return build_table(suite, store, profile)
    others = {table.name: table for table in unanswered_tables(profile)}
    if name not in others:
        raise ConcordError(f"unknown table '{name}': expected one of {', '.join([*suite_names(), *others])}")
    return others[name]
