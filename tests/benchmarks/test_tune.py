"""`concord tune`: the search, its objective, the file that keeps it, and what rows make of it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
import toy_world
from fake_store import make_suite
from given_networks import seen_by
from pydantic import BaseModel
from torch import Tensor

from concord.benchmarks.changes import row_with
from concord.benchmarks.plan.requests import Options, make_request_set
from concord.benchmarks.planner import make_plan
from concord.benchmarks.search import best, search
from concord.benchmarks.settings import load_settings
from concord.benchmarks.suite import Row, Tune, load_suite, read_suite, suite_names
from concord.benchmarks.tune import (
    TuningRun,
    check_unseen,
    mahalanobis_distance,
    objective,
    progress_made,
    row_ranges,
    rows_to_tune,
    stale_tunings,
)
from concord.benchmarks.tuned import Search, Trial, merge, nested, read_search, tuned_row, write_search
from concord.data.datasets.faces.open import open_faces
from concord.data.errors import ConcordError, ConcordWarning
from concord.data.networks import Networks
from concord.methods.core.tunable import Interval, TuneRange
from concord.reports.tables.tuning import tuning_notes

# ----------------------------------------------------------------------------------------------------------- the search


def trial(params: dict[str, float], reached: float) -> Trial:
    return Trial(params=params, objective=reached, parts={}, values={}, seconds=0.0)


def hill(params: dict[str, float]) -> Trial:
    """Highest at a = 3, b = 0.5."""
    apart = math.log(params["a"] / 3) ** 2 + math.log(params["b"] / 0.5) ** 2
    return trial(params, -apart)


RANGES = {"a": Interval(0.1, 100.0), "b": Interval(0.01, 10.0)}


def test_the_same_seed_tries_the_same() -> None:
    first = [one.params for one in search(RANGES, 10, 0, hill)]
    assert first == [one.params for one in search(RANGES, 10, 0, hill)]
    assert first != [one.params for one in search(RANGES, 10, 1, hill)]


def test_first_points_do_not_depend_on_what_is_evaluated() -> None:
    """Every method of a suite is tried at the same places first."""
    other = search(RANGES, 10, 0, lambda params: trial(params, params["a"]))
    assert [one.params for one in search(RANGES, 10, 0, hill)][:6] == [one.params for one in other][:6]


def test_trials_stay_inside_and_begin_in_the_middle() -> None:
    done = search(RANGES, 12, 3, lambda params: trial(params, params["a"] - params["b"]))  # pulls into a corner
    assert done[0].params == {"a": pytest.approx(math.sqrt(0.1 * 100), rel=1e-3), "b": pytest.approx(0.3162, rel=1e-3)}
    for one in done:
        for name, each in RANGES.items():
            assert each.low <= one.params[name] <= each.high


def test_a_search_that_was_stopped_goes_on_as_if_it_had_not_been() -> None:
    whole = [one.params for one in search(RANGES, 12, 0, hill)]
    for stop in (1, 7, 9):
        kept: list[list[Trial]] = []
        before = search(RANGES, 12, 0, hill)[:stop]
        calls: list[dict[str, float]] = []
        done = search(RANGES, 12, 0, lambda p, calls=calls: calls.append(p) or hill(p), before, kept.append)
        assert [one.params for one in done] == whole
        assert len(calls) == 12 - stop  # what was tried is not tried again
        assert len(kept[-1]) == 12


def test_whole_numbers_stay_whole() -> None:
    done = search({"s": Interval(1, 30, whole=True), "eta": Interval(0, 1)}, 9, 0, lambda p: trial(p, -abs(p["s"] - 6)))
    assert all(isinstance(one.params["s"], int) for one in done)
    assert {one.params["s"] for one in done} <= set(range(1, 31))
    assert all(0 <= one.params["eta"] <= 1 for one in done)


def test_looking_around_the_best_is_better_than_spreading_alone() -> None:
    gains = []
    for seed in range(20):
        done = search(RANGES, 12, seed, hill)
        gains.append(best(done).objective - best(done[:8]).objective)
    assert min(gains) >= 0
    assert np.mean(gains) > 0.05


# -------------------------------------------------------------------------------------------------------- the objective


@pytest.mark.parametrize(
    ("value", "floor", "ceiling", "higher", "expected"),
    [
        (5, 0, 10, True, 0.5),
        (5, 10, 0, False, 0.5),
        (15, 0, 10, True, 1.0),  # past the ceiling counts no more
        (-30, 0, 10, True, -1.0),
        (5, 10, 10, True, None),  # nothing to tell good from bad by
        (5, 10, 0, True, None),  # real images are worse than the floor
        (math.nan, 0, 10, True, None),
    ],
)
def test_progress(value: float, floor: float, ceiling: float, higher: bool, expected: float | None) -> None:
    assert progress_made(value, floor, ceiling, higher) == expected


def test_a_condition_with_two_metrics_counts_once() -> None:
    groups = {"iou": "mask", "distance": "mask", "cosine": "text"}
    higher = {"iou": True, "distance": False, "cosine": True}
    floor, ceiling = {"iou": 0.0, "distance": 8.0, "cosine": 0.0}, {"iou": 1.0, "distance": 0.0, "cosine": 1.0}
    reached, parts = objective({"iou": 0.5, "distance": 8.0, "cosine": 1.0}, floor, ceiling, groups, higher)
    assert parts == {"iou": 0.5, "distance": 0.0, "cosine": 1.0}
    assert reached == pytest.approx((0.25 + 1.0) / 2)
    with pytest.raises(ConcordError, match="no metric tells the floor row from real images"):
        objective({"iou": 1.0}, {"iou": 1.0}, {"iou": 1.0}, {"iou": "mask"}, higher)


def test_it_is_the_mahalanobis_distance() -> None:
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(6, 6))
    real = (rng.normal(size=(4000, 6)) @ mix + 3).astype(np.float32)
    assert mahalanobis_distance(real[:500], real) == pytest.approx(0.96, abs=0.03)  # mean of chi / sqrt(6)
    covariance = np.cov(real.T.astype(np.float64))
    covariance += 1e-3 * np.trace(covariance) / 6 * np.eye(6)
    away = real.mean(0) + np.float32(2)
    off = away.astype(np.float64) - real.mean(0, dtype=np.float64)
    expected = math.sqrt(off @ np.linalg.inv(covariance) @ off / 6)
    assert mahalanobis_distance(away[None], real) == pytest.approx(expected, rel=1e-6)


# ------------------------------------------------------------------------------------------------------------- the file


def a_search(**changes: object) -> Search:
    done = [trial({"strengths.mask": 2.5}, 0.5)]
    entry = {
        "method": "dial",
        "conditions": ["mask"],
        "chosen": {"strengths.mask": 2.5},
        "objective": 0.5,
        "seconds": 1.0,
        "weights": {},
        "commit": "c",
        "trials": [one.model_dump() for one in done],
    }
    fields = {
        "request_set": "toys", "profile": "embedded", "seed": 0, "n": 2, "budget": 1, "items": "tree, 0 to 1",
        "ranges": {"strengths.mask": [0.1, 10]}, "objective": "words", "floor": {}, "ceiling": {},
        "rows": {"dial": entry},
    }  # fmt: skip  # a table
    return Search.model_validate({**fields, **changes})


def test_a_search_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_search("toys", tmp_path) is None
    path = write_search(a_search(), tmp_path)
    assert read_search("toys", tmp_path) == a_search()
    path.write_text(path.read_text().replace("budget:", "bugdet:"))
    with pytest.raises(ConcordError, match=r"toys\.yaml: unknown key 'bugdet'"):
        read_search("toys", tmp_path)


def test_a_search_of_an_earlier_version_is_read_with_a_warning(tmp_path: Path) -> None:
    path = write_search(a_search(floor={"mahalanobis-distance": 0.9}), tmp_path)
    path.write_text(path.read_text().replace("mahalanobis-distance:", "strangeness:"))
    with pytest.warns(ConcordWarning, match="'strangeness' is now called 'mahalanobis-distance'"):
        found = read_search("toys", tmp_path)
    assert found == a_search(floor={"mahalanobis-distance": 0.9})


def test_a_row_takes_its_values_for_the_tuned_profile_only(tmp_path: Path) -> None:
    row = Row(name="dial", method="dial", tuned="dial", params={"steps": 3, "strengths": {"text": 1.0}})
    assert tuned_row(row, "toys", "embedded", tmp_path) == row  # nothing was tuned yet
    write_search(a_search(), tmp_path)
    found = tuned_row(row, "toys", "embedded", tmp_path)
    assert found.params == {"steps": 3, "strengths": {"mask": 2.5, "text": 1.0}}
    assert tuned_row(row, "toys", "paper", tmp_path) == row
    assert tuned_row(row.model_copy(update={"tuned": None}), "toys", "embedded", tmp_path).params == row.params
    own = row.model_copy(update={"params": {"strengths": {"mask": 9.0}}})
    assert tuned_row(own, "toys", "embedded", tmp_path).params == {"strengths": {"mask": 9.0}}
    with pytest.raises(ConcordError, match=r"no entry 'other'.*it has dial.*concord tune dial toys"):
        tuned_row(row.model_copy(update={"tuned": "other"}), "toys", "embedded", tmp_path)


def test_dotted_names_are_groups() -> None:
    assert nested({"a.b": 1, "a.c": 2, "d": 3}) == {"a": {"b": 1, "c": 2}, "d": 3}
    merged = merge({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 5}, "d": {"e": 6}})
    assert merged == {
        "a": {"b": 5, "c": 2},
        "d": {"e": 6},
    }
    row = row_with(Row(name="dial", method="dial", params={"strengths": {"text": 1}}), {"strengths.mask": 2})
    assert row.params == {"strengths": {"text": 1, "mask": 2}}
    assert row.name == "dial+strengths.mask=2"


class ARun:
    """What the notes read of a stored run."""

    def __init__(self, weights: dict[str, str]) -> None:
        self.manifest = {"weights": weights}


def test_a_report_says_how_much_was_tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("concord.benchmarks.tuned.FOLDER", tmp_path)
    suite = make_suite(
        name="toys",
        rows=[
            Row(name="dial", method="dial", tuned="dial"),
            Row(name="dial-last", method="dial", tuned="dial"),
            Row(name="plain", method="plain"),
        ],
    )
    assert tuning_notes(make_suite(), "embedded", {}) == []
    assert "Nothing was tuned: dial, dial-last take the papers' values" in tuning_notes(suite, "embedded", {})[0]
    search_ = a_search()
    entry = search_.rows["dial"].model_copy(update={"weights": {"net": "1" * 64}})
    write_search(search_.model_copy(update={"rows": {"dial": entry}}))
    runs = {"dial": ARun({"net": "1" * 64}), "dial-last": ARun({"net": "2" * 64})}
    notes = "\n".join(tuning_notes(suite, "embedded", runs))  # type: ignore[arg-type]
    for needed in (
        "1 trials for each method, each of 2 images of validation faces (tree, 0 to 1)",
        "strengths.mask 0.1 to 10",
        "Objective: words.",
        "dial: strengths.mask = 2.5 (objective 0.500).",
        "found for dial).",
        "dial-last: net had other weights when it was tuned; tune it again.",
        "Not tuned: plain.",
    ):
        assert needed in notes, needed
    assert "dial: net had other weights" not in notes
    assert "Nothing was tuned" in tuning_notes(suite, "paper", {})[0]


def test_the_command_line_says_what_is_wrong() -> None:
    from typer.testing import CliRunner

    from concord.cli import app

    for words, needed in (
        (["tune", "all", "joint-generation"], "no row takes tuned values; name a method or a row to tune"),
        (["tune", "nosuch", "identity-landmarks"], "'nosuch' is no row of suite 'identity-landmarks' and no method"),
        (["tune", "clean-masked", "restoration-5"], "no parameter of method 'clean-masked' that has an effect here"),
        (["tune", "composable", "identity-landmarks"], "method 'composable' needs at least 2 of mask, text"),
        (["tune", "all", "identity-landmarks", "--profile", "paper"], "names no 'tuning' folder; give one with --data"),
        (["tune", "all", "nosuch"], "unknown suite 'nosuch'"),
    ):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 2
        assert needed in result.stderr
        assert result.stderr.count("\n") == 1


# ------------------------------------------------------------------------------------------------------- a whole search


class Strengths(BaseModel):
    mask: float = 1.0
    text: float = 1.0


@pytest.fixture
def dial() -> Iterator[None]:
    """A method whose images are nearest to the mask at strength 3, and which knows nothing of the text's strength."""
    import torch

    from concord.methods import base

    before = base.all_methods()

    class Dial(base.Method):
        """The mask, with noise that is least at strength 3."""

        name, title, paper, conditions, training_free = "dial", "Dial", "none", frozenset({"text", "mask"}), True
        minimum_conditions = 0

        class Params(base.Method.Params):
            strengths: Strengths = Strengths()
            shine: bool = True
            gain: Annotated[float, TuneRange(0.5, 2, when={"shine": [True]})] = 1.0

        def sample(self, batch, trace):  # type: ignore[no-untyped-def]
            share = math.exp(-(math.log(self.params.strengths.mask / 3) ** 2))
            noise = torch.stack([torch.rand(3, 64, 64, generator=g) for g in batch.generators])
            if batch.conditions[0].mask is None:
                return noise
            mask = torch.stack([torch.from_numpy(c.mask).float() / 18.99 + 0.02 for c in batch.conditions])[:, None]
            return share * mask + (1 - share) * noise

    base.register(Dial)
    yield
    base._REGISTRY.methods.clear()
    base._REGISTRY.methods.update(before)


