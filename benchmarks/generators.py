"""Profile 'paper': whose models a row draws from, which files that takes, and the maker that runs it.

Nothing here loads a network before a row is made: `needs` names the files from the plan alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from concord.benchmarks.suite import JOINT_SUCCESS
from concord.data.errors import ConcordError

if TYPE_CHECKING:
    from concord.benchmarks.plan.runs import RunPlan
    from concord.benchmarks.settings import Settings
    from concord.benchmarks.store.run import Run
    from concord.benchmarks.suite import Row, Suite

PROFILE = "paper"
LATENT, PIXELS = "collaborative-256", "celeba-hq-ddpm"
BY_METHOD: dict[str, str] = {
    "text-only": LATENT,
    "mask-only": LATENT,
    "composable": LATENT,
    "collaborative": LATENT,
    "unconditional": PIXELS,
    "freedom": PIXELS,
    "z-magic": PIXELS,
    "ugd": PIXELS,
    "style-aligned": "stable-diffusion-v1-4",
}
"""Whose models a method draws from where its suite names none."""

NO_LOADER = {
    name: f"{models} cannot be loaded here; images that their own code makes are taken in by `concord export` and "
    "`concord import`, and scored"
    for name, models in (
        ("layout-interaction", "InteractDiffusion"),
        ("layout-attribute", "MIGC"),
        ("layout-style", "IP-Adapter"),
        ("composable-layouts", "InteractDiffusion and MIGC"),
        ("amdm-layouts", "InteractDiffusion and MIGC"),
        ("tedigan", "TediGAN"),
    )
}
"""Methods whose models are published in a form that nothing here reads -> what to do."""
JUDGES: dict[str, tuple[str, ...]] = {
    "features": ("inception-fidelity",), "features-legacy": ("inception-pytorch-fid",), "dinov2": ("dinov2-vit-l-14",),
    "clip-l-336": ("clip-vit-l-14-336",), "text-image": ("clip-vit-l-14",), "parser": ("parsenet",),
    "identity": ("buffalo-l",), "landmarks": ("fan-2d4", "s3fd"), "vgg19": ("vgg19",),
    "lpips-alex": ("lpips-alexnet",), "lpips-vgg": ("lpips-vgg16",),
    "detector": ("groundingdino-swint-hf",), "segmenter": ("sam-vit-h-hf",),
}  # fmt: skip  # a table
"""Network that a metric names -> the weights of it in profile 'paper' (metrics/networks/pretrained/perception.py)."""
GUIDES = {
    "text": "clip-vit-b-16",
    "style": "clip-vit-b-16",
    "mask": "bisenet",
    "identity": "ir-se50",
    "landmarks": "mobilefacenet",
}
"""Condition -> the weights of the guide that a guided method follows for it."""


# ----------------------------------------------------------------------------------------------------- who needs what


def generator_of(suite: Suite, row: Row, profile: str) -> str | None:
    """The generator of a row; None in a profile that has one bank for all, and for a method that brings its own."""
    if profile != PROFILE or row.method is None or row.method in NO_LOADER:
        return None
    return suite.part(profile).generator or BY_METHOD.get(row.method)


def has_models(suite: Suite, profile: str) -> bool:
    """Whether a suite is part of a profile: 'paper' has those that state their settings for it."""
    return profile != PROFILE or profile in suite.profiles


def needs(run: RunPlan) -> list[str]:
    """The names in data/manifests of what a run's images need; none for a reference row."""
    return row_needs(run.row.method, run.generator, run.params, run.conditions)


def row_needs(
    method: str | None, generator: str | None, params: Mapping[str, Any], conditions: Sequence[str]
) -> list[str]:
    """The names of the weights that a row needs."""
    from concord.methods.networks.paper_bank import GENERATORS

    if method is None or generator is None:
        return []
    if generator not in GENERATORS:
        raise ConcordError(f"generator '{generator}': expected one of {', '.join(GENERATORS)}")
    found = list(GENERATORS[generator].files)
    if "strengths" in params:
        by_model = params.get("text_by") == "model"
        for name in conditions:
            if params["strengths"].get(name, 0) > 0 and not (by_model and name == "text"):
                found.append(GUIDES[name])
    return list(dict.fromkeys(found))


def metric_needs(names: Iterable[str]) -> list[str]:
    """The names of the weights that metrics look through."""
    from concord.metrics.base import get_metric

    found: list[str] = []
    for name in names:
        if name == JOINT_SUCCESS:
            continue
        metric = get_metric(name)
        if metric.through_guide:
            found.append(GUIDES[metric.condition])
        else:
            found += [file for kind in metric.networks for file in JUDGES.get(kind, ())]
    return list(dict.fromkeys(found))


