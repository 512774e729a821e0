"""Suite files: what is in the repo loads, and every mistake is one line that says where and what was expected."""

from __future__ import annotations

from pathlib import Path

import pytest
import toy_world

from concord.benchmarks.suite import (
    Row,
    check_shared,
    load_suite,
    load_suites,
    metrics_of,
    read_suite,
    related_suites,
    settle,
    suite_names,
)
from concord.data.errors import ConcordError


def refused(path: Path, *words: str) -> None:
    with pytest.raises(ConcordError) as error:
        load_suite(str(path))
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message
    for word in words:
        assert word in message, message


def test_suites_of_the_repo_load() -> None:
    names = [suite.name for suite in load_suites()]
    assert {"face-generation", "influence-ablation"} <= set(names)


def test_papers_and_tables_of_the_repo_exist() -> None:
    from concord.reports.published import published_table

    for name in suite_names():
        suite = read_suite(name)
        declared = published_table(suite.paper, suite.table)
        assert {row.name for row in suite.rows} & set(declared.rows), f"{name}: no row that the paper has"


def test_ablation_shares_the_runs_of_face_generation() -> None:
    related = related_suites("influence-ablation")
    assert [suite.name for suite in related] == ["influence-ablation", "face-generation"]
    assert "joint-success" not in metrics_of(related)


def test_own_suite_file(toy: str, toy_suite: Path) -> None:
    suite = load_suite(str(toy_suite))
    assert suite.row_names() == ["ground-truth", "shuffled", "toy", "awaited"]
    assert suite.request_set == "toys"


def test_unknown_suite_lists_the_known() -> None:
    with pytest.raises(ConcordError, match=r"unknown suite 'nosuch'.*face-generation"):
        load_suite("nosuch")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"grid": "grid: eight"}, ["'grid'", "expected a valid integer", "'eight'"]),
        ({"grid": 'grid: "8"'}, ["'grid'", "expected a valid integer", "'8'"]),
        ({"grid": "grid: 65"}, ["'grid'", "64", "65"]),
        ({"grid": "gird: 8"}, ["unknown key 'gird'", "known keys", "grid"]),
        ({"title": "title: [1, 2]"}, ["'title'", "expected a valid string"]),
        ({"title": "title: a: b"}, ["line 2", "not valid YAML"]),
        ({"title": ""}, ["key 'title' is missing"]),
        ({"name": "name: others"}, ["'name' is 'others'", "expected 'toys'"]),
        ({"dataset": "dataset: cats"}, ["'dataset'", "expected 'faces'", "'cats'"]),
        ({"conditions": "conditions: [text, smell]"}, ["unknown condition 'smell'", "mask"]),
        ({"metrics": "metrics: [fid, beauty]", "joint": ""}, ["unknown metric 'beauty'", "kid"]),
        ({"metrics": "metrics: [fid, joint-success]", "joint": ""}, ["joint-success", "joint"]),
        ({"joint": "joint: {metrics: [kid, lpips], quantile: 0.05}"}, ["joint", "'lpips-alex'"]),
        ({"joint": "joint: {metrics: [fid, kid], quantile: 0.05}"}, ["joint", "'fid'", "no value per image"]),
        (
            {
                "metrics": "metrics: [text-similarity, psnr, joint-success]",
                "joint": "joint: {metrics: [text-similarity, psnr], quantile: 0.05}",
            },
            ["'psnr'", "ground truth itself"],
        ),
        ({"joint": "joint: {metrics: [fid, kid], quantil: 0.05}"}, ["unknown key 'joint.quantil'", "quantile"]),
        ({"reference": "reference: [best]"}, ["'reference.0'", "'ground-truth'"]),
        ({"conditions": "conditions: [text]"}, ["metric 'mask-accuracy'", "'mask'"]),
        ({"paper": ""}, ["'paper' and 'table' belong together: give 'paper' too, or neither"]),
        (  # all in one go
            {"grid": "gird: 8", "title": "title: [1]", "conditions": "conditions: text"},
            ["unknown key 'gird'", "'title': expected a valid string", "'conditions': expected a valid list"],
        ),
        (
            {"conditions": "conditions: [text, smell]", "reference": "reference: [shuffled]"},
            ["unknown condition 'smell'", "'joint' takes its thresholds"],
        ),
        (
            {"conditions": "conditions: [text]", "joint": "joint: {metrics: [fid, kid], quantile: 0.05}"},
            ["metric 'mask-accuracy'", "joint: metric 'fid'", "joint: metric 'kid'"],
        ),
    ],
)
def test_mistakes(toy: str, tmp_path: Path, changes: dict[str, str], words: list[str]) -> None:
    refused(toy_world.write_suite(tmp_path, **changes), *words)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{name: toy, mehtod: toy}", ["unknown key 'rows.0.mehtod'", "method", "planned"]),
        ("{name: toy}", ["rows.0", "either 'method' or 'planned'"]),
        ("{name: toy, method: toy, planned: later}", ["either 'method' or 'planned'"]),
        ("{name: ../toy, method: toy}", ["'../toy'", "expected letters"]),
        ("{name: ground-truth, method: toy}", ["'ground-truth'", "kept"]),
        ("{name: awaited, method: toy}", ["two rows are named 'awaited'"]),
        ("{name: toy, method: nosuch}", ["unknown method 'nosuch'", "collaborative", "toy"]),
        ("{name: toy, method: toy, params: {stepz: 2}}", ["unknown parameter 'stepz'", "steps"]),
        ("{name: toy, method: toy, params: {steps: two}}", ["parameter 'steps'", "'two'"]),
        ("{name: toy, method: toy, conditions: [layout]}", ["'toy'", "'layout'", "text, mask"]),
        ("{name: toy, method: text-only}", ["'text-only'", "does not take condition 'mask'", "text"]),
        ("{name: toy, method: composable, conditions: [text]}", ["'composable'", "needs 2"]),
    ],
)
def test_mistakes_in_rows(toy: str, tmp_path: Path, row: str, words: list[str]) -> None:
    path = toy_world.write_suite(tmp_path)
    path.write_text(path.read_text().replace("{name: toy, method: toy}", row))
    refused(path, *words)


