"""Every method makes an image under a trace: no file that ran is outside the key, and few files in it did not run."""

from __future__ import annotations

import ast
import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import FrameType

import pytest

from concord.benchmarks.image_sources import open_image_source
from concord.benchmarks.plan import sources
from concord.benchmarks.plan.requests import Options
from concord.benchmarks.plan.runs import RunPlan
from concord.benchmarks.planner import make_plan
from concord.benchmarks.settings import load_settings
from concord.benchmarks.store.shards import encode_png
from concord.benchmarks.suite import load_suites
from concord.data.code import code_of, file_of, imports, module_of
from concord.data.datasets.faces.open import open_faces
from concord.data.datasets.layouts.dataset import LayoutDataset, open_layout_items
from concord.data.synthetic import write_tree
from concord.data.synthetic.scenes.tree import write_scenes
from concord.methods.base import all_methods
from concord.metrics.base import all_metrics

FEW = {"steps": 3, "inversion_steps": 3, "repeat": 2}
"""Parameters that make a row short, where its method has them; 0 and fewer stay."""
PROCESS = {"concord.benchmarks.run.foreign", "concord.data.code"}
"""What looks whether a method is a plugin, to say in which process its code runs; no image follows from it."""
UNUSED = {True: 0.61, False: 0.41}  # the aim is 0.20; most of the rest are constants, error classes and registries
"""At most so large a share of a key's files may be files that no function of ran: of reference rows, of methods'."""


@contextlib.contextmanager
def traced(found: set[str]) -> Iterator[None]:
    """Add the modules of Concord of which any code runs inside to `found`."""
    names: dict[str, str | None] = {}

    def look(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            file = frame.f_code.co_filename
            if file not in names:
                names[file] = module_of(Path(file)) if file.endswith(".py") else None
            if (name := names[file]) is not None:
                found.add(name)

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        yield
    finally:
        sys.setprofile(before)


@cache
def has_functions(module: str) -> bool:
    """Whether a module has code that could run after its import: constants and schemas have none."""
    tree = ast.parse(file_of(module).read_bytes())
    return any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in ast.walk(tree))


def rows(folder: Path) -> list[RunPlan]:
    """The runs of profile 'embedded', one of each method and set of conditions, of one request each."""
    all_methods()  # found by looking at the folder: imported before the trace begins, as before any run
    all_metrics()
    write_tree(folder / "faces", range(2), workers=1, references=True)
    write_scenes(folder / "layouts", range(2), workers=1)
    settings, suites, found = load_settings(), load_suites(), dict[tuple[object, ...], RunPlan]()
    for suite in suites:
        options = Options(limit=2, data=folder / suite.dataset, results=folder / "results")
        for run in make_plan(suite, settings, options).runs:
            found.setdefault((run.row.method or run.row.name, run.conditions, suite.dataset), run)
    return [shortened(run) for run in found.values()]


def shortened(run: RunPlan) -> RunPlan:
    """The run with the parameters of `FEW` that its method has."""
    params = {name: value for name, value in FEW.items() if run.params.get(name, 0) > value}
    return replace(run, row=run.row.model_copy(update={"params": {**run.row.params, **params}}))


def trace_of(run: RunPlan) -> set[str]:
    """The modules that ran while a row's data were read, and its images made and encoded."""
    ran: set[str] = set()
    batch = run.requests.requests[:1]
    with traced(ran):
        if isinstance(run.requests.dataset, LayoutDataset):
            open_layout_items(run.requests.dataset.root)
        else:
            open_faces(run.requests.dataset.root)
        source = open_image_source(run, "cpu")
        try:
            made = source.make(source.prepare(batch), tell=True)
            for image in made.images:
                encode_png(image)
        finally:
            source.close()
    return ran


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunPlan]:
    found = rows(tmp_path_factory.mktemp("results"))
    return {f"{run.requests.name}/{run.row.name} ({', '.join(run.conditions)})": run for run in found}


