"""The report of a results folder: tables, figures and pages of all suites that it holds anything of."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from concord.benchmarks.plan.requests import Options
from concord.benchmarks.plan.runs import Plan
from concord.benchmarks.settings import load_settings
from concord.benchmarks.store.digests import INDEX
from concord.benchmarks.store.run import Run, Store
from concord.benchmarks.suite import Suite, read_suite, suite_names
from concord.data.errors import ConcordError
from concord.data.lock import Held, hold
from concord.data.notes import note
from concord.data.own_files import PART, refuse_links_below, remove_own
from concord.data.profile import QUICK
from concord.data.request import Conditions
from concord.reports.own_suites import keep_suite, kept_suites
from concord.reports.site.parts import Unmade
from concord.reports.stored import conditions_of, stored_root, with_extra_rows, with_plan_rows, with_reasons

if TYPE_CHECKING:
    from concord.reports.tables.table import Table

PATIENCE = 600.0
"""Seconds that a report waits for another one of the same folder."""


@dataclass
class Report:
    """The tables of a results folder, built before anything is drawn or written; `write` makes the pages.

    asked: the suites that somebody asked for by name; none where all were. unread: suite -> why it has no table.
    """

    suites: Sequence[Suite]
    store: Store
    profile: str
    tables: Mapping[str, Table]
    unread: Mapping[str, str]
    asked: Sequence[str] = ()
    conditions: Conditioner | None = None
    notes: list[str] = field(default_factory=list)  # what the pages lack, though nothing is wrong
    unmade: Unmade = field(default_factory=Unmade)

    @property
    def index(self) -> Path:
        """The page to begin with."""
        return self.store.root / "report" / "index.html"

    @property
    def problems(self) -> list[str]:
        """What is wrong, a line each: tables that are refused or cannot be read, rows that are gone, parts not made."""
        refused = [f"suite '{name}': {table.refusal}" for name, table in self.tables.items() if table.refusal]
        missing = [
            f"{table.name}/{row.name}: {row.absent}"
            for table in self.tables.values()
            for row in table.rows
            if row.is_missing
        ]
        return [*self.unread.values(), *refused, *missing, *([self.unmade.line] if self.unmade.parts else [])]

    def write(self) -> None:
        """Write pages, figures and files of the tables; what cannot be made is in `problems`, the rest is there."""
        from concord.reports.figures.conditions import keep_conditions
        from concord.reports.site.html import write_report

        folder, part = self.store.root / "report", self.unmade.part
        shown = [suite for suite in self.suites if suite.name in self.tables]
        conditions: dict[str, Mapping[str, Conditions]] = {}
        with contextlib.ExitStack() as stack, part("pages and figures"):
            refuse_links_below(folder)
            stack.enter_context(_alone(folder))
            for suite in shown:
                with part(f"{suite.name}: conditions of the samples"):
                    if self.conditions is not None and suite.request_set not in conditions:
                        conditions[suite.request_set], note = self.conditions(suite)
                        self.notes += [note] if note else []
                        if conditions[suite.request_set]:
                            keep_conditions(folder, suite.request_set, conditions[suite.request_set])
            write_report(shown, self.store, self.profile, conditions, tables=self.tables, unmade=self.unmade)
        if self.store.root.name == self.profile:  # trials in folders of their own are no outputs of the benchmark
            from concord.reports.compare.baseline import write_summary

            with part("metrics of DVC"):
                write_summary(self.store, self.profile, self.store.root.parent / "metrics" / self.profile)


Conditioner = Callable[[Suite], tuple[Mapping[str, Conditions], str]]
"""The conditions of a suite's sample grid, and a line where they cannot be had."""


def stored_report(names: Sequence[str], options: Options, data_set: str | None = None, write: bool = True) -> Report:
    """The report of a results folder. names: the suites asked for; all for none.

    write: False where the tables alone are wanted, of a report that was written before.
    """
    profile = options.profile
    load_settings().profile(profile)
    store = Store(stored_root(options, data_set))
    own = {suite.name: suite.in_profile(profile) for suite in kept_suites(store)}
    asked = [own.get(name) or read_suite(name).in_profile(profile) for name in dict.fromkeys(names or suite_names())]
    asked = _shown(asked, store)
    if not any(_has_results(store, suite) for suite in asked):
        listed = " or ".join(suite.name for suite in asked)
        raise ConcordError(f"{store.root}: no results of {listed}; run `concord run {asked[0].name}`")
    asked += [suite for name, suite in own.items() if not names]
    suites = asked
    if names or store.root.name != profile:  # all suites have their page, but a folder of trials shows what was tried
        others = [read_suite(name).in_profile(profile) for name in suite_names() if name not in names]
        suites = (asked if names else []) + [suite for suite in _shown(others, store) if _has_results(store, suite)]
    there = {suite.name for suite in suites}
    suites = [*suites, *(suite for name, suite in own.items() if name not in there)]
    named = [suite.name for suite in asked] if names else []  # a suite may be asked for by the path of its file
    if not write:
        index = store.root / "report" / "index.html"
        if not index.is_file():
            raise ConcordError(f"{index}: no report yet; run `concord report`")
        suites = [suite for suite in suites if not named or suite.name in named]
    every = list(suites)
    return _built(
        [(suite.name, partial(_stored_suite, suite, store, profile)) for suite in suites],
        store,
        profile,
        named,
        lambda suite: conditions_of(suite, store, options, every),
    )


