"""What a benchmark says while it runs: all suites from the start, the time left, and a report that stops nothing."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from concord.benchmarks.plan.requests import Options
from concord.commands import bench_progress
from concord.commands.bench_progress import Overview, Work, minutes

WORKS = [Work("first", 3, 3, 300, 120.0), Work("second", 2, 0, 0, 0.0), Work("third", 4, 2, 60, 240.0, unknown=1)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that a test moves on."""
    now = [1000.0]
    monkeypatch.setattr(bench_progress.time, "perf_counter", lambda: now[0])
    return now


def test_every_suite_stands_there_before_anything_is_made(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    Overview(WORKS, Options()).begin()
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines()[2:5]] == ["first", "second", "third"]
    assert "up to date" in said
    assert "4 min or more" in said
    assert "to make: about 6 min left, and 1 rows that nobody has timed yet" in said
    assert "concord open" in said


def test_the_time_left_follows_the_pace(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    overview = Overview(WORKS, Options(), started=clock[0])
    clock[0] += 240  # twice as long as it took before
    overview.done()
    assert "[1 of 3] first is done; about 8 min left" in capsys.readouterr().out
    overview.done()
    assert capsys.readouterr().out == ""  # it was up to date
    overview.done()
    assert capsys.readouterr().out == "[3 of 3] third is done\n"


def test_the_report_is_written_now_and_then_and_stops_nothing(
    clock: list[float], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[float] = []

    def report(self: Overview) -> None:
        written.append(clock[0])
        clock[0] += 30
        self.reported, self.took = clock[0], 30.0

    works = [Work(str(i), 1, 1, 10, 10.0) for i in range(40)]
    overview = Overview(works, Options(results=tmp_path), started=clock[0])
    with monkeypatch.context() as patched:
        patched.setattr(Overview, "report", report)
        for _ in range(30):
            clock[0] += 40
            overview.done()
    assert written[0] == 1000 + 5 * 40  # after three minutes, at the end of a suite
    pauses = [later - earlier for earlier, later in itertools.pairwise(written)]
    assert pauses
    assert min(pauses) > 15 * 30
    overview.report()  # nothing is stored here
    assert "the report so far is not written" in capsys.readouterr().err


def test_estimates_in_words() -> None:
    assert [minutes(work) for work in WORKS] == ["2 min", "not known", "4 min or more"]
    assert minutes(Work("quick", 1, 1, 2, 45.4)) == "45 s"
