"""Every method makes an image under a trace: no file that ran is outside the key, and few files in it did not run."""

from __future__ import annotations

import ast
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from concord.benchmarks.image_sources import open_image_source
from concord.benchmarks.plan.requests import Options
from concord.benchmarks.plan.runs import RunPlan
from concord.benchmarks.planner import make_plan
from concord.benchmarks.settings import load_settings
from concord.benchmarks.store.shards import encode_png
from concord.benchmarks.suite import load_suites
from concord.data.code import file_of, module_of
from concord.data.synthetic import write_tree
from concord.data.synthetic.scenes.tree import write_scenes
from concord.methods.base import all_methods
from concord.metrics.base import all_metrics

FEW = {"steps": 3}
"""Parameters that make a row short; a method without one is traced as it is."""
UNUSED = 0.20
"""At most so large a share of the files of a key may be files that no function of ran."""


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
        for changes in (FEW, None):
            with contextlib.suppress(Exception):
                plan = make_plan(suite, settings, options, changes)
                break
        for run in plan.runs:
            found.setdefault((run.row.method or run.row.name, run.conditions, suite.dataset), run)
    return list(found.values())


def trace_of(run: RunPlan) -> set[str]:
    """The modules that ran while a row's images were made and encoded."""
    ran: set[str] = set()
    batch = run.requests.requests[:1]
    with traced(ran):
        source = open_image_source(run, "cpu")
        try:
            made = source.make(source.prepare(batch), tell=True)
            for image in made.images:
                encode_png(image)
        finally:
            source.close()
    return ran


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[RunPlan, set[str]]]:
    found = {}
    for run in rows(tmp_path_factory.mktemp("results")):
        name = f"{run.requests.name}/{run.row.name} ({', '.join(run.conditions)})"
        found[name] = (run, trace_of(run))
    return found


@pytest.mark.slow
def test_nothing_that_ran_is_outside_the_key(traces: dict[str, tuple[RunPlan, set[str]]]) -> None:
    outside = {name: sorted(ran - run.sources.concord) for name, (run, ran) in traces.items()}
    assert {name: modules for name, modules in outside.items() if modules} == {}
    methods = {run.row.method for run, _ in traces.values()}
    assert set(all_methods()) - {"tedigan", "layout-style"} <= methods | {None}


@pytest.mark.slow
def test_few_files_of_a_key_did_not_run(traces: dict[str, tuple[RunPlan, set[str]]]) -> None:
    too_many = {}
    for name, (run, ran) in traces.items():
        unused = [module for module in sorted(run.sources.concord - ran) if has_functions(module)]
        if len(unused) > UNUSED * len(run.sources.concord):
            too_many[name] = f"{len(unused)} of {len(run.sources.concord)}: {', '.join(unused)}"
    assert too_many == {}
