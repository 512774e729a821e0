"""A suite of layouts from its file to its table: plan, images, scores by level, and every mistake in one line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_layouts

from concord.benchmarks.plan.requests import Options
from concord.benchmarks.plan.runs import Plan
from concord.benchmarks.planner import make_plan
from concord.benchmarks.run.generate import generate_run
from concord.benchmarks.session import Session
from concord.benchmarks.settings import Settings, load_settings
from concord.benchmarks.store.run import Run, Store
from concord.benchmarks.suite import Row, load_suite, read_suite, settle
from concord.data.datasets.layouts.layout import Layout
from concord.data.errors import ConcordError
from concord.data.request import request_seed
from concord.data.synthetic.scenes.tree import write_scenes
from concord.metrics.layout.instances import evaluate_interactions, evaluate_layout
from concord.reports import statistics as st
from concord.reports.assemble import build_table
from concord.reports.figures.conditions import dataset_conditions, keep_conditions, kept_conditions

FIRST, N = 17_000, 20


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes") / "test"
    write_scenes(root, range(FIRST, FIRST + N), workers=1, progress=False)
    return root


@pytest.fixture(scope="module")
def painter() -> Iterator[str]:
    from concord.methods import base

    before = base.all_methods()
    base.register(toy_layouts.Painter)
    yield "painter"
    base._REGISTRY.methods.clear()
    base._REGISTRY.methods.update(before)


@pytest.fixture(scope="module")
def plan(painter: str, tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder = tmp_path_factory.mktemp("results")
    return planned(toy_layouts.write_suite(folder), tree, folder)


def planned(suite: Path, tree: Path, results: Path, **options: Any) -> Plan:
    found = load_suite(str(suite))
    return make_plan(found, load_settings(), Options(data=tree, limit=N, results=results, **options), related=[found])


@pytest.fixture(scope="module")
def done(plan: Plan) -> Plan:
    """Every row made and scored; the judges' detector finds one box of the middle, whatever is asked for."""
    session = Session(plan, "cpu", 8, open_judges=lambda: toy_layouts.judges([(0.1, 0.1, 0.9, 0.9)]))
    session.generate(plan.runs)
    session.score(plan.runs)
    return plan


# ---------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dataset": "dataset: faces"}, ["dataset 'faces' gives no condition 'layout'", "expected dataset 'layouts'"]),
        ({"conditions": "conditions: [layout, mask]"}, ["dataset 'layouts' gives no condition 'mask'", "'faces'"]),
        ({"conditions": "conditions: [text]"}, ["'painter'", "condition 'text'", "it takes layout"]),
        ({"metrics": "metrics: [mask-accuracy]"}, ["'mask-accuracy'", "condition 'mask'"]),
    ],
)
def test_mistakes(painter: str, tmp_path: Path, changes: dict[str, str], words: list[str]) -> None:
    path = toy_layouts.write_suite(tmp_path, **changes)
    with pytest.raises(ConcordError) as error:
        load_suite(str(path))
    assert "\n" not in str(error.value)
    for word in [str(path), *words]:
        assert word in str(error.value), str(error.value)


def test_a_planned_row_waits_for_the_method_of_its_name(painter: str, tmp_path: Path) -> None:
    path = toy_layouts.write_suite(tmp_path)
    row = "{name: painter, planned: later, params: {steps: 2}}"
    path.write_text(path.read_text().replace("{name: interactdiffusion, method: painter}", row))
    found = load_suite(str(path)).row("painter")
    assert (found.method, found.planned, found.params) == ("painter", None, {"steps": 2})
    waiting = settle(read_suite(str(path)).model_copy(update={"rows": [Row(name="nosuch", planned="later")]}))
    assert waiting.row("nosuch").planned == "later"