SUITE = """
name: toys
title: Toys
paper: collaborative-diffusion
table: table-1
dataset: faces
conditions: [text, mask]
rows:
  - {name: plain, method: dial, conditions: []}
  - {name: dial, method: dial, tuned: dial}
metrics: [mask-accuracy, mask-miou]
tune: {n: 4, trials: 10, floor: plain, ranges: {strengths.mask: [0.1, 100], strengths.text: [0.1, 10], shade: [1, 2]},
       ceiling: {mask-accuracy: 100.0, mask-miou: 100.0}}
"""


CARD = {"name": "a-network", "sha256": "0" * 64}


def no_networks(row: Row) -> Networks:
    return Networks.of({}, cards={"a-role": CARD})


@pytest.fixture
def bench(dial: None, toy_tree: Path, tmp_path: Path) -> TuningRun:
    (tmp_path / "toys.yaml").write_text(SUITE)
    suite = load_suite(str(tmp_path / "toys.yaml"))
    requests = make_request_set("toys-tuning", open_faces(toy_tree), suite.conditions, 64, 4)
    reference = np.random.default_rng(0).random((60, 48)).astype(np.float32)
    judges = seen_by(toy_world.make_judges())
    return TuningRun(suite, requests, judges, reference, no_networks, batch_size=3)


