"""Where the parts of a face have to be: 68 points."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from concord.data.conditions.base import Condition, entry_file, register, write_value
from concord.data.conditions.drawing import enlarge, pale
from concord.data.datasets.item import Item
from concord.data.errors import ConcordError
from concord.data.files import read_json

COLOUR = (200, 30, 60)
# The 68 points of the iBUG order as people see them: (first, last, closed) of each line.
FACE_LINES = (
    (0, 16, False),  # jaw
    (17, 21, False),  # brows
    (22, 26, False),
    (27, 30, False),  # nose
    (31, 35, False),
    (36, 41, True),  # eyes
    (42, 47, True),
    (48, 59, True),  # mouth
    (60, 67, True),
)


@register
class Landmarks(Condition[np.ndarray]):
    """float32 (68, 2), x and y in pixels, pixel centres at .5, iBUG order."""

    name, title, order = "landmarks", "Landmarks", 40
    reads = frozenset({"landmarks"})
    format = (
        "`landmarks/<id>.json`: 68 points `[x, y]` in pixels, iBUG order, the centre of the first pixel at 0.5; "
        "also inline, as `value`."
    )
    drawing = "lines"
    over_truth = checked_first = True

    @classmethod
    def has(cls, item: Item) -> bool:
        return item.has_landmarks

    def read(self, item: Item, size: int) -> np.ndarray:
        return item.landmarks(size)

    @classmethod
    def write(cls, value: np.ndarray, folder: Path, stem: str) -> dict[str, Any]:
        content = np.asarray(value, np.float32).astype(float).tolist()
        write_value(folder / f"{stem}.json", content)
        return {"file": f"{stem}.json", "value": content}

    @classmethod
    def parse(cls, entry: Mapping[str, object], folder: Path) -> np.ndarray:
        path = entry_file(entry, folder, cls.name)
        try:
            points = np.asarray(read_json(path), np.float32)
        except (ValueError, TypeError):
            points = np.zeros(0, np.float32)
        if points.ndim != 2 or points.shape[1:] != (2,):
            raise ConcordError(f"{path}: expected a list of points [x, y]; export the suite again")
        return points

    @classmethod
    def draw(cls, value: np.ndarray, truth: np.ndarray | None, side: int) -> np.ndarray:
        """Dots over the pale face that they were taken from, or over nothing; uint8 (side, side, 3).

        Lines join the 68 points of the iBUG order into jaw, brows, nose, eyes and mouth.
        """
        from PIL import Image, ImageDraw

        fine = side * 3  # drawn large and made smaller: smooth lines at any size
        size = 64 if truth is None else len(truth)
        ground = np.full((side, side, 3), 240, np.uint8) if truth is None else pale(enlarge(truth, side))
        image = Image.fromarray(ground).resize((fine, fine), Image.Resampling.BICUBIC)
        draw, radius = ImageDraw.Draw(image), max(3.0, fine / 105)
        dots = [(float(x), float(y)) for x, y in np.asarray(value, np.float64) * (fine / size)]
        for first, last, closed in FACE_LINES if len(dots) == 68 else ():
            line = dots[first : last + 1]
            draw.line([*line, line[0]] if closed else line, fill=COLOUR, width=max(1, round(radius / 2)))
        for x, y in dots:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=COLOUR)
        return np.asarray(image.resize((side, side), Image.Resampling.BOX))

    @classmethod
    def example(cls, index: int) -> np.ndarray:
        from concord.data.synthetic import face

        return face(index).landmarks