def test_a_missing_tree_says_how_it_is_made(painter: str, tmp_path: Path) -> None:
    turned = {"embedded": {"items": "nowhere/scenes"}, "paper": {"items": "nowhere/coco-mig", "sources": ["coco-mig"]}}
    settings = Settings.model_validate({"profiles": {k: {"datasets": {"layouts": v}} for k, v in turned.items()}})
    with pytest.raises(ConcordError, match=r"nowhere/scenes: no such folder; make it with `concord data scenes`"):
        make_plan(load_suite(str(toy_layouts.write_suite(tmp_path))), settings, Options(limit=4))
    with pytest.raises(ConcordError, match=r"no such folder; make it with `concord data fetch coco-mig`, or"):
        make_plan(load_suite(str(toy_layouts.write_suite(tmp_path))), settings, Options("paper", limit=4))


def test_the_papers_models_are_said_to_be_elsewhere() -> None:
    from concord.benchmarks.generators import metric_needs, needed_by, row_reason

    suite = read_suite("coco-mig").in_profile("paper")
    assert (suite.reference, suite.metrics) == ([], ["instance-success", "layout-miou"])
    for method, models in (("layout-interaction", "InteractDiffusion"), ("amdm-layouts", "InteractDiffusion and MIGC")):
        reason = row_reason(suite, Row(name="row", method=method), "paper")
        assert reason is not None
        assert reason.startswith(f"not run: {models} cannot be loaded here; images that their own code makes")
        assert "\n" not in reason
    assert metric_needs("paper", suite.metrics) == ["groundingdino-swint-hf", "sam-vit-h-hf"]
    # nothing is made here, so that gigabytes of judges are fetched by those alone who bring images
    assert needed_by([suite], load_settings(), "paper") == {"datasets": ["coco-mig"]}


# ----------------------------------------------------------------------------------------------------------------- plan


def test_requests_ask_for_layouts_with_their_interactions(plan: Plan) -> None:
    requests = plan.requests
    assert [request.seed for request in requests.requests] == [request_seed("boxes", str(k), 0) for k in range(N)]
    levels = [request.facts()["level"] for request in requests.requests]
    assert levels == [2 + k % 5 for k in range(N)]
    for request in requests.requests:
        asked = requests.request(request, ["layout"]).conditions
        assert asked.names() == ("layout",)
        assert asked.layout is request.item.layout  # type: ignore[union-attr]
        assert request.facts()["interactions"] == len(asked.layout.interactions)
    with pytest.raises(ConcordError, match="dataset 'test' gives no condition 'masked_image'"):
        requests.conditions_of(requests.requests[0], ["masked_image"])


def test_keys_follow_what_is_asked_for(plan: Plan, tree: Path, tmp_path: Path) -> None:
    suite = toy_layouts.write_suite(tmp_path)
    again = planned(suite, tree, tmp_path)
    assert [run.key for run in again.runs] == [run.key for run in plan.runs]
    assert len({run.key for run in plan.runs}) == 3
    copy = toy_layouts.write_layouts(tmp_path / "copy", [2, 3, 4])
    plain = planned(suite, copy, tmp_path)
    (copy / "interactions.json").write_text(json.dumps({"2": [[0, "on", 1]]}))
    assert planned(suite, copy, tmp_path).run("interactdiffusion").key != plain.run("interactdiffusion").key


def test_layouts_are_read_by_files_of_their_own(plan: Plan) -> None:
    for run in plan.runs:
        assert "concord.data.datasets.layouts.dataset" in run.sources.concord
        assert "concord.data.datasets.faces.captions" not in run.sources.concord or not run.is_reference


def test_without_pictures_there_are_no_reference_rows(painter: str, tmp_path: Path) -> None:
    folder = toy_layouts.write_layouts(tmp_path / "tree", [2, 3])
    found = planned(toy_layouts.write_suite(tmp_path), folder, tmp_path)
    assert [run.row.name for run in found.runs] == ["interactdiffusion"]
    assert set(found.skipped) == {"ground-truth", "shuffled"}


# ---------------------------------------------------------------------------------------------------- images and scores


