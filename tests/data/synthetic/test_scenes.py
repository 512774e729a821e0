"""SynthScenes: what is drawn is what the layout says, on disk and through the command line."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from concord.commands.data import app
from concord.data.datasets.layouts.layout import COLOURS, open_layouts
from concord.data.errors import ConcordError
from concord.data.synthetic.scenes.scene import (
    ACCENT,
    CATEGORIES,
    INTERACTIONS,
    MIN_SIDE,
    SPLITS,
    Scene,
    _elsewhere,
    describe,
    paint,
    reference,
    scene,
    silhouette,
)
from concord.data.synthetic.scenes.sheet import layout_sheet
from concord.data.synthetic.scenes.tree import SceneTree, check_scenes, is_layouts, write_scenes
from concord.metrics.layout.instances import SHARE, colour_share, has_colour


@cache
def drawn() -> list[Scene]:
    return [scene(index) for index in range(60)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten scenes on disk, not to be changed."""
    root = tmp_path_factory.mktemp("scenes") / "ten"
    write_scenes(root, range(10), workers=1, progress=False)
    return root


# ------------------------------------------------------------------------------------------------------------ the world


def test_a_scene_is_a_function_of_its_index() -> None:
    again = scene(7)
    assert np.array_equal(again.image, drawn()[7].image)
    assert np.array_equal(again.instances, drawn()[7].instances)
    assert again.interactions == drawn()[7].interactions
    assert not np.array_equal(again.image, scene(7, world_seed=1).image)


def test_a_reference_has_the_scene_s_ground_and_other_things() -> None:
    """Where neither has a thing, the two images are the same to the byte."""
    alike = []
    for one in drawn()[:20]:
        picture = reference(one.index)
        assert np.array_equal(picture, reference(one.index))
        same = (picture == one.image).all(-1)
        alike.append(same[one.instances == 0].mean())  # the rest is covered by the reference's own things and marks
        assert same[one.instances > 0].mean() < 0.5
    assert np.mean(alike) > 0.5
    assert min(alike) > 0.02


def test_a_reference_does_not_tell_the_level() -> None:
    """Every level meets every number of things in the reference equally often, and no two have the same things."""
    assert set(Counter((index % 5, _elsewhere(index) % 5) for index in range(1000)).values()) == {40}
    assert len({_elsewhere(index) for index in range(18_000)}) == 18_000
    assert describe(17)[0].level == 2 + 17 % 5


def test_layouts_are_pinned() -> None:
    """A changed world would silently be another benchmark; boxes lie on a grid, so that no last bit can matter."""
    told = [[s.layout.caption, (s.layout.boxes * 256).astype(int).tolist(), s.interactions] for s in drawn()[:20]]
    assert hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16] == PINNED


PINNED = "3c81b786bfed5d28"


def test_levels_and_splits_are_those_of_the_benchmark() -> None:
    assert [s.layout.level for s in drawn()[:5]] == [2, 3, 4, 5, 6]
    levels = [2 + index % 5 for index in SPLITS["test"]]
    assert {levels.count(level) for level in (2, 3, 4, 5, 6)} == {160}
    parts = [set(part) for part in SPLITS.values()]
    assert all(not (a & b) for a, b in itertools.combinations(parts, 2))


@pytest.mark.parametrize("colour", COLOURS)
def test_a_paint_is_in_the_range_of_its_colour_and_no_other(colour: str) -> None:
    rng = np.random.default_rng(1)
    pixels = np.array([[paint(colour, rng) for _ in range(300)]], np.uint8)
    for name in COLOURS:
        assert bool(has_colour(pixels, name).all()) if name == colour else not has_colour(pixels, name).any(), name


def test_marks_have_no_colour_of_the_benchmark() -> None:
    assert not any(has_colour(np.array([[ACCENT]], np.uint8), name).any() for name in COLOURS)


