"""Which generator of its profile a row draws from, which entries of the profile it looks through, what is missing.

Nothing here loads a network: all of it follows from the plan and from the profile's YAML.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from concord.benchmarks.suite import JOINT_SUCCESS
from concord.data.errors import ConcordError
from concord.data.profile import Profile, Use, load_profile
from concord.data.weight_names import locate

if TYPE_CHECKING:
    from concord.benchmarks.plan.runs import RunPlan
    from concord.benchmarks.settings import Settings
    from concord.benchmarks.store.run import Run
    from concord.benchmarks.suite import Row, Suite

DEFAULT = "embedded"
"""The profile that every suite is part of without saying so."""


# ----------------------------------------------------------------------------------------------------- who needs what


def generator_of(suite: Suite, row: Row, profile: str) -> str | None:
    """The generator of a row; None for a method that none of the profile's is known for, or that nothing here loads."""
    if row.method is None:
        return None
    found, roles = load_profile(profile), _roles(row.method, row.params, suite.row_conditions(row))
    named = found.generator_for(row.method, roles)
    if named is not None and found.generator(named).unavailable is not None:
        return None
    chosen = suite.part(profile).generator or named
    return None if chosen is None or missing_roles(chosen, roles, profile) else chosen


def missing_roles(generator: str, roles: Sequence[str] | None, profile: str) -> list[str]:
    """Of the roles that a row draws on those that neither the generator nor the profile has."""
    known = load_profile(profile).roles_of(generator)
    return [role for role in roles or () if role not in known]


def method_generator(profile: str, method: str, params: Mapping[str, object]) -> str:
    """The generator of a method outside a suite; ConcordError where the profile has none."""
    from concord.methods.base import get_method

    conditions = sorted(get_method(method).conditions)
    roles = _roles(method, params, conditions)
    named = load_profile(profile).generator_for(method, roles)
    if named is None or load_profile(profile).generator(named).unavailable is not None:
        raise ConcordError(f"method '{method}': {_no_generator(method, profile, params, conditions)}")
    return named


def has_models(suite: Suite, profile: str) -> bool:
    """Whether a suite is part of a profile: of others than the default those that state their settings for it."""
    return profile == DEFAULT or profile in suite.profiles or suite.name in load_profile(profile).suites


def row_uses(
    profile: str, method: str | None, generator: str | None, params: Mapping[str, object], conditions: Sequence[str]
) -> list[Use]:
    """The entries of the profile that a row looks through, and those that they are built on; nothing is loaded.

    params: the method's, resolved or as a suite gives them.
    """
    if method is None or generator is None:
        return []
    found, roles = load_profile(profile), _roles(method, params, conditions)
    return found.uses(found.default_roles(generator) if roles is None else roles, generator)


def metric_uses(profile: str, name: str) -> list[Use]:
    """The entries of the profile that a metric looks through; none where the profile has no such role."""
    from concord.metrics.base import get_metric

    if name == JOINT_SUCCESS:
        return []
    found = load_profile(profile)
    return found.uses([role for role in get_metric(name).roles() if role in found.roles])


def features_uses(profile: str, kinds: Iterable[str]) -> list[Use]:
    """The entries of the profile that give kinds of features to set metrics."""
    found = load_profile(profile)
    return found.uses([role for kind in kinds if (role := f"features/{kind}") in found.roles])


def _roles(method: str, params: Mapping[str, object], conditions: Sequence[str]) -> tuple[str, ...] | None:
    from concord.methods.base import get_method, make_params

    kind = get_method(method)
    return kind.roles(make_params(kind, params), conditions)


def weights_of(uses: Iterable[Use]) -> list[str]:
    """The names of the weights of entries, each once."""
    return list(dict.fromkeys(name for use in uses for name in use.weights))


def needs(run: RunPlan) -> list[str]:
    """The names of the weights that a run's images need; none for a reference row."""
    return row_needs(run.profile, run.row.method, run.generator, run.params, run.conditions)


def row_needs(
    profile: str, method: str | None, generator: str | None, params: Mapping[str, object], conditions: Sequence[str]
) -> list[str]:
    """The names of the weights that a row needs."""
    return weights_of(row_uses(profile, method, generator, params, conditions))


def metric_needs(profile: str, names: Iterable[str]) -> list[str]:
    """The names of the weights that metrics look through."""
    return list(dict.fromkeys(name for metric in names for name in weights_of(metric_uses(profile, metric))))


def needed_by(suites: Sequence[Suite], settings: Settings, profile: str) -> dict[str, list[str]]:
    """Purpose ('datasets', 'generators', 'guides', 'judges') -> the names in data/manifests; each name once."""
    own = load_profile(profile)
    found: dict[str, dict[str, None]] = {purpose: {} for purpose in ("datasets", "generators", "guides", "judges")}

    def add(uses: Iterable[Use], otherwise: str) -> None:
        for use in uses:
            purpose = "guides" if use.role.startswith("guide/") else otherwise
            found[purpose] |= dict.fromkeys(use.weights)

    for suite in suites:
        suite = suite.in_profile(profile)
        if suite.dataset in own.datasets:
            found["datasets"] |= dict.fromkeys(own.datasets[suite.dataset].sources)
        for row in suite.rows:
            add(
                row_uses(profile, row.method, generator_of(suite, row, profile), row.params, suite.row_conditions(row)),
                "generators",
            )
        if not suite.reference and not any(generator_of(suite, row, profile) for row in suite.rows):
            continue  # nothing is made, so that nothing is judged
        for name in suite.metrics:
            add(metric_uses(profile, name), "judges")
        if "landmarks" in suite.conditions and "judge/landmarks" in own.roles:
            add(own.uses(["judge/landmarks"]), "judges")
    known = {purpose: [name for name in names if has_manifest(name)] for purpose, names in found.items()}
    return {purpose: names for purpose, names in known.items() if names}