def test_runs_say_their_levels_and_are_up_to_date(done: Plan) -> None:
    for run in done.runs:
        stored = Run(run.path)
        assert [request["level"] for request in stored.manifest["requests"]] == [2 + k % 5 for k in range(N)]
        assert not generate_run(run, lambda: pytest.fail("made again"), 8).ran
    truth = dict(Run(done.run("ground-truth").path).images())
    for request in done.requests.requests[:3]:
        assert np.array_equal(truth[request.id], request.item.image(64))
    shuffled = dict(Run(done.run("shuffled").path).images())
    assert all(not np.array_equal(shuffled[name], truth[name]) for name in truth)


def test_scores_are_the_evaluators(done: Plan) -> None:
    run = Run(done.run("interactdiffusion").path)
    scores = run.scores().pivot(index="request", columns="metric", values="value")
    eyes = toy_layouts.Eyes([(0.1, 0.1, 0.9, 0.9)])
    named = 0
    for request, (name, image) in zip(done.requests.requests, run.images(), strict=True):
        layout = request.item.layout  # type: ignore[union-attr]
        instances = evaluate_layout(image, layout, eyes, eyes)
        found = evaluate_interactions(image, layout, instances, eyes)
        row = scores.loc[name]
        assert row["instance-success"] == pytest.approx(100 * np.mean([one.success for one in instances]))
        expected = 100 * np.mean(found) if found else 100.0
        assert row["interaction-success"] == pytest.approx(expected)
        assert row["layout-joint"] == 100.0 * (all(one.success for one in instances) and all(found))
        named += len(found)
    assert named > 4


def test_the_table_by_level_with_wilsons_intervals(done: Plan) -> None:
    store = Store(done.root)
    table = build_table(done.suite, store, "embedded")
    assert not table.refusal
    names = [column.name for column in table.columns]
    assert names[:6] == [f"instance-success@{level}" for level in ("L2", "L3", "L4", "L5", "L6", "avg")]
    assert {"interaction-success", "layout-joint", "layout-miou@avg"} <= set(names)
    run = store.run("boxes", "interactdiffusion")
    scores = run.scores().pivot(index="request", columns="metric", values="value").loc[run.ids]
    facts = run.manifest["requests"]
    level, counts = (np.array([request[key] for request in facts]) for key in ("level", "interactions"))
    row = table.row("interactdiffusion")

    def expected(values: np.ndarray, number: np.ndarray) -> st.Interval:
        things = [
            (i, k < round(v * n / 100)) for i, (v, n) in enumerate(zip(values, number, strict=True)) for k in range(n)
        ]
        return st.rate_interval([float(hit) for _, hit in things], [str(i) for i, _ in things])

    for column, values, number in (
        ("instance-success@avg", scores["instance-success"], level),
        ("instance-success@L3", scores["instance-success"][level == 3], level[level == 3]),
        ("interaction-success", scores["interaction-success"], counts),
    ):
        cell, interval = row.cells[column], expected(np.asarray(values), number)
        assert (cell.value, cell.low, cell.high) == pytest.approx([100 * end for end in interval]), column
    assert row.cells["interaction-success"].n == int((counts > 0).sum())
    joint = st.rate_interval(scores["layout-joint"] / 100)
    cell = row.cells["layout-joint"]
    assert (cell.value, cell.low, cell.high) == pytest.approx([100 * end for end in joint])
    assert any("every interaction alike" in said for said in table.notes["Levels"])
    assert row.cells["instance-success@avg"].paper == 24.96


def test_conditions_of_the_grid_keep_their_interactions(done: Plan, tmp_path: Path) -> None:
    run = Run(done.run("ground-truth").path)
    shown = dataset_conditions(done.requests.dataset, run, N, ["layout"])
    keep_conditions(tmp_path, "boxes", shown)
    kept = kept_conditions(tmp_path, "boxes", run.ids)
    assert list(kept) == run.ids
    for request in done.requests.requests:
        asked, found = request.item.layout, kept[request.id].layout  # type: ignore[union-attr]
        assert isinstance(found, Layout)
        assert found.interactions == asked.interactions
        assert np.array_equal(found.boxes, asked.boxes)
