"""`concord generate | score`: the two steps of a run, for one row, for a method's rows, or for whole suites."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from concord.arguments import (
    RESULTS,
    BatchSize,
    MachineOptions,
    MethodOptions,
    RequestOptions,
    Results,
    RowName,
    grouped,
    open_session,
    split_names,
    spread,
)
from concord.console import print_reasons, print_summary, print_timing, raise_failed
from concord.data.errors import ConcordError

if TYPE_CHECKING:
    from concord.benchmarks.plan.runs import Plan, RunPlan
    from concord.benchmarks.session import Session

SuiteNames = Annotated[
    str,
    typer.Argument(
        metavar="SUITE",
        help="A suite (see `concord list`), a .yaml file, or several separated by commas.",
        show_default=False,
    ),
]
MethodNames = Annotated[
    str | None,
    typer.Option(
        "--methods",
        help="Only the rows of these methods ('reference': the reference rows), by commas.",
        show_default=False,
    ),
]
Stamp = Annotated[
    Path | None,
    typer.Option("--stamp", help="A JSON file that names what was done, for DVC to watch.", show_default=False),
]


@grouped
def generate(
    suite: SuiteNames,
    requests: RequestOptions,
    machine: MachineOptions,
    additions: MethodOptions,
    row: RowName = None,
    methods: MethodNames = None,
    batch_size: BatchSize = None,
    results: Results = RESULTS,
    stamp: Stamp = None,
) -> None:
    """Make the images of one row of a suite, or of all its rows, where they are not up to date.

    Examples:

      concord generate face-generation collaborative

      concord generate face-generation,influence-ablation --methods collaborative

      concord generate influence-ablation --device cuda --batch-size 64

      concord generate face-generation --profile paper --devices cuda:0,cuda:1
    """
    from concord.benchmarks.opening import open_plan
    from concord.benchmarks.plan.requests import NothingToAskError

    sessions: list[Session] = []
    every: list[RunPlan] = []
    made: list[RunPlan] = []
    left: dict[str, str] = {}
    by_engine: list[tuple[Session, list[RunPlan]]] = []
    joining = additions.additions(chosen=[row] if row is not None else split_names(methods))
    for name in suite.split(","):
        try:
            plan = open_plan(name, requests.options(results), joining, _only(row, methods), typer.echo)
        except NothingToAskError as error:
            _leave(name, error, requests.profile, left)
            continue
        runs = _fresh(_pick(plan, row, methods), every)
        session = open_session(plan, machine, batch_size)
        sessions.append(session)
        print_reasons(session, runs)
        every += runs
        if machine.engine is None:
            made += session.generate(runs)
        else:
            by_engine.append((session, runs))
    if by_engine:
        made += spread(machine, by_engine, score=False).made
    for session in sessions:
        left |= {f"{session.plan.requests.name}/{row}": reason for row, reason in session.not_run.items()}
        undone = {run.path for run in session.plan.runs if run.row.name in (*session.not_run, *session.failed)}
        every = [run for run in every if run.path not in undone]
    if not every:
        raise_failed(sessions)
    _end(sessions, every, made, [], stamp, "run.json", left)
    raise_failed(sessions)


@grouped
def score(
    suite: SuiteNames,
    requests: RequestOptions,
    machine: MachineOptions,
    additions: MethodOptions,
    row: RowName = None,
    methods: MethodNames = None,
    reference: Annotated[
        bool, typer.Option("--reference", help="Only the features that FID and KID compare with; no row.")
    ] = False,
    results: Results = RESULTS,
    stamp: Stamp = None,
) -> None:
    """Score one finished row of a suite, or all that are finished, where the scores are not up to date.

    object other images are scored by `concord evaluate`, for which `concord score --images DIR` stands too.

    Examples:

      concord score face-generation collaborative

      concord score face-generation --reference

      concord score face-generation,influence-ablation --methods collaborative
    """
    from concord.benchmarks.opening import open_plan
    from concord.benchmarks.plan.requests import NothingToAskError
    from concord.benchmarks.store.run import Run

    sessions: list[Session] = []
    every: list[RunPlan] = []
    scored: list[RunPlan] = []
    left: dict[str, str] = {}
    by_engine: list[tuple[Session, list[RunPlan]]] = []
    joining = additions.additions(chosen=[row] if row is not None else split_names(methods))
    for name in suite.split(","):
        try:
            only = "ground-truth" if reference else _only(row, methods)
            plan = open_plan(name, requests.options(results), joining, only, typer.echo)
        except NothingToAskError as error:
            _leave(name, error, requests.profile, left)
            continue
        session = open_session(plan, machine)
        if sessions:
            session.share_judges(sessions[0])
        sessions.append(session)
        if reference:
            session.make_reference()
            left |= {f"{plan.requests.name}: {metric}": reason for metric, reason in session.metrics_not_run.items()}
            (results / requests.profile / "reference").mkdir(
                parents=True, exist_ok=True
            )  # DVC watches it, whatever is in it
            continue
        runs = _fresh(_pick(plan, row, methods), every)
        if (row is None and methods is None) or requests.profile == "paper":
            waiting = [run for run in runs if not Run(run.path).finished]
            left |= {f"{plan.requests.name}/{run.row.name}": "not made, so not scored" for run in waiting}
            runs = [run for run in runs if run not in waiting]
        left |= {f"{plan.requests.name}: {metric}": reason for metric, reason in session.metrics_not_run.items()}
        print_reasons(session, runs)
        if machine.engine is None:
            scored += session.score(runs)
        else:
            by_engine.append((session, runs))
        every += runs
    if by_engine:
        scored += spread(machine, by_engine, generate=False).scored
    if not reference:
        _end(sessions, every, [], scored, stamp, "score.json", left)
        raise_failed(sessions)
    else:
        for what, reason in left.items():
            typer.echo(f"{what}: {reason}", err=True)


def _leave(suite: str, error: ConcordError, profile: str, left: dict[str, str]) -> None:
    """Profile 'paper' leaves out a suite whose conditions its dataset lacks; elsewhere that is an error."""
    if profile != "paper":
        raise error
    left[suite] = f"not run: {error}"


def _only(row: str | None, methods: str | None) -> str | None:
    """The one row that is wanted, where it is known before any method is looked at."""
    return "ground-truth" if methods == "reference" else row


def _pick(plan: Plan, row: str | None, methods: str | None) -> list[RunPlan]:
    """The run of a row, those of the named methods, or all; under --set a row is named without its changes."""
    if row is not None and methods is not None:
        raise ConcordError("a row and --methods were both given; name one of them")
    if methods is not None:
        names = split_names(methods) or []
        return [run for run in plan.runs if ("reference" if run.is_reference else run.row.method) in names]
    if row is None:
        return list(plan.runs)
    return [run for run in plan.runs if row in (run.row.name, run.base)] or [plan.run(row)]


def _fresh(runs: list[RunPlan], known: list[RunPlan]) -> list[RunPlan]:
    """The runs that no earlier suite of this call has: suites of one request set share rows."""
    paths = {run.path for run in known}
    return [run for run in runs if run.path not in paths]


def _end(
    sessions: list[Session],
    runs: list[RunPlan],
    made: list[RunPlan],
    scored: list[RunPlan],
    stamp: Path | None,
    manifest: str,
    left: dict[str, str],
) -> None:
    """left: what was left out, and why."""
    from concord.benchmarks.stamps import write_stamp

    for name, reason in left.items():
        typer.echo(f"{name}: {reason}", err=True)
    if not runs and left:
        if stamp is not None:
            write_stamp(stamp, [], manifest, left)
        return
    if not runs:
        raise ConcordError("nothing to do: no row of these suites is made by the methods named (see `concord list`)")
    if stamp is not None:
        write_stamp(stamp, runs, manifest, left)
    print_summary(runs, made, scored)
    print_timing(sessions)


class ScoreCommand(TyperCommand):
    """`concord score`; where it is given images or metrics, which no suite's rows take, it is `concord evaluate`."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        if not any(argument.partition("=")[0] in ("--images", "--metrics") for argument in args):
            return super().make_context(info_name, args, parent, **extra)
        from concord.commands.evaluate import evaluate

        other = typer.Typer(add_completion=False, rich_markup_mode=None)
        other.command("evaluate")(evaluate)
        return typer.main.get_command(other).make_context("evaluate", args, parent, **extra)


score_verb = typer.Typer(add_completion=False, rich_markup_mode=None)
score_verb.command("score", cls=ScoreCommand)(score)
