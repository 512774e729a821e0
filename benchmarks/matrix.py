"""benchmarks/matrix.yaml: what dvc.yaml loops over. Written by `concord plan`, ignored by git, never edited.

It follows from the suites and from the methods that are registered, so that a new method file needs no second edit.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.plan import method_file
from benchmarks.settings import ROOT, Settings
from benchmarks.suite import Suite
from data.errors import ConcordError
from data.files import atomic_path

MATRIX = ROOT / "benchmarks" / "matrix.yaml"
STAGES = 50
"""DVC rewrites its lock file after every stage, at a cost that grows with their number: more than this is too slow."""
AROUND = 4
"""Stages besides those of runs: two datasets, the reference features, the report."""


def make_matrix(
    suites: Sequence[Suite],
    settings: Settings,
    *,
    profile: str,
    size: str,
    device: str = "auto",
    results: Path = Path("results"),
    plugins: Sequence[Path] = (),
) -> dict[str, Any]:
    """methods: name -> the suites that have a row of it, and its file; what `generate` and `score` are called with."""
    datasets = settings.profile(profile).datasets
    missing = [suite for suite in suites if suite.dataset not in datasets]
    if missing:
        raise ConcordError(
            f"params.yaml: profile '{profile}' names no folder for dataset '{missing[0].dataset}' "
            f"(suite '{missing[0].name}'); add one, or run a suite on a folder with --data"
        )
    makers: dict[str, dict[str, str]] = {}
    for suite in suites:
        for name in suite.row_names():
            method, source = _maker(suite, name)
            if method is not None:
                maker = makers.setdefault(method, {"source": source, "suites": suite.name})
                if suite.name not in maker["suites"].split(","):
                    maker["suites"] += f",{suite.name}"
    stages = 2 * len(makers) + AROUND
    if stages > STAGES:
        raise ConcordError(f"dvc.yaml: {stages} stages, at most {STAGES}; run one suite at a time with --suite")
    faces = datasets["faces"]
    options = [f"--profile {profile}", f"--results {shlex.quote(str(results))}", f"--device {device}"]
    options += [f"--plugin {shlex.quote(str(path.resolve()))}" for path in plugins]
    return {
        "profile": profile,
        "size": size,
        "options": " ".join(options),
        "results_root": str(results),
        "results": f"{results}/{profile}",
        "first": suites[0].name,
        "faces": {
            "items": faces.items,
            "items_n": max(settings.size(suite.request_set, size) for suite in suites),
            "reference": faces.reference,
            "reference_n": faces.reference_n,
        },
        "methods": makers,
        "suites": [suite.name for suite in suites],
    }


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
