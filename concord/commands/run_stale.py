"""`concord run --all-stale`: every row of every suite that is not up to date, in one call."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from concord.arguments import open_plan, open_session
from concord.data.errors import ConcordError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from concord.benchmarks.plan.runs import RunPlan
    from concord.benchmarks.run.generate import RunResult
    from concord.benchmarks.session import Session


def run_stale(
    suite: str | None, size: str, profile: str, device: str, results: Path, plugin: list[Path] | None,
    batch_size: int | None, devices: str | None,
) -> None:  # fmt: skip
    """`concord run --all-stale`: every row of every suite that is not up to date, made and scored; says why each."""
    from concord.benchmarks.generators import has_models
    from concord.benchmarks.plan.requests import NothingToAskError
    from concord.benchmarks.suite import load_suites
    from concord.console import conclude, tell_reasons, tell_seconds

    sessions: list[Session] = []
    own: dict[str, list[RunPlan]] = {}
    runs: list[RunPlan] = []
    made: list[RunPlan] = []
    scored: list[RunPlan] = []
    for found in load_suites():
        if found.name != (suite or found.name) or not has_models(found, profile):
            continue
        try:
            plan = open_plan(found.name, size=size, profile=profile, results=results, plugin=plugin)
        except NothingToAskError as error:
            if profile == "embedded":
                raise
            typer.echo(f"{found.name}: not run: {error}", err=True)
            continue
        session = open_session(plan, device, batch_size, devices)
        if sessions:
            session.share_perception(sessions[0])
        sessions.append(session)
        known = {run.path for run in runs}
        own[found.name] = [run for run in plan.runs if run.path not in known]
        runs += own[found.name]
        tell_reasons(session, own[found.name])
    if not sessions:
        raise ConcordError(f"no suite of profile '{profile}' is to be run; see `concord list`")
    problems = _share_rows(sessions, list(own.values()), made)
    for session, rows in zip(sessions, own.values(), strict=True):
        failed = {name.partition("/")[2] for name in problems if name.startswith(f"{session.plan.requests.name}/")}
        rows = [run for run in rows if run.row.name not in failed]
        made += session.generate(rows)
        scored += session.score([run for run in rows if run.row.name not in session.not_run])
        for what, reason in [*session.not_run.items(), *session.metrics_not_run.items()]:
            typer.echo(f"{session.plan.requests.name}/{what}: {reason}", err=True)
    conclude([run for run in runs if run in made or run in scored], made, scored)
    tell_seconds(sessions)
    if problems:
        raise ConcordError("; ".join(f"row '{name}': {line}" for name, line in problems.items()))


def _share_rows(sessions: Sequence[Session], rows: Sequence[Sequence[RunPlan]], made: list[RunPlan]) -> dict[str, str]:
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
