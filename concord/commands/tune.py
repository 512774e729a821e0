"""`concord tune`: look for the parameters of a suite's methods on validation faces."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from concord.arguments import DataFolder, Device, Plugins, ProfileName, Results, SuiteName
from concord.data.errors import ConcordError

if TYPE_CHECKING:
    from concord.benchmarks.settings import Profile
    from concord.benchmarks.suite import Suite
    from concord.benchmarks.tune import TuningRun
    from concord.benchmarks.tuned import Trial

RESULTS = Path("results")


def tune(
    method: Annotated[
        str, typer.Argument(metavar="METHOD", help="A method or row of the suite, or 'all'.", show_default=False)
    ],
    suite: SuiteName,
    seed: Annotated[int, typer.Option(min=0, help="Of the search; the images' seeds follow from the suite.")] = 0,
    data: DataFolder = None,
    device: Device = "auto",
    profile: ProfileName = "embedded",
    results: Results = RESULTS,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the result; default: benchmarks/tuned.", show_default=False)
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Search for good parameters of a suite's methods, on validation faces that no table shows.

    Every method gets the same ranges, trials, faces and seeds, as the suite's key 'tune' says. The whole search is
    written to benchmarks/tuned/REQUEST-SET.yaml, where the suite's rows find their values.

    Examples:

      concord tune all identity-landmarks

      concord tune z-magic identity-landmarks --seed 1
    """
    from concord.benchmarks.opening import load_plugins
    from concord.benchmarks.settings import load_settings
    from concord.benchmarks.suite import load_suite
    from concord.benchmarks.tune import rows_to_tune
    from concord.benchmarks.tuned import Tuned, read_search, write_search

    load_plugins(plugin or ())
    settings = load_settings()
    found = load_suite(suite)
    rows = rows_to_tune(found, None if method == "all" else [method])
    run = _tuning_run(found, settings.profile(profile), profile, data, device, results)
    spec = run.tune
    typer.echo(
        f"{found.title}: {spec.trials} trials of {len(run.requests)} validation faces for each of "
        f"{', '.join(row.name for row in rows)}"
    )
    earlier = read_search(found.request_set, out)
    tuned: dict[str, Tuned] = {}
    for row in rows:
        tuned[row.name] = run.search(row, seed, partial(_print_trial, row.name))
        result = run.result(profile, seed, tuned, earlier)
        path = write_search(result, out)
    for name, one in tuned.items():
        chosen = ", ".join(f"{key} = {value:g}" for key, value in one.chosen.items())
        typer.echo(f"{name}: {chosen}; objective {one.objective:.3f}, {one.seconds:.0f} s")
    dropped = sorted(set(earlier.rows) - set(result.rows)) if earlier is not None else []
    for name in dropped:
        typer.echo(f"{path}: the entry '{name}' was tuned on other terms and is gone; tune it again", err=True)
    typer.echo(f"{path}: written")


def _tuning_run(
    suite: Suite, settings: Profile, profile: str, data: Path | None, device: str, results: Path
) -> TuningRun:
    """The tuning faces and the judges of a suite."""
    if suite.tune is None:
        raise ConcordError(f"suite '{suite.name}' has no key 'tune': nothing says what may be tried")
    if suite.dataset != "faces":
        raise ConcordError(f"suite '{suite.name}': parameters are looked for on faces alone, not on '{suite.dataset}'")
    if suite.dataset not in settings.datasets:
        raise ConcordError(f"params.yaml: profile '{profile}' names no folder for dataset '{suite.dataset}'")
    folders = settings.datasets[suite.dataset]
    if folders.reference is None:
        raise ConcordError(f"params.yaml: profile '{profile}' names no 'reference' for dataset '{suite.dataset}'")
    from concord.benchmarks.datasets import ensure_tuning_faces
    from concord.benchmarks.plan.requests import make_request_set
    from concord.benchmarks.run.image_source import use_all_cores
    from concord.benchmarks.run.score import Reference
    from concord.benchmarks.settings import ROOT
    from concord.benchmarks.tune import TuningRun
    from concord.data.datasets.faces.open import open_faces
    from concord.data.device import resolve_device
    from concord.data.synthetic.make import ensure_faces
    from concord.methods.networks.bank import Bank
    from concord.metrics.distribution.fid import FID
    from concord.metrics.networks.judges import open_judges

    if data is None:
        if folders.tuning is None:
            raise ConcordError(f"params.yaml: profile '{profile}' names no 'tuning' folder; give one with --data")
        folder = ROOT / folders.tuning
        if profile == "embedded":
            ensure_tuning_faces(folder, typer.echo)
            ensure_faces(ROOT / folders.reference, "validation", folders.reference_n, say=typer.echo)
    else:
        folder = data
    place = resolve_device(device)
    use_all_cores()
    name = f"{suite.request_set}-tuning"  # seeds of its own, none of them a table's
    requests = make_request_set(name, open_faces(folder), suite.conditions, settings.image_size, suite.tune.n)
    requests.check()
    judges = open_judges(profile, place)
    real = Reference(
        open_faces(ROOT / folders.reference, split="all"),
        results / profile / "reference",
        settings.image_size,
        folders.reference_n,
    )
    features = real.features(judges, [FID()])["pool"]
    return TuningRun(suite, requests, judges, features, lambda: Bank.load(profile, place), settings.batch_size)


def _print_trial(row: str, number: int, trial: Trial) -> None:
    tried = ", ".join(f"{name.rpartition('.')[2]} {value:g}" for name, value in trial.params.items())
    parts = ", ".join(f"{name} {value:.2f}" for name, value in trial.parts.items())
    typer.echo(f"{row} {number}: {tried} -> {trial.objective:.3f} ({parts}), {trial.seconds:.0f} s")
