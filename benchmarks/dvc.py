"""benchmarks/matrix.yaml: what dvc.yaml loops over. Written by `concord plan`, ignored by git, never edited.

It follows from the suites and from the methods that are registered, so that a new method file needs no second edit.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from concord.benchmarks.generators import PROFILE, generator_of, has_models
from concord.benchmarks.plan.sources import borrowed, method_file
from concord.benchmarks.settings import ROOT, DatasetSettings, Settings
from concord.benchmarks.suite import Suite
from concord.data.datasets.layouts.layout import FILES
from concord.data.errors import ConcordError
from concord.data.files import atomic_path

MATRIX = ROOT / "benchmarks" / "matrix.yaml"
STAGES = 50
"""DVC rewrites its lock file after every stage, at a cost that grows with their number: more than this is too slow."""
ENDS = 2
"""Stages besides those of runs and data: the reference features, the report."""
NOTHING = "benchmarks/store/run.py"
"""What a stage of `score` stands on besides, where no other row has to be made before: a file that it reads anyway."""
AROUND = 3 + ENDS
"""Stages of profile 'embedded' besides those of runs: two trees of faces, one of scenes, and the ends."""


def make_matrix(
    suites: Sequence[Suite],
    settings: Settings,
    *,
    profile: str,
    size: str,
    device: str = "auto",
    results: Path = Path("results"),
    plugins: Sequence[Path] = (),
    devices: str | None = None,
) -> dict[str, Any]:
    """What dvc.yaml loops over.

    methods: stage -> the methods that it runs (one, or where stages are short all those of one file), the suites that
    have a row of them, their file, and the mark of the data that they read; beside: what has to be made before they are
    scored, where their images are compared with another row's.
    reference: the suite whose set metrics say which features are needed, and what they are made from.
    trees: the folders of data, how each is made, and its mark. fetch, fetched: what is still to come and what is here,
    of the names that the profile needs; both are empty in profile 'embedded'.
    """
    datasets = settings.profile(profile).datasets
    missing = [suite for suite in suites if suite.dataset not in datasets]
    if missing:
        raise ConcordError(
            f"params.yaml: profile '{profile}' names no folder for dataset '{missing[0].dataset}' "
            f"(suite '{missing[0].name}'); add one, or run a suite on a folder with --data"
        )
    suites = [suite.in_profile(profile) for suite in suites if has_models(suite, profile)]
    if not suites:
        raise ConcordError(f"these suites say nothing of profile '{profile}'; choose another with --suite")
    trees, marks = _trees(suites, settings, profile, size, root := results / profile)
    makers: dict[tuple[str, str], dict[str, str]] = {}
    for suite in suites:
        for name in suite.row_names():
            method, source = _maker(suite, name)
            is_reference = name in suite.reference
            if profile == PROFILE and not is_reference and generator_of(suite, suite.row(name), profile) is None:
                continue  # nobody has published what would make it
            if method is not None:
                also = next(
                    (path.relative_to(ROOT).as_posix() for path in borrowed(ROOT / source)), "methods/__init__.py"
                )
                known = {"methods": method, "source": source, "also": also, "suites": suite.name,
                         "data": marks[suite.dataset][0]}  # fmt: skip
                maker = makers.setdefault((suite.dataset, method), known)
                if suite.name not in maker["suites"].split(","):
                    maker["suites"] += f",{suite.name}"
    fetch, fetched = _fetches(suites, settings, profile, root, STAGES - 2 * len(makers) - len(trees) - ENDS)
    others = len(trees) + len(fetch) + len(fetched) + ENDS
    stages = _stages(makers, (STAGES - others) // 2)
    for name, stage in stages.items():
        stage["beside"] = _beside(name, stages, suites, root)
    if 2 * len(stages) + others > STAGES:
        raise ConcordError(
            f"dvc.yaml: {2 * len(stages) + others} stages, at most {STAGES}; run one suite at a time with --suite"
        )
    options = [f"--profile {profile}", f"--results {shlex.quote(str(results))}", f"--device {device}"]
    options += [f"--devices {shlex.quote(devices)}"] if devices else []
    options += [f"--plugin {shlex.quote(str(path.resolve()))}" for path in plugins]
    compared = next((suite for suite in suites if datasets[suite.dataset].reference is not None), suites[0])
    return {
        "profile": profile,
        "size": size,
        "options": " ".join(options),
        "results_root": str(results),
        "results": f"{results}/{profile}",
        "reference": dict(zip(("suite", "items", "images"), (compared.name, *marks[compared.dataset]), strict=True)),
        "trees": trees,
        "fetch": fetch,
        "fetched": fetched,
        "methods": stages,
        "suites": [suite.name for suite in suites],
    }


def _trees(
    suites: Sequence[Suite], settings: Settings, profile: str, size: str, root: Path
) -> tuple[dict[str, dict[str, str]], dict[str, tuple[str, str]]]:  # fmt: skip
    """What makes the suites' data, and by kind of dataset two files that tell that its items and reference are there.

    Folder -> the command that makes it, what it is made from, and two files of it. Shards prepared from what was
    fetched serve as items and as reference; drawn faces are two trees; a file of layouts is drawn or fetched as it is.
    """
    found: dict[str, dict[str, str]] = {}
    marks: dict[str, tuple[str, str]] = {}
    for kind in dict.fromkeys(suite.dataset for suite in suites):
        named = settings.profile(profile).datasets[kind]
        n = max(settings.size(suite.request_set, size, profile) for suite in suites if suite.dataset == kind)
        made = _drawn_trees(kind, named, n) if not named.sources else _prepared_trees(kind, named, root)
        found |= made
        ends = list(made.values())
        fetched = (f"{root}/fetched", f"data/manifests/{''.join(named.sources[:1])}.yaml")
        marks[kind] = (ends[0]["mark"], ends[-1]["twin"]) if ends else fetched
    return found, marks


def _prepared_trees(kind: str, named: DatasetSettings, root: Path) -> dict[str, dict[str, str]]:
    if kind != "faces":
        return {}
    folder = named.items_folder
    folder = folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder
    return {
        "prepared": {
            "cmd": f"concord data prepare {named.sources[0]}", "source": f"{root}/fetched",
            "mark": f"{folder}/prepared.json", "twin": f"{folder}/captions.json",
        }
    }  # fmt: skip


def _drawn_trees(kind: str, named: DatasetSettings, n: int) -> dict[str, dict[str, str]]:
    if kind == "layouts":
        cmd = f"concord data scenes --split test --n {n} --out {named.items} --force"
        place = {"mark": f"{named.items}/world.json", "twin": f"{named.items}/{FILES[0]}"}
        return {"scenes": {"cmd": cmd, "source": "data/synthetic", **place}}
    found = {}
    for split, drawn, count in (("test", named.items, n), ("validation", named.reference, named.reference_n)):
        mark = f"{drawn}/world.json"
        cmd = f"concord data make --split {split} --n {count} --out {drawn} --force"
        found["items" if split == "test" else "reference"] = {
            "cmd": cmd, "source": "data/synthetic", "mark": mark, "twin": mark,
        }  # fmt: skip
    return found


def _stages(makers: Mapping[tuple[str, str], dict[str, str]], most: int) -> dict[str, dict[str, str]]:
    """A stage for each method on each kind of dataset; where they are more than `most`, one for those of one file.

    Files are merged from the one with the most methods on, and only as many as have to be.
    """
    files: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for key, maker in makers.items():
        files.setdefault((key[0], maker["source"]), []).append(key)
    merged: set[tuple[str, str]] = set()
    for place in sorted(files, key=lambda place: -len(files[place])):
        if len(files) + sum(len(keys) - 1 for one, keys in files.items() if one not in merged) <= most:
            break
        merged.add(place)
    found: dict[str, dict[str, str]] = {}
    for (dataset, source), keys in files.items():
        together = (dataset, source) in merged and len(keys) > 1
        for group in [keys] if together else [[key] for key in keys]:
            suites = dict.fromkeys(name for key in group for name in makers[key]["suites"].split(","))
            name = Path(source).stem if together else group[0][1]
            whole = {**makers[group[0]], "methods": ",".join(key[1] for key in group), "suites": ",".join(suites)}
            found[name if name not in found else f"{name}-{dataset}"] = whole
    return found


def _beside(name: str, stages: Mapping[str, dict[str, str]], suites: Sequence[Suite], root: Path) -> str:
    """The mark of the stage whose images those of a stage are compared with, where a suite says so; else `NOTHING`."""
    own = stages[name]["suites"].split(",")
    found: dict[str, None] = {}
    for suite in suites:
        if suite.name not in own or suite.originals is None:
            continue
        method = suite.row(suite.originals).method
        makes = [one for one, stage in stages.items()
                 if method in stage["methods"].split(",") and suite.name in stage["suites"].split(",")]  # fmt: skip
        found |= dict.fromkeys(one for one in makes if one != name)
    if len(found) > 1:
        others = " and ".join(found)
        raise ConcordError(f"stage '{name}' is compared with stages {others}; run one suite at a time with --suite")
    return f"{root}/stages/generate-{next(iter(found))}.json" if found else NOTHING


def _fetches(
    suites: Sequence[Suite], settings: Settings, profile: str, root: Path, room: int
) -> tuple[dict[str, dict[str, str]], dict[str, dict[str, str]]]:
    """Stages of what is still to be fetched and of what is here, one a name; one a purpose where `room` is short.

    A licence that nobody has agreed to is not agreed to here: `concord fetch` says so, and how.
    """
    from concord.benchmarks.generators import lacking, needed_by

    if not any(settings.profile(profile).datasets[suite.dataset].sources for suite in suites):
        return {}, {}
    purposes = needed_by(suites, settings, profile)
    missing = lacking(name for names in purposes.values() for name in names)
    stages: list[dict[str, str]] = []
    for purpose, names in purposes.items():
        for here in (False, True):
            chosen = [name for name in names if (name not in missing) == here]
            stages += [{"key": name, "names": name, "purpose": purpose, "here": str(here)} for name in chosen]
    together = len(stages) > room
    keys: dict[str, list[dict[str, str]]] = {}
    for stage in stages:
        keys.setdefault(stage["purpose" if together else "key"], []).append(stage)
    found: tuple[dict[str, dict[str, str]], dict[str, dict[str, str]]] = ({}, {})
    for key, group in keys.items():
        note = f"{root}/fetched/{key}.json"
        kind = "data" if group[0]["purpose"] == "datasets" else "weights"
        # A frozen stage never runs: what is here but has no note yet, as after `concord fetch`, gets one first.
        frozen = all(stage["here"] == "True" for stage in group) and Path(note).is_file()
        found[frozen][key] = {"kind": kind, "names": " ".join(stage["names"] for stage in group), "note": note}
    return found


def _maker(suite: Suite, name: str) -> tuple[str | None, str]:
    """What makes a row ('reference', a method, None for a planned row), and the file it is written in, from ROOT."""
    if name in suite.reference:
        return "reference", "benchmarks/run/image_source.py"
    row = suite.row(name)
    if row.method is None:
        return None, ""
    path = method_file(row.method).resolve()
    return row.method, path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.as_posix()


def write_matrix(matrix: dict[str, Any], path: Path = MATRIX) -> bool:
    """Write the matrix unless it says so already; returns whether it changed."""
    text = "# Written by `concord plan`; not meant to be edited.\n" + yaml.safe_dump(matrix, sort_keys=False, width=120)
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return True