def test_objects_are_seen_where_and_as_the_layout_says() -> None:
    shares, worst = [], 1.0
    for one in drawn():
        for number, (box, colour) in enumerate(zip(one.layout.boxes, one.layout.colours, strict=True)):
            own = one.instances == number + 1
            rows, columns = np.nonzero(own)
            assert len(rows) >= 10, f"object {number} of scene {one.index}"
            low, high = (columns.min(), rows.min()), (columns.max() + 1, rows.max() + 1)
            assert (np.array(low) >= box[:2] * 64 - 1).all()
            assert (np.array(high) <= box[2:] * 64 + 1).all()
            shares.append(colour_share(one.image, own, str(colour)) >= SHARE)
            worst = min(worst, float((box[2:] - box[:2]).min()))
    assert np.mean(shares) >= 0.99
    assert worst >= MIN_SIDE - 1 / 256


def test_an_object_that_nothing_covers_fills_its_box() -> None:
    tight = []
    for one in drawn():
        if one.layout.level == 2 and not one.interactions:
            for number, box in enumerate(one.layout.boxes):
                rows, columns = np.nonzero(one.instances == number + 1)
                seen = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
                tight.append(np.abs(seen - box * 64).max())
    assert tight
    assert np.median(tight) <= 1.5


def test_silhouettes_differ_and_fill_the_unit_square() -> None:
    masks = {}
    for category in CATEGORIES:
        picture = Image.new("L", (65, 65))
        points = [p for role, polygon in silhouette(category) if role == "body" for p in polygon]
        assert min(min(p) for p in points) == pytest.approx(0, abs=0.01)
        assert max(p[0] for p in points) == pytest.approx(1, abs=0.01)
        assert max(p[1] for p in points) == pytest.approx(1, abs=0.01)
        for role, polygon in silhouette(category):
            if role == "body":
                ImageDraw.Draw(picture).polygon([(x * 64, y * 64) for x, y in polygon], fill=1)
        masks[category] = np.asarray(picture) > 0
    for a, b in itertools.combinations(CATEGORIES, 2):
        overlap = (masks[a] & masks[b]).sum() / (masks[a] | masks[b]).sum()
        assert overlap < 0.85, (a, b)


def test_interactions_are_between_two_objects_and_all_kinds_occur() -> None:
    kinds = []
    for index in range(200):
        layout, interactions, _ = describe(index)
        pairs = [number for subject, _, other in interactions for number in (subject, other)]
        assert len(set(pairs)) == len(pairs)
        assert all(0 <= number < layout.level for number in pairs)
        kinds += [kind for _, kind, _ in interactions]
        for subject, kind, other in interactions:
            if kind == "on":
                assert layout.boxes[subject, 3] == pytest.approx(layout.boxes[other, 1], abs=1 / 256)
    assert set(kinds) == set(INTERACTIONS)
    assert min(kinds.count(kind) for kind in INTERACTIONS) >= 10


def test_an_interaction_is_visible() -> None:
    seen = 0
    for one in drawn():
        violet = np.abs(one.image.astype(int) - ACCENT).max(-1) < 40
        assert bool(one.interactions) or not violet.any()
        seen += int(violet.sum() >= 8) if one.interactions else 0
    assert seen >= 0.95 * sum(bool(one.interactions) for one in drawn())


# -------------------------------------------------------------------------------------------------------------- on disk


def test_the_folder_is_read_by_the_benchmarks_reader(folder: Path) -> None:
    layouts = open_layouts(folder)
    tree = SceneTree(layouts)
    assert list(layouts) == [str(k) for k in range(10)]
    assert layouts.counts == {f"L{level}": 2 for level in (2, 3, 4, 5, 6)}
    for item, one in zip(layouts, drawn(), strict=False):
        assert layouts[item].labels == one.layout.labels
        assert np.array_equal(layouts[item].boxes, one.layout.boxes)
        assert np.array_equal(tree.image(item), one.image)
        assert np.array_equal(tree.instances(item), one.instances)
        assert np.array_equal(tree.style(item), reference(one.index))
        assert tree.interactions()[item] == one.interactions
    assert not check_scenes(folder).defects