def needed_by(suites: Sequence[Suite], settings: Settings, profile: str) -> dict[str, list[str]]:
    """Purpose ('datasets', 'generators', 'guides', 'judges') -> the names in data/manifests; each name once."""
    from concord.methods.base import get_method, make_params
    from concord.methods.networks.paper_bank import GENERATORS

    datasets = settings.profile(profile).datasets
    found: dict[str, dict[str, None]] = {purpose: {} for purpose in ("datasets", "generators", "guides", "judges")}
    for suite in suites:
        suite = suite.in_profile(profile)
        found["datasets"] |= dict.fromkeys(datasets[suite.dataset].sources)
        for row in suite.rows:
            generator = generator_of(suite, row, profile)
            if row.method is None or generator is None:
                continue
            params = make_params(get_method(row.method), row.params).model_dump(mode="json")
            for name in row_needs(row.method, generator, params, suite.row_conditions(row)):
                found["generators" if name in GENERATORS[generator].files else "guides"][name] = None
        if not suite.reference and not any(generator_of(suite, row, profile) for row in suite.rows):
            continue  # nothing is made, so that nothing is judged
        for name in metric_needs(suite.metrics):
            found["guides" if name in GUIDES.values() else "judges"][name] = None
        if "landmarks" in suite.conditions:
            found["judges"] |= dict.fromkeys(JUDGES["landmarks"])
    return {purpose: list(names) for purpose, names in found.items() if names}


def lacking(names: Iterable[str]) -> dict[str, str]:
    """Of these names those that are not here whole: name -> the one line that says what is missing and what to do."""
    from concord.data.download.manifest import fetched_file, load_manifest

    found: dict[str, str] = {}
    for name in dict.fromkeys(names):
        manifest = load_manifest(name)
        try:
            for file in manifest.files:
                fetched_file(manifest, file.name)
        except ConcordError as error:
            found[name] = str(error)
    return found


def why_not(run: RunPlan) -> str | None:
    """Why a row of profile 'paper' cannot be made now; None where it can, or where its images are made already."""
    if run.profile != PROFILE or run.is_reference or run.external is not None:
        return None
    if run.generator is None:
        return _no_generator(run.row.method)
    return _not_run(needs(run))


def row_reason(suite: Suite, row: Row, profile: str) -> str | None:
    """`why_not` for a row of a suite, where no run is planned."""
    from concord.methods.base import get_method, make_params

    if profile != PROFILE or row.method is None:
        return None
    generator = generator_of(suite, row, profile)
    if generator is None:
        return _no_generator(row.method)
    params = make_params(get_method(row.method), row.params).model_dump(mode="json")
    return _not_run(row_needs(row.method, generator, params, suite.row_conditions(row)))


def _no_generator(method: str | None) -> str:
    if method in NO_LOADER:
        return f"not run: {NO_LOADER[method]}"
    return f"not run: no generator of profile '{PROFILE}' is known for method '{method}'"


def _not_run(names: Iterable[str]) -> str | None:
    missing = lacking(names)
    return f"not run: {' and '.join(missing)} missing, `{fetch_commands(missing)}`" if missing else None


def metric_reason(name: str) -> str | None:
    """Why a metric of profile 'paper' cannot be scored now: which file is missing, and the command that supplies it."""
    return "; ".join(_supply(*found) for found in lacking(metric_needs([name])).items()) or None


def unmade_original(names: Iterable[str], original: Run | None, suite: str) -> dict[str, str]:
    """Of these metrics those that compare with a row that is not made -> the one line that says so.

    original: the run of that row; None where metrics of pairs compare with the items' own pictures.
    """
    from concord.metrics.base import get_metric

    if original is None or original.finished:
        return {}
    reason = f"it compares with row '{original.row}', which is not made: `concord run {suite}`"
    return {name: reason for name in names if name != JOINT_SUCCESS and get_metric(name).needs_originals}


def _supply(name: str, told: str) -> str:
    """One line about a name that is not here whole. told: what `lacking` says of it."""
    from concord.data.download.manifest import load_manifest

    manifest = load_manifest(name)
    absent = [file for file in manifest.files if not (manifest.folder() / file.result).exists()]
    if not absent:
        return told  # it is here, and is not what was expected
    files = absent[0].name if len(absent) == 1 else f"{absent[0].name} and {len(absent) - 1} more"
    by_hand = f"`{manifest.command} --from-file PATH`"
    if all(source.status == "dead" for file in absent for source in file.sources):
        return f"{name} ({files}) is missing and has no public source: {by_hand}"
    return f"{name} ({files}) is missing: `{manifest.command}`, or {by_hand} for a copy of your own"


def fetch_commands(names: Iterable[str]) -> str:
    """The commands that fetch these names: 'concord data fetch a && concord weights fetch b c'."""
    from concord.data.download.manifest import load_manifest

    by_kind: dict[str, list[str]] = {}
    for name in names:
        by_kind.setdefault(load_manifest(name).kind, []).append(name)
    return " && ".join(f"concord {kind} fetch {' '.join(found)}" for kind, found in sorted(by_kind.items()))