def fullest(runs: dict[str, RunPlan]) -> dict[str, RunPlan]:
    """Of each method, or reference row, the run with the most conditions: it has the others' code too, or nearly."""
    found: dict[str, str] = {}
    for name in sorted(runs, key=lambda name: len(runs[name].conditions)):
        found[runs[name].row.method or runs[name].row.name] = name
    return {name: runs[name] for name in found.values()}


@pytest.fixture(scope="module", params=[fullest, pytest.param(dict, marks=pytest.mark.long)], ids=["fullest", "every"])
def traces(request: pytest.FixtureRequest, runs: dict[str, RunPlan]) -> dict[str, tuple[RunPlan, set[str]]]:
    return {name: (run, trace_of(run)) for name, run in request.param(runs).items()}


def test_a_change_of_a_file_makes_those_rows_stale_that_stand_on_it(
    runs: dict[str, RunPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For every file of Concord: whose keys change with it, and whose do not."""
    touched: dict[str, set[str]] = {}
    alike: dict[frozenset[str], list[str]] = {}  # runs of the same code: one of them stands for all
    for name, run in runs.items():
        alike.setdefault(frozenset(run.sources.concord), []).append(name)
    before, hashes = {name: run.key for name, run in runs.items()}, code_of(imports())
    for changed in sorted(imports()):
        now = {**hashes, changed: "0"}
        monkeypatch.setattr(sources, "code_of", lambda modules, now=now: {name: now[name] for name in sorted(modules)})
        touched[changed] = set()
        for names in alike.values():
            run = runs[names[0]]
            if replace(run, sources=replace(run.sources)).key != before[names[0]]:
                touched[changed] |= set(names)
        assert touched[changed] == {name for name, run in runs.items() if changed in run.sources.concord}, changed

    def methods(module: str) -> set[str | None]:
        return {runs[name].row.method for name in touched[module]}

    everyone = {run.row.method for run in runs.values()} - {None}
    assert everyone <= methods("concord.methods.base")
    assert methods("concord.benchmarks.run.image_source") == everyone | {None}  # `to_uint8`
    assert methods("concord.benchmarks.store.shards") == everyone | {None}
    cagrad = methods("concord.methods.guidance.cagrad")
    assert "z-magic" in cagrad
    assert not {"composable", "collaborative", "tedigan", "text-only", None} & cagrad
    assert methods("concord.methods.collaborative") == {"collaborative"}
    assert methods("concord.methods.tedigan") == {"tedigan"}
    machinery = (
        "concord.reports",
        "concord.commands",
        "concord.cli",
        "concord.benchmarks.dvc",
        "concord.benchmarks.tune",
    )
    for module, rows in touched.items():
        assert not (module.startswith(machinery) and rows), module


@pytest.mark.slow
def test_nothing_that_ran_is_outside_the_key(traces: dict[str, tuple[RunPlan, set[str]]]) -> None:
    outside = {name: sorted(ran - run.sources.concord - PROCESS) for name, (run, ran) in traces.items()}
    assert {name: modules for name, modules in outside.items() if modules} == {}
    methods = {run.row.method for run, _ in traces.values()}
    shown = {row.method for suite in load_suites() for row in suite.rows}  # a method without a row is traced by nobody
    assert (set(all_methods()) & shown) - {"tedigan", "layout-style"} <= methods


@pytest.mark.slow
def test_few_files_of_a_key_did_not_run(traces: dict[str, tuple[RunPlan, set[str]]]) -> None:
    too_many = {}
    for name, (run, ran) in traces.items():
        unused = [module for module in sorted(run.sources.concord - ran) if has_functions(module)]
        if len(unused) > UNUSED[run.is_reference] * len(run.sources.concord):
            too_many[name] = f"{len(unused)} of {len(run.sources.concord)}: {', '.join(unused)}"
    assert too_many == {}
