"""The gate: finds a real loss, cries wolf at most one time in twenty, and says when it cannot compare."""

import json
import shutil
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result as Called
from compare_world import METRICS, ROW, SHARE, compared, reasons
from fake_store import JUDGES, LEVELS, sign, unscore, write_run, write_store
from typer.testing import CliRunner

from concord.benchmarks.store.run import Store
from concord.cli import app
from concord.data.errors import ConcordError
from concord.data.files import read_json, write_json
from concord.reports import statistics as st
from concord.reports.compare.baseline import renew
from concord.reports.compare.comparison import Change, compare_sides, smallest_loss
from concord.reports.compare.margins import Margin, Margins, same_for_all
from concord.reports.compare.render import to_html, to_json, to_markdown
from concord.reports.compare.sides import baseline_folder, store_side


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


# ------------------------------------------------------------------------------------------------------------ verdicts


def test_the_same_results_are_identical(store: Store, baseline: Path) -> None:
    result = compared(store, baseline)
    assert result.exit_code == 0
    assert len(result.changes) == 3 * 3  # rows x metrics; reference rows are no methods
    assert {change.verdict for change in result.changes} == {"identical"}
    assert result.tests == 0
    assert "Bit for bit the same: collaborative, composable, text-only." in to_markdown(result)


def test_a_real_loss_is_found_and_ends_with_one(store: Store, baseline: Path) -> None:
    write_run(
        store.root, "collaborative", levels=(27.0, 88.0, 5.0), seed=7, images=False
    )  # three points of mask accuracy lost
    result = compared(store, baseline)
    assert result.exit_code == 1
    assert [(change.run, change.metric) for change in result.worse] == [(ROW, "mask-accuracy")]
    (change,) = result.worse
    assert change.low < change.difference < change.high < 0
    assert change.margin == pytest.approx(0.01 * change.before)
    losses = [one.amount for one in change.moved]
    assert losses == sorted(losses, key=abs, reverse=True)
    assert len(losses) == 5
    first = change.moved[0]
    assert first.base is not None
    assert first.head is not None
    assert first.amount == pytest.approx(first.base - first.head)


def test_a_gain_is_reported_and_is_no_failure(store: Store, baseline: Path) -> None:
    write_run(store.root, "composable", levels=(27.0, 90.0, 4.0), seed=7, images=False)
    result = compared(store, baseline)
    assert result.exit_code == 0
    assert {change.metric for change in result.changes if change.verdict == "better"} == {"mask-accuracy", "fid"}


def test_a_significant_loss_inside_the_margin_is_the_same(store: Store, baseline: Path) -> None:
    write_run(store.root, "collaborative", levels=(27.0, 88.0, 5.0), seed=7, images=False)
    result = compared(store, baseline, same_for_all(0.10))
    (change,) = [one for one in result.changes if one.run == ROW and one.metric == "mask-accuracy"]
    assert change.p_holm < 0.05
    assert change.verdict == "same"
    assert result.exit_code == 0


def change_of(loss: float, half: float, margin: float, p_holm: float) -> Change:
    return Change(
        "s/r",
        "m",
        "M",
        50,
        10,
        10 - loss,
        -loss - half,
        -loss + half,
        loss,
        margin,
        p_holm,
        half / 2,
        49,
        p_holm=p_holm,
    )


@pytest.mark.parametrize(
    ("loss", "half", "margin", "p", "verdict"),
    [
        (2.0, 0.5, 1.0, 0.001, "worse"),
        (-2.0, 0.5, 1.0, 0.001, "better"),
        (2.0, 0.5, 1.0, 0.2, "cannot tell"),  # beyond the margin, not significant after correction
        (0.4, 0.3, 1.0, 0.001, "same"),  # significant and of no consequence
        (0.1, 0.3, 1.0, 0.9, "same"),
        (0.8, 0.5, 1.0, 0.001, "cannot tell"),  # a loss; whether beyond the margin is open
        (0.0, 3.0, 1.0, 0.9, "cannot tell"),
        (0.1, float("nan"), 1.0, 1.0, "cannot tell"),  # one sample has no interval
    ],
)
def test_verdicts(loss: float, half: float, margin: float, p: float, verdict: str) -> None:
    assert change_of(loss, half, margin, p).verdict == verdict


