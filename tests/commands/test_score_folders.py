"""`concord score --images ...`: the command itself, with judges without weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer
from PIL import Image
from toy_world import make_judges
from typer.testing import CliRunner

from concord.commands.evaluate import asks_for_images, score_images
from concord.data.errors import ConcordError
from concord.metrics.cache import read_statistics
from concord.metrics.networks.perception import Perception
from concord.reports import statistics as st

app = typer.Typer(rich_markup_mode=None)
app.command()(score_images)


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """made/ and real/ of 60 pictures each, captions.txt, and the toy judges."""
    for seed, name in enumerate(("made", "real")):
        (tmp_path / name).mkdir()
        coarse = np.random.default_rng(seed).integers(0, 256, (60, 4, 4, 3), dtype=np.uint8)
        for k, small in enumerate(coarse):
            Image.fromarray(small).resize((16, 16), Image.Resampling.BICUBIC).save(tmp_path / name / f"{k}.png")
    (tmp_path / "captions.txt").write_text("".join(f"caption {k}\n" for k in range(60)))
    monkeypatch.setattr(Perception, "load", classmethod(lambda cls, *_, **__: make_judges()))
    monkeypatch.setenv("CONCORD_CACHE", str(tmp_path / "cache"))
    return tmp_path


def score(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=True)


def refused(*arguments: object) -> str:
    result = score(*arguments)
    assert isinstance(result.exception, ConcordError), result.output
    return str(result.exception)


def test_table_and_rows(folders: Path) -> None:
    out = folders / "rows.parquet"
    result = score(
        "--images",
        folders / "made",
        "--reference",
        folders / "real",
        "--captions",
        folders / "captions.txt",
        "--metrics",
        "fid,kid,text-similarity",
        "--out",
        out,
    )
    assert result.exit_code == 0, result.output
    table = {line.split()[0]: line for line in result.stdout.splitlines() if line.strip()}
    assert {"fid", "kid", "text-similarity"} <= set(table)
    assert table["fid"].split()[-1] == "pool"
    assert f"features: SHA-256 {'2' * 64}" in result.stdout
    assert "images/s" in result.stderr
    rows = pd.read_parquet(out)
    assert list(rows.columns) == ["image", "metric", "value", "status"]
    assert rows["image"].tolist() == [f"{k}.png" for k in range(60)]
    facts = json.loads((folders / "rows.parquet.json").read_text())
    interval = st.mean_interval(rows["value"], bounds=(-100, 100))
    assert facts["intervals"]["text-similarity"] == pytest.approx([interval.low, interval.high])
    assert facts["intervals"]["fid"] is None
    assert [p.suffix for p in (folders / "cache" / "statistics").iterdir()] == [".npz"]


def test_json_holds_everything_and_nothing_else(folders: Path) -> None:
    result = score(
        "--images",
        folders / "made",
        "--reference",
        folders / "real",
        "--metrics",
        "kid",
        "--json",
        "--intervals",
        "--no-cache",
    )
    facts = json.loads(result.stdout)
    (kid,) = facts["metrics"]
    assert (kid["metric"], kid["n"], kid["n_reference"], len(kid["replicates"])) == ("kid", 60, 60, 32)
    low, high = facts["intervals"]["kid"]
    assert low < kid["value"] < high
    assert not (folders / "cache").exists()


def test_statistics_written_by_one_call_are_the_reference_of_the_next(folders: Path) -> None:
    path = folders / "real.npz"
    score("--images", folders / "real", "--reference", folders / "made", "--metrics", "fid", "--save-statistics", path)
    assert read_statistics(path).pool is not None
    results = [
        json.loads(score("--images", folders / "made", "--reference", r, "--metrics", "fid", "--json").stdout)
        for r in (path, folders / "real")
    ]
    values = [result["metrics"][0]["value"] for result in results]
    assert values[0] == pytest.approx(values[1], rel=1e-9)
    assert "name fid, fid-legacy or fid-tf" in refused(
        "--images",
        folders / "made",
        "--captions",
        folders / "captions.txt",
        "--metrics",
        "text-similarity",
        "--save-statistics",
        path,
    )
    assert "ends in .npz" in refused(
        "--images", folders / "made", "--reference", path, "--metrics", "fid", "--save-statistics", folders / "x.csv"
    )


def test_csv_and_failures(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    toy = make_judges()
    inner = toy.embed_images
    toy.embed_images = lambda images: inner(images).index_fill(0, torch.tensor([1]), float("nan"))
    monkeypatch.setattr(Perception, "load", classmethod(lambda cls, *_, **__: toy))
    out = folders / "rows.csv"
    result = score(
        "--images",
        folders / "made",
        "--captions",
        folders / "captions.txt",
        "--metrics",
        "text-similarity",
        "--out",
        out,
    )
    assert result.exit_code == 0, result.output
    rows = pd.read_csv(out)
    assert (rows["status"] != "ok").sum() == 2  # one of each batch
    facts = json.loads((folders / "rows.csv.json").read_text())
    assert facts["metrics"][0]["failed"] == 2
    expected = st.cluster_bootstrap(rows["value"], bounds=(-100, 100))
    assert facts["intervals"]["text-similarity"] == pytest.approx([expected.low, expected.high])


def test_options_that_do_not_fit(folders: Path) -> None:
    assert "one of the two" in refused("--metrics", "kid")
    assert "one of the two" in refused("--metrics", "kid", "--images", "a", "--results", "b")
    assert "ends in .parquet or .csv" in refused("--metrics", "kid", "--images", folders / "made", "--out", "x.txt")
    assert "no finished row; expected results/" in refused("--metrics", "kid", "--results", folders / "made")
    assert "unknown metric 'kdi'" in refused("--metrics", "kdi", "--images", folders / "made")
    assert "give conditions" in refused("--metrics", "text-similarity", "--images", folders / "made")


def test_stored_row_is_scored_with_its_own_conditions_profile_and_items(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Repetitions of an item count as one observation; captions come from the requests."""
    from concord.benchmarks.store.shards import encode_png, write_shard
    from concord.commands import evaluate as score_folders

    row = folders / "row"
    ids = [f"{item}-{repetition}" for item in range(10) for repetition in range(2)]
    pixels = [np.asarray(Image.open(folders / "made" / f"{k}.png")) for k in range(20)]
    write_shard(row / "images", 0, ids, [encode_png(p) for p in pixels], {})
    (row / "run.json").write_text(json.dumps({"shards": [{"shard": 0}], "profile": "embedded"}))
    from concord.data.request import Conditions

    asked: list[list[str]] = []

    def conditions(path: Path, images: Any) -> tuple[str, list[Conditions]]:
        asked.append(list(images.names))
        return "embedded", [Conditions(text=name) for name in images.names]

    monkeypatch.setattr(score_folders, "stored_conditions", conditions)
    facts = json.loads(score("--results", row, "--metrics", "text-similarity", "--json").stdout)
    assert asked == [ids]
    assert facts["profile"] == "embedded"
    out = folders / "rows.csv"
    score("--results", row, "--metrics", "text-similarity", "--out", out)
    values = pd.read_csv(out)["value"]
    expected = st.mean_interval(values, [name.split("-")[0] for name in ids], (-100, 100))
    assert facts["intervals"]["text-similarity"] == pytest.approx([expected.low, expected.high])


