"""The gate: finds a real loss, cries wolf at most one time in twenty, and says when it cannot compare."""

import json
from pathlib import Path

import pytest
from click.testing import Result
from fake_store import FACTS, JUDGES, LEVELS, write_run, write_store
from typer.testing import CliRunner

from benchmarks.store import Store
from concord.cli import app
from data.errors import ConcordError
from reports.compare import Result as Comparison
from reports.compare import accept, compare_with_baseline, read_baseline, to_json, to_markdown

METRICS = {name: fact for name, fact in FACTS.items() if name != "joint-success"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return write_store(tmp_path / "embedded")


@pytest.fixture
def baseline(store: Store, tmp_path: Path) -> Path:
    accept(store, "embedded", tmp_path / "baseline")
    return tmp_path / "baseline"


def compared(store: Store, baseline: Path, **options: float) -> Comparison:
    return compare_with_baseline(store, "embedded", baseline, facts=METRICS, **options)  # type: ignore[arg-type]


def test_no_baseline_says_what_to_do(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ConcordError, match="no baseline yet: run `concord compare --accept`"):
        compared(store, tmp_path / "none")
    with pytest.raises(ConcordError, match="no scored runs to accept"):
        accept(Store(tmp_path / "empty"), "embedded", tmp_path / "none")


def test_the_same_results_are_identical(store: Store, baseline: Path) -> None:
    result = compared(store, baseline)
    assert result.exit_code == 0
    assert len(result.changes) == 3 * 3  # rows x metrics; reference rows are no methods
    assert {change.verdict for change in result.changes} == {"identical"}


def test_a_real_loss_is_found_and_ends_with_one(store: Store, baseline: Path) -> None:
    write_run(store.root, "collaborative", levels=(27.0, 88.0, 5.0), seed=7)  # three points of mask accuracy lost
    result = compared(store, baseline)
    assert result.exit_code == 1
    assert [(change.run, change.metric) for change in result.worse] == [
        ("face-generation/collaborative", "mask-accuracy")
    ]
    (change,) = result.worse
    assert change.low < change.now - change.before < change.high
    assert len(change.changed) == 3
    markdown = to_markdown(result)
    assert markdown.startswith("# Against the baseline: WORSE")
    assert f"**worse** (most: {change.changed[0]}" in markdown
    assert json.loads(to_json(result))["exit_code"] == 1


def test_a_gain_is_reported_and_is_no_failure(store: Store, baseline: Path) -> None:
    write_run(store.root, "composable", levels=(27.0, 90.0, 4.0), seed=7)
    result = compared(store, baseline)
    assert result.exit_code == 0
    better = {change.metric for change in result.changes if change.verdict == "better"}
    assert better == {"mask-accuracy", "fid"}


def test_a_significant_loss_within_the_tolerance_passes(store: Store, baseline: Path) -> None:
    write_run(store.root, "collaborative", levels=(27.0, 88.0, 5.0), seed=7)
    result = compared(store, baseline, tolerance=0.10)
    assert result.exit_code == 0
    assert [c.verdict for c in result.changes if c.metric == "mask-accuracy" and c.run.endswith("/collaborative")] == [
        "worse within tolerance"
    ]


def test_new_seeds_alone_rarely_alarm(store: Store, baseline: Path) -> None:
    """A/A: the same true quality under 16 other noises; at most a few calls may claim anything (5 % each)."""
    alarms = 0
    for seed in range(1, 17):
        for row in ("text-only", "composable", "collaborative"):
            write_run(store.root, row, seed=seed, images=False)
        result = compared(store, baseline, tolerance=0.0)
        alarms += any(change.p_holm < 0.05 for change in result.changes)
        assert not result.incomparable
    assert alarms <= 3  # binomial(16, 0.05) exceeds 3 in 1 of 140


def test_what_cannot_be_compared_is_named(store: Store, baseline: Path) -> None:
    write_run(store.root, "text-only", n=32)
    write_run(store.root, "composable", judges={**JUDGES, "parser": "9" * 64})
    (store.root / "face-generation/collaborative/score.json").unlink()
    result = compared(store, baseline)
    assert result.exit_code == 3
    assert result.incomparable == {
        "face-generation/collaborative": "no scored results now; run its suite",
        "face-generation/composable": "scored by other weights of 'parser' than the baseline",
        "face-generation/text-only": "n = 32, the baseline has 64",
    }
    assert "CANNOT BE COMPARED" in to_markdown(result)


def test_a_loss_beats_the_incomparable_in_the_exit_code(store: Store, baseline: Path) -> None:
    write_run(store.root, "text-only", n=32)
    write_run(store.root, "collaborative", levels=(27.0, 80.0, 5.0))
    assert compared(store, baseline).exit_code == 1


def test_new_rows_are_listed_and_no_failure(store: Store, baseline: Path) -> None:
    write_run(store.root, "mine", levels=LEVELS["composable"])
    result = compared(store, baseline)
    assert result.exit_code == 0
    assert result.new == ["face-generation/mine"]


def test_small_samples_say_what_they_could_have_seen(tmp_path: Path) -> None:
    store = write_store(tmp_path / "embedded", n=6)
    accept(store, "embedded", tmp_path / "baseline")
    write_run(store.root, "composable", n=6, seed=5)
    change = next(
        c for c in compared(store, tmp_path / "baseline").changes
        if c.run.endswith("composable") and c.metric == "text-similarity"
    )  # fmt: skip
    assert change.verdict == "cannot tell"
    assert change.visible > abs(change.now - change.before)


def test_a_damaged_baseline_is_an_error_that_names_it(store: Store, baseline: Path) -> None:
    (baseline / "embedded/scores.parquet").write_bytes(b"no parquet")
    with pytest.raises(ConcordError, match=r"damaged baseline .*renew it with"):
        compared(store, baseline)


def test_the_baseline_is_small_and_whole(store: Store, baseline: Path) -> None:
    kept = read_baseline("embedded", baseline)
    assert set(kept.info["runs"]) == {f"face-generation/{row}" for row in ("text-only", "composable", "collaborative")}
    assert kept.info["commit"] == "e" * 40
    size = sum(path.stat().st_size for path in (baseline / "embedded").iterdir())
    assert size < 40_000


def test_the_command_ends_with_the_exit_codes_that_it_states(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reports.compare.BASELINE", tmp_path / "committed")

    def call(*args: str) -> Result:
        return CliRunner().invoke(app, ["compare", "--results", str(tmp_path), *args])

    missing = call()
    assert missing.exit_code == 2
    assert "no baseline yet: run `concord compare --accept`" in missing.stderr
    assert call("--accept").exit_code == 0
    assert call().exit_code == 0
    write_run(store.root, "collaborative", levels=(27.0, 80.0, 5.0))
    assert call("--json", str(tmp_path / "out.json")).exit_code == 1
    assert json.loads((tmp_path / "out.json").read_text())["exit_code"] == 1
    assert call("--suite", "influence-ablation").exit_code == 1  # it has the row
    write_run(store.root, "collaborative")
    write_run(store.root, "composable", n=8)
    assert call().exit_code == 3
    assert call("--suite", "influence-ablation").exit_code == 0  # it has not
