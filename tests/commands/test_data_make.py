"""`concord data make`: the renderer's trees, read back by the reader of real trees."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from concord.commands.data import DEFAULT_OUT, app
from concord.data.datasets.faces.open import open_faces
from concord.data.datasets.faces.verify import inspect
from concord.data.errors import ConcordError
from concord.data.synthetic import face, write_tree

FACES = range(1998, 2004)  # across the border of two mask folders


def make(*arguments: object) -> str:
    return CliRunner().invoke(app, ["make", *map(str, arguments)], catch_exceptions=False).stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("made") / "faces"
    write_tree(root, FACES, progress=False, workers=1)
    return root


def test_the_reader_gives_back_the_renderers_truth(tree):
    dataset = open_faces(tree)
    assert [item.id for item in dataset] == [str(i) for i in FACES]
    assert dataset.missing == []
    for item, other in zip(dataset, open_faces(tree, captions="overall"), strict=True):
        truth = face(int(item.id))
        assert np.array_equal(item.mask(64), truth.mask)
        assert np.abs(item.image(64).astype(int) - truth.image).mean() < 4  # JPEG
        assert item.text == truth.captions.beard_and_age
        assert other.text == truth.captions.overall


def test_verify_finds_nothing_in_a_made_tree(tree):
    result = inspect(tree)
    assert result.defects == []
    assert result.notes == []
    assert result.counts["captions"] == 12


def test_a_tree_that_is_there_is_left_alone(tmp_path):
    out = tmp_path / "faces"
    assert "3 faces 5..8 written" in make("--split", "5..8", "--out", out, "--workers", 1)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert "nothing to do" in make("--split", "5..8", "--out", out)
    assert "nothing to do" in make("--split", "5..99", "--n", 3, "--out", out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_another_or_damaged_tree_is_replaced_only_by_force(tmp_path):
    out = tmp_path / "faces"
    make("--split", "5..7", "--out", out, "--workers", 1)
    with pytest.raises(ConcordError, match=r"holds 2 other faces, from 5 to 6; expected faces 5..8; add --force"):
        make("--split", "5..8", "--out", out)
    next(out.rglob("*_skin.png")).unlink()
    with pytest.raises(ConcordError, match="is damaged"):
        make("--split", "5..7", "--out", out)
    assert "written" in make("--split", "5..7", "--out", out, "--force", "--workers", 1)
    world = json.loads((out / "world.json").read_text())
    (out / "world.json").write_text(json.dumps({**world, "world_seed": 1}))
    with pytest.raises(ConcordError, match="another world"):
        make("--split", "5..7", "--out", out)


def test_other_peoples_files_are_never_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ConcordError, match="holds other files"):
        make("--split", "5..7", "--out", tmp_path, "--force")
    assert (tmp_path / "thesis.txt").read_text() == "precious"


@pytest.mark.parametrize("split", ["tset", "5..5", "7..5", "-1..4", "0..30001", "5", "..", "a..b"])
def test_unknown_splits_name_the_known(split, tmp_path):
    with pytest.raises(ConcordError, match=r"expected train, validation, test, or FIRST..LAST") as error:
        make(f"--split={split}", "--out", tmp_path / "faces")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "faces").exists()


def test_without_a_split_test_and_validation_are_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make("--n", 1, "--workers", 1)
    assert [item.id for item in open_faces(DEFAULT_OUT / "test")] == ["27000"]
    assert [item.id for item in open_faces(DEFAULT_OUT / "validation")] == ["24000"]
    with pytest.raises(ConcordError, match="--out needs --split"):
        make("--out", tmp_path / "x")


def test_identity_references_are_drawn_where_identities_are_asked_for(tmp_path):
    out = tmp_path / "faces"
    make("--split", "5..7", "--out", out, "--workers", 1)
    item = open_faces(out)["6"]
    assert np.abs(item.identity(64).astype(int) - face(6, variant=1).image).mean() < 4
    assert inspect(out).counts["identity references"] == 2
    make("--split", "validation", "--n", 1, "--out", tmp_path / "plain", "--workers", 1)
    assert not open_faces(tmp_path / "plain").items[0].has_identity


def test_a_tree_gains_references_and_keeps_its_faces(tmp_path, monkeypatch):
    from concord.data.synthetic.make import ensure_faces

    monkeypatch.setattr("concord.commands.data.DEFAULT_OUT", tmp_path)
    out = tmp_path / "test"
    make("--split", "test", "--n", 3, "--out", out, "--workers", 1, "--no-identity-references")
    before = {path.name: path.read_bytes() for path in (out / "CelebA-HQ-img").iterdir()}
    with pytest.raises(ConcordError, match=r"has no identity references; expected faces 27000..27003; add --force"):
        make("--split", "test", "--n", 3, "--out", out)
    ensure_faces(out, "test", 2)
    assert not open_faces(out).items[0].has_identity  # nobody asked for them
    ensure_faces(out, "test", 2, references=True)
    assert {path.name: path.read_bytes() for path in (out / "CelebA-HQ-img").iterdir()} == before  # all three
    assert all(item.has_identity for item in open_faces(out))
