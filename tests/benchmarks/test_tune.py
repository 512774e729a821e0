"""`concord tune`: the search, its objective, the file that keeps it, and what rows make of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import toy_world
from fake_store import make_suite
from given_networks import seen_by
from pydantic import BaseModel

from concord.benchmarks.plan.requests import Options, make_request_set
from concord.benchmarks.planner import make_plan, row_with
from concord.benchmarks.settings import load_settings
from concord.benchmarks.suite import Row, load_suite, read_suite, suite_names
from concord.benchmarks.tune import (
    TuningRun,
    best,
    mahalanobis_distance,
    objective,
    progress_made,
    rows_to_tune,
    search,
    stale_tunings,
)
from concord.benchmarks.tuned import Search, Trial, merge, nested, read_search, tuned_row, write_search
from concord.data.datasets.faces.open import open_faces
from concord.data.errors import ConcordError, ConcordWarning
from concord.reports.tables.tuning import tuning_notes

# ----------------------------------------------------------------------------------------------------------- the search


def trial(params: dict[str, float], reached: float) -> Trial:
    return Trial(params=params, objective=reached, parts={}, values={}, seconds=0.0)


def hill(params: dict[str, float]) -> Trial:
    """Highest at a = 3, b = 0.5."""
    apart = math.log(params["a"] / 3) ** 2 + math.log(params["b"] / 0.5) ** 2
    return trial(params, -apart)


RANGES = {"a": [0.1, 100.0], "b": [0.01, 10.0]}


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
        for name, (low, high) in RANGES.items():
            assert low * 0.999 <= one.params[name] <= high * 1.001


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
        (["tune", "all", "face-generation"], "has no key 'tune'"),
        (["tune", "nosuch", "identity-landmarks"], "its tuned rows are freedom, z-magic"),
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


class ABank:
    device = "cpu"

    def __init__(self) -> None:
        self.sha256 = {"a-network": "0" * 64}


@pytest.fixture
def bench(dial: None, toy_tree: Path, tmp_path: Path) -> TuningRun:
    (tmp_path / "toys.yaml").write_text(SUITE)
    suite = load_suite(str(tmp_path / "toys.yaml"))
    requests = make_request_set("toys-tuning", open_faces(toy_tree), suite.conditions, 64, 4)
    reference = np.random.default_rng(0).random((60, 48)).astype(np.float32)
    return TuningRun(suite, requests, seen_by(toy_world.make_judges()), reference, ABank, batch_size=3)


def test_a_search_finds_what_is_best(bench: TuningRun, tmp_path: Path) -> None:
    told: list[int] = []
    (row,) = rows_to_tune(bench.suite, None)
    tuned = bench.search(row, 0, lambda number, _: told.append(number))
    assert told == list(range(1, 11))
    assert len(tuned.trials) == 10
    assert set(tuned.chosen) == {"strengths.mask", "strengths.text"}  # 'shade' is no parameter of the method
    assert abs(math.log(tuned.chosen["strengths.mask"] / 3)) < 0.7
    assert tuned.objective == max(one.objective for one in tuned.trials) > 0.4
    assert tuned.weights == ABank().sha256
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
    assert bench.ranges(row) == {"strengths.mask": [0.5, 500.0], "strengths.text": [0.1, 10.0]}
    alone = row.model_copy(update={"conditions": ["mask"]})
    assert bench.ranges(alone) == {"strengths.mask": [0.5, 500.0]}
    with pytest.raises(ConcordError, match="has none of the parameters"):
        bench.ranges(row.model_copy(update={"conditions": []}))


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
        "toys/dial: its parameters were tuned by other code than today's; `concord tune dial toys` looks for them again"
    )
    older = other.model_copy(update={"code": ""})  # from before codes were kept: nothing can be said
    write_search(found.model_copy(update={"rows": {"dial": older}}), folder)
    assert stale_tunings(bench.suite, "embedded") == []


def test_only_tuned_rows_are_tuned(bench: TuningRun) -> None:
    assert [row.name for row in rows_to_tune(bench.suite, ["dial"])] == ["dial"]
    with pytest.raises(ConcordError, match=r"nothing to tune for plain: its tuned rows are dial"):
        rows_to_tune(bench.suite, ["plain"])


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