def test_a_search_finds_what_is_best(bench: TuningRun, tmp_path: Path) -> None:
    told: list[int] = []
    (row,) = rows_to_tune(bench.suite, None)
    tuned = bench.search(row, 0, lambda number, _: told.append(number))
    assert told == list(range(1, 11))
    assert len(tuned.trials) == 10
    assert set(tuned.chosen) == {"strengths.mask", "strengths.text"}  # 'shade' is no parameter of the method
    assert abs(math.log(tuned.chosen["strengths.mask"] / 3)) < 0.7
    assert tuned.objective == max(one.objective for one in tuned.trials) > 0.4
    assert tuned.weights == {"a-network": "0" * 64}
    assert {"mask-accuracy", "mask-miou", "mahalanobis-distance"} == set(tuned.trials[0].values)
    assert set(tuned.trials[0].parts) == {"mask-accuracy", "mask-miou"}  # the distance is kept, not sought
    result = bench.result("embedded", 0, {row.name: tuned})
    write_search(result, tmp_path)
    assert read_search("toys", tmp_path) == result
    assert "mask: mask-accuracy, mask-miou" in result.objective


def test_the_floor_row_lies_at_zero(bench: TuningRun) -> None:
    reached, parts = objective(bench.floor, bench.floor, bench.ceiling, bench.groups, bench.higher)
    assert reached == 0
    assert set(parts.values()) == {0.0}


