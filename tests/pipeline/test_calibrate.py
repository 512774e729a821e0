"""`concord calibrate --profile paper` at toy width: real files, toys, runner, judges and tables; weights at random."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paper_judges
import pytest
import yaml

from concord.benchmarks.calibrate import FILE, Measured, calibration_notes, keep, read_anchors, read_calibration
from concord.benchmarks.store.run import Store
from concord.benchmarks.suite import read_suite
from concord.data.errors import ConcordError
from concord.metrics.base import get_metric
from concord.reports.assemble import build_table

N = 4
Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("calibrate")
    manifests = paper_judges.write_manifests(root / "manifests")
    with paper_judges.toy_world(manifests), pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONCORD_CACHE", str(root / "cache"))
        patch.setenv("CONCORD_OFFLINE", "1")
        for name in ("fid", "fid-legacy", "kid"):  # four images are too few for anything but seeing that it runs
            patch.setattr(type(get_metric(name)), "minimum_n", 2)
        paper_judges.write_cache(root / "cache")
        folder = root / "cache" / "data" / "celebamask-hq"
        folder.mkdir(parents=True)
        paper_judges.write_faces(folder)
        yield root


def calibrate(*arguments: Any) -> Any:
    from typer.testing import CliRunner

    from concord.cli import app

    return CliRunner().invoke(app, ["calibrate", *(str(argument) for argument in arguments)])


def write_anchors(path: Path, suite: Path, window: tuple[float, float]) -> Path:
    """Real captions within any window, Collaborative Diffusion's FID within the given one, one that is not run."""
    common = {"suite": str(suite), "n": N, "source": "this test"}
    anchors = [
        {"name": "captions", "what": "a", "row": "ground-truth", "metric": "text-similarity", "window": [-100, 100]},
        {"name": "fid", "what": "b", "row": "collaborative", "metric": "fid-legacy", "window": list(window)},
    ]
    elsewhere = {"name": "far", "what": "c", "n": 5, "window": [0, 1], "source": "d", "not_run": "ask its authors"}
    path.write_text(yaml.safe_dump({"anchors": [*({**common, **anchor} for anchor in anchors), elsewhere]}))
    return path


@pytest.mark.slow
def test_a_checkpoint_is_in_or_out_of_its_window_and_tables_say_so(world: Path) -> None:
    suite = paper_judges.write_suite("face-generation", world / "suites")
    results = world / "results"
    wrong = write_anchors(world / "wrong.yaml", suite, (0.0, 1e-6))
    options = ["--profile", "paper", "--device", "cpu", "--results", results]
    result = calibrate("--anchors", wrong, *options)
    assert result.exit_code == 1, result.output
    assert "captions: " in result.output
    assert ", in of -100 to 100" in result.output
    assert ", out of 0 to 1e-06" in result.output
    assert "far: not run here: ask its authors" in result.output
    root = results / "paper" / f"limit-{N}"
    kept = json.loads((root / FILE).read_text())
    assert {name: one["verdict"] for name, one in kept.items()} == {"captions": "in", "fid": "out"}
    run = Store(root).run("face-generation", "collaborative")
    assert kept["fid"]["weights"] == run.manifest["weights"] != {}

    def notes() -> str:
        return " ".join(build_table(read_suite(str(suite)), Store(root), "paper").notes["Calibration"])

    assert "OUTSIDE of 0 to 1e-06" in notes()
    assert all(f"Not calibrated: {name} (Collaborative Diffusion)" in notes() for name in run.manifest["weights"])
    made = {path: path.stat().st_mtime_ns for path in run.path.glob("images/*")}

    right = write_anchors(world / "right.yaml", suite, (0.0, 1e6))
    result = calibrate("fid", "--anchors", right, *options)
    assert result.exit_code == 0, result.output
    assert "within 0 to 1e+06 (n = 4)" in notes()
    assert "Not calibrated" not in notes()
    assert {path: path.stat().st_mtime_ns for path in run.path.glob("images/*")} == made  # no row is made again


def test_the_anchors_are_those_of_the_issue_and_stand_in_suites() -> None:
    anchors = {anchor.name: anchor for anchor in read_anchors()}
    assert {name: (one.published, one.n) for name, one in anchors.items() if one.published is not None} == {
        "collaborative-fid": (17.27, 3000),
        "amdm-success": (50.81, 800),
        "migc": (0.66, 800),
        "adm-guided-128": (2.97, 50_000),
    }
    for anchor in anchors.values():
        assert anchor.window[0] < anchor.window[1]
        if anchor.suite is not None:
            suite = read_suite(anchor.suite).in_profile("paper")
            assert anchor.row in suite.row_names()
            assert anchor.metric in suite.metrics


def test_a_window_without_its_published_value_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "anchors.yaml"
    anchor = {"name": "a", "what": "b", "n": 1, "source": "c", "not_run": "d", "published": 3, "window": [4, 5]}
    for changed, words in (
        ({}, "low < high around 3"),
        ({"window": [2, 4], "not_run": None}, "suite, row and metric, or not_run alone"),
        ({"window": [2, 4], "row": "x"}, "suite, row and metric, or not_run alone"),
    ):
        path.write_text(yaml.safe_dump({"anchors": [{**anchor, **changed}]}))
        with pytest.raises(ConcordError, match=words):
            read_anchors(path)


def test_notes_name_rows_on_weights_that_no_anchor_saw(tmp_path: Path) -> None:
    rows = [("A", {"unet": "1"}), ("B", {"unet": "1", "clip": "2"})]
    assert calibration_notes(rows, tmp_path)[0].startswith("Not calibrated: unet (A, B);")
    keep(tmp_path, {"x": Measured(value=1, n=2, window=[0, 2], verdict="in", weights={"unet": "1"})})
    keep(tmp_path, {"y": Measured(value=3, n=2, window=[0, 2], verdict="out", weights={"clip": "2"})})
    assert set(read_calibration(tmp_path)) == {"x", "y"}
    said = calibration_notes(rows, tmp_path)
    assert said[:2] == ["x: 1 is within 0 to 2 (n = 2).", "y: 3 is OUTSIDE of 0 to 2 (n = 2)."]
    assert [sentence.split(";")[0] for sentence in said[2:]] == ["Not calibrated: clip (B)"]


def test_an_unknown_anchor_is_named() -> None:
    result = calibrate("fid-of-the-moon")
    assert result.exit_code == 2
    assert "unknown anchor 'fid-of-the-moon': expected one of collaborative-fid" in result.output
