"""What is to be done, decided before anything runs: the same inputs give the same plan on every machine.

Opens a suite's dataset, takes its first requests (benchmarks/plan/requests.py), and makes a run of each row
(benchmarks/plan/runs.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from concord.benchmarks.changes import Change, ChangedRows, changed_rows
from concord.benchmarks.external.method import External, external_runs
from concord.benchmarks.generators import generator_of, row_uses
from concord.benchmarks.plan.requests import Options, RequestSet, make_request_set
from concord.benchmarks.plan.runs import Plan, RunPlan
from concord.benchmarks.plan.sources import OUTPUT, Sources, method_sources, module_sources, use_sources
from concord.benchmarks.settings import Settings
from concord.benchmarks.suite import Row, Suite
from concord.benchmarks.tuned import tuned_row
from concord.data.conditions.base import get_condition
from concord.data.datasets.faces.dataset import FaceDataset
from concord.data.datasets.faces.open import with_landmarks
from concord.data.datasets.item import Dataset
from concord.data.datasets.open import open_dataset
from concord.data.errors import ConcordError
from concord.data.profile import QUICK, load_profile

FACTORY = "concord.benchmarks.image_sources"
"""What opens a row's method over its networks: it knows every kind of row, so that its own imports say nothing."""
READERS = {
    "faces": "concord.data.datasets.faces.open",
    "layouts": "concord.data.datasets.layouts.dataset",
}
"""Kind of dataset -> the module that opens one."""


def results_root(options: Options, dataset: Dataset[Any]) -> Path:
    """results/<profile>, or below it a folder for what must not mix with the benchmark's own results."""
    parts = [QUICK] if options.size == QUICK else []
    if options.data is not None:
        parts.append(f"data-{dataset.name}-{dataset.listing[:8]}")
    if options.limit is not None:
        parts.append(f"limit-{options.limit}")
    if options.seeds > 1:
        parts.append(f"pooled-{options.seeds}")
    if options.seed_set:
        parts.append(f"seeds-{options.seed_set}")
    root = options.results / options.profile
    return root / "+".join(parts) if parts else root


def open_items(suite: Suite, settings: Settings, options: Options) -> Dataset[Any]:
    """The dataset that the suite's items come from: the user's folder, or the profile's."""
    if options.data is not None:
        return open_dataset(suite.dataset, options.data)
    profile = settings.profile(options.profile)
    if suite.dataset not in profile.datasets:
        raise ConcordError(
            f"params.yaml: profile '{options.profile}' names no folder for dataset '{suite.dataset}'; "
            "give one with --data"
        )
    named = profile.datasets[suite.dataset]
    if not named.items_folder.is_dir():
        fetched = " ".join(named.sources)
        how = "`concord data make`" if suite.dataset == "faces" else "`concord data scenes`"
        if fetched:
            prepared = f" and `concord data prepare {named.sources[0]}`" if suite.dataset == "faces" else ""
            how = f"`concord data fetch {fetched}`{prepared}"
        raise ConcordError(f"{named.items_folder}: no such folder; make it with {how}, or give one with --data")
    if suite.dataset == "layouts":
        return open_dataset(suite.dataset, named.items_folder, next(iter(named.sources), None))
    dataset = open_dataset(suite.dataset, named.items_folder)
    return with_landmarks(dataset) if isinstance(dataset, FaceDataset) else dataset