def test_rows_that_did_not_move_cost_the_others_no_power(store: Store, baseline: Path) -> None:
    write_run(store.root, "collaborative", seed=3, images=False)
    result = compared(store, baseline)
    assert result.tests == 3
    moved = [change for change in result.changes if not change.identical]
    assert {change.run for change in moved} == {ROW}
    np.testing.assert_allclose([c.p_holm for c in moved], st.holm([c.p for c in moved]))


def test_new_noise_alone_rarely_alarms(store: Store, baseline: Path) -> None:
    """A/A: the same true quality under 40 other noises; at most a few calls may claim anything (5 % each)."""
    base, rng, alarms = baseline_folder(baseline, "base"), np.random.default_rng(0), 0
    for _ in range(40):
        head = {}
        for name, run in base.runs.items():
            noise = rng.choice([-1.0, 1.0], size=(3, 64)) * rng.gamma(2, size=(3, 64))
            groups = np.array([noise[2, np.arange(64) % 32 != g].mean() for g in range(32)])
            values = {metric: v + own for (metric, v), own in zip(run.values.items(), noise[:2], strict=True)}
            value, replicates = run.sets["fid"]
            head[name] = replace(run, values=values, sets={"fid": (value + noise[2].mean(), replicates + groups)})
        result = compare_sides(base, replace(base, runs=head), same_for_all(0.0), METRICS)
        alarms += any(change.p_holm < 0.05 for change in result.changes)
        assert result.tests == 9
    assert alarms <= 6  # binomial(40, 0.05) exceeds 6 in 1 of 300


def test_the_smallest_loss_named_is_beyond_margin_and_threshold() -> None:
    change = change_of(0.0, 1.0, 0.0, 1.0)
    one, many = smallest_loss(change, 1), smallest_loss(change, 20)
    assert one == pytest.approx(st.smallest_visible_effect(0.5, 49))
    assert many > one
    margin = smallest_loss(replace(change, margin=5.0), 20)
    assert margin == pytest.approx(5 + st.t_quantile(49, 0.6) * 0.5)
    assert np.isnan(smallest_loss(replace(change, df=0), 1))


def test_small_samples_say_what_they_could_have_seen(tmp_path: Path) -> None:
    store = write_store(tmp_path / "embedded", images=False, n=6)
    renew(store_side(store, "embedded"), tmp_path / "b", SHARE, facts=METRICS)
    write_run(store.root, "composable", n=6, seed=5, images=False)
    result = compared(store, tmp_path / "b")
    change = next(c for c in result.changes if c.run.endswith("composable") and c.metric == "text-similarity")
    assert change.verdict == "cannot tell"
    assert change.visible > abs(change.difference)
    assert "cannot tell with n = 6: finds losses from" in to_markdown(result)


# ------------------------------------------------------------------------------------------------- cannot be compared


def edit(path: Path, **changes: object) -> None:
    write_json(path, {**read_json(path), **changes})
    sign(path.parent)


def test_what_cannot_be_compared_is_named(store: Store, baseline: Path) -> None:
    write_run(store.root, "text-only", n=32, images=False)
    write_run(store.root, "composable", judges={**JUDGES, "parser": "9" * 64}, images=False)
    unscore(store.root / ROW)
    result = compared(store, baseline)
    assert result.exit_code == 3
    assert reasons(result) == {
        ROW: "not scored yet; run `concord score face-generation collaborative`",
        "face-generation/composable mask-accuracy": "scored by other weights of 'parser' than the base",
        "face-generation/text-only": "n = 32, the base has n = 64",
    }
    assert {change.metric for change in result.changes} == {"fid", "text-similarity"}  # no parser looked at these
    assert any("unequal n (32, 64)" in note for note in result.notes)
    markdown = to_markdown(result)
    assert "Cannot be compared: n = 32, the base has n = 64: face-generation/text-only" in markdown
    assert "`make baseline`" in markdown


