"""`concord bench`, all of `make bench` under one lock: plan, make what is out of date in one call, record it by DVC."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from concord.arguments import (
    RESULTS,
    Device,
    Devices,
    EngineName,
    Plugins,
    ProfileName,
    Results,
    SizeName,
)
from concord.data.errors import ConcordError

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
    engine: EngineName = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Accept the licences of what profile paper fetches, as they are listed.")
    ] = False,
) -> None:
    """Run everything that is out of date, in one call, then have DVC record it (needs the checkout).

    `dvc repro` alone does the same, suite by suite. Only one at a time in a checkout.

    Examples:

      concord bench

      concord bench --suite face-generation --size full

      concord bench --profile paper --engine ray

      concord bench --size quick
    """
    from concord.data.profile import QUICK

    if size == QUICK:
        _first_look(suite, profile, device, devices, plugin, results)
        return
    import yaml

    from concord.benchmarks.dvc import MATRIX
    from concord.benchmarks.settings import ROOT
    from concord.commands.run import plan
    from concord.data.files import write_json
    from concord.data.lock import Held, hold
    from concord.fork_server import serve
    from concord.guardian import UNDER, end_with

    if os.environ.get(UNDER, "").isdigit():
        end_with(int(os.environ[UNDER]))
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
                chosen = f" --engine {shlex.quote(engine)}" if engine else ""  # no part of what the stages run by
                steps.append(f"concord run --all-stale {options}{chosen}")
            code = serve(["sh", "-c", " && ".join([*steps, dvc])])
    except Held as held:
        raise ConcordError(
            f"another `make bench` ({held.holder}, suite {_suite_of(about)}) is running; wait for it, or end it first"
        ) from None
    left = _left_to_do(suite, profile)
    if code or (left and not any((results / profile).glob("*/*/run.json"))):
        raise typer.Exit(code or 2)


def _left_to_do(suite: str | None, profile: str) -> bool:
    """For a profile whose data are fetched: print what is missing as a numbered list. Whether anything is."""
    from concord.benchmarks.generators import has_models
    from concord.benchmarks.settings import load_settings
    from concord.benchmarks.suite import load_suites
    from concord.commands.next_steps import print_next_steps

    settings = load_settings()
    if not any(dataset.sources for dataset in settings.profile(profile).datasets.values()):
        return False
    suites = [one.in_profile(profile) for one in load_suites() if suite in (None, one.name)]
    return print_next_steps([one for one in suites if has_models(one, profile)], settings, profile)


def _first_look(
    suite: str | None, profile: str, device: str, devices: str | None, plugin: list[Path] | None, results: Path
) -> None:
    """The suites that have a size 'quick', in a results folder of their own, which DVC does not watch."""
    from concord.benchmarks.suite import read_suite, suite_names
    from concord.commands.run import run
    from concord.data.profile import QUICK

    names = [name for name in suite_names() if read_suite(name).quick is not None] if suite is None else [suite]
    for name in names:
        run(
            suite=name,
            size=QUICK,
            profile=profile,
            device=device,
            devices=devices,
            plugin=plugin,
            results=results,
        )
    typer.echo(f"read it: concord open {QUICK}")


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
