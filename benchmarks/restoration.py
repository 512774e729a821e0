"""Masked images of the restoration suites: m patches of a picture are hidden, the same ones whoever asks.

Patches are a quarter of the picture's side (16x16 of 64x64), their corners anywhere in it, cut at its border; they may
overlap (MT-Diffusion, appendix E.2). A face's patches follow from its id alone, and m of them are the first m of all:
what is hidden with 5 patches is hidden with 10 as well.
"""

from __future__ import annotations

import hashlib

import numpy as np

from concord.data.datasets.faces.dataset import FaceItem
from concord.data.errors import ConcordError

GREY = 128
"""What a hidden pixel is shown as, so that nothing of it leaks: the middle of uint8."""


def known_pixels(item: str, patches: int, size: int) -> np.ndarray:
    """bool (size, size), False where one of the first `patches` patches of the item of that id lies."""
    if patches < 1:
        raise ConcordError(f"masked image of face {item}: {patches} patches; expected 1 or more, or nothing is hidden")
    digest = hashlib.sha256(f"masked\x00{item}".encode()).digest()
    corners = np.random.default_rng(int.from_bytes(digest[:8], "big")).random((patches, 2))
    known, side = np.ones((size, size), dtype=bool), max(1, size // 4)
    for row, column in np.floor(corners * size).astype(int):
        known[row : row + side, column : column + side] = False  # a slice ends at the border by itself
    return known


def masked_image(item: FaceItem, patches: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The condition 'masked_image' of a face: the picture uint8 (size, size, 3) with grey holes, and what is known."""
    known = known_pixels(item.id, patches, size)
    picture = item.image(size).copy()
    picture[~known] = GREY
    return picture, known
