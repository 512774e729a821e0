"""`--set`: which rows it changes, which it leaves, and what it refuses, on the real suites."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from concord.benchmarks.changes import Change, changed_rows, has_parameter, read_change
from concord.benchmarks.suite import Row, Suite, load_suite
from concord.data.errors import ConcordError
from concord.methods.base import get_method


@pytest.fixture(scope="module")
def faces() -> Suite:
    """The suite with these rows, whatever others it gets."""
    together = {"order": ["mask", "text"], "aggregation_steps": 30}
    rows = [
        Row(name="text-only", method="text-only", conditions=["text"]),
        Row(name="composable", method="composable"),
        Row(name="amdm", method="amdm", params={"order": ["mask", "text"]}),
        Row(name="amdm-slerp", method="amdm", params=together),
    ]
    return load_suite("face-generation").model_copy(update={"rows": rows})


def names(suite: Suite, *changes: str, chosen: tuple[str, ...] | None = None) -> list[str]:
    found = changed_rows(suite.rows, [read_change(change) for change in changes], chosen)
    return [row.name for rows in found.rows.values() for row in rows]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("steps=10", (10,)),
        ("steps=10,20,50", (10, 20, 50)),
        ("order=[mask,text]", (["mask", "text"],)),
        ("order=[mask, text],[text, mask]", (["mask", "text"], ["text", "mask"])),
        ("combine=average,conjunction", ("average", "conjunction")),
        ("caption='a, b',c", ("a, b", "c")),
        ("a.b = 0.5", (0.5,)),
    ],
)
def test_values_are_apart_at_commas_outside_brackets(text: str, values: tuple[object, ...]) -> None:
    change = read_change(text)
    assert change == Change(text.partition("=")[0].strip(), values)


@pytest.mark.parametrize("text", ["steps", "=3", "steps=[1,"])
def test_what_is_no_change_is_refused(text: str) -> None:
    with pytest.raises(ConcordError, match="--set"):
        read_change(text)


def test_rows_that_were_not_chosen_say_nothing(faces: Suite) -> None:
    """amdm-slerp takes 30 steps together, so that steps=20 would be refused for it."""
    found = names(faces, "steps=20", chosen=("text-only", "composable"))
    assert found == ["text-only+steps=20", "composable+steps=20"]
    assert names(faces, "steps=20", chosen=("amdm-slerp", "composable")[1:]) == ["composable+steps=20"]


def test_rows_without_the_parameter_are_left_and_named(faces: Suite) -> None:
    found = changed_rows(faces.rows, [read_change("combine=conjunction")], ("text-only", "composable"))
    assert [row.name for row in found.rows["composable"]] == ["composable+combine=conjunction"]
    assert found.left == {"text-only": ["combine"]}


def test_one_method_or_row_is_addressed_by_its_name(faces: Suite) -> None:
    assert names(faces, "composable.weight=2") == ["composable+weight=2"]
    assert names(faces, "amdm-slerp.eta=0.5") == ["amdm-slerp+eta=0.5"]
    assert names(faces, "amdm.eta=0.5") == ["amdm+eta=0.5", "amdm-slerp+eta=0.5"]
    assert names(faces, "steps=40", "composable.eta=1", chosen=("text-only", "composable")) == [
        "text-only+steps=40",
        "composable+eta=1+steps=40",
    ]


def test_several_values_make_a_row_of_every_combination(faces: Suite) -> None:
    found = names(faces, "steps=10,20", "eta=0,1", chosen=("composable",))
    assert found == [f"composable+eta={eta}+steps={steps}" for steps in (10, 20) for eta in (0, 1)]
    rows = changed_rows(faces.rows, [read_change("steps=10,20,50")], ("composable",)).rows["composable"]
    assert [row.params["steps"] for row in rows] == [10, 20, 50]


def test_every_row_that_cannot_take_a_value_is_named_at_once(faces: Suite) -> None:
    with pytest.raises(ConcordError, match=r"row 'amdm\+steps=2'.*row 'amdm-slerp\+steps=2'.*--set"):
        names(faces, "steps=2")


def test_a_parameter_of_no_row_is_an_error(faces: Suite) -> None:
    with pytest.raises(
        ConcordError, match=r"parameter 'stepz': no chosen row has it \(chosen: composable\); expected one of combine"
    ):
        names(faces, "stepz=3", chosen=("composable",))
    with pytest.raises(ConcordError, match=r"'amdm\.steps': no chosen row"):
        names(faces, "amdm.steps=3", chosen=("composable",))


@pytest.mark.parametrize(
    ("method", "name", "has"),
    [
        ("z-magic", "strengths.text", True),
        ("z-magic", "strengths", True),
        ("z-magic", "strengths.txt", False),
        ("composable", "strengths.text", False),
        ("composable", "steps.text", False),
        ("amdm", "aggregation_steps", True),
    ],
)
def test_groups_of_parameters_are_looked_into(method: str, name: str, has: bool) -> None:
    assert has_parameter(get_method(method).Params, name) is has


def test_contributings_command_on_the_suite_that_it_names(
    concord: Callable[..., Any], toy_tree: Path, tmp_path: Path
) -> None:
    """As CONTRIBUTING writes it, with `text-only` beside, which has no `combine`."""
    call = ("run", "face-generation", "--data", toy_tree, "--limit", 2, "--results", tmp_path)
    given = ("--set", "composable.steps=1,2,3", "--set", "text-only.steps=1")
    result = concord(*call, "--methods", "composable,text-only", *given)
    assert result.exit_code == 0, result.output
    rows = {path.parent.name for path in tmp_path.glob("**/run.json")}
    expected = {"ground-truth", "shuffled", "text-only+steps=1", *(f"composable+steps={n}" for n in (1, 2, 3))}
    assert expected <= rows
    assert all("+steps=" in row for row in rows - {"ground-truth", "shuffled"})
    report = next(tmp_path.glob("**/report/face-generation.html"))
    assert (report.parent / "face-generation/sweep-composable-steps.svg").exists()
    given = ("--set", "combine=conjunction", "--set", "steps=1")
    result = concord("generate", *call[1:], "--methods", "composable,text-only", *given)
    assert result.exit_code == 0, result.output
    assert "row 'text-only' has no parameter 'combine': left as it is" in result.stdout
