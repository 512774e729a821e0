"""Figures: the right image at the right place, whole pixels, and no state left behind."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from concord.data.conditions import landmarks
from concord.data.conditions.drawing import enlarge
from concord.data.conditions.landmarks import Landmarks
from concord.data.conditions.mask import Mask
from concord.data.labels import PALETTE
from concord.data.request import Conditions
from concord.reports.figures import grid as figures
from concord.reports.figures.grid import (
    GridRow,
    influence_curve,
    influence_figure,
    pick_steps,
    sample_grid,
)

RED, GREEN, BLUE = (np.full((64, 64, 3), c, np.uint8) for c in ((200, 30, 30), (30, 180, 30), (30, 30, 200)))


def shown(number: int, **images: np.ndarray) -> GridRow:
    mask = np.zeros((64, 64), np.int64)
    mask[20:50, 20:50] = 1
    text = "A caption with $dollars$, <b>tags</b> and many words in a row. " * 3
    return GridRow(f"{number}-0", Conditions(text=text, mask=mask), RED, images)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)


def share(path: Path, colour: np.ndarray) -> int:
    """Pixels of exactly this colour."""
    return int((pixels(path) == colour).all(axis=1).sum())


def trace(requests: list[str], steps: int = 50) -> dict[str, np.ndarray]:
    mask = np.broadcast_to(np.linspace(0.9, 0.2, steps)[None, :, None, None], (len(requests), steps, 16, 16))
    return {
        "influence": np.stack([mask, 1 - mask], axis=2).astype(np.float16),
        "influence_steps": np.arange(steps - 1, -1, -1) * 20,
        "influence_names": np.array(["mask", "text"]),
        "requests": np.array(requests),
    }


def test_masks_are_enlarged_without_new_colours() -> None:
    mask = np.arange(64 * 64).reshape(64, 64) % 19
    picture = enlarge(Mask.draw(mask, None, 256), 256, smooth=False)
    assert picture.shape == (256, 256, 3)
    assert {tuple(c) for c in picture.reshape(-1, 3)} == {tuple(c) for c in PALETTE}
    assert (picture[::4, ::4] == PALETTE[mask]).all()  # four times, exactly
    assert (picture[3::4, 3::4] == PALETTE[mask]).all()


def test_pictures_are_enlarged_smoothly() -> None:
    step = np.zeros((64, 64, 3), np.uint8)
    step[:, 32:] = 255
    assert len(np.unique(enlarge(step, 256))) > 2
    assert len(np.unique(enlarge(step, 256, smooth=False))) == 2


def test_the_grid_shows_each_image_once(tmp_path: Path) -> None:
    requests = [shown(0, a=GREEN, b=BLUE), shown(1, a=GREEN)]  # the second request has no image of b
    sample_grid(requests, [("a", "Method A"), ("b", "A method with a long name")], "Title", tmp_path / "grid.png")
    one = 256 * 256
    assert abs(share(tmp_path / "grid.png", GREEN[0, 0]) - 2 * one) < 4 * 520  # edges may be off by a pixel
    assert abs(share(tmp_path / "grid.png", BLUE[0, 0]) - one) < 2 * 520
    assert abs(share(tmp_path / "grid.png", RED[0, 0]) - 2 * one) < 4 * 520


def test_a_grid_of_masks_alone_needs_no_captions_or_truth(tmp_path: Path) -> None:
    request = GridRow("0-0", Conditions(mask=np.ones((64, 64), np.int64)), None, {"a": GREEN})
    sample_grid([request], [("a", "A")], "Title", tmp_path / "bare.png")
    sample_grid([shown(0, a=GREEN)], [("a", "A")], "Title", tmp_path / "full.png")
    assert Image.open(tmp_path / "bare.png").width < Image.open(tmp_path / "full.png").width - 256
    assert share(tmp_path / "bare.png", GREEN[0, 0]) > 60_000


def test_steps_run_from_the_first_to_the_last() -> None:
    picked = pick_steps(np.arange(980, -1, -20), 9)
    assert (picked[0], picked[-1], len(picked)) == (0, 49, 9)
    assert list(pick_steps(np.array([10, 0]), 9)) == [0, 1]


def test_influence_maps_use_the_whole_range_of_colours(tmp_path: Path) -> None:
    """0 is the map's darkest colour and 1 its lightest, whatever the maps hold."""
    from matplotlib import colormaps

    extreme = trace(["0-0"], 5)
    extreme["influence"] = np.zeros((1, 5, 2, 16, 16), np.float16)
    extreme["influence"][:, :, 0] = 1
    influence_figure(extreme, [shown(0, a=GREEN)], "a", "Title", tmp_path / "maps.png", times=5)
    for end, maps in ((0.0, 5), (1.0, 5)):
        colour = (np.array(colormaps[figures.MAPS](end)[:3]) * 255).astype(np.uint8)
        assert share(tmp_path / "maps.png", colour) > 0.95 * maps * 192 * 192
    assert share(tmp_path / "maps.png", GREEN[0, 0]) > 0.95 * 192 * 192  # the final image