def test_ranges_are_shares_of_the_methods_own_values(bench: TuningRun) -> None:
    row = bench.suite.row("dial").model_copy(update={"params": {"strengths": {"mask": 5.0}}})
    both = {"strengths.mask": Interval(0.5, 500.0), "strengths.text": Interval(0.1, 10.0)}
    assert bench.ranges(row) == both
    alone = row.model_copy(update={"conditions": ["mask"]})
    assert bench.ranges(alone) == {"strengths.mask": Interval(0.5, 500.0)}
    none = bench.suite.model_copy(update={"tune": Tune(n=4, trials=10)})
    assert row_ranges(none, row) == {"gain": Interval(0.5, 2.0)}  # what the method's own field states
    with pytest.raises(ConcordError, match=r"row 'dial': no parameter of method 'dial' that has an effect here states"):
        row_ranges(none, row.model_copy(update={"params": {"shine": False}}))


def test_a_search_is_the_same_again_and_goes_on_where_it_was_stopped(bench: TuningRun, tmp_path: Path) -> None:
    (row,) = rows_to_tune(bench.suite, "dial")
    whole = bench.search(row, 0)
    bench.progress = tmp_path / "unfinished"

    def stop(number: int, _: Trial) -> None:
        if number == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.search(row, 0, stop)
    kept = json.loads((tmp_path / "unfinished" / "toys" / "dial.json").read_text())
    assert len(kept["trials"]) == 6  # the seventh was not finished
    numbers: list[int] = []
    found = bench.search(row, 0, lambda number, _: numbers.append(number))
    assert numbers == [7, 8, 9, 10]
    assert [one.params for one in found.trials] == [one.params for one in whole.trials]
    assert [one.values for one in found.trials] == [one.values for one in whole.trials]
    numbers.clear()
    bench.search(row, 1, lambda number, _: numbers.append(number))  # other terms: from the beginning
    assert len(numbers) == 10


