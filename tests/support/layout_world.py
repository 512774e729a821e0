"""Scenes painted from a layout, and a detector and a segmenter that read them without error or with chosen defects."""

from __future__ import annotations

import numpy as np

from concord.data.datasets.layouts.layout import Layout

RGB = {  # one well inside each range, seen with OpenCV's hue (half degrees)
    "red": (220, 20, 20), "blue": (20, 60, 220), "yellow": (230, 220, 20), "green": (20, 200, 40),
    "black": (10, 10, 10), "white": (245, 245, 245), "brown": (140, 80, 30),
}  # fmt: skip  # a table


class Perfect:
    """Detector and segmenter in one: it knows the layout and answers with it; `move` and `recolour` make defects.

    move: for (category, number of that category in the layout), the box that is detected in place of the true one, or
    None where nothing is to be found.
    """

    def __init__(self, layout: Layout, move: dict[tuple[str, int], tuple[float, ...] | None] | None = None) -> None:
        self.layout, self.move = layout, move or {}
        self.asked: list[str] = []
        self.prompts: list[np.ndarray] = []
        self.sizes: list[tuple[int, ...]] = []

    def detect(self, image: np.ndarray, phrase: str) -> np.ndarray:
        self.asked.append(phrase)
        self.sizes.append(image.shape)
        boxes = []
        own = [box for box, name in zip(self.layout.boxes, self.layout.categories, strict=True) if name == phrase]
        for number, box in enumerate(own):
            found = self.move.get((phrase, number), tuple(box))
            if found is not None:
                boxes.append(found)
        return np.array(boxes, dtype=np.float64).reshape(-1, 4)

    def segment(self, image: np.ndarray, box: np.ndarray) -> np.ndarray:
        self.prompts.append(np.asarray(box))
        return inside(image.shape[:2], box)


def inside(shape: tuple[int, ...], box: np.ndarray) -> np.ndarray:
    """Bool (H, W): pixels whose centre is in the box."""
    height, width = shape
    y, x = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    return ((y[:, None] >= box[1]) & (y[:, None] < box[3])) & ((x >= box[0]) & (x < box[2]))


def grid_layout(n: int, colours: tuple[str, ...] = tuple(RGB), category: str = "bird") -> Layout:
    """A layout of n boxes side by side that do not touch, one colour each."""
    boxes = [(i / n + 0.01, 0.25, (i + 1) / n - 0.01, 0.75) for i in range(n)]
    return Layout.of("a photo", boxes, [f"a {colours[i % len(colours)]} {category}" for i in range(n)], "1")


def paint(layout: Layout, size: int = 512, wrong: frozenset[int] = frozenset()) -> np.ndarray:
    """uint8 (size, size, 3): each box in its colour, in violet (no colour's range) where its number is in `wrong`."""
    image = np.full((size, size, 3), 200, np.uint8)
    for number, (box, colour) in enumerate(zip(layout.boxes, layout.colours, strict=True)):
        image[inside((size, size), box)] = (160, 40, 220) if number in wrong else RGB[str(colour)]
    return image