def has_manifest(name: str) -> bool:
    """Whether a name is fetched; what is committed, or comes with a profile, is not."""
    from concord.data.download.manifest import FOLDER

    return (FOLDER / f"{name}.yaml").is_file()


def lacking(names: Iterable[str], profile: str) -> dict[str, str]:
    """Of these names those that are not here whole: name -> the one line that says what is missing and what to do."""
    found: dict[str, str] = {}
    for name in dict.fromkeys(names):
        try:
            whole(name, load_profile(profile))
        except ConcordError as error:
            found[name] = str(error)
    return found


def whole(name: str, profile: Profile) -> None:
    """Raise ConcordError unless every file of a manifest, or the weights of that name, are here."""
    from concord.data.download.manifest import fetched_file, load_manifest

    if name in profile.weights or not has_manifest(name):
        locate(name, profile)
        return
    manifest = load_manifest(name)
    for file in manifest.files:
        fetched_file(manifest, file.name)


def why_not(run: RunPlan) -> str | None:
    """Why a row cannot be made now; None where it can, or where its images are made already."""
    if run.is_reference or run.external is not None:
        return None
    if run.generator is None:
        return _no_generator(run.row.method, run.profile, run.params, run.conditions)
    return _not_run(needs(run), run.profile)


def row_reason(suite: Suite, row: Row, profile: str) -> str | None:
    """`why_not` for a row of a suite, where no run is planned."""
    if row.method is None:
        return None
    generator = generator_of(suite, row, profile)
    if generator is None:
        return _no_generator(row.method, profile, row.params, suite.row_conditions(row))
    return _not_run(row_needs(profile, row.method, generator, row.params, suite.row_conditions(row)), profile)


def _no_generator(method: str | None, profile: str, params: Mapping[str, object], conditions: Sequence[str]) -> str:
    for name, generator in load_profile(profile).generators.items():
        if method is None or method not in generator.methods:
            continue
        if generator.unavailable is not None:
            return f"not run: {generator.unavailable}"
        if missing := missing_roles(name, _roles(method, params, conditions), profile):
            return f"not run: generator '{name}' has no model '{', '.join(missing)}', which these parameters need"
    return f"not run: no generator of profile '{profile}' is known for method '{method}'"


def _not_run(names: Iterable[str], profile: str) -> str | None:
    missing = lacking(names, profile)
    return f"not run: {' and '.join(missing)} missing, `{fetch_commands(missing, profile)}`" if missing else None


def metric_reason(name: str, profile: str) -> str | None:
    """Why a metric cannot be scored now: which weights are missing, and the command that supplies them."""
    missing = lacking(metric_needs(profile, [name]), profile)
    return "; ".join(_supply(*found) for found in missing.items()) or None


def unmade_original(names: Iterable[str], original: Run | None, suite: str) -> dict[str, str]:
    """Of these metrics those that compare with a row that is not made -> the one line that says so.

    original: the run of that row; None where metrics of pairs compare with the items' own images.
    """
    from concord.metrics.base import get_metric

    if original is None or original.finished:
        return {}
    reason = f"it compares with row '{original.row}', which is not made: `concord run {suite}`"
    return {name: reason for name in names if name != JOINT_SUCCESS and get_metric(name).needs_originals}


def _supply(name: str, told: str) -> str:
    """One line about a name that is not here whole. told: what `lacking` says of it."""
    from concord.data.download.manifest import load_manifest

    if not has_manifest(name):
        return told
    manifest = load_manifest(name)
    absent = [file for file in manifest.files if not (manifest.folder() / file.result).exists()]
    if not absent:
        return told  # it is here, and is not what was expected
    files = absent[0].name if len(absent) == 1 else f"{absent[0].name} and {len(absent) - 1} more"
    by_hand = f"`{manifest.command} --from-file PATH`"
    if all(source.status == "dead" for file in absent for source in file.sources):
        return f"{name} ({files}) is missing and has no public source: {by_hand}"
    return f"{name} ({files}) is missing: `{manifest.command}`, or {by_hand} for a copy of your own"


def fetch_commands(names: Iterable[str], profile: str = DEFAULT) -> str:
    """The commands that fetch these names: 'concord data fetch a && concord weights fetch b c'."""
    from concord.data.download.manifest import load_manifest

    by_kind: dict[str, list[str]] = {}
    own: dict[str, None] = {}
    for name in names:
        if not has_manifest(name):
            weights = load_profile(profile).weights.get(name)
            own[weights.command if weights and weights.command else f"concord train {name}"] = None
            continue
        by_kind.setdefault(load_manifest(name).kind, []).append(name)
    fetches = [f"concord {kind} fetch {' '.join(found)}" for kind, found in sorted(by_kind.items())]
    return " && ".join([*fetches, *own])