def _has_results(store: Store, suite: Suite) -> bool:
    """Whether anything of a suite was made, be it whole or not."""
    return any((store.root / suite.request_set).glob("*/run.json")) or (store.root / suite.request_set / INDEX).exists()


def _stored_suite(suite: Suite, store: Store, profile: str) -> Suite:
    return with_reasons(with_extra_rows(suite, store), store, profile)


def plan_report(plan: Plan) -> Report:
    """The report of the plan's folder. All suites with results are written again, so that the overview stays whole."""
    store, profile = Store(plan.root), plan.options.profile
    others = [read_suite(name).in_profile(profile) for name in suite_names() if name != plan.suite.name]
    others = _shown(others, store)
    if plan.file is not None:
        keep_suite(store, plan.file)
    others += [suite.in_profile(profile) for suite in kept_suites(store) if suite.name != plan.suite.name]
    opened = [(plan.suite.name, lambda: _stored_suite(with_plan_rows(plan), store, profile))]
    opened += [(suite.name, partial(with_extra_rows, suite, store)) for suite in others if _has_results(store, suite)]
    return _built(opened, store, profile, [plan.suite.name], lambda suite: _plan_conditions(plan, suite, others))


def _plan_conditions(plan: Plan, suite: Suite, others: Sequence[Suite]) -> tuple[Mapping[str, Conditions], str]:
    """Those of the plan's requests, whose dataset is open; suites of other requests show what is kept of theirs."""
    from concord.reports.figures.conditions import dataset_conditions

    finished = [run for run in plan.runs if Run(run.path).finished]
    if not finished or suite.request_set != plan.suite.request_set:
        return {}, ""
    grid = max(one.grid for one in (plan.suite, *others) if one.request_set == plan.suite.request_set)
    run = Run(finished[0].path)
    return dataset_conditions(plan.requests.dataset, run, grid, plan.suite.conditions, plan.suite.options), ""


def _shown(suites: Sequence[Suite], store: Store) -> list[Suite]:
    """The suites as a results folder shows them: in the folder of size 'quick' what they say of it, or nothing."""
    if QUICK not in store.root.name.split("+"):
        return list(suites)
    return [suite.in_size(QUICK) for suite in suites if suite.quick is not None]


def _built(
    opened: Sequence[tuple[str, Callable[[], Suite]]],
    store: Store,
    profile: str,
    asked: Sequence[str],
    conditions: Conditioner,
) -> Report:
    """Every suite's table; one whose stored files are not what was written says so, and costs the others nothing."""
    from concord.reports.site.html import report_table

    suites: list[Suite] = []
    tables: dict[str, Table] = {}
    unread: dict[str, str] = {}
    for name, open_suite in opened:
        try:
            suite = open_suite()
            tables[name] = report_table(suite, store, profile)
            suites.append(suite)
        except ConcordError as error:
            unread[name] = str(error)
    return Report(suites, store, profile, tables, unread, asked, conditions)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the report's folder: a second report waits for the first, and what a killed one left behind is removed."""
    deadline, told = time.monotonic() + PATIENCE, False
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(hold(folder / ".lock"))
                break
            except Held as held:
                if time.monotonic() > deadline:
                    raise ConcordError(
                        f"{folder}: {held.holder} has been writing this report for {PATIENCE / 60:.0f} minutes; "
                        "end it, and run `concord report`"
                    ) from None
                if not told:
                    note(f"{folder}: {held.holder} is writing this report; waiting for it")
                    told = True
                time.sleep(0.2)
        for place, _, _ in os.walk(folder, followlinks=False):
            remove_own(Path(place), PART)
        yield


def left_out(tables: Sequence[Table]) -> list[str]:
    """What was not made or not scored for want of a file, a line each: which, and the command that supplies it."""
    lines: dict[str, None] = {}
    for table in tables:
        waiting = [row for row in table.rows if row.absent.startswith("not run:") and "`concord " in row.absent]
        lines |= {f"{table.name}/{row.name}: {row.absent}": None for row in waiting}
        lines |= {f"not scored: {reason}": None for reason in table.notes.get("Not scored", [])}
    return list(lines)
