"""The report of a results folder: tables, figures and pages of all suites that it holds anything of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from concord.benchmarks.plan.requests import Options
from concord.benchmarks.plan.runs import Plan
from concord.benchmarks.settings import load_settings
from concord.benchmarks.store.run import Run, Store
from concord.benchmarks.suite import Suite, read_suite, suite_names
from concord.data.errors import ConcordError
from concord.data.own_files import refuse_links_below
from concord.data.profile import QUICK
from concord.data.request import Conditions
from concord.reports.assemble import build_table
from concord.reports.own_suites import keep_suite, kept_suites
from concord.reports.stored import conditions_of, stored_root, with_extra_rows, with_plan_rows, with_reasons

if TYPE_CHECKING:
    from concord.reports.tables.table import Table


@dataclass(frozen=True)
class Report:
    """What was written: the page to begin with, every suite's table, and what the pages lack.

    asked: the suites that somebody asked for by name; none where all were.
    """

    index: Path
    tables: Mapping[str, Table]
    notes: Sequence[str] = ()
    asked: Sequence[str] = ()

    @property
    def refused(self) -> str:
        """Which tables had to be refused, and why."""
        return "; ".join(f"suite '{name}': {table.refusal}" for name, table in self.tables.items() if table.refusal)


def stored_report(names: Sequence[str], options: Options, data_set: str | None = None, write: bool = True) -> Report:
    """Write the report of a results folder. names: the suites asked for; all for none.

    write: False where the tables alone are wanted, of a report that was written before.
    """
    profile = options.profile
    load_settings().profile(profile)
    store = Store(stored_root(options, data_set))
    own = {suite.name: suite.in_profile(profile) for suite in kept_suites(store)}
    asked = [own.get(name) or read_suite(name).in_profile(profile) for name in dict.fromkeys(names or suite_names())]
    asked = _shown(asked, store)
    if not any(store.runs(suite.request_set) for suite in asked):
        listed = " or ".join(suite.name for suite in asked)
        raise ConcordError(f"{store.root}: no results of {listed}; run `concord run {asked[0].name}`")
    asked += [suite for name, suite in own.items() if not names]
    suites = asked
    if names or store.root.name != profile:  # all suites have their page, but a folder of trials shows what was tried
        others = [read_suite(name).in_profile(profile) for name in suite_names() if name not in names]
        suites = (asked if names else []) + [s for s in _shown(others, store) if store.runs(s.request_set)]
    there = {suite.name for suite in suites}
    suites += [suite for name, suite in own.items() if name not in there]
    suites = [with_reasons(with_extra_rows(suite, store), store, profile) for suite in suites]
    named = [suite.name for suite in asked] if names else []  # a suite may be asked for by the path of its file
    index = store.root / "report" / "index.html"
    if not write:
        if not index.is_file():
            raise ConcordError(f"{index}: no report yet; run `concord report`")
        shown = [suite for suite in suites if not named or suite.name in named]
        return Report(index, {suite.name: build_table(suite, store, profile) for suite in shown}, (), named)
    conditions: dict[str, Mapping[str, Conditions]] = {}
    notes = []
    for suite in suites:
        if suite.request_set not in conditions:
            conditions[suite.request_set], note = conditions_of(suite, store, options, suites)
            notes += [note] if note else []
    return _written(suites, store, profile, conditions, notes, named)


def plan_report(plan: Plan) -> Report:
    """The report of the plan's folder. All suites with results are written again, so that the overview stays whole."""
    from concord.reports.figures.conditions import dataset_conditions

    store, profile = Store(plan.root), plan.options.profile
    suites = [with_reasons(with_extra_rows(with_plan_rows(plan), store), store, profile)]
    others = [read_suite(name).in_profile(profile) for name in suite_names() if name != plan.suite.name]
    suites += [with_extra_rows(suite, store) for suite in _shown(others, store) if store.runs(suite.request_set)]
    if plan.file is not None:
        keep_suite(store, plan.file)
    kept = [suite.in_profile(profile) for suite in kept_suites(store) if suite.name != plan.suite.name]
    suites += [with_extra_rows(suite, store) for suite in kept]
    conditions: dict[str, Mapping[str, Conditions]] = {}
    finished = [run for run in plan.runs if Run(run.path).finished]
    if finished:
        grid = max(suite.grid for suite in suites if suite.request_set == plan.suite.request_set)
        conditions[plan.suite.request_set] = dataset_conditions(
            plan.requests.dataset, Run(finished[0].path), grid, plan.suite.conditions, plan.suite.options
        )
    return _written(suites, store, profile, conditions, (), [plan.suite.name])


def _shown(suites: Sequence[Suite], store: Store) -> list[Suite]:
    """The suites as a results folder shows them: in the folder of size 'quick' what they say of it, or nothing."""
    if QUICK not in store.root.name.split("+"):
        return list(suites)
    return [suite.in_size(QUICK) for suite in suites if suite.quick is not None]


def _written(
    suites: Sequence[Suite],
    store: Store,
    profile: str,
    conditions: Mapping[str, Mapping[str, Conditions]],
    notes: Sequence[str],
    asked: Sequence[str],
) -> Report:
    from concord.reports.figures.conditions import keep_conditions
    from concord.reports.site.html import write_report

    folder = store.root / "report"
    refuse_links_below(folder)
    for request_set, given in conditions.items():
        if given:
            keep_conditions(folder, request_set, given)
    pages = write_report(suites, store, profile, conditions)
    if store.root.name == profile:  # trials in folders of their own are no outputs of the benchmark
        from concord.reports.compare.baseline import write_summary

        write_summary(store, profile, store.root.parent / "metrics" / profile)
    return Report(folder / "index.html", {page.name: page.table for page in pages}, notes, asked)


def left_out(tables: Sequence[Table]) -> list[str]:
    """What was not made or not scored for want of a file, a line each: which, and the command that supplies it."""
    lines: dict[str, None] = {}
    for table in tables:
        waiting = [row for row in table.rows if row.absent.startswith("not run:") and "`concord " in row.absent]
        lines |= {f"{table.name}/{row.name}: {row.absent}": None for row in waiting}
        lines |= {f"not scored: {reason}": None for reason in table.notes.get("Not scored", [])}
    return list(lines)
