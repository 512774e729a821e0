"""`concord evaluate`: the command itself, with judges without weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer
from given_networks import seen_by
from PIL import Image
from toy_world import make_judges
from typer.testing import CliRunner

from concord.cli import app as concord
from concord.commands.evaluate import evaluate
from concord.data.errors import ConcordError, ConcordWarning
from concord.metrics.cache import read_statistics
from concord.metrics.networks import judges
from concord.reports import statistics as st

app = typer.Typer(rich_markup_mode=None)
app.command()(evaluate)


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """made/ and real/ of 60 images each, captions.txt, and the toy judges."""
    for seed, name in enumerate(("made", "real")):
        (tmp_path / name).mkdir()
        coarse = np.random.default_rng(seed).integers(0, 256, (60, 4, 4, 3), dtype=np.uint8)
        for k, small in enumerate(coarse):
            Image.fromarray(small).resize((16, 16), Image.Resampling.BICUBIC).save(tmp_path / name / f"{k}.png")
    (tmp_path / "captions.txt").write_text("".join(f"caption {k}\n" for k in range(60)))
    monkeypatch.setattr(judges, "open_judges", lambda *_: seen_by(make_judges()))
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
    whole = pd.read_parquet(out)
    assert list(whole.columns) == ["image", "metric", "value", "status"]
    assert whole["image"].tolist() == [*(f"{k}.png" for k in range(60)), "", ""]
    rows, sets = whole[:60], whole[60:]
    assert sets["metric"].tolist() == ["fid", "kid"]
    assert f"reference: 60 images of {folders / 'real'}" in result.stdout
    facts = json.loads((folders / "rows.parquet.json").read_text())
    interval = st.mean_interval(rows["value"], bounds=(-100, 100))
    assert facts["intervals"]["text-similarity"] == pytest.approx([interval.low, interval.high])
    assert facts["intervals"]["fid"] is None
    assert sets["value"].tolist() == [facts["metrics"][k]["value"] for k in (0, 1)]
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
    monkeypatch.setattr(judges, "open_judges", lambda *_: seen_by(toy))
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


def store_row(row: Path, ids: list[str], shards: list[dict[str, Any]], fingerprint: str = "f") -> None:
    """A finished row's manifest, as the store writes it."""
    from concord.benchmarks.store.digests import record

    manifest = {
        "finished": True,
        "request_set": "a",
        "row": row.name,
        "method": "toy",
        "profile": "embedded",
        "params": {},
        "conditions": ["text"],
        "n": len(ids),
        "image_size": 64,
        "data": {"name": "test", "fingerprint": fingerprint},
        "provenance": {},
        "device": "cpu",
        "seconds_per_image": 0.1,
        "peak_memory_bytes": 1,
        "evaluations_per_image": {},
        "shards": shards,
        "requests": [{"id": name, "seed": 1} for name in ids],
    }
    (row / "run.json").write_text(json.dumps(manifest))
    record(row, ["run.json"])