def test_more_than_two_branches_get_a_strip_each(tmp_path: Path) -> None:
    two, three = trace(["0-0"], 4), trace(["0-0"], 4)
    three["influence"] = np.full((1, 4, 3, 16, 16), 1 / 3, np.float16)
    three["influence_names"] = np.array(["mask", "text", "sketch"])
    influence_figure(two, [shown(0, a=GREEN)], "a", "Title", tmp_path / "two.png")
    influence_figure(three, [shown(0, a=GREEN)], "a", "Title", tmp_path / "three.png")
    taller = Image.open(tmp_path / "three.png").height - Image.open(tmp_path / "two.png").height
    assert taller == pytest.approx(125 * 1.6, abs=3)


def test_the_curve_is_drawn_for_every_row(tmp_path: Path) -> None:
    influence_curve({"A": trace(["0-0", "1-0"])}, "Title", tmp_path / "one.png")
    influence_curve({"A": trace(["0-0"]), "B": trace(["0-0"])}, "Title", tmp_path / "two.png")
    assert Image.open(tmp_path / "two.png").width > 1.5 * Image.open(tmp_path / "one.png").width
    assert len(np.unique(pixels(tmp_path / "one.png"), axis=0)) > 50


def test_landmarks_are_dots_where_the_points_are() -> None:
    points = np.full((67, 2), 48.0)  # not the 68 of a face: no lines between them
    points[0] = (16.0, 8.0)  # x, y: right of the left edge by a quarter, below the top by an eighth
    for face in (None, np.full((64, 64, 3), 255, np.uint8)):
        picture = Landmarks.draw(points, face, 160)  #: 2.5 a pixel of the face
        rows, columns = np.nonzero((picture == np.array(landmarks.COLOUR)).all(axis=2))
        first = rows < 60
        assert (rows[first].mean(), columns[first].mean()) == (pytest.approx(20, abs=1), pytest.approx(40, abs=1))
        assert (rows[~first].mean(), columns[~first].mean()) == (pytest.approx(120, abs=1), pytest.approx(120, abs=1))


def test_the_68_points_of_a_face_are_joined() -> None:
    """A jaw of 17 points on one line: the line is there between two points, and none leads on to the brows."""
    points = np.full((68, 2), 60.0)
    points[:17] = [(2.0 + 3 * index, 10.0) for index in range(17)]
    picture = Landmarks.draw(points, None, 640)  # 10 a pixel of the face
    row = picture[100].astype(int)
    reddish = row[:, 0] - row[:, 1] > 60
    assert reddish[20:500].mean() > 0.95
    assert not reddish[520:].any()


def test_every_condition_has_its_column(tmp_path: Path) -> None:
    request = shown(0, a=GREEN)
    points = np.full((68, 2), 32.0)
    request.conditions = request.conditions.replace(identity=BLUE, style=GREEN, landmarks=points)
    columns = [("mask", "Mask"), ("identity", "Identity"), ("landmarks", "Landmarks"), ("style", "Style")]
    assert figures.condition_columns([shown(1), request]) == columns
    assert figures.condition_columns([shown(1)]) == columns[:1]
    request.conditions = request.conditions.replace(mask=None)
    assert figures.condition_columns([request]) == columns[1:]
    path = tmp_path / "grid.png"
    sample_grid([request], [("a", "A")], "Title", path)
    tile = round(figures.TILE * figures.DPI / 100) ** 2
    assert share(path, BLUE[0, 0]) >= 0.98 * tile  # the identity
    assert share(path, GREEN[0, 0]) >= 1.96 * tile  # the style and the method
    assert share(path, RED[0, 0]) >= 0.98 * tile  # the truth itself, not where the landmarks pale it
    assert share(path, np.array(landmarks.COLOUR)) > 10
