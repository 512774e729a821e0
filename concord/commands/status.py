"""`concord status`: what was submitted with --detach, or by a command that was ended since."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from concord.arguments import RESULTS, Results
from concord.data.errors import ConcordError

if TYPE_CHECKING:
    from concord.benchmarks.engines.spool import Spooled


def status(
    results: Results = RESULTS,
    cancel: Annotated[bool, typer.Option("--cancel", help="End all that is queued or running.")] = False,
) -> None:
    """Show the tasks of a results folder that a Slurm cluster has: queued, running, done, failed.

    What is done lies ready; the command that submitted it, given again, takes it and goes on.

    Examples:

      concord status

      concord status --cancel
    """
    from concord.benchmarks.engines.slurm import cancel_jobs, job_states
    from concord.benchmarks.engines.spool import SPOOL, Spooled, spooled
    from concord.console import print_table

    folder = results.resolve()
    found = list(spooled(folder))
    failed = [
        one
        for path in sorted((folder / SPOOL).glob("*/failed.json"))
        if (one := Spooled.read(path.parent, "failed.json")) is not None
    ]
    if not found and not failed:
        typer.echo(f"{results}: nothing was submitted to a cluster, or all of it was taken")
        return
    try:
        states = job_states()
    except ConcordError as error:
        typer.echo(f"states are not known: {error}", err=True)
        states = {}
    rows = [_row(one, *states.get(one.job, ("", ""))) for one in found]
    rows += [(one.job, one.name, f"{one.images}", "failed", "", str(one.log)) for one in failed]
    print_table(f"Tasks of {results}", ("job", "task", "images", "state", "node", "log"), rows)
    counts = {state: sum(row[3] == state for row in rows) for state in ("queued", "running", "done", "failed")}
    typer.echo(", ".join(f"{count} {state}" for state, count in counts.items() if count))
    for one in failed:
        last = next((line for line in reversed(one.tail().splitlines()) if line.strip()), "it printed nothing")
        typer.echo(f"{one.name}: job {one.job}: {last.strip()[:160]}", err=True)
    if cancel:
        live = [row[0] for row in rows if row[3] in ("queued", "running")]
        cancel_jobs(live)
        typer.echo(f"{len(live)} jobs cancelled; what they had finished stays")


def _row(one: Spooled, state: str, nodes: str) -> tuple[str, ...]:
    end = one.end
    if end is not None:
        said = "done" if end["line"] is None else "failed"
    elif state in ("RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "SUSPENDED", "STOPPED"):
        said = "running"
    elif state in ("", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL", "OUT_OF_MEMORY", "COMPLETED", "PREEMPTED"):
        said = "failed"
    else:
        said = "queued"
    return one.job, one.name, f"{one.images}", said, nodes, str(one.log)
