"""What is left to do for a profile whose data are fetched: numbered, the next thing first, from what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from concord.benchmarks.settings import load_settings
from concord.benchmarks.suite import read_suite
from concord.commands.next_steps import next_steps, print_next_steps

SUITES = [read_suite(name).in_profile("paper") for name in ("face-generation", "identity-landmarks")]


def test_without_anything_all_steps_stand_there_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CONCORD_CACHE", str(tmp_path))
    assert print_next_steps(SUITES, load_settings(), "paper")
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0] == "What is left to do for profile 'paper':"
    assert [line.split(".")[0].strip() for line in lines[1:]] == [str(number) for number in range(1, len(lines))]
    assert "`concord fetch --for paper`" in lines[1]
    assert "GB" in lines[1]
    words = ("--from-file", "data prepare celebamask-hq", "data landmarks", "make bench PROFILE=paper")
    places = [next(i for i, line in enumerate(lines) if word in line) for word in words]
    assert places == sorted(places)


def test_a_profile_of_what_is_here_has_none() -> None:
    assert next_steps([read_suite("face-generation")], load_settings(), "embedded") == []
