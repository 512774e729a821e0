"""From names and options to a plan: plugins registered, the suite read, its data drawn where it needs them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from concord.benchmarks.changes import Change
from concord.benchmarks.datasets import ensure_dataset
from concord.benchmarks.external.method import External, check_free, load_external
from concord.benchmarks.plan.requests import Options
from concord.benchmarks.plan.runs import Plan
from concord.benchmarks.planner import make_plan
from concord.benchmarks.settings import load_settings
from concord.benchmarks.store.run import Run
from concord.benchmarks.suite import (
    FOLDER,
    REFERENCES,
    Suite,
    load_suite,
    load_suites,
    read_suite,
    related_suites,
    suite_path,
)
from concord.data.datasets.images.image_sets import ImageSet
from concord.data.errors import ConcordError
from concord.data.request import Conditions
from concord.methods.base import all_methods
from concord.methods.plugins import load_plugin


@dataclass(frozen=True)
class Additions:
    """What joins a suite's own rows.

    plugins: files with methods. externals: files with commands of methods that live in their own environment.
    methods: registered methods by name. changes: parameters of the chosen rows or methods (of all, for None), as rows
    of their own.
    """

    plugins: Sequence[Path] = ()
    externals: Sequence[Path] = ()
    methods: Sequence[str] = ()
    changes: Sequence[Change] = ()
    chosen: Sequence[str] | None = None


def load_plugins(paths: Iterable[Path]) -> list[str]:
    """Register plugin methods; returns their names."""
    return [name for path in paths for name in load_plugin(path)]


def load_externals(paths: Iterable[Path], suites: Sequence[Suite]) -> list[External]:
    """The external methods of these files, their names checked against all that these suites hold."""
    found: list[External] = []
    for path in paths:
        external = load_external(path)
        if any(other.name == external.name for other in found):
            raise ConcordError(f"{path}: a second method named '{external.name}' is given by --external; rename one")
        try:
            check_free(external.name, suites)
        except ConcordError as error:
            raise ConcordError(f"{path}: {error}") from None
        found.append(external)
    return found


def open_plan(
    name: str,
    options: Options,
    additions: Additions = Additions(),
    row: str | None = None,
    say: Callable[[str], None] = print,
    mistakes: Sequence[str] = (),
) -> Plan:
    """The plan of a suite; registered methods named by the additions, and those of plugins, join as rows.

    row: the only row that is wanted. A reference row needs no method, so that none is imported for it.
    mistakes: what is known to be wrong with the suite already, told together with the rest.
    """
    settings = load_settings()
    if row in REFERENCES and not additions.changes:
        suite = read_suite(name).model_copy(update={"rows": []})
    else:
        joining = load_plugins(additions.plugins)
        joining += [method for method in additions.methods if method in all_methods() and method not in joining]
        suite = load_suite(name, joining, mistakes)
    related = related_suites(name)
    external = load_externals(additions.externals, [suite, *related])
    known = {*suite.row_names(), *(one.name for one in external)}
    if row is not None and row not in REFERENCES and row not in known and row.partition("+")[0] not in known:
        suite.row(row)  # raises for a name that the suite does not know, before any data are made
    ensure_dataset(suite, settings, options, say)
    plan = make_plan(suite, settings, options, additions.changes, related, external, additions.chosen)
    for left, parameters in plan.unchanged.items():
        say(f"row '{left}' has no parameter {' or '.join(repr(one) for one in parameters)}: left as it is")
    file = suite_path(name)
    return plan if file.parent == FOLDER else replace(plan, file=file)


def stored_conditions(row: Path, images: ImageSet) -> list[Conditions]:
    """The conditions that a stored row's images were asked to agree with, from the suite that planned it.

    Raises ConcordError where no suite plans the same requests any more; the conditions are then to be given as files.
    """
    manifest, asked = Run(row).manifest, list(images.names)
    for suite in load_suites():
        if suite.request_set != manifest["request_set"]:
            continue
        for size in ("default", "full"):
            options = Options(str(manifest["profile"]), size, len(asked))
            requests = open_plan(suite.name, options, row="ground-truth").requests
            same_data = requests.fingerprint == manifest["data"]["fingerprint"]
            if [request.id for request in requests.requests] == asked and same_data:
                return [requests.conditions_of(r, requests.conditions) for r in requests.requests]
            if len(requests) >= len(asked):
                break  # a larger size would draw more data, and not find these requests either
    raise ConcordError(
        f"{row}: no suite plans these {len(asked)} requests any more; give --captions, --masks and what else is needed"
    )
