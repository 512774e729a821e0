"""A contact sheet of faces: image, mask in colours, one laid over the other, caption, and the classes' legend."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from concord.data.datasets.faces.dataset import FaceItem
from concord.data.errors import ConcordError
from concord.data.files import atomic_path
from concord.data.labels import CELEBAMASK_HQ, HUMAN_NAMES, PALETTE, colourise

TILE = 208  # side of an image on the sheet, pixels
MOST_FACES = 600  # a sheet of 1400 x 90,000 pixels, 0.4 GiB while it is drawn
_GAP, _MARGIN, _PAD = 6, 28, 14
_TEXT, _HEAD, _SMALL = 15, 22, 14  # font sizes, pixels
_PAPER, _CARD, _INK, _GREY, _EMPTY = (242, 243, 246), (255, 255, 255), (28, 30, 36), (112, 118, 130), (226, 228, 233)
_OVERLAY = 0.45  # how much of the colour covers the image

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Item = TypeVar("Item")


def contact_sheet(faces: Sequence[FaceItem], title: str, columns: int | None = None) -> Image.Image:
    """An RGB image with a card for each face, `columns` to a row (two, or one for a single face), and the legend.

    Classes that none of the faces has are hollow in the legend. ConcordError naming the file when one cannot be read.
    """
    if not faces:
        raise ConcordError("preview: no faces were given; expected at least one")
    if len(faces) > MOST_FACES:
        raise ConcordError(
            f"preview: {len(faces):,} faces do not fit on a sheet; expected {MOST_FACES} at most; use --n"
        )
    columns = columns or min(2, len(faces))
    panes = 3 if any(face.has_image for face in faces) else 1  # a folder of masks alone: the masks alone
    card_width = panes * TILE + (panes - 1) * _GAP + 2 * _PAD
    columns = columns if panes == 3 else min(len(faces), columns * 2)
    texts = [_wrap(face.text or "no caption", card_width - 2 * _PAD, _font(_TEXT)) for face in faces]
    line = _TEXT + 5
    card_height = _PAD + 24 + TILE + 10 + line * max(map(len, texts)) + _PAD
    rows = -(-len(faces) // columns)
    width = max(2 * _MARGIN + columns * card_width + (columns - 1) * _PAD, 720)
    masks = [face.mask() if face.has_mask else None for face in faces]
    present = {int(number) for mask in masks if mask is not None for number in np.unique(mask)}
    legend = _legend(width - 2 * _MARGIN, present)
    top = _MARGIN + _HEAD + 20
    sheet = Image.new("RGB", (width, top + rows * (card_height + _PAD) + 6 + legend.height + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    head = next((size for size in range(_HEAD, 9, -1) if _font(size).getlength(title) <= width - 2 * _MARGIN), 9)
    draw.text((_MARGIN, _MARGIN - 4), title, fill=_INK, font=_font(head))
    for number, (face, mask, text) in enumerate(zip(faces, masks, texts, strict=True)):
        x = _MARGIN + (number % columns) * (card_width + _PAD)
        y = top + (number // columns) * (card_height + _PAD)
        draw.rounded_rectangle((x, y, x + card_width - 1, y + card_height - 1), radius=8, fill=_CARD)
        draw.text((x + _PAD, y + _PAD - 5), face.id, fill=_GREY, font=_font(_SMALL))
        _paste_panes(sheet, face, mask, (x + _PAD, y + _PAD + 18), panes)
        ink = _INK if face.text is not None else _GREY
        for row, words in enumerate(text):
            draw.text((x + _PAD, y + _PAD + 24 + TILE + 6 + row * line), words, fill=ink, font=_font(_TEXT))
    sheet.paste(legend, (_MARGIN, sheet.height - _MARGIN - legend.height))
    return sheet


def write_sheet(sheet: Image.Image, out: Path) -> None:
    """Write the sheet as PNG, whole or not at all."""
    if out.suffix.lower() != ".png":
        raise ConcordError(f"--out {out}: expected a file name that ends in .png")
    with atomic_path(out) as temporary:
        sheet.save(temporary, format="PNG")


def spread(items: Sequence[Item], n: int) -> list[Item]:
    """`n` of the items, evenly spread over the set, first and last included; all of them when there are fewer."""
    if n >= len(items):
        return list(items)
    return [items[round(k * (len(items) - 1) / max(n - 1, 1))] for k in range(n)]


def _paste_panes(sheet: Image.Image, face: FaceItem, mask: np.ndarray | None, at: tuple[int, int], panes: int) -> None:
    """Image, coloured mask, and the mask over the image; a grey tile that says so where something is missing."""
    image = Image.fromarray(face.image()) if face.has_image else None
    colours = Image.fromarray(colourise(mask)) if mask is not None else None
    tiles = [_tile(colours, "no mask", smooth=False)]
    if panes == 3:
        both = None
        if image is not None and colours is not None and mask is not None:
            both = _overlay(image, colours, mask)
        tiles = [_tile(image, "no image"), *tiles, _tile(both, "")]
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (at[0] + number * (TILE + _GAP), at[1]))


def _overlay(image: Image.Image, colours: Image.Image, mask: np.ndarray) -> Image.Image:
    """The image with the parts tinted in their colours and the background left as it is."""
    base = _tile(image, "")
    tinted = Image.blend(base, _tile(colours, "", smooth=False), _OVERLAY)
    parts = Image.fromarray((mask > 0).astype(np.uint8) * 255).resize(base.size, Image.Resampling.NEAREST)
    return Image.composite(tinted, base, parts)


def _tile(image: Image.Image | None, absent: str, smooth: bool = True) -> Image.Image:
    """The image at TILE x TILE, or a grey tile with a word in it; labels are never smoothed."""
    if image is None:
        tile = Image.new("RGB", (TILE, TILE), _EMPTY)
        ImageDraw.Draw(tile).text((TILE / 2, TILE / 2), absent, fill=_GREY, font=_font(_TEXT), anchor="mm")
        return tile
    how = Image.Resampling.NEAREST
    if smooth:
        how = Image.Resampling.BOX if image.width > TILE else Image.Resampling.BICUBIC
    return image.resize((TILE, TILE), how)


def _legend(width: int, present: set[int]) -> Image.Image:
    """Swatch, number and name of the 19 classes, in as few rows as fit and as even as they go."""
    line = 28
    rows = -(-len(CELEBAMASK_HQ) // max(1, width // 148))
    columns = -(-len(CELEBAMASK_HQ) // rows)
    cell = min(width // columns, 180)
    legend = Image.new("RGB", (width, line * rows), _PAPER)
    draw = ImageDraw.Draw(legend)
    for number, name in enumerate(CELEBAMASK_HQ):
        x, y = (number % columns) * cell, (number // columns) * line
        colour = tuple(int(value) for value in PALETTE[number])
        there = number in present
        draw.rounded_rectangle(
            (x, y + 4, x + 19, y + 23), radius=4, fill=colour if there else _PAPER, outline=colour, width=2
        )
        ink = _INK if there else (160, 165, 175)
        draw.text((x + 27, y + 14), f"{number} {HUMAN_NAMES[name]}", fill=ink, font=_font(_SMALL), anchor="lm")
    return legend


def _font(size: int) -> Font:
    return ImageFont.load_default(size=size)  # Pillow's own scalable font: nothing to install


def _wrap(text: str, width: int, font: Font) -> list[str]:
    """The text in lines that fit into `width` pixels."""
    for letters in range(max(8, width // 5), 7, -1):
        lines = textwrap.wrap(text, letters)
        if all(font.getlength(line) <= width for line in lines):
            return lines
    return textwrap.wrap(text, 8)