def test_stored_row_is_scored_with_its_own_conditions_profile_and_items(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Repetitions of an item count as one observation; captions come from the requests."""
    from concord.benchmarks import opening
    from concord.benchmarks.store.shards import encode_png, write_shard

    row = folders / "row"
    ids = [f"{item}-{repetition}" for item in range(10) for repetition in range(2)]
    pixels = [np.asarray(Image.open(folders / "made" / f"{k}.png")) for k in range(20)]
    write_shard(row / "images", 0, ids, [encode_png(p) for p in pixels], {})
    store_row(row, ids, [{"shard": 0, "requests": ids}])
    from concord.data.request import Conditions

    asked: list[list[str]] = []

    def conditions(path: Path, images: Any) -> list[Conditions]:
        asked.append(list(images.names))
        return [Conditions(text=name) for name in images.names]

    monkeypatch.setattr(opening, "stored_conditions", conditions)
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

    from concord.benchmarks import opening
    from concord.benchmarks.plan.requests import Options
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

    def open_plan(name: str, options: Options, row: str) -> Any:
        assert options.limit is not None
        opened.append((name, options.size, options.limit))
        return SimpleNamespace(requests=Requests(min(options.limit, lengths[options.size])))

    suites = [SimpleNamespace(name="other", request_set="b"), SimpleNamespace(name="mine", request_set="a")]
    monkeypatch.setattr(opening, "load_suites", lambda: suites)
    monkeypatch.setattr(opening, "open_plan", open_plan)

    def found(n: int, fingerprint: str = "f") -> list[str | None]:
        opened.clear()
        row = folders / f"row{n}{fingerprint}"
        row.mkdir(exist_ok=True)
        ids = [f"{k}-0" for k in range(n)]
        store_row(row, ids, [{"shard": 0, "requests": ids}], fingerprint)
        images = SimpleNamespace(names=ids)
        return [one.text for one in opening.stored_conditions(row, images)]  # type: ignore[arg-type]

    assert found(2) == ["caption of 0-0", "caption of 1-0"]
    assert opened == [("mine", "default", 2)]
    assert len(found(5)) == 5
    assert opened == [("mine", "default", 5), ("mine", "full", 5)]
    with pytest.raises(ConcordError, match="no suite plans these 2 requests any more; give --captions"):
        found(2, "another tree")
    assert opened == [("mine", "default", 2)]
    with pytest.raises(ConcordError, match="no suite plans these 9 requests"):
        found(9)


def test_the_former_form_of_the_verb_stands_for_it(folders: Path) -> None:
    arguments = ["--images", str(folders / "made"), "--metrics", "kid", "--reference", str(folders / "real"), "--json"]
    results = [CliRunner().invoke(concord, [verb, *arguments]) for verb in ("score", "evaluate")]
    former, now = (json.loads(result.stdout) for result in results)
    assert former["metrics"] == now["metrics"]
    assert "--captions" in CliRunner().invoke(concord, ["score", "--images=x", "--help"]).stdout
    assert "SUITE" in CliRunner().invoke(concord, ["score", "face-generation", "--help"]).stdout


# ----------------------------------------------------------------------------------------- what fails beside the scores


def test_scores_come_first_where_the_cache_or_the_output_cannot_be_written(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folders / "file").write_text("")
    monkeypatch.setenv("CONCORD_CACHE", str(folders / "file" / "cache"))
    base = ["--images", folders / "made", "--reference", folders / "real", "--metrics", "kid"]
    for more, told in (
        ([], "features are not kept for the next time: "),
        (["--no-cache", "--out", folders / "file" / "x.csv"], "the rows are not written: "),
        (["--no-cache", "--metrics", "fid", "--save-statistics", folders / "file" / "x.npz"], "are not written: "),
    ):
        result = score(*base, *more)
        assert result.exit_code == 1
        assert "n reference" in result.stdout
        (line,) = [line for line in result.stderr.splitlines() if told in line]
        assert str(folders / "file") in line


def test_a_name_that_is_no_utf8_is_written_with_its_bytes_escaped(folders: Path) -> None:
    import os

    os.rename(folders / "made" / "0.png", os.fsencode(folders / "made") + b"/caf\xe9.png")
    for suffix, read in ((".csv", pd.read_csv), (".parquet", pd.read_parquet)):
        out = folders / f"rows{suffix}"
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
        assert "caf\\xe9.png" in read(out)["image"].tolist()


def test_an_interval_of_equal_values_is_no_rates(folders: Path) -> None:
    """Five equal pairs have a PSNR of 100 dB each, the metric's own bound: their mean is known, it is no rate."""
    few = folders / "few"
    few.mkdir()
    for k in range(5):
        (few / f"{k}.png").write_bytes((folders / "made" / f"{k}.png").read_bytes())
    facts = json.loads(score("--images", few, "--reference", few, "--metrics", "psnr", "--json").stdout)
    assert facts["metrics"][0]["value"] == 100
    assert facts["intervals"]["psnr"] == [100, 100]


def test_people_is_the_former_name_of_identities(folders: Path) -> None:
    same = ("--images", folders / "made", "--metrics", "identity-distance")
    with pytest.warns(ConcordWarning, match="^--people is now called --identities$"):
        message = refused(*same, "--people", folders / "nowhere")
    assert message == refused(*same, "--identities", folders / "nowhere")
    assert "nowhere" in message