def test_not_a_mapping(tmp_path: Path) -> None:
    path = tmp_path / "toys.yaml"
    path.write_text("- a list\n")
    refused(path, "expected a mapping", "title")


def test_missing_file(tmp_path: Path) -> None:
    refused(tmp_path / "toys.yaml", "no such file")


def test_planned_row_becomes_real_when_its_method_is_registered(toy: str, tmp_path: Path) -> None:
    path = toy_world.write_suite(tmp_path)
    path.write_text(path.read_text().replace("{name: toy, method: toy}", "{name: toy, planned: later}"))
    row = load_suite(str(path)).row("toy")
    assert (row.method, row.planned) == ("toy", None)


def test_open_suite_takes_every_method_that_fits(toy: str, toy_suite: Path) -> None:
    suite = read_suite(str(toy_suite))
    assert "composable" not in settle(suite).row_names()
    joined = settle(suite.model_copy(update={"open": True})).row_names()
    assert "composable" in joined
    assert "text-only" not in joined  # takes no mask
    assert joined.count("toy") == 1


def test_methods_join_on_request(toy: str, toy_suite: Path) -> None:
    assert load_suite(str(toy_suite), extra=["composable", "toy"]).row_names()[-1] == "composable"


def test_shared_request_set_with_different_rows_is_refused(toy: str, toy_suite: Path) -> None:
    suite = load_suite(str(toy_suite))
    other = suite.model_copy(update={"name": "others", "requests": "toys"})
    check_shared(other, suite)
    changed = other.model_copy(update={"rows": [Row(name="toy", method="toy", params={"steps": 3})]})
    with pytest.raises(ConcordError, match="share the request set 'toys' but row 'toy' differs"):
        check_shared(changed, suite)
    with pytest.raises(ConcordError, match="differ in dataset or conditions"):
        check_shared(other.model_copy(update={"conditions": ["text"]}), suite)


GUIDED = ("identity-segmentation-text", "text-style", "segmentation-text", "identity-landmarks", "three-conditions")


@pytest.mark.parametrize("name", GUIDED)
def test_guided_suites_compare_on_equal_terms(name: str) -> None:
    """Every guided row is tuned, by a search that the suite describes, and takes as many steps as the others."""
    suite = load_suite(name)
    assert suite.tune is not None
    tuned = [row for row in suite.rows if row.tuned]
    assert {"freedom", "z-magic"} <= {row.method for row in tuned}
    assert len({row.params["steps"] for row in tuned}) == 1
    floor = suite.row(suite.tune.floor)
    assert floor.params["steps"] == tuned[0].params["steps"]
    for parameter in suite.tune.ranges:
        group, _, condition = parameter.partition(".")
        assert group != "strengths" or condition in suite.conditions
    assert set(suite.reference) == {"ground-truth", "shuffled"}


def test_rows_that_are_not_run_show_what_the_paper_has() -> None:
    from concord.reports.published import published_table

    suite = load_suite("identity-landmarks")
    declared = published_table(suite.paper, suite.table)
    for name in ("diffswap", "e4s"):
        assert suite.row(name).planned is not None
        assert suite.row(name).planned.startswith("not run")
        assert declared.value(name, "landmark_distance") is not None


@pytest.mark.parametrize("name", ["order-identity-landmarks", "order-segmentation-text"])
def test_orders_share_the_runs_of_their_table(name: str) -> None:
    suite = load_suite(name)
    first, second = suite.rows
    home = load_suite(suite.request_set)
    assert first == home.row("z-magic")
    assert first.tuned == second.tuned
    assert sorted(second.params["order"]) == sorted(suite.conditions)
    check_shared(suite, home)


def test_guided_methods_join_no_suite_by_themselves() -> None:
    assert not {"freedom", "z-magic", "ugd"} & set(load_suite("face-generation").row_names())
