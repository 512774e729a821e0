"""`concord bench`, all of `make bench` under one lock: plan, make what is out of date in one call, record it by DVC."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from concord.arguments import Device, Devices, Plugins, ProfileName, Results, SizeName, open_plan, open_session
from concord.data.errors import ConcordError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from concord.benchmarks.plan.runs import RunPlan
    from concord.benchmarks.run.generate import RunResult
    from concord.benchmarks.session import Session

RESULTS = Path("results")

SuiteOption = Annotated[
    str | None, typer.Option("--suite", help="Only this suite; all of them if absent.", show_default=False)
]


def bench(
    suite: SuiteOption = None,
    size: SizeName = "default",
    profile: ProfileName = "embedded",
    device: Device = "auto",
    results: Results = RESULTS,
    plugin: Plugins = None,
    devices: Devices = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Accept the licences of what profile paper fetches, as they are listed.")
    ] = False,
) -> None:
    """Run everything that is out of date, in one call, then have DVC record it (needs the checkout).

    `dvc repro` alone does the same, suite by suite. Only one at a time in a checkout.

    Examples:

      concord bench

      concord bench --suite face-generation --size full
    """
    import yaml

    from concord.benchmarks.dvc import MATRIX
    from concord.benchmarks.settings import ROOT
    from concord.commands.run import plan
    from concord.data.files import write_json
    from concord.data.lock import Held, hold
    from concord.fork_server import warm

    if not (ROOT / "dvc.yaml").is_file():
        raise ConcordError(f"{ROOT}: holds no dvc.yaml; `concord bench` needs a checkout, `concord run SUITE` none")
    place = ROOT / ".dvc" / "tmp" / "bench.lock"
    place.parent.mkdir(parents=True, exist_ok=True)
    about = place.with_suffix(".json")
    try:
        with hold(place):
            write_json(about, {"suite": suite or "all"})
            states = plan(suite, size, profile, device, results, plugin, devices, yes)
            matrix = yaml.safe_load(MATRIX.read_text(encoding="utf-8"))
            options = f"--size {size} {matrix['options']}" + (f" --suite {shlex.quote(suite)}" if suite else "")
            dvc = f"{shlex.quote(sys.executable)} -m dvc repro"
            data = _data_stages(matrix, profile)
            steps = [f"{dvc} {' '.join(data)}"] if data else []
            if data or any("up to date" not in state for state in states):
                steps.append(f"concord run --all-stale {options}")
            code = warm(["sh", "-c", " && ".join([*steps, dvc])])
    except Held as held:
        raise ConcordError(
            f"another `make bench` ({held.holder}, suite {_suite_of(about)}) is running; wait for it, or end it first"
        ) from None
    if code:
        raise typer.Exit(code)


def _suite_of(about: Path) -> str:
    from concord.data.files import read_json

    try:
        return str(read_json(about)["suite"])
    except (ConcordError, KeyError, TypeError):
        return "not known"


def _data_stages(matrix: dict[str, Any], profile: str) -> list[str]:
    """The stages of data that come before any row: all where something is fetched, else those that are lacking."""
    from concord.benchmarks.settings import ROOT

    names = [f"{group}@{name}" for group in ("fetch", "fetched") for name in matrix[group]]
    trees = {name: tree for name, tree in matrix["trees"].items() if names or not (ROOT / tree["mark"]).is_file()}
    return [*names, *(f"trees@{name}" for name in trees)]


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
