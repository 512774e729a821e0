"""The committed baseline: small, whole, renewed with a word on what changed; the margins of the verdicts."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from compare_world import METRICS, ROW, SHARE, compared
from fake_store import LEVELS, unscore, write_run, write_store
from typer.testing import CliRunner

from concord.benchmarks.settings import ROOT
from concord.benchmarks.store.run import Store
from concord.cli import app
from concord.data.errors import ConcordError
from concord.data.files import read_json, write_json
from concord.metrics.base import all_metrics
from concord.reports.compare.baseline import means, renew, renewal_markdown, write_side, write_summary
from concord.reports.compare.comparison import compare_sides
from concord.reports.compare.margins import Margin, read_margins
from concord.reports.compare.sides import FILES, baseline_folder, store_side


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("written")
    renew(store_side(write_store(root / "embedded", images=False), "embedded"), root / "b", SHARE, facts=METRICS)
    return root


@pytest.fixture
def store(written: Path, tmp_path: Path) -> Store:
    shutil.copytree(written / "embedded", tmp_path / "embedded")
    return Store(tmp_path / "embedded")


@pytest.fixture
def baseline(written: Path, tmp_path: Path) -> Path:
    shutil.copytree(written / "b", tmp_path / "baseline/embedded")
    return tmp_path / "baseline/embedded"


# ------------------------------------------------------------------------------------------------------------ baseline


def test_the_baseline_is_small_and_whole(store: Store, baseline: Path) -> None:
    kept, now = baseline_folder(baseline, "kept"), store_side(store, "embedded")
    assert set(kept.runs) == {f"face-generation/{row}" for row in ("text-only", "composable", "collaborative")}
    assert kept.commit == "e" * 40
    for name, run in kept.runs.items():
        for metric, values in run.values.items():
            np.testing.assert_array_equal(values, now.runs[name].values[metric])
        assert run.sets["fid"][0] == now.runs[name].sets["fid"][0]
        np.testing.assert_array_equal(run.sets["fid"][1], now.runs[name].sets["fid"][1])
    assert sorted(path.name for path in baseline.iterdir()) == sorted(FILES)
    assert sum(path.stat().st_size for path in baseline.iterdir()) < 40_000
    assert read_json(baseline / "metrics.json") == means(now)


def test_rows_with_scores_of_whole_sets_alone_are_read_again(store: Store, tmp_path: Path) -> None:
    """As of a suite of FID and Inception Score: no score there names a request."""
    side = store_side(store, "embedded")
    name, run = next(iter(side.runs.items()))
    write_side(replace(side, runs={**side.runs, name: replace(run, values={}, failed={})}), tmp_path / "b")
    kept = baseline_folder(tmp_path / "b", "kept").runs[name]
    assert kept.requests == list(run.requests)
    assert kept.values == {}
    assert kept.sets["fid"][0] == run.sets["fid"][0]


def test_renewal_says_what_changed_and_keeps_what_did_not_run(store: Store, baseline: Path) -> None:
    bytes_before = {path.name: path.read_bytes() for path in baseline.iterdir()}
    again = renew(store_side(store, "embedded"), baseline, SHARE, facts=METRICS)
    assert not again.written
    assert "nothing has changed" in renewal_markdown(again, baseline)
    assert {path.name: path.read_bytes() for path in baseline.iterdir()} == bytes_before

    write_run(store.root, "collaborative", levels=(27.0, 88.0, 5.0), seed=7, images=False)
    write_run(store.root, "mine", levels=LEVELS["composable"], images=False)
    shutil.rmtree(store.root / "face-generation/text-only")
    renewal = renew(store_side(store, "embedded"), baseline, SHARE, facts=METRICS)
    said = renewal_markdown(renewal, baseline)
    assert renewal.written
    assert renewal.kept == ["face-generation/text-only"]
    assert "| collaborative | Mask (%) |" in said
    assert "**worse**" not in said.splitlines()[0]
    assert "New: face-generation/mine" in said
    assert "Kept as they were" in said
    assert "KiB →" in said
    kept = baseline_folder(baseline, "new")
    assert len(kept.runs) == 4
    assert kept.runs["face-generation/text-only"].values  # as it was
    assert compared(store, baseline).incomparable  # and named as long as there are no results of it

    pruned = renew(store_side(store, "embedded"), baseline, SHARE, facts=METRICS, prune=True)
    assert pruned.dropped == ["face-generation/text-only"]
    assert len(baseline_folder(baseline, "new").runs) == 3


def test_trials_and_unscored_rows_do_not_join_a_baseline(store: Store, tmp_path: Path) -> None:
    write_run(store.root, "collaborative+steps=10", levels=LEVELS["collaborative"], images=False)
    unscore(store.root / "face-generation/composable")
    renewal = renew(store_side(store, "embedded"), tmp_path / "b", SHARE, facts=METRICS)
    assert set(renewal.side.runs) == {ROW, "face-generation/text-only"}
    for row in ("collaborative", "text-only", "collaborative+steps=10"):
        unscore(store.root / f"face-generation/{row}")
    with pytest.raises(ConcordError, match="no scored runs to accept"):
        renew(store_side(store, "embedded"), tmp_path / "b", SHARE)


def test_an_empty_folder_and_a_damaged_baseline_are_errors_that_name_them(
    store: Store, baseline: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConcordError, match="no scored runs"):
        store_side(Store(tmp_path / "empty"), "embedded")
    (baseline / "scores.parquet").write_bytes(b"no parquet")
    with pytest.raises(ConcordError, match=r"damaged baseline .*renew it with"):
        compared(store, baseline)
    renewal = renew(store_side(store, "embedded"), baseline, SHARE, facts=METRICS)  # and it can be renewed
    assert "damaged baseline" in renewal.damage
    assert compared(store, baseline).exit_code == 0


def test_a_half_written_baseline_is_damage(store: Store, baseline: Path) -> None:
    content = read_json(baseline / "baseline.json")
    content["runs"][ROW]["n"] = 65
    write_json(baseline / "baseline.json", {**content, "format": 2})  # the last one without digests
    with pytest.raises(ConcordError, match="has scores of 64 of 65 requests"):
        baseline_folder(baseline, "b")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("damage", [flip, empty, Path.unlink, folder, pipe])
@pytest.mark.parametrize("name", FILES)
def test_a_baseline_that_changed_is_refused(
    name: str, damage: Callable[[Path], None], store: Store, baseline: Path, tmp_path: Path
) -> None:
    damage(baseline / name)
    with pytest.raises(ConcordError) as error:
        compared(store, baseline)
    assert name in str(error.value)
    asked = ["compare", str(baseline), str(store.root.parent)]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 2, done.output
    assert name in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_number_of_a_baseline_that_was_edited_is_refused(store: Store, baseline: Path) -> None:
    content = read_json(baseline / "baseline.json")
    content["commit"] = "f" * 40
    write_json(baseline / "baseline.json", content)
    with pytest.raises(ConcordError, match=r"baseline\.json has changed since it was written"):
        baseline_folder(baseline, "b")


def test_a_baseline_of_a_later_format_is_refused_and_of_the_first_is_read(store: Store, baseline: Path) -> None:
    content = read_json(baseline / "baseline.json")
    write_json(baseline / "baseline.json", {**content, "format": 99})
    with pytest.raises(ConcordError, match="a baseline of format 99, this Concord reads up to 3"):
        baseline_folder(baseline, "b")
    old = {key: value for key, value in content.items() if key in ("profile", "commit", "runs")}
    old["runs"] = {
        name: {key: facts[key] for key in ("n", "data", "device", "networks")} for name, facts in old["runs"].items()
    }
    write_json(baseline / "baseline.json", old)
    (baseline / "features.npz").unlink()
    result = compared(store, baseline)
    assert result.exit_code == 0
    assert len(result.changes) == 9


def test_features_say_which_images_moved_a_set_metric(store: Store, tmp_path: Path) -> None:
    side = store_side(store, "embedded")
    rng = np.random.default_rng(0)
    features = rng.normal(size=(64, 8)).astype(np.float32)
    run = replace(side.runs[ROW], features=features)
    write_side(replace(side, runs={ROW: run}), tmp_path / "b")
    moved = features.copy()
    moved[[5, 9]] += [[3.0], [1.0]]
    value, replicates = run.sets["fid"]
    head = replace(side, runs={ROW: replace(run, features=moved, sets={"fid": (value + 1, replicates + 1)})})
    result = compare_sides(baseline_folder(tmp_path / "b", "b"), head, SHARE, METRICS)
    (change,) = [one for one in result.changes if one.metric == "fid"]
    assert [one.request for one in change.moved] == [run.requests[5], run.requests[9]]
    assert change.moved[0].amount == pytest.approx(3 * np.sqrt(8), rel=1e-2)


def test_summary_for_dvc_has_every_metric(store: Store, tmp_path: Path) -> None:
    write_summary(store, "embedded", tmp_path / "metrics")
    content = read_json(tmp_path / "metrics/metrics.json")
    assert set(content["face-generation"]) == {"text-only", "composable", "collaborative"}
    lines = (tmp_path / "metrics/plots/mask-accuracy.csv").read_text().splitlines()
    assert lines[0] == "row,value,low,high,n"
    name, value, low, high, n = lines[1].split(",")
    assert name == ROW
    assert float(low) < float(value) < float(high)
    assert n == "64"
    write_summary(Store(tmp_path / "empty"), "embedded", tmp_path / "metrics")
    assert read_json(tmp_path / "metrics/metrics.json") == {}
    assert list((tmp_path / "metrics/plots").iterdir()) == []


# ------------------------------------------------------------------------------------------------------------- margins


def test_margins_of_the_repo_are_valid_for_both_profiles() -> None:
    for profile in ("embedded", "paper"):
        margins = read_margins(profile)
        assert margins.of("mask-accuracy") == Margin(absolute=0.5)
        assert margins.of("never heard of") == margins.default
        assert margins.of("kid").at(0.0) > 0  # a share of 0 would be no margin
    from concord.metrics.base import all_metrics

    assert set(read_margins("embedded").named) <= set(all_metrics())


def test_a_margin_is_the_larger_of_both() -> None:
    margin = Margin(absolute=0.5, relative=0.02)
    assert margin.at(10) == 0.5
    assert margin.at(-100) == 2.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fid: {relative: 0.1}\n", "an entry 'default'"),
        ("default: 3\n", r"default: expected \{absolute: number\}"),
        ("default: {relative: -1}\n", "'relative': expected greater than or equal to 0; got -1"),
        ("default: {relatve: 1}\n", "default: unknown key 'relatve'; known keys: absolute, relative"),
        ("default: {absolute: .inf}\n", "'absolute': expected a finite number"),
        ("default: {absolute: true}\n", "'absolute': expected a valid number"),
        ("default: {paper: {relative: 1}}\n", "'default' has no margin for profile 'embedded'"),
        ("default: [\n", "not valid YAML"),
    ],
)
def test_bad_margins_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(ConcordError, match=message):
        read_margins("embedded", tmp_path / "m.yaml")
    with pytest.raises(ConcordError, match="no such file"):
        read_margins("embedded", tmp_path / "none.yaml")


def test_a_metric_of_the_committed_baseline_has_its_name_of_today() -> None:
    side = baseline_folder(ROOT / "reports/baseline/embedded", "committed")
    metrics = {metric for run in side.runs.values() for metric in (*run.values, *run.sets)}
    assert "pixel-accuracy" in metrics
    assert metrics <= all_metrics().keys()
