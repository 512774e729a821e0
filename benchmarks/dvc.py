"""benchmarks/matrix.yaml: what dvc.yaml loops over. Written by `concord plan`, ignored by git, never edited.

It follows from the suites and from the methods that are registered, so that a new method file needs no second edit.
What a stage depends on is written by `concord keys`, a small file a stage: those parts of the keys of its rows, or of
their scores, that are known before any data are there (benchmarks/plan/sources.py), the code by its import closure.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from concord.benchmarks.generators import features_uses, generator_of, has_models, metric_uses, row_uses
from concord.benchmarks.plan.sources import PACKAGES, Sources, metric_sources, use_sources, versions
from concord.benchmarks.planner import dataset_sources, reference_sources, row_sources
from concord.benchmarks.run.score import SCORER
from concord.benchmarks.settings import ROOT, DatasetSettings, Settings, load_settings
from concord.benchmarks.suite import Suite, metrics_of
from concord.benchmarks.tuned import tuned_row
from concord.data.datasets.layouts.layout import FILES
from concord.data.errors import ConcordError
from concord.data.files import atomic_path, sha256_file
from concord.data.profile import load_profile
from concord.methods.base import get_method, make_params
from concord.metrics.base import MomentMetric, SetMetric, get_metric

MATRIX = ROOT / "benchmarks" / "matrix.yaml"
STAGES = 50
"""DVC rewrites its lock file after every stage, at a cost that grows with their number: more than this is too slow."""
ENDS = 3
"""Stages besides those of suites and data: the keys, the reference features, the report."""
AROUND = 3 + ENDS
"""Stages of profile 'embedded' besides those of suites: two trees of faces, one of scenes, and the ends."""


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

    suites: a stage `generate` and a stage `score` each; data: the mark of the data that it reads.
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
    suites = [suite.in_profile(profile).in_size(size) for suite in suites if has_models(suite, profile)]
    if not suites:
        raise ConcordError(f"these suites say nothing of profile '{profile}'; choose another with --suite")
    trees, marks = _trees(suites, settings, profile, size, root := results / profile)
    stages = {suite.name: {"data": marks[suite.dataset][0]} for suite in suites}
    fetch, fetched = _fetches(suites, settings, profile, root, STAGES - 2 * len(stages) - len(trees) - ENDS)
    total = 2 * len(stages) + len(trees) + len(fetch) + len(fetched) + ENDS
    if total > STAGES:
        raise ConcordError(f"dvc.yaml: {total} stages, at most {STAGES}; run one suite at a time with --suite")
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
        "suites": stages,
    }


def write_keys(suites: Sequence[Suite], profile: str, folder: Path) -> list[Path]:
    """Write what the stages of these suites stand on, a file each; a file that says so already is left as it is."""
    suites = [suite.in_profile(profile) for suite in suites if has_models(suite, profile)]
    compared = next((suite for suite in suites if suite.dataset == "faces"), suites[0]) if suites else None
    facts: dict[str, dict[str, object]] = {}
    for suite in suites:
        facts[f"generate-{suite.name}"] = _generate_facts(suite, profile)
        related = [other for other in suites if other.request_set == suite.request_set]
        facts[f"score-{suite.name}"] = _score_facts(metrics_of(related), profile)
    if compared is not None:
        sets = [metric for name in metrics_of(suites) if isinstance(metric := get_metric(name), SetMetric)]
        kinds = dict.fromkeys(metric.features for metric in sets if metric.needs_reference and not metric.counted)
        judges = use_sources(features_uses(profile, kinds), load_profile(profile))
        facts["reference"] = _facts(judges | dataset_sources(compared))
    written = []
    for name, content in facts.items():
        path = folder / f"{name}.json"
        text = json.dumps(content, indent=1, sort_keys=True) + "\n"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            with atomic_path(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
            written.append(path)
    for path in folder.glob("*.json"):
        if path.stem not in facts:
            path.unlink()
    return written


def _generate_facts(suite: Suite, profile: str) -> dict[str, object]:
    sources = reference_sources(suite) if suite.reference else Sources()
    rows: dict[str, object] = dict.fromkeys(suite.reference, suite.dataset)
    for row in suite.rows:
        generator = generator_of(suite, row, profile)
        if row.method is None or generator is None:
            continue  # nobody has published what would make it
        settled = tuned_row(row, suite.request_set, profile)
        sources |= row_sources(suite, settled, profile)
        uses = row_uses(profile, row.method, generator, settled.params, suite.row_conditions(row))
        params = make_params(get_method(row.method), settled.params).model_dump(mode="json")
        conditions = list(suite.row_conditions(row))
        networks = {use.role: use.entry.model_dump() for use in uses}
        rows[row.name] = {
            "method": row.method,
            "params": params,
            "conditions": conditions,
            "generator": generator,
            "networks": networks,
        }
    own, n = load_settings().profile(profile), suite.part(profile).n or suite.n
    data = own.datasets.get(suite.dataset)
    facts = {
        "n": None if n is None else n.model_dump(),
        "image_size": suite.part(profile).image_size or own.image_size,
        "dtype": own.dtype,
        "dataset": None if data is None else data.model_dump(),
    }
    return {"rows": rows, "options": suite.options, "conditions": list(suite.conditions), **facts, **_facts(sources)}


def _score_facts(metrics: Sequence[str], profile: str) -> dict[str, object]:
    named = {name: get_metric(name).version for name in metrics}
    uses = [use for name in metrics for use in metric_uses(profile, name)]
    networks = {use.role: use.entry.model_dump() for use in uses}
    sources = metric_sources(metrics, uses, load_profile(profile)) | Sources(alone=SCORER)
    moments = {}
    if any(isinstance(get_metric(name), MomentMetric) for name in metrics):
        files = {kind: folders.moments_file for kind, folders in load_profile(profile).datasets.items()}
        moments = {kind: sha256_file(file) for kind, file in files.items() if file is not None}
    return {"metrics": named, "networks": networks, **_facts(sources), **({"moments": moments} if moments else {})}


def _facts(sources: Sources) -> dict[str, object]:
    return {"code": sources.code, "files": sources.data, "versions": versions((*PACKAGES, "scipy"))}


def _trees(
    suites: Sequence[Suite], settings: Settings, profile: str, size: str, root: Path
) -> tuple[dict[str, dict[str, str]], dict[str, tuple[str, str]]]:
    """What makes the suites' data, and by kind of dataset two files that tell that its items and reference are there.

    Folder -> the command that makes it, what it is made from, and two files of it. Shards prepared from what was
    fetched serve as items and as reference; drawn faces are two trees; a file of layouts is drawn or fetched as it is.
    """
    found: dict[str, dict[str, str]] = {}
    marks: dict[str, tuple[str, str]] = {}
    for kind in dict.fromkeys(suite.dataset for suite in suites):
        named = settings.profile(profile).datasets[kind]
        n = max(suite.size(size, profile) for suite in suites if suite.dataset == kind)
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
            "cmd": f"concord data prepare {named.sources[0]}",
            "source": f"{root}/fetched",
            "mark": f"{folder}/prepared.json",
            "twin": f"{folder}/captions.json",
        }
    }


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
            "cmd": cmd,
            "source": "data/synthetic",
            "mark": mark,
            "twin": mark,
        }
    return found


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
    missing = lacking((name for names in purposes.values() for name in names), profile)
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


def write_matrix(matrix: dict[str, object], path: Path = MATRIX) -> bool:
    """Write the matrix unless it says so already; returns whether it changed."""
    text = "# Written by `concord plan`; not meant to be edited.\n" + yaml.safe_dump(matrix, sort_keys=False, width=120)
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return True
