"""Size `quick`: few rows and images, no reference faces, a results folder of its own; and the screen at the end."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_store import FACTS, make_suite, write_store

from concord.benchmarks.datasets import items_needed
from concord.benchmarks.plan.requests import Options
from concord.benchmarks.planner import make_plan
from concord.benchmarks.settings import load_settings
from concord.benchmarks.suite import load_suite, read_suite, related_suites, suite_names
from concord.data.errors import ConcordError
from concord.metrics.base import get_metric
from concord.reports.assemble import build_table
from concord.reports.brief import WIDTH, screen
from concord.reports.report import Report

FIRST = "face-generation"


def test_one_suite_has_a_first_look_and_its_rows_are_the_suites_own() -> None:
    assert [name for name in suite_names() if read_suite(name).quick is not None] == [FIRST]
    suite = load_suite(FIRST).in_size("quick")
    assert [row.name for row in suite.rows][:2] == ["text-only", "mask-only"]
    assert {"composable", "collaborative", "amdm"} <= {str(row.method) for row in suite.rows}
    assert suite.size("quick", "embedded") == 16
    assert suite.reference == ["ground-truth"]
    assert all(get_metric(name).minimum_n <= 16 for name in suite.metrics if name != "joint-success")


def test_a_suite_without_one_says_so() -> None:
    with pytest.raises(ConcordError, match="has no size 'quick'; add the key 'quick'"):
        load_suite("coco-mig").in_size("quick")


def test_its_plan_is_small_and_apart(toy_tree: Path, tmp_path: Path) -> None:
    options = Options(size="quick", data=toy_tree, results=tmp_path)
    plan = make_plan(load_suite(FIRST), load_settings(), options, related=related_suites(FIRST))
    assert plan.root.name.startswith("quick+data-")
    assert len(plan.requests) == 12  # the tree has no more
    assert plan.runs[0].row.name == "ground-truth"
    assert len(plan.runs) == 6
    assert {suite.name for suite in plan.related} == {FIRST}
    assert items_needed(plan.suite, Options(size="quick")) == 16


def test_the_screen_names_every_suite_its_rows_and_what_stands(tmp_path: Path) -> None:
    store = write_store(tmp_path, n=64)
    table = build_table(make_suite(), store, "embedded", FACTS)
    empty = build_table(make_suite(name="another-suite", requests="another"), store, "embedded", FACTS)
    tables = {"face-generation": table, "another-suite": empty}
    lines = screen(Report([], store, "embedded", tables, {}))
    assert len(lines) == 5
    assert all(len(line) <= WIDTH for line in lines)
    first = " ".join(lines[1].split())
    assert first.startswith("face-generation 64 3/")
    assert "Collaborative Diffusion: Worst condition, FID, Mask" in first
    assert "not run yet" in lines[2]
    assert lines[3] == f"report: {tmp_path / 'report/index.html'}"
    assert "concord open" in lines[4]