@pytest.mark.parametrize(
    ("file", "changes", "reason"),
    [
        ("run.json", {"profile": "paper"}, "another profile ('paper', the base has 'embedded')"),
        ("run.json", {"device": "cuda:0"}, "another device ('cuda', the base has 'cpu')"),
        ("run.json", {"data": {"fingerprint": "0" * 64}}, "another data ('000000000000', the base has 'ffffffffffff')"),
        ("run.json", {"requests": [{"id": f"x{i}-0"} for i in range(64)]}, None),
    ],
)
def test_other_profile_device_or_data(store: Store, baseline: Path, file: str, changes: dict, reason: str) -> None:
    for row in ("text-only", "composable", "collaborative"):
        edit(store.root / f"face-generation/{row}/{file}", **changes)
    if reason is None:  # other requests than the scores are of: damage, not a difference
        with pytest.raises(ConcordError, match="hold other requests"):
            compared(store, baseline)
        return
    result = compared(store, baseline)
    assert result.exit_code == 3
    assert set(reasons(result).values()) == {reason}
    assert "nothing could be compared" in to_markdown(result)


def test_other_requests(store: Store, baseline: Path) -> None:
    write_run(store.root, "composable", ids=[f"{i}-0" for i in range(64)], images=False)
    assert reasons(compared(store, baseline)) == {"face-generation/composable": "answered other requests than the base"}


def test_another_protocol_of_a_metric_is_named(store: Store, baseline: Path) -> None:
    content = read_json(baseline / "baseline.json")
    content["protocols"]["mask-accuracy"]["unit"] = "share"
    content["protocols"]["fid"]["code"] = "0" * 16
    write_json(baseline / "baseline.json", {**content, "format": 2})  # the last one without digests
    base, head = baseline_folder(baseline, "base"), store_side(store, "embedded")
    result = compare_sides(base, head, SHARE)  # facts of the registered metrics
    assert result.exit_code == 3
    assert set(reasons(result).values()) == {"another protocol of the metric (unit: share in the base, % now)"}
    assert len(result.incomparable) == 3
    assert result.notes == ["the code of metric 'fid' has changed since the base: a difference may be its own"]


def test_another_version_of_a_suite_or_a_metric_is_named(store: Store, baseline: Path) -> None:
    parts = {"suites": {"face-generation": "version 1"}, "metrics": {"fid": "version 2", "mask-accuracy": "version 1"}}
    edit(store.root / ROW / "score.json", key_parts=parts)
    assert reasons(compared(store, baseline)) == {f"{ROW} fid": "the metric is version 2, in the base version 1"}
    parts = {"suites": {"face-generation": "version 3"}, "metrics": {}}
    edit(store.root / ROW / "score.json", key_parts=parts)
    assert reasons(compared(store, baseline)) == {ROW: "suite 'face-generation' is version 3, in the base version 1"}


def test_another_reference_set_and_refused_now(store: Store, baseline: Path) -> None:
    info = read_json(store.root / ROW / "score.json")
    edit(store.root / ROW / "score.json", reference={**info["reference"], "fingerprint": "0" * 64})
    write_run(store.root, "composable", refused=["fid"], images=False)
    found = reasons(compared(store, baseline))
    assert found[f"{ROW} fid"].startswith("measured against another reference set")
    assert found["face-generation/composable fid"] == "refused now: n = 64, at least 65 needed"


def test_a_loss_goes_before_the_incomparable_in_the_exit_code(store: Store, baseline: Path) -> None:
    write_run(store.root, "text-only", n=32, images=False)
    write_run(store.root, "collaborative", levels=(27.0, 80.0, 5.0), images=False)
    assert compared(store, baseline).exit_code == 1


def test_a_baseline_with_missing_methods_lists_them_as_new(store: Store, baseline: Path) -> None:
    write_run(store.root, "mine", levels=LEVELS["composable"], images=False)
    result = compared(store, baseline)
    assert result.exit_code == 0
    assert result.new == ["face-generation/mine"]
    assert "New, not in the base: face-generation/mine" in to_markdown(result)
    base = baseline_folder(baseline, "base")
    nothing = compare_sides(base, store_side(store, "embedded"), SHARE, METRICS, only={"face-generation/mine"})
    assert nothing.exit_code == 3  # a gate that measured nothing does not pass
    shutil.rmtree(store.root / ROW)
    assert reasons(compared(store, baseline))[ROW].startswith("no results of it in")


