"""`concord tune`: look for the parameters of a suite's methods on validation faces."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from concord.arguments import DataFolder, Device, Plugins, ProfileName, Results, SuiteName
from concord.data.errors import ConcordError

if TYPE_CHECKING:
    import numpy as np

    from concord.benchmarks.settings import Profile
    from concord.benchmarks.suite import Row, Suite
    from concord.benchmarks.tune import TuningRun
    from concord.benchmarks.tuned import Trial
    from concord.data.datasets.item import Dataset
    from concord.data.networks import Networks

RESULTS = Path("results")


def tune(
    method: Annotated[
        str,
        typer.Argument(
            metavar="METHOD", help="A method, a row of the suite, or 'all' of its tuned rows.", show_default=False
        ),
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
    """Search for good parameters of a method on a suite, on validation items that no table shows.

    What is searched: the ranges that the fields of the method's Params state, or those of the suite's key 'tune'. Every
    method gets the same number of trials, the same items and seeds. The whole search is written to
    benchmarks/tuned/REQUEST-SET.yaml, where a row finds its values by its key 'tuned'. A search that was stopped goes
    on where it was.

    Examples:

      concord tune all identity-landmarks

      concord tune composable-conjunction face-generation

      concord tune mine face-generation --plugin mine.py
    """
    from concord.benchmarks.opening import load_plugins
    from concord.benchmarks.settings import load_settings
    from concord.benchmarks.suite import load_suite
    from concord.benchmarks.tune import row_ranges, rows_to_tune
    from concord.benchmarks.tuned import Tuned, read_search, write_search

    load_plugins(plugin or ())
    settings = load_settings()
    found = load_suite(suite)
    rows = rows_to_tune(found, None if method == "all" else method)
    for row in rows:
        row_ranges(found, row)  # said before anything is drawn or loaded
    run = _tuning_run(found, rows, settings.profile(profile), profile, data, device, results)
    typer.echo(
        f"{found.title}: {run.tune.trials} trials of {len(run.requests)} validation items for each of "
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
    for row in rows:
        if row.tuned != row.name:
            typer.echo(f"row '{row.name}' does not take them: a row of the suite with `tuned: {row.name}` does")
    dropped = sorted(set(earlier.rows) - set(result.rows)) if earlier is not None else []
    for name in dropped:
        typer.echo(f"{path}: the entry '{name}' was tuned on other terms and is gone; tune it again", err=True)
    typer.echo(f"{path}: written")


def _tuning_run(
    suite: Suite, rows: list[Row], settings: Profile, profile: str, data: Path | None, device: str, results: Path
) -> TuningRun:
    """The tuning items and the judges of a suite."""
    if suite.dataset not in settings.datasets:
        raise ConcordError(f"params.yaml: profile '{profile}' names no folder for dataset '{suite.dataset}'")
    folders = settings.datasets[suite.dataset]
    if data is None and folders.tuning is None:
        raise ConcordError(f"params.yaml: profile '{profile}' names no 'tuning' folder; give one with --data")
    from concord.benchmarks.datasets import ensure_tuning_items
    from concord.benchmarks.generators import generator_of, row_reason
    from concord.benchmarks.plan.requests import make_request_set
    from concord.benchmarks.settings import place as place_of
    from concord.benchmarks.suite import Tune
    from concord.benchmarks.tune import TuningRun, check_unseen
    from concord.data.datasets.open import open_dataset
    from concord.data.device import resolve_device, use_all_cores
    from concord.data.networks import Networks, Pool
    from concord.metrics.networks.judges import open_judges

    for row in rows:
        if reason := row_reason(suite, row, profile):
            raise ConcordError(f"row '{row.name}': {reason}")
    if data is None:
        assert folders.tuning is not None
        data = place_of(folders.tuning)
        if profile == "embedded":
            ensure_tuning_items(suite.dataset, data, typer.echo)
    place = resolve_device(device)
    use_all_cores()
    name = f"{suite.request_set}-tuning"  # seeds of its own, none of them a table's
    n = (suite.tune or Tune()).n
    requests = make_request_set(name, _tuning_items(suite.dataset, data), suite.conditions, settings.image_size, n)
    requests.check()
    shown = folders.items_folder
    if shown.is_dir():
        check_unseen(requests, open_dataset(suite.dataset, shown, *folders.sources[:1]))
    judges = open_judges(profile, place)
    features = None if folders.reference is None else _reference(settings, suite, profile, results, judges)
    pool = Pool()

    def open_networks(row: Row) -> Networks:
        return Networks(profile, generator_of(suite, row, profile), place, pool=pool)

    return TuningRun(
        suite,
        requests,
        judges,
        features,
        open_networks,
        settings.batch_size,
        profile,
        results / profile / "tune",
    )


def _tuning_items(kind: str, folder: Path) -> Dataset[Any]:
    """All items of a folder, in its order: the first of a tree of faces are those that authors trained on."""
    from concord.data.datasets.faces.open import open_faces
    from concord.data.datasets.open import open_dataset

    return open_faces(folder, split="all") if kind == "faces" else open_dataset(kind, folder)


def _reference(settings: Profile, suite: Suite, profile: str, results: Path, judges: Networks) -> np.ndarray:
    """Features (M, D) of the real images that set metrics compare with."""
    from concord.benchmarks.run.score import Reference
    from concord.data.datasets.faces.open import open_faces
    from concord.data.synthetic.make import ensure_faces
    from concord.metrics.distribution.fid import FID

    folders = settings.datasets[suite.dataset]
    folder = folders.reference_folder
    assert folder is not None
    if profile == "embedded":
        ensure_faces(folder, "validation", folders.reference_n, say=typer.echo)
    kept = results / profile / "reference"
    real = Reference(open_faces(folder, split="all"), kept, settings.image_size, folders.reference_n)
    return real.features(judges, [FID()])["pool"]


def _print_trial(row: str, number: int, trial: Trial) -> None:
    tried = ", ".join(f"{name.removeprefix('strengths.')} {value:g}" for name, value in trial.params.items())
    parts = ", ".join(f"{name} {value:.2f}" for name, value in trial.parts.items())
    typer.echo(f"{row} {number}: {tried} -> {trial.objective:.3f} ({parts}), {trial.seconds:.0f} s")