def make_plan(
    suite: Suite,
    settings: Settings,
    options: Options,
    changes: Sequence[Change] = (),
    related: Sequence[Suite] = (),
    external: Sequence[External] = (),
    chosen: Sequence[str] | None = None,
) -> Plan:
    """The plan of a suite.

    changes: parameters given by --set, for the chosen rows or methods alone (all of them for None); see
        benchmarks/changes.py.
    related: the suites that share its request set; their metrics and grids count too.
    external: methods that live outside and are to be run; those that the store holds join by themselves.
    """
    if options.size == QUICK:
        related = [one for one in related if one.quick is not None]
    suite, *related = (one.in_profile(options.profile).in_size(options.size) for one in (suite, *related))
    if options.limit is not None and options.limit < 1:
        raise ConcordError(f"--limit {options.limit}: expected at least 1")
    if options.seeds < 1:
        raise ConcordError(f"--seeds {options.seeds}: expected at least 1")
    if options.seed_set < 0:
        raise ConcordError(f"--seed-set {options.seed_set}: expected 0 or more")
    profile = settings.profile(options.profile)
    n = options.limit or suite.size(options.size, options.profile)
    if size := suite.part(options.profile).image_size:
        profile = profile.model_copy(update={"image_size": size})
    dataset = open_items(suite, settings, options)
    requests = make_request_set(
        suite.request_set,
        dataset,
        suite.conditions,
        profile.image_size,
        n,
        options.seed_set,
        suite.options,
        options.seeds,
    )
    root = results_root(options, dataset)
    skipped: dict[str, str] = {name: reason for name in suite.reference if (reason := _cannot(name, requests))}
    runs = [
        _reference_run(suite, name, requests, root, options.profile) for name in suite.reference if name not in skipped
    ]
    rows = [tuned_row(row, suite.request_set, options.profile) for row in suite.rows]
    changed = changed_rows(rows, changes, chosen) if changes else ChangedRows({}, {})
    for row in rows:
        if row.method is not None:
            for made in changed.rows.get(row.name, [row]):
                run = _method_run(suite, made, requests, root, options.profile, profile.dtype)
                runs.append(replace(run, base=row.name))
    outside, left = external_runs(suite, requests, root, options.profile, external)
    suites = {other.name: other.version for other in related or [suite]}
    runs, skipped = [replace(run, suites=suites) for run in runs + outside], skipped | left
    return Plan(suite, tuple(related) or (suite,), options, profile, root, requests, tuple(runs), skipped, changed.left)


def _cannot(reference: str, requests: RequestSet) -> str | None:
    """Why a reference row cannot be made, or None."""
    if not requests.has_images:
        return "the dataset has no images"
    if reference == "shuffled" and len({request.item.id for request in requests.requests}) < 2:
        return "one item cannot be exchanged for another"
    return None


def _reference_run(suite: Suite, name: str, requests: RequestSet, root: Path, profile: str) -> RunPlan:
    sources = reference_sources(suite) | _readers(requests)
    row = Row.model_construct(name=name, method=None, planned=None, conditions=None, params={})
    return RunPlan(profile, requests, row, requests.conditions, {}, sources, root / requests.name / name)


def _method_run(
    suite: Suite, row: Row, requests: RequestSet, root: Path, profile: str, dtype: str | None = None
) -> RunPlan:
    from concord.methods.base import get_method, make_params

    assert row.method is not None
    method = get_method(row.method)
    params = make_params(method, row.params).model_dump(mode="json")
    conditions = tuple(suite.row_conditions(row))
    generator = generator_of(suite, row, profile)
    sources = row_sources(suite, row, profile) | _readers(requests)
    uses = row_uses(profile, row.method, generator, params, conditions)
    path = root / requests.name / row.name
    reads = load_profile(profile).generator(generator).reads if generator else {}
    return RunPlan(
        profile,
        requests,
        row,
        conditions,
        params,
        sources,
        path,
        generator=generator,
        dtype=dtype,
        networks={use.role: use.entry.model_dump() for use in uses},
        reads={name: side for name, side in reads.items() if name in conditions},
    )


def row_sources(suite: Suite, row: Row, profile: str) -> Sources:
    """What the images of a method's row follow from, apart from the data themselves."""
    from concord.methods.base import get_method

    assert row.method is not None
    given = suite.row_conditions(row)
    uses = row_uses(profile, row.method, generator_of(suite, row, profile), row.params, given)
    loaders = use_sources(uses, load_profile(profile))
    return method_sources(get_method(row.method)) | loaders | dataset_sources(suite) | condition_sources(given)


def reference_sources(suite: Suite) -> Sources:
    """What the images of a reference row follow from: what reads the suite's data and conditions, and stores images."""
    return dataset_sources(suite) | condition_sources(suite.conditions)


def dataset_sources(suite: Suite) -> Sources:
    """What reads a suite's data and stores images."""
    return Sources(frozenset([*OUTPUT, READERS[suite.dataset]]), frozenset([FACTORY]))


def condition_sources(names: Iterable[str]) -> Sources:
    """The files of conditions: a plugin's own too."""
    return module_sources(get_condition(name) for name in names)


def _readers(requests: RequestSet) -> Sources:
    """What reads these very data, where their format has classes of its own."""
    kinds = {type(requests.dataset), *(type(request.item) for request in requests.requests)}
    return module_sources(sorted(kinds, key=str))
