"""`--json`, anywhere on the line: the tables of a verb as one document for programs; and the shell's completion."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_store import write_store

from concord.cli import app
from concord.console import _value

Cli = Callable[..., Any]


def document(result: Any) -> dict[str, list[dict[str, Any]]]:
    """title -> lines; nothing but the document stands on standard output."""
    assert result.exit_code == 0, result.output
    return {table["title"]: table["rows"] for table in json.loads(result.stdout)["tables"]}


@pytest.mark.parametrize("words", [("--json", "list"), ("list", "--json")])
def test_list_for_programs(concord: Cli, tmp_path: Path, words: tuple[str, ...]) -> None:
    found = document(concord(*words, "--results", tmp_path))
    suites = {line["suite"]: line for line in found["Suites (profile embedded)"]}
    assert suites["face-generation"]["n default / full"] == "128 / 3000"
    fid = next(line for line in found["Metrics"] if line["metric"] == "fid")
    assert isinstance(fid["least n"], int)
    assert {line["method"] for line in found["Methods"]} >= {"composable", "toy"}


def test_a_table_for_programs(concord: Cli, tmp_path: Path) -> None:
    write_store(tmp_path / "embedded", n=64)
    found = document(concord("table", "face-generation", "--json", "--results", tmp_path))
    line = next(
        one for one in found["face-generation"] if (one["row"], one["metric"]) == ("collaborative", "mask-accuracy")
    )
    assert line["low"] < line["value"] < line["high"]
    assert line["paper_value"] == 80.25
    assert line["seconds_per_image"] == 0.61


def test_weights_for_programs(concord: Cli, tmp_path: Path) -> None:
    (lines,) = document(concord("weights", "list", "--json", "--cache-dir", tmp_path)).values()
    assert all(line["here"] is False for line in lines)
    assert any(isinstance(line["bytes"], int) for line in lines)


def test_an_error_is_no_document(concord: Cli) -> None:
    result = concord("table", "nothing", "--json")
    assert result.exit_code == 2
    assert "error: unknown table 'nothing'" in result.stderr


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("0.330", 0.33),
        ("1,234", 1234),
        ("-", None),
        ("–", None),
        ("made", "made"),
        ("eps 50, x 3", "eps 50, x 3"),
        ("-5", -5),
        ("1-2", "1-2"),
        ("", None),
    ],
)
def test_cells_that_are_numbers(cell: str, value: object) -> None:
    assert _value(cell) == value


@pytest.mark.parametrize(
    ("words", "place", "expected"),
    [("concord ru", 1, "run"), ("concord run --lim", 2, "--limit"), ("concord open --no-b", 2, "--no-browser")],
)
def test_the_shell_completes_verbs_and_their_options(
    words: str, place: int, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_CONCORD_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(place))
    with pytest.raises(SystemExit):
        app(prog_name="concord")
    assert expected in capsys.readouterr().out.split()
