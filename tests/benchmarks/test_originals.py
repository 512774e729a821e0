"""A suite whose metrics of pairs compare with another row's images: values, what makes them stale, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_world
from given_networks import seen_by

from concord.benchmarks.plan.requests import Options
from concord.benchmarks.plan.runs import Plan
from concord.benchmarks.planner import make_plan
from concord.benchmarks.session import Session
from concord.benchmarks.settings import load_settings
from concord.benchmarks.store.run import Run, Store
from concord.benchmarks.suite import check_shared, load_suite, read_suite
from concord.data.errors import ConcordError
from concord.reports.assemble import build_table

N = 5
SUITE = """
name: toys
title: Toys
paper: collaborative-diffusion
table: table-1
dataset: faces
conditions: [text, mask]
rows:
  - {name: plain, method: toy, params: {steps: 1}}
  - {name: toy, method: toy}
metrics: [psnr, mask-accuracy]
originals: plain
reference: [ground-truth, shuffled]
grid: 0
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_world.write_tree(tmp_path_factory.mktemp("originals") / "tree", N)


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "toys.yaml"
    path.write_text(SUITE)
    return path


@pytest.fixture
def plan(toy: str, suite: Path, tree: Path, tmp_path: Path) -> Plan:
    options = Options(data=tree, limit=N, results=tmp_path / "results")
    return make_plan(load_suite(str(suite)), load_settings(), options)


def session(plan: Plan) -> Session:
    return Session(plan, "cpu", open_judges=lambda: seen_by(toy_world.make_judges()))


def psnr(plan: Plan, row: str) -> Any:
    scores = Run(plan.run(row).path).scores()
    return scores[scores["metric"] == "psnr"].set_index("request")


def test_pairs_are_the_requests_images_of_the_other_row(plan: Plan) -> None:
    work = session(plan)
    work.generate(plan.runs)
    assert len(work.score(plan.runs)) == 4
    plain = dict(Run(plan.run("plain").path).images())
    for row in ("toy", "ground-truth", "shuffled"):
        found = psnr(plan, row)
        for request, image in Run(plan.run(row).path).images():
            error = np.square((image.astype(float) - plain[request].astype(float)) / 255).mean()
            assert found.loc[request, "value"] == pytest.approx(min(100, -10 * np.log10(error)), abs=1e-3)
    own = psnr(plan, "plain")
    assert (own["status"] == "refused: the other rows are compared with this one").all()
    assert Run(plan.run("toy").path).score_info["originals"] == "plain"
    assert work.score(plan.runs) == []


def test_other_originals_make_scores_stale(plan: Plan, suite: Path, tree: Path, tmp_path: Path) -> None:
    work = session(plan)
    work.generate(plan.runs)
    work.score(plan.runs)
    before = psnr(plan, "toy")["value"].to_numpy()
    suite.write_text(suite.read_text().replace("steps: 1", "steps: 3"))
    again = make_plan(load_suite(str(suite)), load_settings(), plan.options)
    work = session(again)
    assert [run.row.name for run in work.generate(again.runs)] == ["plain"]
    assert {run.row.name for run in work.score(again.runs)} == {"plain", "toy", "ground-truth", "shuffled"}
    assert not np.allclose(psnr(again, "toy")["value"].to_numpy(), before)


def test_without_the_other_row_the_metric_waits_and_the_rest_is_scored(plan: Plan) -> None:
    work = session(plan)
    (run,) = [run for run in plan.runs if run.row.name == "toy"]
    work.generate([run])
    assert work.score([run]) == [run]
    assert Run(run.path).score_info["metrics"] == ["mask-accuracy"]
    assert work.metrics_not_run == {
        "psnr": "not scored: it compares with row 'plain', which is not made: `concord run toys`"
    }
    later = session(plan)
    later.generate(plan.runs)
    assert run in later.score(plan.runs)
    assert Run(run.path).score_info["metrics"] == ["mask-accuracy", "psnr"]


def test_the_table_shows_values_and_why_one_row_has_none(plan: Plan) -> None:
    work = session(plan)
    work.generate(plan.runs)
    work.score(plan.runs)
    table = build_table(plan.suite, Store(plan.root), "embedded")
    assert table.row("plain").cells["psnr"].refused == "the other rows are compared with this one"
    assert table.row("toy").cells["psnr"].value == pytest.approx(psnr(plan, "toy")["value"].mean())


def test_an_unknown_row_is_named(toy: str, suite: Path) -> None:
    suite.write_text(suite.read_text().replace("originals: plain", "originals: other"))
    with pytest.raises(ConcordError, match=r"originals: row 'other': expected one of plain, toy"):
        read_suite(str(suite))


def test_suites_of_one_request_set_have_the_same_originals(toy: str, suite: Path) -> None:
    first = read_suite(str(suite))
    second = first.model_copy(update={"name": "others", "requests": "toys", "originals": None})
    with pytest.raises(ConcordError, match="differ in 'originals'"):
        check_shared(second, first)