def test_conditions_of_a_row_come_from_the_suite_that_plans_the_same_requests(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The larger size, whose data would have to be drawn, is looked at only where the smaller one is too small."""
    from types import SimpleNamespace

    from concord import arguments as options
    from concord.benchmarks import suite
    from concord.commands import evaluate as score_folders
    from concord.data.request import Conditions

    opened: list[tuple[str, str, int]] = []
    lengths = {"default": 3, "full": 5}

    class Requests:
        fingerprint, conditions = "f", ("text",)

        def __init__(self, n: int) -> None:
            self.requests = [SimpleNamespace(id=f"{k}-0") for k in range(n)]

        def __len__(self) -> int:
            return len(self.requests)

        def conditions_of(self, request: Any, names: Any) -> Conditions:
            return Conditions(text=f"caption of {request.id}")

    def open_plan(name: str, *, profile: str, size: str, limit: int, row: str) -> Any:
        opened.append((name, size, limit))
        return SimpleNamespace(requests=Requests(min(limit, lengths[size])))

    suites = [SimpleNamespace(name="other", request_set="b"), SimpleNamespace(name="mine", request_set="a")]
    monkeypatch.setattr(suite, "load_suites", lambda: suites)
    monkeypatch.setattr(options, "open_plan", open_plan)

    def found(n: int, fingerprint: str = "f") -> list[str | None]:
        opened.clear()
        row = folders / f"row{n}{fingerprint}"
        row.mkdir(exist_ok=True)
        manifest = {"profile": "embedded", "request_set": "a", "data": {"fingerprint": fingerprint}}
        (row / "run.json").write_text(json.dumps(manifest))
        images = SimpleNamespace(names=[f"{k}-0" for k in range(n)])
        profile, conditions = score_folders.stored_conditions(row, images)  # type: ignore[arg-type]
        assert profile == "embedded"
        return [one.text for one in conditions]

    assert found(2) == ["caption of 0-0", "caption of 1-0"]
    assert opened == [("mine", "default", 2)]
    assert len(found(5)) == 5
    assert opened == [("mine", "default", 5), ("mine", "full", 5)]
    with pytest.raises(ConcordError, match="no suite plans these 2 requests any more; give --captions"):
        found(2, "another tree")
    assert opened == [("mine", "default", 2)]
    with pytest.raises(ConcordError, match="no suite plans these 9 requests"):
        found(9)


def test_which_form_of_the_verb_is_meant(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    assert asks_for_images(["--images", "x", "--metrics", "fid"])
    assert asks_for_images(["--metrics", "fid", "--images=x"])
    assert asks_for_images(["--results", str(tmp_path)])
    assert asks_for_images([f"--results={tmp_path}", "--metrics", "fid"])
    assert not asks_for_images(["face-generation", "--reference"])
    assert not asks_for_images(["face-generation", "--results", str(tmp_path.parent)])
    assert not asks_for_images(["face-generation", "--results"])
    assert not asks_for_images([])
