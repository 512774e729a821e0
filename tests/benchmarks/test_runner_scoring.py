"""Scoring: one row per request and metric, refused set metrics with their reason, nothing computed twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import toy_world
from given_networks import seen_by

from concord.benchmarks.plan.requests import Options
from concord.benchmarks.planner import make_plan
from concord.benchmarks.session import Session
from concord.benchmarks.settings import load_settings
from concord.benchmarks.store.run import Run
from concord.benchmarks.suite import load_suite
from concord.data.errors import ConcordError
from concord.metrics.distribution.fid import FID
from concord.metrics.distribution.kid import KID
from concord.metrics.distribution.reference_moments import ReferenceMoments


class Counting:
    """Judges that count the images they are shown."""

    def __init__(self) -> None:
        self.judges, self.seen = toy_world.make_judges(), 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.judges, name)

    def labels(self, images):  # type: ignore[no-untyped-def]
        self.seen += len(images)
        return self.judges.labels(images)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_world.write_tree(tmp_path_factory.mktemp("scored") / "tree", 40)


@pytest.fixture
def session(toy: str, toy_suite: Path, tree: Path, tmp_path: Path) -> Iterator[Session]:
    options = Options(data=tree, limit=40, results=tmp_path / "results")
    plan = make_plan(load_suite(str(toy_suite)), load_settings(), options)
    judges = Counting()
    return Session(plan, "cpu", open_judges=lambda: seen_by(judges))


def test_every_request_has_a_score_of_every_metric(session: Session) -> None:
    session.generate(session.plan.runs)
    session.score(session.plan.runs)
    run = Run(session.plan.run("toy").path)
    scores = run.scores()
    assert list(scores.columns) == ["suite", "method", "request", "metric", "value", "status"]
    for metric in ("text-similarity", "mask-accuracy", "mask-miou"):
        rows = scores[scores["metric"] == metric]
        assert list(rows["request"]) == run.ids
        assert set(rows["status"]) == {"ok"}
        assert rows["value"].between(-100, 100).all()
    ids, features = run.features()
    assert ids == run.ids
    assert features.shape == (40, 48)
    assert features.dtype == np.float32


def test_scores_are_those_of_the_stored_images_and_their_own_conditions(session: Session) -> None:
    session.generate(session.plan.runs)
    session.score(session.plan.runs)
    run = Run(session.plan.run("toy").path)
    scores = run.scores().query("metric == 'mask-accuracy'").set_index("request")["value"]
    for request, (name, image) in zip(session.plan.requests.requests, run.images(), strict=True):
        classes = np.floor(image.astype(np.float64).mean(2) / 255 * 18.99)
        expected = 100 * (classes == request.item.mask(64)).mean()
        assert scores[name] == pytest.approx(expected, abs=0.2)


def test_set_metrics_come_with_replicates(session: Session) -> None:
    session.generate(session.plan.runs)
    session.score(session.plan.runs)
    sets = Run(session.plan.run("toy").path).sets().set_index("metric")
    for metric in ("fid", "kid"):
        row = sets.loc[metric]
        if row["status"] == "ok":
            assert np.isfinite(row["value"])
            assert len(row["replicates"]) == 40  # one an item
            assert row["n"] == row["n_reference"] == 40
        else:
            assert row["status"].startswith("refused: n = 40")
            assert np.isnan(row["value"])
    truth = Run(session.plan.run("ground-truth").path).sets().set_index("metric")
    assert list(truth.index) == list(sets.index)


def test_replicates_follow_from_the_requests_items_alone(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are paired replicate by replicate: every row of a request set gives the same item numbers."""
    replicates, seen = KID.replicates, []

    def record(
        self: KID, generated: np.ndarray, reference: np.ndarray | ReferenceMoments, items: np.ndarray
    ) -> np.ndarray:
        seen.append(np.asarray(items).tolist())
        return replicates(self, generated, reference, items)

    monkeypatch.setattr(KID, "replicates", record)
    session.generate(session.plan.runs)
    session.score(session.plan.runs)
    ids = [request.id.rsplit("-", 1)[0] for request in session.plan.requests.requests]
    assert seen == [[sorted(set(ids)).index(one) for one in ids]] * 3  # three rows


