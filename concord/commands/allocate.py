"""`concord plan --minutes`: how many requests every suite takes in a time budget."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from concord.console import print_table
from concord.data.errors import ConcordError

if TYPE_CHECKING:
    from concord.benchmarks.suite import Suite


def show_allocation(
    suites: Sequence[Suite], profile: str, results: Path, minutes: float, pilot: Path | None, write: bool
) -> None:
    """Print n of every request set in a budget of minutes for making and scoring images; write it into the suites.

    pilot: the results of other faces and seeds than those of the tables, which say how large the effects are.
    """
    from concord.benchmarks.allocate import allocate, expected_decided, measured_seconds, seconds_of, write_n
    from concord.benchmarks.store.run import Store
    from concord.benchmarks.suite import suite_path
    from concord.reports.pilot import pilot_orders

    if pilot is None:
        raise ConcordError(
            "--minutes needs --pilot FOLDER: results of other faces and seeds than the tables', such as those of "
            "`concord run SUITE --data datasets/synthfaces/tuning --seed-set 1`"
        )
    measured = results / profile
    if pilot.resolve() == measured.resolve():
        raise ConcordError(f"--pilot {pilot}: the tables show these images; n has to be fixed by others")
    if not pilot.is_dir():
        raise ConcordError(f"--pilot {pilot}: no such folder")
    orders = pilot_orders(suites, Store(pilot), profile)
    if not orders:
        raise ConcordError(f"--pilot {pilot}: holds no two scored rows of an order that a paper's table states")
    default = [suite.in_profile(profile).in_size("default") for suite in suites]
    rows: dict[str, dict[str, None]] = {}
    now: dict[str, int] = {}
    for suite in default:
        rows.setdefault(suite.request_set, {}).update(dict.fromkeys(suite.row_names()))
        now[suite.request_set] = suite.size("default", profile)
    found = {name: measured_seconds(measured, name, list(names)) for name, names in rows.items()}
    seconds = {name: each for name, (each, _) in found.items()}
    n = allocate(orders, seconds, now, minutes * 60)
    print_table(
        f"Requests in {minutes:g} minutes (profile {profile})",
        ("request set", "rows", "seconds a request", "n now", "minutes now", "n", "minutes", "papers' orders"),
        [
            (
                name,
                str(len(rows[name])),
                f"{seconds[name]:.2f}",
                str(now[name]),
                f"{now[name] * seconds[name] / 60:.1f}",
                str(count),
                f"{count * seconds[name] / 60:.1f}",
                str(sum(order.request_set == name for order in orders)),
            )
            for name, count in n.items()
        ],
    )
    before, after = expected_decided(orders, now), expected_decided(orders, n)
    typer.echo(
        f"decided in expectation: {before:.1f} of {len(orders)} orders in {seconds_of(now, seconds) / 60:.1f} minutes "
        f"now, {after:.1f} in {seconds_of(n, seconds) / 60:.1f}, without set-up and report"
    )
    for name, (_, unknown) in found.items():
        if unknown:
            typer.echo(f"{name}: nobody measured {', '.join(unknown)}; they count as the mean of the others")
    if write:
        paths = [suite_path(suite.name) for suite in suites if write_n(suite_path(suite.name), n[suite.request_set])]
        typer.echo(f"written: {', '.join(path.name for path in paths) or 'nothing changed'}")
