"""`concord report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from concord.arguments import DataFolder, Limit, ProfileName, Results, SeedSet
from concord.data.errors import ConcordError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from concord.benchmarks.plan.runs import Plan
    from concord.benchmarks.store.run import Run, Store
    from concord.benchmarks.suite import Suite
    from concord.data.request import Conditions
    from concord.reports.tables.table import Table

RESULTS = Path("results")


SuiteOption = Annotated[
    list[str] | None, typer.Option("--suite", help="The same as SUITE; may be given again.", show_default=False)
]


def report(
    suites: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SUITE]...", help="Suites; all of them if absent.", show_default=False),
    ] = None,
    suite: SuiteOption = None,
    results: Results = RESULTS,
    profile: ProfileName = "embedded",
    data_set: Annotated[
        str | None,
        typer.Option(
            "--data-set",
            help="Results below the profile's folder, by name: data-..., limit-..., seeds-...",
            show_default=False,
        ),
    ] = None,
    data: DataFolder = None,
    limit: Limit = None,
    seed_set: SeedSet = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="Write the pages, print no tables.")] = False,
    where: Annotated[
        bool, typer.Option("--where", help="Print tables and where the pages are; write nothing.")
    ] = False,
) -> None:
    """Write tables, figures and pages from stored results, and print the tables.

    Examples:

      concord report

      concord report face-generation --limit 8

      concord report --data path/to/CelebAMask-HQ
    """  # fmt: skip
    from concord.benchmarks.plan.requests import Options
    from concord.benchmarks.settings import load_settings
    from concord.benchmarks.store.run import Store
    from concord.benchmarks.suite import read_suite, suite_names

    load_settings().profile(profile)
    options = Options(profile, "default", limit, data, seed_set, results)
    store = Store(stored_root(options, data_set))
    asked = [*(suites or []), *(suite or [])]
    found = [read_suite(name).in_profile(profile) for name in dict.fromkeys(asked or suite_names())]
    first = found[0].name if found else "SUITE"
    named = [one.name for one in found] if asked else []  # a suite may be asked for by the path of its file
    if not any(store.runs(one.request_set) for one in found):
        raise ConcordError(
            f"{store.root}: no results of {' or '.join(s.name for s in found)}; run `concord run {first}`"
        )
    if asked or store.root.name != profile:  # all suites have their page, but a folder of trials shows what was tried
        others = [read_suite(name).in_profile(profile) for name in suite_names() if name not in asked]
        kept = found if asked else []
        found = kept + [one for one in others if store.runs(one.request_set)]
    chosen = [with_reasons(with_extra_rows(one, store), store, profile) for one in found]
    printed = [] if quiet else (named or [one.name for one in chosen])
    if where:
        _show([one for one in chosen if one.name in printed], store, profile)
        return
    conditions: dict[str, Mapping[str, Conditions]] = {}
    for one in chosen:
        if one.request_set not in conditions:
            conditions[one.request_set] = _conditions_of(one, store, options, chosen)
    _write(chosen, store, profile, conditions, printed)


def report_plan(plan: Plan) -> None:
    """What `concord run` ends with: the report of the plan's folder, the plan's own table printed.

    All suites that have results in the folder are written again, so that the overview stays whole.
    """
    from concord.benchmarks.store.run import Run, Store
    from concord.benchmarks.suite import read_suite, suite_names
    from concord.reports.figures.conditions import dataset_conditions

    store = Store(plan.root)
    profile = plan.options.profile
    suites = [with_reasons(with_extra_rows(with_plan_rows(plan), store), store, profile)]
    others = [read_suite(name).in_profile(profile) for name in suite_names() if name != plan.suite.name]
    suites += [with_extra_rows(suite, store) for suite in others if store.runs(suite.request_set)]
    conditions: dict[str, Mapping[str, Conditions]] = {}
    finished = [run for run in plan.runs if Run(run.path).finished]
    if finished:
        grid = max(suite.grid for suite in suites if suite.request_set == plan.suite.request_set)
        conditions[plan.suite.request_set] = dataset_conditions(
            plan.requests.dataset, Run(finished[0].path), grid, plan.suite.conditions, plan.suite.options
        )
    _write(suites, store, plan.options.profile, conditions, [plan.suite.name])


# --------------------------------------------------------------------------------------------------------- what to show


def with_reasons(suite: Suite, store: Store, profile: str) -> Suite:
    """The suite with, for every row of profile 'paper' that cannot be made here, the reason in place of its numbers."""
    from concord.benchmarks.generators import PROFILE, row_reason

    if profile != PROFILE:
        return suite
    reasons = {row.name: row_reason(suite, row, profile) for row in suite.rows
               if row.method and not store.run(suite.request_set, row.name).finished}  # fmt: skip
    rows = [row.model_copy(update={"planned": reasons[row.name]}) if reasons.get(row.name) else row
            for row in suite.rows]  # fmt: skip
    return suite.model_copy(update={"rows": rows})


def with_extra_rows(suite: Suite, store: Store) -> Suite:
    """The suite with stored rows that no suite names (--set, --methods, --plugin); they show in their set's own suite.

    Only rows with the same requests as the suite's own join: an experiment never gets a whole table refused.
    """
    from concord.benchmarks.suite import Row, read_suite, suite_names

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
    return suite.model_copy(update={"rows": [*suite.rows, *extra]})


def _answers(run: Run) -> tuple[list[str], str]:
    """What a run answers: its requests, over which data."""
    return run.ids, run.manifest["data"]["fingerprint"]


def with_plan_rows(plan: Plan) -> Suite:
    """The plan's suite with the rows that --set renamed beside the rows that they come from."""
    from concord.benchmarks.store.run import Run

    known = {row.name for row in plan.suite.rows}
    made = (run for run in plan.runs if Run(run.path).finished)  # --methods chooses some of those that --set renames
    changed = [run.row for run in made if not run.is_reference and run.row.name not in known]
    reference = [name for name in plan.suite.reference if name not in plan.skipped]  # the folder may have no images
    return plan.suite.model_copy(update={"rows": [*plan.suite.rows, *changed], "reference": reference})