def test_networks_see_each_image_once_and_nothing_is_scored_twice(session: Session) -> None:
    session.generate(session.plan.runs)
    assert len(session.score(session.plan.runs)) == 3
    assert session.judges.get("judge/parser", Counting).seen == 3 * 40
    assert session.score(session.plan.runs) == []
    assert session.judges.get("judge/parser", Counting).seen == 3 * 40
    (session.plan.run("toy").path / "score.json").unlink()
    assert [run.row.name for run in session.score(session.plan.runs)] == ["toy"]


def test_provenance_of_scores(session: Session) -> None:
    session.generate(session.plan.runs)
    session.score(session.plan.runs)
    info = Run(session.plan.run("toy").path).score_info
    assert info["networks"]["parser"] == "1" * 64
    assert info["cards"]["parser"]["held_out"] == {"accuracy": 0.5, "n": 8}
    assert info["reference"]["n"] == 40
    assert info["data"]["fingerprint"] == session.plan.requests.fingerprint
    assert set(info["time"]) == {"load", "decode", "observe", "sets", "write", "other"}


def test_other_images_are_scored_again(session: Session) -> None:
    session.generate(session.plan.runs)
    session.score(session.plan.runs)
    from dataclasses import replace

    run = session.plan.run("toy")
    changed = replace(run, params={**run.params, "steps": 1}, row=run.row.model_copy(update={"params": {"steps": 1}}))
    before = Run(run.path).scores()["value"].to_numpy()
    session.generate([changed])
    assert session.score([changed]) == [changed]
    assert not np.array_equal(Run(run.path).scores()["value"].to_numpy(), before)


def test_small_sets_are_refused_with_the_reason(toy: str, toy_suite: Path, tree: Path, tmp_path: Path) -> None:
    options = Options(data=tree, limit=2, results=tmp_path / "results")
    plan = make_plan(load_suite(str(toy_suite)), load_settings(), options)
    session = Session(plan, "cpu", open_judges=lambda: seen_by(toy_world.make_judges()))
    session.generate(plan.runs)
    session.score(plan.runs)
    sets = Run(plan.run("toy").path).sets()
    assert sets["value"].isna().all()
    assert all(status.startswith("refused: n = 2, at least") for status in sets["status"])


def test_masks_without_images_refuse_set_metrics(toy: str, toy_suite: Path, tmp_path: Path) -> None:
    import shutil

    folder = toy_world.write_tree(tmp_path / "tree", 4)
    shutil.rmtree(folder / "CelebA-HQ-img")
    options = Options(data=folder, limit=4, results=tmp_path / "results")
    plan = make_plan(load_suite(str(toy_suite)), load_settings(), options)
    session = Session(plan, "cpu", open_judges=lambda: seen_by(toy_world.make_judges()))
    session.generate(plan.runs)
    session.score(plan.runs)
    sets = Run(plan.run("toy").path).sets()
    assert set(sets["status"]) == {"refused: the dataset has no images to compare with"}
    assert (sets["n_reference"] == 0).all()


def test_scoring_needs_images(session: Session) -> None:
    with pytest.raises(ConcordError, match="toy: not generated yet"):
        session.score([session.plan.run("toy")])


def test_reference_features_are_kept_and_follow_the_network(session: Session) -> None:
    session.make_reference()
    reference = session.reference
    assert reference is not None
    (path,) = reference.folder.glob("*.npz")
    written = path.stat().st_mtime_ns
    first = reference.features(session.judges, [FID()])["pool"]
    assert path.stat().st_mtime_ns == written
    other = toy_world.make_judges()
    other.cards["features"]["sha256"] = "9" * 64
    np.testing.assert_array_equal(reference.features(seen_by(other), [FID()])["pool"], first)
    assert len(list(reference.folder.glob("*.npz"))) == 2  # kept under another key


def test_seconds_add_up(session: Session) -> None:
    session.generate(session.plan.runs)
    session.score(session.plan.runs)
    split = session.split()
    assert {"load", "generate", "observe", "write"} <= set(split)
    assert all(seconds >= 0 for seconds in split.values())
    assert 0 <= session.overhead() <= 1