def test_external_rows_are_skipped(store: Store, baseline: Path) -> None:
    write_run(store.root, "theirs", levels=LEVELS["composable"], images=False)
    edit(store.root / "face-generation/theirs/run.json", external={"title": "Theirs"})
    assert compared(store, baseline).new == []


# ----------------------------------------------------------------------------------------------------------- bad input


def test_a_half_written_folder_is_named_row_by_row(store: Store, baseline: Path) -> None:
    (store.root / ROW / "images").mkdir()
    for name in ("digests.json", "run.json"):  # killed while generating
        (store.root / ROW / name).unlink()
    unscore(store.root / "face-generation/composable")  # killed while scoring
    result = compared(store, baseline)
    assert result.exit_code == 3
    assert reasons(result)[ROW].startswith("generation has not finished")
    assert reasons(result)["face-generation/composable"].startswith("not scored yet")
    assert {change.run for change in result.changes} == {"face-generation/text-only"}


def test_results_of_another_version_are_one_line(store: Store) -> None:
    path = store.root / ROW / "run.json"
    write_json(path, {key: value for key, value in read_json(path).items() if key != "data"})
    with pytest.raises(ConcordError, match=r"collaborative/run.json: field 'data' is missing"):
        store_side(store, "embedded")


def test_scores_of_another_version_are_one_line(store: Store) -> None:
    import pandas as pd

    path = store.root / ROW / "scores.parquet"
    pd.read_parquet(path).drop(columns="status").to_parquet(path)
    with pytest.raises(ConcordError, match=r"scores.parquet: has changed since it was written"):
        store_side(store, "embedded")
    sign(path.parent)
    with pytest.raises(ConcordError, match=r"scores.parquet: no column 'status'"):
        store_side(store, "embedded")
    path.write_bytes(b"half")
    sign(path.parent)
    with pytest.raises(ConcordError, match=r"scores.parquet: not readable"):
        store_side(store, "embedded")


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value")  # the jackknife of one
def test_one_sample_cannot_tell(tmp_path: Path) -> None:
    store = write_store(tmp_path / "embedded", images=False, n=1)
    renew(store_side(store, "embedded"), tmp_path / "b", SHARE, facts=METRICS)
    write_run(store.root, "composable", n=1, seed=5, images=False)
    result = compared(store, tmp_path / "b")
    assert result.exit_code == 0
    assert {c.verdict for c in result.changes if c.run.endswith("composable")} == {"cannot tell"}
    assert "cannot tell with n = 1" in to_markdown(result)
    content = json.loads(to_json(result))
    assert {c["low"] for c in content["changes"] if c["row"] == "composable"} == {None}


def test_ten_thousand_samples_take_seconds(tmp_path: Path) -> None:
    levels = {"composable": (27.0, 84.0, 8.0), "collaborative": (27.0, 91.0, 5.0)}
    for row, (text, mask, distance) in levels.items():
        write_run(tmp_path / "a", row, n=10_000, levels=(text, mask, distance), images=False)
        lost = 0.5 if row == "collaborative" else 0.0
        write_run(tmp_path / "b", row, n=10_000, levels=(text, mask - lost, distance), seed=1, images=False)
    start = time.perf_counter()
    base, head = (store_side(Store(tmp_path / side), "embedded") for side in ("a", "b"))
    result = compare_sides(base, head, Margins(Margin(absolute=0.1)), METRICS)
    texts = [to_markdown(result), to_html(result), to_json(result)]
    assert time.perf_counter() - start < 20  # 2 seconds on an idle core
    assert [(change.run, change.metric) for change in result.worse] == [(ROW, "mask-accuracy")]
    assert result.worse[0].visible < 0.3  # so many samples see so little
    assert max(map(len, texts)) < 20_000  # the samples that changed most, not all of them


# -------------------------------------------------------------------------------------------------------------- words


