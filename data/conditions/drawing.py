"""What conditions are drawn with."""

from __future__ import annotations

import numpy as np

LINES = ("#3b6fd4", "#d9622b", "#2f9e6e", "#9456c9", "#b58a00", "#c2387a")
"""Colours that are told apart, also by readers who do not see all of them."""


def enlarge(image: np.ndarray, side: int, smooth: bool = True) -> np.ndarray:
    """uint8 (H, W, 3) at side x side pixels: Lanczos for images, NEAREST for labels."""
    from PIL import Image

    kind = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((side, side), kind))


def pale(image: np.ndarray) -> np.ndarray:
    """An image as a ground for lines."""
    return np.asarray(image * 0.45 + 255 * 0.55).astype(np.uint8)
