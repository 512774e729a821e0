"""A contact sheet of layouts: each image (blank where there is none) with its boxes, labels and interactions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from concord.data.datasets.layouts.layout import Layout
from concord.data.errors import ConcordError
from concord.data.synthetic.scenes.tree import SceneTree

TILE, GAP, LINE = 256, 12, 15
MOST = 200
_PAPER, _INK, _BLANK = (242, 243, 246), (28, 30, 36), (226, 228, 233)
_BOXES = ((230, 60, 60), (30, 120, 230), (20, 150, 70), (220, 140, 0), (150, 40, 200), (0, 150, 160))


def layout_sheet(tree: SceneTree, items: Sequence[str], columns: int = 4) -> Image.Image:
    """RGB: for each layout its image as it is (where there is one), and with its boxes and labels drawn on."""
    if not items:
        raise ConcordError("preview: no layouts were given; expected at least one")
    if len(items) > MOST:
        raise ConcordError(f"preview: {len(items):,} layouts do not fit on a sheet; expected {MOST} at most; use --n")
    panes = 2 if tree.has_images else 1
    triples = tree.interactions()
    lines = 1 + max(tree.layouts[item].level for item in items) + 2
    wide, high = panes * TILE + (panes + 1) * GAP, TILE + lines * LINE + 2 * GAP
    columns = min(columns // panes, len(items))
    rows = -(-len(items) // columns)
    sheet = Image.new("RGB", (columns * wide, rows * high), _PAPER)
    for number, item in enumerate(items):
        x, y = (number % columns) * wide + GAP, (number // columns) * high + GAP
        layout = tree.layouts[item]
        image = _tile(tree.image(item) if tree.has_images else None)
        if panes == 2:
            sheet.paste(image, (x, y))
        sheet.paste(with_boxes(image, layout), (x + (panes - 1) * (TILE + GAP), y))
        told = [f"{item}", *(f"{k}: {label}" for k, label in enumerate(layout.labels))]
        told += [f"   {s} {kind} {o}" for s, kind, o in triples.get(item, ())]
        draw = ImageDraw.Draw(sheet)
        for row, text in enumerate(told):
            ink = _BOXES[(row - 1) % len(_BOXES)] if 1 <= row <= layout.level else _INK
            draw.text((x, y + TILE + 4 + row * LINE), text, fill=ink, font=ImageFont.load_default(size=12))
    return sheet


def with_boxes(image: Image.Image, layout: Layout) -> Image.Image:
    """A copy of an RGB image of any size with the layout's boxes and their numbers."""
    copy = image.copy()
    draw = ImageDraw.Draw(copy)
    for number, box in enumerate(layout.boxes * np.array([*image.size, *image.size])):
        colour = _BOXES[number % len(_BOXES)]
        draw.rectangle([round(v) for v in (box[0], box[1], box[2] - 1, box[3] - 1)], outline=colour, width=2)
        draw.text(
            (box[0] + 4, box[1] + 2),
            str(number),
            fill=colour,
            font=ImageFont.load_default(size=14),
            stroke_width=1,
            stroke_fill=(255, 255, 255),
        )
    return copy


def _tile(pixels: np.ndarray | None) -> Image.Image:
    if pixels is None:
        return Image.new("RGB", (TILE, TILE), _BLANK)
    return Image.fromarray(pixels).resize((TILE, TILE), Image.Resampling.NEAREST)