class Checker(HTMLParser):
    """Every tag is closed, nothing points outside."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "link"):
            self.open.append(tag)
        assert tag not in ("script", "img", "iframe")
        assert all(name != "href" or value == "data:," for name, value in attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_markdown_json_and_html_say_the_same(store: Store, baseline: Path) -> None:
    write_run(store.root, "collaborative", levels=(27.0, 88.0, 5.0), seed=7, failures=2, images=False)
    result = compared(store, baseline)
    content = json.loads(to_json(result))
    assert content["exit_code"] == 1
    (worse,) = [change for change in content["changes"] if change["verdict"] == "worse"]
    assert (worse["suite"], worse["row"], worse["metric"]) == ("face-generation", "collaborative", "mask-accuracy")
    assert worse["failed"] == [0, 2]
    first = worse["most_changed"][0]["request"]
    markdown, page = to_markdown(result), to_html(result)
    for text in (markdown, page):
        assert "worse beyond the margin" in text
        assert first in text
        assert "(2 failed)" in text
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    named = [one for one in content["changes"] if one["verdict"] != "same" and one["most_changed"]]
    assert page.count("<tr") == 2 + 9 + len(named)


def test_names_cannot_become_markup(store: Store, baseline: Path) -> None:
    base = baseline_folder(baseline, "<img src=x>|base")
    head = store_side(store, "embedded")
    odd = "face-generation/<b>|row"
    both = [replace(side, runs={**side.runs, odd: side.runs[ROW]}) for side in (base, head)]
    moved = replace(both[1].runs[odd], values={m: v - 9 for m, v in both[1].runs[odd].values.items()})
    both[1].runs[odd] = moved
    result = compare_sides(both[0], both[1], SHARE, METRICS)
    assert "<b>" not in to_html(result)
    assert "<img" not in to_html(result)
    assert "<b>" not in to_markdown(result)
    assert "&lt;b>\\|row" in to_markdown(result)


# ------------------------------------------------------------------------------------------------------------- command


def test_the_command_ends_with_the_exit_codes_that_it_states(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("concord.reports.compare.sides.BASELINE", tmp_path / "committed")

    def call(*args: str) -> Called:
        return CliRunner().invoke(app, ["compare", "--results", str(tmp_path), *args])

    missing = call()
    assert missing.exit_code == 2
    assert "no baseline yet" in missing.stderr
    assert "run `concord compare --accept`" in missing.stderr
    accepted = call("--accept")
    assert accepted.exit_code == 0
    assert "Baseline of 3 rows written" in accepted.stdout
    assert call().exit_code == 0
    write_run(store.root, "collaborative", levels=(27.0, 80.0, 5.0), images=False)
    files = [str(tmp_path / f"out.{ending}") for ending in ("json", "html", "md")]
    worse = call("--json", files[0], "--html", files[1], "--markdown", files[2])
    assert worse.exit_code == 1
    assert json.loads(Path(files[0]).read_text())["exit_code"] == 1
    assert Path(files[1]).read_text().startswith("<!doctype html>")
    assert Path(files[2]).read_text() == worse.stdout
    assert call("--tolerance", "0.5").exit_code == 0
    assert call("--suite", "influence-ablation").exit_code == 1  # it has the row
    write_run(store.root, "collaborative", images=False)
    write_run(store.root, "composable", n=8, images=False)
    assert call().exit_code == 3
    assert call("--suite", "influence-ablation").exit_code == 0  # it has not


def test_two_folders_are_compared_and_options_that_clash_are_errors(store: Store, tmp_path: Path) -> None:
    other = tmp_path / "other" / "embedded"
    shutil.copytree(store.root, other)
    write_run(other, "composable", levels=(27.0, 70.0, 8.0), images=False)

    def call(*args: str) -> Called:
        return CliRunner().invoke(app, ["compare", "--results", str(tmp_path), *args])

    assert call(str(store.root), str(other)).exit_code == 1
    assert call(str(store.root), str(other.parent)).exit_code == 1  # results folder with the profile in it
    assert call(str(other), "results").exit_code == 0  # the other way it is a gain
    assert call("--accept", str(other)).exit_code == 2
    shutil.copytree(other, tmp_path / "paper")
    assert call("--accept", "--profile", "paper").stderr.endswith("profile 'embedded'; give --profile embedded\n")
    assert call("--prune").exit_code == 2
    assert call(str(tmp_path / "nothing")).exit_code == 2
    assert call("--profile", "nonesuch").exit_code == 2
