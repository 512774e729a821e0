"""benchmarks/matrix.yaml: what dvc.yaml loops over. Written by `concord plan`, ignored by git, never edited.

It follows from the suites and from the methods that are registered, so that a new method file needs no second edit.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.generators import PROFILE, generator_of, has_models
from benchmarks.plan import method_file
from benchmarks.settings import ROOT, DatasetSettings, Settings
from benchmarks.suite import Suite
from data.errors import ConcordError
from data.files import atomic_path

MATRIX = ROOT / "benchmarks" / "matrix.yaml"
STAGES = 50
"""DVC rewrites its lock file after every stage, at a cost that grows with their number: more than this is too slow."""
ENDS = 2
"""Stages besides those of runs and data: the reference features, the report."""
AROUND = 2 + ENDS
"""Stages of profile 'embedded' besides those of runs: two trees of faces, and the ends."""


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

    methods: name -> the suites that have a row of it, and its file; what `generate` and `score` are called with.
    trees: the folders of faces, how each is made, and its mark. fetch, fetched: what is still to come and what is here,
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
    makers: dict[str, dict[str, str]] = {}
    for suite in suites:
        for name in suite.row_names():
            method, source = _maker(suite, name)
            is_reference = name in suite.reference
            if profile == PROFILE and not is_reference and generator_of(suite, suite.row(name), profile) is None:
                continue  # nobody has published what would make it
            if method is not None:
                maker = makers.setdefault(method, {"source": source, "suites": suite.name})
                if suite.name not in maker["suites"].split(","):
                    maker["suites"] += f",{suite.name}"
    root = results / profile
    items_n = max(settings.size(suite.request_set, size, profile) for suite in suites)
    trees = _trees(datasets["faces"], items_n, root)
    fetch, fetched = _fetches(suites, settings, profile, root, STAGES - 2 * len(makers) - len(trees) - ENDS)
    stages = 2 * len(makers) + len(trees) + len(fetch) + len(fetched) + ENDS
    if stages > STAGES:
        raise ConcordError(f"dvc.yaml: {stages} stages, at most {STAGES}; run one suite at a time with --suite")
    faces = datasets["faces"]
    options = [f"--profile {profile}", f"--results {shlex.quote(str(results))}", f"--device {device}"]
    options += [f"--devices {shlex.quote(devices)}"] if devices else []
    options += [f"--plugin {shlex.quote(str(path.resolve()))}" for path in plugins]
    marks = list(trees.values())
    return {
        "profile": profile,
        "size": size,
        "options": " ".join(options),
        "results_root": str(results),
        "results": f"{results}/{profile}",
        "first": suites[0].name,
        "faces": {
            "items": faces.items,
            "items_n": items_n,
            "items_mark": marks[0]["mark"],
            "reference": faces.reference,
            "reference_n": faces.reference_n,
            "reference_mark": marks[-1]["twin"],
        },
        "trees": trees,
        "fetch": fetch,
        "fetched": fetched,
        "methods": makers,
        "suites": [suite.name for suite in suites],
    }


def _trees(faces: DatasetSettings, items_n: int, root: Path) -> dict[str, dict[str, str]]:
    """Folder of faces -> the command that makes it, what it is made from, and two files that tell that it is there.

    Shards prepared from what was fetched serve as items and as reference; drawn faces are two trees.
    """
    if faces.sources:
        folder = faces.items_folder
        folder = folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder
        return {
            "prepared": {
                "cmd": f"concord data prepare {faces.sources[0]}", "source": f"{root}/fetched",
                "mark": f"{folder}/prepared.json", "twin": f"{folder}/captions.json",
            }
        }  # fmt: skip
    found = {}
    for split, drawn, n in (("test", faces.items, items_n), ("validation", faces.reference, faces.reference_n)):
        mark = f"{drawn}/world.json"
        cmd = f"concord data make --split {split} --n {n} --out {drawn} --force"
        found["items" if split == "test" else "reference"] = {
            "cmd": cmd, "source": "data/synthetic", "mark": mark, "twin": mark,
        }  # fmt: skip
    return found


def _fetches(
    suites: Sequence[Suite], settings: Settings, profile: str, root: Path, room: int
) -> tuple[dict[str, dict[str, str]], dict[str, dict[str, str]]]:
    """Stages of what is still to be fetched and of what is here, one a name; one a purpose where `room` is short.

    A licence that nobody has agreed to is not agreed to here: `concord fetch` says so, and how.
    """
    from benchmarks.generators import lacking, needed_by  # looked up anew: tests stand in for what is here

    if not settings.profile(profile).datasets["faces"].sources:
        return {}, {}
    purposes = needed_by(suites, settings, profile)
    missing = lacking(name for names in purposes.values() for name in names)
    stages: list[dict[str, str]] = []
    for purpose, names in purposes.items():
        for here in (False, True):
            chosen = [name for name in names if (name not in missing) == here]
            stages += [{"key": name, "names": name, "purpose": purpose, "here": str(here)} for name in chosen]
    if len(stages) > room:
        merged: dict[tuple[str, str], list[str]] = {}
        for stage in stages:
            merged.setdefault((stage["purpose"], stage["here"]), []).append(stage["names"])
        stages = [{"key": purpose, "names": " ".join(names), "purpose": purpose, "here": here}
                  for (purpose, here), names in merged.items()]  # fmt: skip
    found: tuple[dict[str, dict[str, str]], dict[str, dict[str, str]]] = ({}, {})
    for stage in stages:
        kind = "data" if stage["purpose"] == "datasets" else "weights"
        note = f"{root}/fetched/{stage['key']}.json"
        found[stage["here"] == "True"][stage["key"]] = {"kind": kind, "names": stage["names"], "note": note}
    return found


def _maker(suite: Suite, name: str) -> tuple[str | None, str]:
    """What makes a row ('reference', a method, None for a planned row), and the file it is written in, from ROOT."""
    if name in suite.reference:
        return "reference", "benchmarks/makers.py"
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
