"""`concord run --all-stale`: every row of every suite that is not up to date, in one call."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from concord.arguments import MachineOptions, MethodOptions, RequestOptions, open_session, spread
from concord.data.errors import ConcordError
from concord.data.user_code import UserCodeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from concord.benchmarks.plan.runs import RunPlan
    from concord.benchmarks.run.generate import RunResult
    from concord.benchmarks.session import Session


def run_stale(
    suite: str | None,
    requests: RequestOptions,
    machine: MachineOptions,
    additions: MethodOptions,
    batch_size: int | None,
    results: Path,
) -> None:
    """`concord run --all-stale`: every row of every suite that is not up to date, made and scored; says why each."""
    from concord.benchmarks.generators import has_models
    from concord.benchmarks.opening import open_plan
    from concord.benchmarks.plan.requests import NothingToAskError
    from concord.benchmarks.suite import load_suites
    from concord.commands.bench_progress import overview
    from concord.console import print_reasons, print_summary, print_timing, raise_failed

    sessions: list[Session] = []
    own: dict[str, list[RunPlan]] = {}
    runs: list[RunPlan] = []
    made: list[RunPlan] = []
    scored: list[RunPlan] = []
    for found in load_suites():
        if found.name != (suite or found.name) or not has_models(found, requests.profile):
            continue
        try:
            plan = open_plan(found.name, requests.options(results), additions.additions(), say=typer.echo)
        except NothingToAskError as error:
            if requests.profile == "embedded":
                raise
            typer.echo(f"{found.name}: not run: {error}", err=True)
            continue
        session = open_session(plan, machine, batch_size)
        if sessions:
            session.share_judges(sessions[0])
        sessions.append(session)
        known = {run.path for run in runs}
        own[found.name] = [run for run in plan.runs if run.path not in known]
        runs += own[found.name]
        print_reasons(session, own[found.name])
    if not sessions:
        raise ConcordError(f"no suite of profile '{requests.profile}' is to be run; see `concord list`")
    told = overview(sessions, list(own.values()), requests.options(results))
    told.begin()
    problems: dict[str, UserCodeError] = {}
    if machine.engine is not None:
        outcome = spread(machine, list(zip(sessions, own.values(), strict=True)))
        made, scored = outcome.made, outcome.scored
        problems = {name: UserCodeError(line) for name, line in outcome.failed.items()}
    else:
        problems = _share_rows(sessions, list(own.values()), made)
    for session, rows in zip(sessions, own.values(), strict=True):
        name = session.plan.requests.name
        session.failed |= {
            run.row.name: problems[f"{name}/{run.row.name}"] for run in rows if f"{name}/{run.row.name}" in problems
        }
        rows = [run for run in rows if run.row.name not in session.failed]
        if machine.engine is None:
            made += session.generate(rows)
            scored += session.score([run for run in rows if run.row.name not in session.not_run])
        for what, reason in [*session.not_run.items(), *session.metrics_not_run.items()]:
            typer.echo(f"{session.plan.requests.name}/{what}: {reason}", err=True)
        if machine.engine is None:
            told.done()
    print_summary([run for run in runs if run in made or run in scored], made, scored)
    print_timing(sessions)
    failed = {f"{session.plan.requests.name}/{row}" for session in sessions for row in session.failed}
    raise_failed(sessions, [f"{name}: {error}" for name, error in problems.items() if name not in failed])


def _share_rows(
    sessions: Sequence[Session], rows: Sequence[Sequence[RunPlan]], made: list[RunPlan]
) -> dict[str, UserCodeError]:
    """On several devices: rows too small to be shared between them are made side by side. Returns what went wrong."""
    from concord.benchmarks.run.row_workers import generate_rows

    devices = sessions[0].devices
    if len(devices) < 2:
        return {}
    jobs = [job for session, runs in zip(sessions, rows, strict=True) for job in session.small_rows(runs)]
    by_path = {run.path: run for runs in rows for run in runs}

    def done(run: RunPlan, result: RunResult) -> None:
        made.append(by_path[run.path])
        typer.echo(f"generate {run.requests.name}/{run.row.name}: {sum(result.seconds.values()):.1f} s")

    return generate_rows(jobs, devices, done) if len(jobs) > 1 else {}