def stored_root(options: object, data_set: str | None) -> Path:
    """results/<profile>, or the folder below it that the options or the name mean."""
    from concord.benchmarks.plan.requests import Options
    from concord.benchmarks.planner import results_root

    assert isinstance(options, Options)
    if data_set is not None:
        base = options.results / options.profile
        found = sorted(
            path.parent.name
            for path in base.glob("*/*/")
            if (path.parent.name.startswith(("data-", "limit-", "seeds-")))
        )
        matches = [name for name in dict.fromkeys(found) if name == data_set or name.startswith(f"data-{data_set}")]
        if len(matches) != 1:
            known = ", ".join(dict.fromkeys(found)) or "none yet"
            raise ConcordError(f"--data-set {data_set}: expected one of {known} (in {base})")
        return base / matches[0]
    if options.data is None:
        from concord.data.datasets.faces.dataset import FaceDataset

        return results_root(options, FaceDataset(Path(), "", "all", None, [], []))
    from concord.data.datasets.open import kind_of, open_dataset

    return results_root(options, open_dataset(kind_of(options.data), options.data))


def _conditions_of(suite: Suite, store: Store, options: object, suites: Sequence[Suite]) -> Mapping[str, Conditions]:
    """Conditions of the grid's requests: kept beside the report, else from the dataset; none when it is not there."""
    from concord.benchmarks.plan.requests import Options
    from concord.benchmarks.planner import open_items
    from concord.benchmarks.settings import load_settings
    from concord.reports.figures.conditions import dataset_conditions, kept_conditions
    from concord.reports.site.tiles import conditions_drawn

    assert isinstance(options, Options)
    runs = store.runs(suite.request_set)
    if not runs:
        return {}
    grid = max(other.grid for other in suites if other.request_set == suite.request_set)
    wanted = runs[0].ids[:grid]
    kept = kept_conditions(store.root / "report", suite.request_set, wanted)
    if len(kept) == len(wanted) and conditions_drawn(store.root / "report", runs[0], suite.conditions):
        return kept
    try:
        items = open_items(suite, load_settings(), options)
        return dataset_conditions(items, runs[0], grid, suite.conditions, suite.options)
    except ConcordError as error:
        if len(kept) == len(wanted):  # the grids are whole without the dataset; the viewer shows images alone
            return kept
        typer.echo(f"sample grids show no masks and captions: {error}", err=True)
        return {}


def _write(
    suites: Sequence[Suite],
    store: Store,
    profile: str,
    conditions: Mapping[str, Mapping[str, Conditions]],
    printed: Sequence[str],
) -> None:
    """Write the report, print the named tables, and end with an error when a table had to be refused."""
    from concord.reports.figures.conditions import keep_conditions
    from concord.reports.site.html import write_report

    folder = store.root / "report"
    for request_set, given in conditions.items():
        if given:
            keep_conditions(folder, request_set, given)
    pages = write_report(suites, store, profile, conditions)
    for page in pages:
        if page.name in printed:
            print_table(page.table)
    tell_left_out([page.table for page in pages if page.name in printed])
    if store.root.name == profile:  # trials in folders of their own are no outputs of the benchmark
        from concord.reports.compare.baseline import write_summary

        write_summary(store, profile, store.root.parent / "metrics" / profile)
    typer.echo(f"report: {folder / 'index.html'}")
    refused = [f"suite '{page.name}': {page.table.refusal}" for page in pages if page.table.refusal]
    if refused:
        raise ConcordError("; ".join(refused))


def _show(suites: Sequence[Suite], store: Store, profile: str) -> None:
    from concord.reports.assemble import build_table

    index = store.root / "report" / "index.html"
    if not index.is_file():
        raise ConcordError(f"{index}: no report yet; run `concord report`")
    tables = [build_table(suite, store, profile) for suite in suites]
    for table in tables:
        print_table(table)
    tell_left_out(tables)
    typer.echo(f"report: {index}")


def tell_left_out(tables: Sequence[Table]) -> None:
    """What was not made or not scored for want of a file, a line each: which, and the command that supplies it."""
    lines: dict[str, None] = {}
    for table in tables:
        waiting = [row for row in table.rows if row.absent.startswith("not run:") and "`concord " in row.absent]
        lines |= {f"{table.name}/{row.name}: {row.absent}": None for row in waiting}
        lines |= {f"not scored: {reason}": None for reason in table.notes.get("Not scored", [])}
    for line in lines:
        typer.echo(line)


def print_table(table: Table) -> None:
    """In a terminal a drawn table, in a file or a pipe Markdown."""
    from rich.console import Console

    from concord.reports.tables.table import to_markdown, to_terminal

    console = Console()
    if console.is_terminal:
        console.print(to_terminal(table))
    else:
        typer.echo(to_markdown(table))
