"""Pictures resized as Pillow does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def pillow_bilinear(image: np.ndarray, height: int, width: int) -> Tensor:
    """uint8 (H, W, 3) RGB -> float32 (3, height, width) in [0, 1], resized by Pillow (antialiased) where it differs."""
    import torch
    from PIL import Image

    if image.shape[:2] != (height, width):
        image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    return torch.from_numpy(image.copy()).permute(2, 0, 1).float().div(255)
