"""An image with hidden patches, which are to be filled (restoration).

Patches are a quarter of the image's side (16x16 of 64x64), their corners anywhere in it, cut at its border; they may
overlap (MT-Diffusion, appendix E.2). An item's patches follow from its id alone, and m of them are the first m of all:
what is hidden with 5 patches is hidden with 10 as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from concord.data.conditions.base import Condition, check_image, entry_file, read_png, register, write_png
from concord.data.datasets.item import Item
from concord.data.errors import ConcordError

GREY = 0.5
"""What a hidden pixel is shown as, so that nothing of it leaks: of an image in [0, 1]; zero in [-1, 1]."""
GREY_LEVEL = round(GREY * 255)
"""The same of an image in uint8."""

Masked = tuple[np.ndarray, np.ndarray]


@register
class MaskedImage(Condition[Masked]):
    """uint8 (H, W, 3) RGB with grey holes, and a bool (H, W) array, true where a pixel is known; as a pair."""

    name, title, order = "masked_image", "Masked image", 70
    format = (
        "`masked_image/<id>.png`: the image, RGB, and `masked_image/<id>.known.png` (its `known`): "
        "white where a pixel is given, black where it is to be made."
    )

    patches: int = Field(ge=1)  # how many are hidden

    @classmethod
    def has(cls, item: Item) -> bool:
        return item.has_image

    def read(self, item: Item, size: int) -> Masked:
        known = known_pixels(item.id, self.patches, size)
        image = item.image(size).copy()
        image[~known] = GREY_LEVEL
        return image, known

    @classmethod
    def check(cls, value: Masked) -> None:
        if not isinstance(value, tuple) or len(value) != 2:
            raise ConcordError("condition 'masked_image' is no pair: expected an image and what is known of it")
        check_image(cls.name, value[0])

    @classmethod
    def pack(cls, value: Masked) -> dict[str, np.ndarray]:
        return {"image": value[0], "known": value[1]}

    @classmethod
    def unpack(cls, arrays: Mapping[str, np.ndarray]) -> Masked:
        return arrays["image"], arrays["known"]

    @classmethod
    def write(cls, value: Masked, folder: Path, stem: str) -> dict[str, Any]:
        image, known = value
        write_png(folder / f"{stem}.png", image)
        write_png(folder / f"{stem}.known.png", known.astype(np.uint8) * 255)
        return {"file": f"{stem}.png", "known": f"{stem}.known.png"}

    @classmethod
    def parse(cls, entry: Mapping[str, object], folder: Path) -> Masked:
        image = read_png(entry_file(entry, folder, cls.name), "RGB")
        return image, read_png(entry_file(entry, folder, cls.name, "known"), "L") > 0

    @classmethod
    def draw(cls, value: Masked, truth: np.ndarray | None, side: int) -> np.ndarray:
        """What is unknown in a checked grey, which no photograph has."""
        image, known = value
        y, x = np.indices(known.shape)
        checks = np.where((x // 4 + y // 4) % 2 == 0, 205, 235).astype(np.uint8)[..., None]
        return np.where(known[..., None], image, checks)

    @classmethod
    def example(cls, index: int) -> Masked:
        from concord.data.synthetic import face

        image = face(index).image
        known = np.ones(image.shape[:2], dtype=bool)
        known[16:32, 16:32] = False
        return image, known


def known_pixels(item: str, patches: int, size: int) -> np.ndarray:
    """bool (size, size), False where one of the first `patches` patches of the item of that id lies."""
    if patches < 1:
        raise ConcordError(f"masked image of item {item}: {patches} patches; expected 1 or more, or nothing is hidden")
    digest = hashlib.sha256(f"masked\x00{item}".encode()).digest()
    corners = np.random.default_rng(int.from_bytes(digest[:8], "big")).random((patches, 2))
    known, side = np.ones((size, size), dtype=bool), max(1, size // 4)
    for row, column in np.floor(corners * size).astype(int):
        known[row : row + side, column : column + side] = False  # a slice ends at the border by itself
    return known
