"""Columns by level: COCO-MIG's averages from hand-made scenes, against the metric's own table of instances."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_store import sign, write_run
from layout_world import Perfect, grid_layout, paint

from concord.benchmarks.store.run import Store
from concord.benchmarks.suite import Row, Suite, read_suite
from concord.metrics.layout.instances import (
    Instance,
    LayoutTable,
    evaluate_layout,
    layout_table,
    mean_iou,
    success_rate,
)
from concord.reports import statistics as st
from concord.reports.assemble import build_table
from concord.reports.tables.export import to_frame
from concord.reports.tables.markdown import to_markdown
from concord.reports.tables.measured import metric_facts, spread
from concord.reports.tables.table import BEST, Table

LEVELS = [2, 3, 4, 5, 6] * 6
ROWS = {"interactdiffusion": 0.6, "amdm-interactdiffusion-migc": 0.1}  # share of instances in a wrong colour
FACTS = metric_facts(["instance-success", "layout-miou"])


def scenes(row: str) -> list[list[Instance]]:
    """What the evaluator says of painted scenes: some instances in a colour that nobody asked for, some moved."""
    rng = np.random.default_rng(list(row.encode()))
    found = []
    for level in LEVELS:
        layout = grid_layout(level)
        wrong = frozenset(np.flatnonzero(rng.random(level) < ROWS[row]).tolist())
        moved = {("bird", n): None for n in range(level) if rng.random() < 0.1}
        # each bird of its own category, so that a missing one is not found in its neighbour
        layout = layout.of("a photo", layout.boxes, [f"{label}{n}" for n, label in enumerate(layout.labels)], "1")
        seer = Perfect(layout, {(f"bird{n}", 0): None for _, n in moved})
        found.append(evaluate_layout(paint(layout, 48, wrong), layout, seer, seer, size=None))
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Table, dict[str, LayoutTable], Store]:
    root, truth = tmp_path_factory.mktemp("levels"), {}
    ids = [f"{i}-0" for i in range(len(LEVELS))]
    for row in ROWS:
        path, images = (
            write_run(root, row, ids=ids, request_set="coco-mig", levels=(1, 1, 1), images=False),
            scenes(row),
        )
        truth[row] = layout_table(images)
        values = {"instance-success": map(success_rate, images), "layout-miou": map(mean_iou, images)}
        scores = [
            {"suite": "coco-mig", "method": row, "request": request, "metric": name, "value": value, "status": "ok"}
            for name, per_image in values.items()
            for request, value in zip(ids, per_image, strict=True)
        ]
        pd.DataFrame(scores).to_parquet(path / "scores.parquet", index=False)
        manifest = json.loads((path / "run.json").read_text())
        for request, level in zip(manifest["requests"], LEVELS, strict=True):
            request["level"] = level
        (path / "run.json").write_text(json.dumps(manifest))
        sign(path)
    return build_table(suite(), Store(root), "embedded", FACTS), truth, Store(root)


def suite() -> Suite:
    return Suite(
        name="coco-mig",
        title="COCO-MIG",
        paper="amdm",
        table="table-1",
        dataset="layouts",
        conditions=["layout"],
        rows=[Row(name=name, method=name) for name in ROWS],
        metrics=["instance-success", "layout-miou"],
    )


def test_every_column_is_the_benchmarks_own_average(made: tuple[Table, dict[str, LayoutTable], Store]) -> None:
    table, truth, _ = made
    names = [column.name for column in table.columns]
    assert names == [f"{m}@{c}" for m in FACTS for c in ("L2", "L3", "L4", "L5", "L6", "avg")]
    for row, expected in truth.items():
        cells = table.row(row).cells
        for column in ("L2", "L3", "L4", "L5", "L6", "avg"):
            assert cells[f"instance-success@{column}"].value == pytest.approx(expected.success[column])
            assert cells[f"layout-miou@{column}"].value == pytest.approx(expected.miou[column])
        assert expected.success["avg"] != pytest.approx(expected.success["avg-level"])  # the weights matter here


def test_the_papers_values_stand_beside_their_levels(made: tuple[Table, dict[str, LayoutTable], Store]) -> None:
    table, _, _ = made
    row = table.row("amdm-interactdiffusion-migc")
    assert row.cells["instance-success@L2"].paper == 57.18
    assert row.cells["instance-success@avg"].paper == 50.81
    assert row.cells["layout-miou@L6"].paper == 43.23
    assert row.cost.paper_seconds == 19.45
    markdown = to_markdown(table)
    assert "Success L2 (%) ↑" in markdown
    assert "mIoU avg (%) ↑" in markdown
    assert "avg: every instance alike" in markdown


def test_a_levels_interval_is_that_of_its_images_alone(made: tuple[Table, dict[str, LayoutTable], Store]) -> None:
    table, _, store = made
    scores = store.run("coco-mig", "interactdiffusion").scores()
    values = scores[scores["metric"] == "layout-miou"]["value"].to_numpy()[np.array(LEVELS) == 4]
    cell = table.row("interactdiffusion").cells["layout-miou@L4"]
    expected = st.mean_interval(values, bounds=(0, 100))
    assert (cell.low, cell.high) == pytest.approx((expected.low, expected.high))
    assert cell.n == 6
    frame = to_frame(table).set_index(["row", "metric"])
    assert frame.loc[("interactdiffusion", "layout-miou@L4"), "n"] == 6
    assert frame.loc[("interactdiffusion", "layout-miou@avg"), "n"] == 30


def test_rows_are_compared_instance_by_instance(made: tuple[Table, dict[str, LayoutTable], Store]) -> None:
    table, truth, _ = made
    (pair,) = [c for c in table.comparisons if c.column == "instance-success@avg"]
    first, second = truth["interactdiffusion"].success["avg"], truth["amdm-interactdiffusion-migc"].success["avg"]
    assert pair.difference == pytest.approx(first - second)
    assert pair.low < pair.difference < pair.high
    assert table.row("amdm-interactdiffusion-migc").cells["instance-success@avg"].mark == BEST


def test_levels_are_shown_and_their_average_is_tested(made: tuple[Table, dict[str, LayoutTable], Store]) -> None:
    """Six images of a level decide nothing, and tests of them would weaken those of the average."""
    table, _, _ = made
    assert {c.column for c in table.comparisons} == {"instance-success@avg", "layout-miou@avg"}
    for row in table.rows:
        assert all(not cell.mark for name, cell in row.cells.items() if "@L" in name)
    assert "are not tested by themselves" in to_markdown(table)


def test_the_weighted_means_spread_is_that_of_a_ratio() -> None:
    """Over many made-up benches: the standard error from `spread` is the deviation of the weighted means."""
    rng = np.random.default_rng(0)
    means, errors = [], []
    for _ in range(2000):
        weights = rng.integers(2, 7, 100).astype(float)
        values = rng.normal(40, 10, 100) + 2 * weights
        pseudo = spread(values, weights)
        means.append(pseudo.mean())
        assert pseudo.mean() == pytest.approx((values * weights).sum() / weights.sum())
        errors.append(st.standard_error(pseudo)[0])
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.05)


def test_without_levels_the_metric_keeps_its_mean_over_images(
    made: tuple[Table, dict[str, LayoutTable], Store], tmp_path: Path
) -> None:
    shutil.copytree(made[2].root, tmp_path / "copy")
    for file in tmp_path.glob("copy/*/*/run.json"):
        manifest = json.loads(file.read_text())
        manifest["requests"] = [{"id": request["id"]} for request in manifest["requests"]]
        file.write_text(json.dumps(manifest))
        sign(file.parent)
    table = build_table(suite(), Store(tmp_path / "copy"), "embedded", FACTS)
    assert [column.name for column in table.columns][:2] == ["instance-success", "layout-miou"]
    cell = table.row("interactdiffusion").cells["instance-success"]
    assert cell.value == pytest.approx(np.mean([success_rate(images) for images in scenes("interactdiffusion")]))
    assert table.row("interactdiffusion").cells["paper:success_avg"].paper == 24.96
    assert "the stored rows do not say their levels" in table.notes["Levels"][0]


def test_before_any_run_every_level_shows_the_papers_value(tmp_path: Path) -> None:
    table = build_table(suite(), Store(tmp_path), "embedded", FACTS)
    assert all(row.absent for row in table.rows)
    assert [column.name for column in table.columns][:2] == ["instance-success@L2", "instance-success@L3"]
    assert table.row("interactdiffusion").cells["instance-success@avg"].paper == 24.96


def test_what_cannot_be_scored_is_said_before_any_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The metrics whose files are missing have given way to their columns by level by then."""
    monkeypatch.setenv("CONCORD_CACHE", str(tmp_path / "cache"))
    table = build_table(read_suite("coco-mig"), Store(tmp_path), "paper")
    (success, *_) = table.notes["Not scored"]
    assert "(instance-success)" in success
    assert "concord weights fetch groundingdino-swint-hf" in success