def test_every_defect_is_named(folder: Path, tmp_path: Path) -> None:
    import shutil

    root = tmp_path / "broken"
    shutil.copytree(folder, root)
    (root / "styles/5.png").write_bytes(b"no image")
    (root / "images/0.png").write_bytes(b"no image")
    (root / "images/1.png").unlink()
    Image.new("RGB", (32, 32)).save(root / "images/2.png")
    Image.fromarray(np.full((64, 64), 9, np.uint8)).save(root / "instances/3.png")
    triples = json.loads((root / "interactions.json").read_text())
    (root / "interactions.json").write_text(json.dumps({**triples, "4": [[0, "kicks", 1]], "5": [[0, "link", 5]]}))
    text = json.loads((root / "mig_bench.json").read_text())
    text["6"]["segment"][0]["bbox"] = [0.5, 0.5, 1.5, 0.9]
    (root / "mig_bench.json").write_text(json.dumps(text))
    found = {(defect.kind, defect.path) for defect in check_scenes(root).defects}
    for wanted in (
        ("unreadable image", "styles/5.png"),
        ("unreadable image", "images/0.png"),
        ("unreadable image", "images/1.png"),
        ("image of the wrong size", "images/2.png"),
        ("instance out of range", "instances/3.png"),
        ("instance not seen", "instances/3.png"),
        ("wrong interaction", "interactions.json, entry '4'"),
        ("wrong interaction", "interactions.json, entry '5'"),
        ("box outside the image", "mig_bench.json, entry '6'"),
    ):
        assert wanted in found
    assert len(found) == 9
    (root / "interactions.json").write_text('{"0": [1]}')
    assert "broken interactions" in {defect.kind for defect in check_scenes(root).defects}


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConcordError, match="exists already"):
        write_scenes(tmp_path, range(2), workers=1, progress=False)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_the_sheet_shows_pictures_boxes_and_blanks(folder: Path, tmp_path: Path) -> None:
    tree = SceneTree(open_layouts(folder))
    sheet = layout_sheet(tree, ["0", "3"])
    pixels = np.asarray(sheet)
    assert (np.abs(pixels[12:268, 12:268] - drawn()[0].image.repeat(4, 0).repeat(4, 1)).max()) == 0
    assert (pixels == (230, 60, 60)).all(-1).any()  # the first box
    (tmp_path / "mig_bench.json").write_bytes((folder / "mig_bench.json").read_bytes())
    blank = layout_sheet(SceneTree(open_layouts(tmp_path)), ["0"])
    assert blank.width < sheet.width
    with pytest.raises(ConcordError, match="at least one"):
        layout_sheet(tree, [])


# ----------------------------------------------------------------------------------------------------- the command line


def test_the_command_line(folder: Path, tmp_path: Path) -> None:
    run, out = CliRunner().invoke, tmp_path / "five"
    made = run(app, ["scenes", "--n", "5", "--out", str(out), "--workers", "1"], catch_exceptions=False)
    assert "5 scenes 17000..17005 written" in made.stdout
    again = run(app, ["scenes", "--n", "5", "--out", str(out)], catch_exceptions=False)
    assert "nothing to do" in again.stdout
    other = run(app, ["scenes", "--n", "4", "--out", str(out)])
    assert "add --force" in str(other.exception)
    assert "expected one of train" in str(run(app, ["scenes", "--split", "nosuch"]).exception)
    assert is_layouts(out)
    clean = run(app, ["verify", str(out)], catch_exceptions=False)
    assert clean.exit_code == 0
    assert "5 layouts" in clean.stdout
    assert "no defects" in clean.stdout
    (out / "images/17000.png").unlink()
    broken = run(app, ["verify", str(out / "mig_bench.json"), "--json"])
    assert broken.exit_code == 2
    assert json.loads(broken.stdout)["kinds"] == {"unreadable image": 1}
    sheet = tmp_path / "sheet.png"
    shown = run(app, ["preview", str(folder), "--out", str(sheet), "--n", "3"], catch_exceptions=False)
    assert "3 of 10 layouts" in shown.stdout
    assert Image.open(sheet).width > 500
    assert "no layout 'x'" in str(run(app, ["preview", str(folder), "--ids", "x", "--out", str(sheet)]).exception)
