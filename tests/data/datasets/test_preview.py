"""The contact sheet shows what is there: image, mask in the palette's colours, both together, caption, legend."""

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from concord.commands.data import app
from concord.data.datasets.faces import preview
from concord.data.datasets.faces.open import open_faces
from concord.data.datasets.faces.preview import TILE, contact_sheet, spread
from concord.data.errors import ConcordError
from concord.data.labels import INDEX, PALETTE


def count(sheet: Image.Image, part: str) -> int:
    return int((np.asarray(sheet) == PALETTE[INDEX[part]]).all(axis=2).sum())


def test_the_sheet_holds_the_mask_in_its_colours(face_tree):
    dataset = open_faces(face_tree(1))
    sheet = contact_sheet(dataset.items, "one")
    mask = dataset.items[0].mask()
    for part in ("background", "skin", "nose", "l_eye", "r_eye", "hair"):
        share = float((mask == INDEX[part]).mean())
        swatch = 20 * 20  # of the legend
        assert share > 0
        assert share * TILE**2 - 2 <= count(sheet, part) <= share * TILE**2 + swatch, part


def test_classes_that_no_face_has_are_hollow_in_the_legend(face_tree):
    sheet = contact_sheet(open_faces(face_tree(1)).items, "one")
    assert 50 < count(sheet, "hat") < 200  # the outline of the swatch alone
    assert count(sheet, "skin") > 300


def test_the_overlay_leaves_the_background_as_it_is(face_tree):
    root = face_tree(1)
    Image.new("RGB", (32, 32), (10, 200, 60)).save(root / "CelebA-HQ-img/0.jpg", quality=100)
    face = open_faces(root).items[0]
    green = Image.fromarray(face.image())
    tinted = np.asarray(preview._overlay(green, Image.fromarray(PALETTE[face.mask()]), face.mask()))
    assert tinted.shape == (TILE, TILE, 3)
    at = TILE // 16  # sheet pixels of one mask pixel
    assert np.abs(tinted[15 * at, 8 * at].astype(int) - (10, 200, 60)).max() <= 2  # background
    expected = 0.55 * np.array([10, 200, 60]) + 0.45 * PALETTE[INDEX["nose"]]
    assert np.abs(tinted[8 * at + at // 2, 8 * at - at // 2] - expected).max() <= 3


def test_faces_without_pictures_or_captions_have_a_place(face_tree, tmp_path):
    root = face_tree(3)
    (root / "CelebA-HQ-img/1.jpg").unlink()
    (root / "captions_hq.json").unlink()
    (root / "captions_hq_beard_and_age_2022-08-19.json").unlink()
    full = contact_sheet(open_faces(root).items, "three")
    Image.fromarray(np.full((8, 8), 13, np.uint8)).save(tmp_path / "1.png")
    alone = contact_sheet(open_faces(tmp_path).items, "one mask")
    assert full.width > 1300
    assert alone.width < full.width
    assert count(alone, "hair") >= TILE**2


def test_long_captions_stay_inside_the_card(face_tree):
    root = face_tree(2)
    path = root / "captions_hq_beard_and_age_2022-08-19.json"
    short = contact_sheet(open_faces(root).items, "two")
    path.write_text(path.read_text().replace("no beard.", "no beard and " + "very " * 60 + "long hair."))
    long = contact_sheet(open_faces(root).items, "two")
    assert long.width == short.width
    assert long.height > short.height
    font = preview._font(15)
    lines = preview._wrap("very " * 80, 640, font)
    assert len(lines) > 2
    assert all(font.getlength(line) <= 640 for line in lines)
    assert " ".join(lines).split() == ["very"] * 80


@pytest.mark.parametrize(
    ("n", "expected"), [(1, [0]), (2, [0, 9]), (4, [0, 3, 6, 9]), (10, list(range(10))), (99, list(range(10)))]
)
def test_faces_are_spread_over_the_set(n, expected):
    assert spread(list(range(10)), n) == expected  # type: ignore[arg-type]


def test_the_command_writes_the_sheet(face_tree, tmp_path):
    root, out = face_tree(5), tmp_path / "made/sheet.png"
    result = CliRunner().invoke(app, ["preview", str(root), "--out", str(out), "--n", "3"])
    assert result.exit_code == 0, result.output
    assert "3 faces of tree, test: 5 faces" in result.stdout
    three = Image.open(out).size
    CliRunner().invoke(app, ["preview", str(root), "--out", str(out), "--all"], catch_exceptions=False)
    assert Image.open(out).size[1] > three[1]
    one = CliRunner().invoke(app, ["preview", str(root), "--out", str(out), "--ids", "4", "--captions", "overall"])
    assert one.stdout.startswith(f"{out}: 1 faces")


def test_what_cannot_be_shown_is_said(face_tree, tmp_path):
    root, out = face_tree(2), tmp_path / "sheet.png"
    run = CliRunner().invoke
    assert isinstance(run(app, ["preview", str(root), "--out", "sheet.jpg"]).exception, ConcordError)
    assert "no face '7'" in str(run(app, ["preview", str(root), "--out", str(out), "--ids", "7"]).exception)
    path = root / "CelebA-HQ-img/1.jpg"
    path.write_bytes(path.read_bytes()[:100])
    error = run(app, ["preview", str(root), "--out", str(out)]).exception
    assert isinstance(error, ConcordError)
    assert str(path) in str(error)
    assert not out.exists()
    with pytest.raises(ConcordError, match="601 faces do not fit on a sheet"):
        contact_sheet(open_faces(root).items[:1] * 601, "many")