def test_faces_that_tables_show_are_refused(bench: TuningRun, toy_tree: Path, tmp_path: Path) -> None:
    with pytest.raises(ConcordError, match=r"item '0' is one of .*, which the tables show; tune on other items"):
        check_unseen(bench.requests, open_faces(toy_tree))
    check_unseen(bench.requests, open_faces(toy_world.write_tree(tmp_path / "others", 6, size=96)))  # names alone: no


def test_the_command_refuses_faces_that_tables_show(monkeypatch: pytest.MonkeyPatch, toy_tree: Path) -> None:
    from typer.testing import CliRunner

    from concord.cli import app
    from concord.data.profile import DatasetSettings

    monkeypatch.setattr(DatasetSettings, "items_folder", property(lambda self: toy_tree))
    result = CliRunner().invoke(app, ["tune", "text-only", "face-generation", "--data", str(toy_tree)])
    assert result.exit_code == 2
    assert "item '0' is one of" in result.stderr
    assert result.stderr.count("\n") == 1


def test_tuning_items_are_none_of_a_tables() -> None:
    from concord.benchmarks.datasets import TUNING, TUNING_SCENES
    from concord.data.synthetic import SPLITS
    from concord.data.synthetic.scenes.scene import SPLITS as SCENES

    reference = load_settings().profile("embedded").datasets["faces"].reference_n
    assert set(TUNING) <= set(SPLITS["validation"][reference:])
    assert not set(SCENES["tuning"][:TUNING_SCENES]) & set(SCENES["test"])


