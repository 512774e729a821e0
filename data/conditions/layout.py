"""What is to be where in an image: boxes with a label each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from concord.data.conditions.base import Condition, entry_file, register, write_value
from concord.data.conditions.drawing import LINES, enlarge, pale
from concord.data.datasets.item import Item
from concord.data.datasets.layouts.layout import Layout
from concord.data.errors import ConcordError
from concord.data.files import read_json

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

INTERACTION = "#7a2fb5"


@register
class LayoutCondition(Condition[Layout]):
    """A layout (data/datasets/layouts/layout.py)."""

    name, title, order = "layout", "Layout", 60
    datasets = frozenset({"layouts"})
    reads = frozenset({"layout"})
    format = (
        "`layout/<id>.json`: `caption`, `boxes` (`[x1, y1, x2, y2]`, shares of the width and height), `labels`, "
        "`colours`, `categories`, `interactions` (`[subject, kind, object]`, by their numbers); also inline, as "
        "`value`."
    )
    drawing = "lines"

    @classmethod
    def has(cls, item: Item) -> bool:
        return item.has_layout

    def read(self, item: Item, size: int) -> Layout:
        return item.layout_of()

    @classmethod
    def pack(cls, value: Layout) -> dict[str, np.ndarray]:
        labels = [[label, colour or "", category] for label, colour, category in _labelled(value)]
        triples = [[str(part) for part in triple] for triple in value.interactions]
        return {
            "boxes": value.boxes,
            "caption": np.array(value.caption),
            "labels": np.array(labels, dtype=np.str_).reshape(-1, 3),
            "interactions": np.array(triples, dtype=np.str_).reshape(-1, 3),
        }

    @classmethod
    def unpack(cls, arrays: Mapping[str, np.ndarray]) -> Layout:
        labels, colours, categories = ([str(part) for part in column] for column in arrays["labels"].T)
        triples = tuple((int(subject), str(kind), int(other)) for subject, kind, other in arrays["interactions"])
        known = tuple(colour or None for colour in colours)
        return Layout(
            str(arrays["caption"]), arrays["boxes"], tuple(labels), known, tuple(categories), interactions=triples
        )

    @classmethod
    def write(cls, value: Layout, folder: Path, stem: str) -> dict[str, Any]:
        content = {
            "caption": value.caption,
            "boxes": [list(map(float, box)) for box in value.boxes],
            "labels": list(value.labels),
            "colours": list(value.colours),
            "categories": list(value.categories),
            "interactions": [list(triple) for triple in value.interactions],
        }
        write_value(folder / f"{stem}.json", content)
        return {"file": f"{stem}.json", "value": content}

    @classmethod
    def parse(cls, entry: Mapping[str, object], folder: Path) -> Layout:
        path = entry_file(entry, folder, cls.name)
        content = read_json(path)
        try:
            return Layout(
                content["caption"],
                content["boxes"],
                tuple(content["labels"]),
                tuple(content["colours"]),
                tuple(content["categories"]),
                interactions=tuple((subject, kind, other) for subject, kind, other in content["interactions"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ConcordError(f"{path}: no layout as it was exported ({error}); export the suite again") from None

    @classmethod
    def draw(cls, value: Layout, truth: np.ndarray | None, side: int) -> np.ndarray:
        """Boxes with their labels over nothing; uint8 (side, side, 3)."""
        return layout_image(value, None, side)

    @classmethod
    def overlay(cls, value: Layout, image: np.ndarray, side: int) -> np.ndarray:
        """The boxes that were asked for over an image: thin, white within their colour, so that both show."""
        from PIL import ImageDraw
        from PIL.Image import fromarray

        canvas = fromarray(enlarge(image, side))
        draw = ImageDraw.Draw(canvas)
        for number, box in enumerate(value.boxes):
            x1, y1, x2, y2 = (float(end) * (side - 1) for end in box)
            draw.rectangle((x1, y1, x2, y2), outline=LINES[number % len(LINES)], width=2)
            if min(x2 - x1, y2 - y1) > 8:
                draw.rectangle((x1 + 2, y1 + 2, x2 - 2, y2 - 2), outline="white", width=1)
        return np.asarray(canvas)

    @classmethod
    def example(cls, index: int) -> Layout:
        from concord.data.synthetic.scenes.scene import SPLITS, scene

        return scene(SPLITS["test"][index % len(SPLITS["test"])]).layout


def _labelled(value: Layout) -> list[tuple[str, str | None, str]]:
    return list(zip(value.labels, value.colours, value.categories, strict=True))


def layout_image(layout: Layout, ground: np.ndarray | None, side: int) -> np.ndarray:
    """Boxes with their labels, over the pale image that they were taken from or over nothing; uint8 (side, side, 3)."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.fromarray(np.full((side, side, 3), 244, np.uint8) if ground is None else pale(enlarge(ground, side)))
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=max(9, side // 15))
    labels = []
    for number, (box, label) in enumerate(zip(layout.boxes, layout.labels, strict=True)):
        x1, y1, x2, y2 = (float(end) * (side - 1) for end in box)
        colour = LINES[number % len(LINES)]
        draw.rectangle((x1, y1, x2, y2), outline=colour, width=max(2, side // 96))
        labels.append((x1, y1, label, colour))
    for subject, kind, other in layout.interactions:
        start, end = ((layout.boxes[n][:2] + layout.boxes[n][2:]) / 2 * (side - 1) for n in (subject, other))
        _arrow(draw, start, end, max(2, side // 96))
        x, y = (start + end) / 2
        labels.append((float(x), float(y), kind, INTERACTION))
    for x, y, label, colour in labels:  # above every box: a later box must not cross an earlier label
        left, top, right, bottom = draw.textbbox((0, 0), label, font=font)
        x, y = min(x, max(0, side - (right - left) - 6)), min(max(y, 0), side - (bottom - top) - 6)
        draw.rectangle((x, y, x + right - left + 5, y + bottom - top + 5), fill=colour)
        draw.text((x + 3 - left, y + 2 - top), label, fill="white", font=font)
    return np.asarray(image)


def _arrow(draw: ImageDraw, start: np.ndarray, end: np.ndarray, width: int) -> None:
    """From the subject's middle to the object's, whatever the interaction's kind: its name stands beside it."""
    way = (end - start) / max(float(np.hypot(*(end - start))), 1e-6)
    across, tip = np.array([-way[1], way[0]]), 5.0 * width
    draw.line([*start, *(end - way * tip)], fill=INTERACTION, width=width)
    points = [end, end - way * tip + across * tip / 2, end - way * tip - across * tip / 2]
    draw.polygon([(float(x), float(y)) for x, y in points], fill=INTERACTION)
