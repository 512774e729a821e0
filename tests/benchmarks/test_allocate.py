"""How requests are shared out over request sets by time (`concord plan --minutes`)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from concord.benchmarks.allocate import (
    LEAST,
    SCORING,
    Order,
    allocate,
    expected_decided,
    measured_seconds,
    seconds_of,
    write_n,
)
from concord.data.errors import ConcordError


def test_power_is_how_often_a_test_decides() -> None:
    """Against a simulation: the effect that t^2 - 1 estimates, tested at a level of 1 %."""
    order = Order("a", t=3.0, n=50)
    rng = np.random.default_rng(0)
    effect = np.sqrt(3.0**2 - 1) / np.sqrt(50)  # standardised, of one request
    for n in (20, 80):
        t = np.sqrt(n) * effect + rng.standard_normal(200_000)
        assert order.power(n, 0.01) == pytest.approx(np.mean(t > 2.5758), abs=0.004)
    assert Order("a", t=0.7, n=50).power(10_000, 0.05) == pytest.approx(0.025)  # no effect was seen


def test_requests_go_where_they_decide_the_most_by_the_second() -> None:
    orders = [Order("cheap", 2.5, 50, "f")] * 8 + [Order("dear", 2.5, 50, "f")] * 8 + [Order("sure", 30.0, 50, "f")]
    seconds, now = (
        {"cheap": 0.5, "dear": 5.0, "sure": 0.1, "silent": 0.1},
        dict.fromkeys(("cheap", "dear", "sure", "silent"), 50),
    )
    n = allocate(orders, seconds, now, 400.0)
    assert n["cheap"] > 100
    assert (n["dear"], n["sure"], n["silent"]) == (50, 50, 50)
    assert seconds_of(n, seconds) <= 400.0
    assert expected_decided(orders, n) > expected_decided(orders, now) + 2
    assert allocate(orders, seconds, now, 800.0)["cheap"] >= n["cheap"]


def test_nothing_gets_ten_and_nothing_is_lowered() -> None:
    n = allocate([Order("a", 3.0, 10, "f")], {"a": 1.0, "b": 1.0}, {"a": 10, "b": 77}, 100.0)
    assert n["a"] >= LEAST
    assert n["b"] == 77
    with pytest.raises(ConcordError, match=r"today's rows take 1.6 minutes, more than 1.0 \(the most: b 1.3, a 0.3\)"):
        allocate([], {"a": 1.0, "b": 1.0}, {"a": 10, "b": 77}, 60.0)


def test_seconds_are_those_of_the_stored_rows(tmp_path: Path) -> None:
    for row, each in (("one", 0.2), ("two", 0.6)):
        (tmp_path / "toys" / row).mkdir(parents=True)
        (tmp_path / "toys" / row / "run.json").write_text(json.dumps({"seconds_per_image": each}))
    seconds, unknown = measured_seconds(tmp_path, "toys", ["one", "two", "new"])
    assert seconds == pytest.approx(0.2 + 0.6 + 0.4 + 3 * SCORING)
    assert unknown == ["new"]
    with pytest.raises(ConcordError, match="no row has been made"):
        measured_seconds(tmp_path, "others", ["one"])


def test_n_is_written_where_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "toys.yaml"
    text = "name: toys\nn: {default: 50, full: 3000}   # a comment\nprofiles:\n  paper:\n    n: {default: 7, full: 8}\n"
    path.write_text(text)
    assert write_n(path, 160)
    assert path.read_text() == text.replace("default: 50", "default: 160")
    assert not write_n(path, 160)
    path.write_text("name: toys\n")
    with pytest.raises(ConcordError, match="expected one line 'n: "):
        write_n(path, 10)


def test_the_command_says_what_is_missing(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from concord.cli import app

    (tmp_path / "embedded").mkdir()
    for words, needed in (
        ([], "--minutes needs --pilot FOLDER"),
        (["--pilot", str(tmp_path / "embedded")], "the tables show these images; n has to be fixed by others"),
        (["--pilot", str(tmp_path / "nothing")], "no such folder"),
    ):
        result = CliRunner().invoke(app, ["plan", "--minutes", "25", "--results", str(tmp_path), *words])
        assert result.exit_code == 2
        assert needed in result.stderr
        assert result.stderr.count("\n") == 1