def test_real_images_of_others_are_the_floor_where_none_is_named(
    bench: TuningRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    monkeypatch.setattr(TuningRun, "values", lambda self, images: seen.append(images) or {})
    bench.suite = bench.suite.model_copy(update={"tune": Tune(n=4, trials=2)})
    assert bench.floor_name == "shuffled"
    assert (bench.floor, bench.ceiling) == ({}, {})
    other, own = ([image.numpy().tobytes() for image in images] for images in seen)
    assert sorted(other) == sorted(own)
    assert all(one != two for one, two in zip(other, own, strict=True))


def test_a_suite_of_set_metrics_alone_is_refused(bench: TuningRun) -> None:
    bench.suite = bench.suite.model_copy(update={"metrics": ["fid", "kid"]})
    with pytest.raises(ConcordError, match=r"none of its metrics has a value for every image \(fid, kid\)"):
        bench.search(bench.suite.row("dial"))


def test_rows_tuned_on_the_same_terms_stay_in_the_file(bench: TuningRun) -> None:
    entry = a_search().rows["dial"]
    earlier = bench.result("embedded", 0, {"other": entry})
    assert set(bench.result("embedded", 0, {"dial": entry}, earlier).rows) == {"other", "dial"}
    assert set(bench.result("embedded", 1, {"dial": entry}, earlier).rows) == {"dial"}
    fewer = earlier.model_copy(update={"budget": 3})
    assert set(bench.result("embedded", 0, {"dial": entry}, fewer).rows) == {"dial"}


def test_parameters_that_other_code_has_tuned_are_told(
    bench: TuningRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tuned"
    monkeypatch.setattr("concord.benchmarks.tuned.FOLDER", folder)
    assert stale_tunings(bench.suite, "embedded") == []  # none was made
    found = bench.result("embedded", 0, {"dial": a_search().rows["dial"]})
    write_search(found, folder)
    assert len(found.rows["dial"].code) == 64
    assert stale_tunings(bench.suite, "embedded") == []
    assert stale_tunings(bench.suite, "paper") == []
    other = found.rows["dial"].model_copy(update={"code": "0" * 64})
    write_search(found.model_copy(update={"rows": {"dial": other}}), folder)
    (line,) = stale_tunings(bench.suite, "embedded")
    assert line == (
        "toys: the parameters of dial were tuned by other code than today's; "
        "`concord tune dial toys` looks for them again"
    )
    assert line in tuning_notes(bench.suite, "embedded", {})  # the report says it too
    older = other.model_copy(update={"code": ""})  # from before codes were kept
    write_search(found.model_copy(update={"rows": {"dial": older}}), folder)
    (line,) = stale_tunings(bench.suite, "embedded")
    assert "the parameters of dial were tuned by code that was not noted; `concord tune dial toys`" in line


def test_which_rows_are_tuned(bench: TuningRun) -> None:
    def names(name: str | None) -> list[str]:
        return [row.name for row in rows_to_tune(bench.suite, name)]

    assert names(None) == names("dial") == ["dial"]
    assert names("plain") == ["plain"]  # a row by its name, though it takes no tuned values
    (added,) = rows_to_tune(bench.suite, "mask-only")  # a method that the suite does not name
    assert (added.method, added.conditions) == ("mask-only", ["mask"])
    other = Row(name="dial-strong", method="dial", tuned="dial-strong")
    first = bench.suite.row("dial").model_copy(update={"tuned": None})
    bench.suite = bench.suite.model_copy(update={"rows": [first, other]})
    assert names("dial") == ["dial-strong"]  # of a method's rows those that take tuned values


def test_a_plan_takes_tuned_values(dial: None, toy_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toys.yaml").write_text(SUITE)
    suite = load_suite(str(tmp_path / "toys.yaml"))
    monkeypatch.setattr("concord.benchmarks.tuned.FOLDER", tmp_path / "tuned")
    plans = [make_plan(suite, load_settings(), Options(data=toy_tree, limit=4))]
    write_search(a_search())
    plans.append(make_plan(suite, load_settings(), Options(data=toy_tree, limit=4)))
    strengths = [plan.run("dial").params["strengths"]["mask"] for plan in plans]
    assert strengths == [1.0, 2.5]
    assert plans[0].run("dial").key != plans[1].run("dial").key
    assert plans[0].run("plain").key == plans[1].run("plain").key


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("floor: plain", "floor: nobody|unknown tune: floor: row 'nobody': expected one of plain, dial"),
        ("[0.1, 100]", "[100, 0.1]|range of 'strengths.mask': expected [low, high] with 0 < low < high"),
        ("trials: 10", "trails: 10|unknown key 'tune.trails'"),
        ("ceiling: {mask-accuracy", "ceiling: {beauty|unknown tune: ceiling: metric 'beauty'"),
    ],
)
def test_mistakes_in_the_suite(dial: None, tmp_path: Path, line: str, words: str) -> None:
    changed, message = words.split("|")
    (tmp_path / "toys.yaml").write_text(SUITE.replace(line, changed))
    with pytest.raises(ConcordError) as error:
        load_suite(str(tmp_path / "toys.yaml"))
    assert message in str(error.value)


def test_searches_of_the_repo_are_those_of_its_suites() -> None:
    """Every kept search can be read, and has an entry for each row that takes its values."""
    for name in suite_names():
        suite = read_suite(name)
        found = read_search(suite.request_set)
        if found is None:
            continue
        assert found.request_set == suite.request_set
        assert {row.tuned for row in suite.rows if row.tuned} <= set(found.rows)
        for entry in found.rows.values():
            assert len(entry.trials) == found.budget
            assert entry.objective == max(one.objective for one in entry.trials)
