"""`concord calibrate`: what has one published answer is measured, and said to be in or out of its window."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from concord.arguments import RESULTS, BatchSize, DataFolder, Device, MachineOptions, ProfileName, Results, open_session
from concord.data.errors import ConcordError

if TYPE_CHECKING:
    from concord.benchmarks.calibrate import Anchor, Measured


def calibrate(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[ANCHOR]...", help="Anchors; all of them if absent.")
    ] = None,
    profile: ProfileName = "paper",
    anchors: Annotated[
        Path | None, typer.Option("--anchors", help="Anchors of another file (see benchmarks/anchors.yaml).")
    ] = None,
    data: DataFolder = None,
    device: Device = "auto",
    batch_size: BatchSize = None,
    results: Results = RESULTS,
) -> None:
    """Measure what has one published answer; ends with exit code 1 where a value is out of its window.

    The rows are those of the suites and are kept as such. What was measured, and with which weights, is written beside
    the results, where tables read it.

    Examples:

      concord calibrate --profile paper

      concord calibrate collaborative-fid --device cuda
    """
    from concord.benchmarks.calibrate import ANCHORS, keep, read_anchors

    known = {anchor.name: anchor for anchor in read_anchors(anchors or ANCHORS)}
    for name in names or []:
        if name not in known:
            raise ConcordError(f"unknown anchor '{name}': expected one of {', '.join(known)}")
    out = []
    for anchor in (known[name] for name in names or known):
        if anchor.not_run is not None:
            typer.echo(f"{anchor.name}: not run here: {anchor.not_run}")
            continue
        reason, folder, found = _measure(anchor, profile, data, device, batch_size, results)
        if found is None:
            typer.echo(f"{anchor.name}: not run here: {reason}")
            continue
        keep(folder, {anchor.name: found})
        published = "" if anchor.published is None else f", published {anchor.published:g}"
        window = f"{anchor.window[0]:g} to {anchor.window[1]:g}"
        typer.echo(f"{anchor.name}: {found.value:.4g}, {found.verdict} of {window}{published} (n = {found.n})")
        if found.verdict == "out":
            out.append(anchor.name)
    if out:
        typer.echo(f"out of their windows: {', '.join(out)}; their weights are not what the papers had", err=True)
        raise typer.Exit(1)


def _measure(
    anchor: Anchor, profile: str, data: Path | None, device: str, batch_size: int | None, results: Path
) -> tuple[str, Path, Measured | None]:
    """Why it cannot be measured, or the folder of the results and what the row gave."""
    from concord.benchmarks.calibrate import Measured
    from concord.benchmarks.opening import open_plan
    from concord.benchmarks.plan.requests import Options
    from concord.benchmarks.store.run import Store
    from concord.benchmarks.suite import read_suite
    from concord.reports.assemble import build_table

    assert anchor.suite is not None
    suite = read_suite(anchor.suite)
    sized = data is None and suite.size("full", profile) == anchor.n
    options = Options(profile, "full" if sized else "default", None if sized else anchor.n, data, results=results)
    plan = open_plan(anchor.suite, options, say=typer.echo)
    runs = [run for run in plan.runs if run.row.name == anchor.row]
    if not runs:
        return f"suite '{anchor.suite}' has no row '{anchor.row}' here", plan.root, None
    session = open_session(plan, MachineOptions(device), batch_size)
    session.generate(runs)
    session.score(runs)
    if reasons := {**session.not_run, **session.metrics_not_run}:
        wanted = (anchor.row, anchor.metric)
        if reason := next((reasons[name] for name in wanted if name in reasons), None):
            return reason, plan.root, None
    table = build_table(plan.suite, Store(plan.root), profile)
    row = next(row for row in table.rows if row.name == anchor.row)
    cell = row.cells.get(str(anchor.metric))
    if cell is None or cell.value is None:
        return f"row '{anchor.row}' has no '{anchor.metric}': {row.absent or 'not among its metrics'}", plan.root, None
    weights = dict(Store(plan.root).run(suite.request_set, str(anchor.row)).manifest.get("weights") or {})
    value, n = float(cell.value), int(row.n or 0)
    if n != anchor.n:
        return f"the data has {n} requests of {anchor.n}", plan.root, None
    return (
        "",
        plan.root,
        Measured(value=value, n=n, window=anchor.window, verdict=anchor.verdict(value), weights=weights),
    )
