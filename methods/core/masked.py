"""Masked images and source images of a batch as tensors, checked."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from concord.data.errors import ConcordError
from concord.methods.base import Batch


def masked_images(batch: Batch, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images float32 (B, 3, size, size) in [0, 1] and what is known of them, bool (B, size, size).

    A request without the condition is one that is masked whole. Raises ConcordError for another size or type.
    """
    images, known = torch.zeros(len(batch), 3, size, size), torch.zeros(len(batch), size, size, dtype=torch.bool)
    for number, condition in enumerate(batch.conditions):
        if condition.masked_image is None:
            continue
        image, seen = condition.masked_image
        images[number] = _image(image, size, "masked_image")
        if seen.shape != (size, size) or seen.dtype != np.bool_:
            raise ConcordError(
                f"condition 'masked_image': what is known has shape {seen.shape} and type {seen.dtype}; "
                f"expected bool ({size}, {size}), true where a pixel is known"
            )
        known[number] = torch.from_numpy(seen.copy())
    return images.to(device), known.to(device)


def source_images(batch: Batch, size: int, device: torch.device) -> Tensor:
    """The source images, float32 (B, 3, size, size) in [0, 1]."""
    made = []
    for condition in batch.conditions:
        assert condition.source_image is not None
        made.append(_image(condition.source_image, size, "source_image"))
    return torch.stack(made).to(device)


def _image(image: np.ndarray, size: int, name: str) -> Tensor:
    if image.shape != (size, size, 3) or image.dtype != np.uint8:
        raise ConcordError(
            f"condition '{name}' has shape {image.shape} and type {image.dtype}: "
            f"the embedded models expect uint8 ({size}, {size}, 3) RGB"
        )
    return torch.from_numpy(image.copy()).movedim(-1, 0).float() / 255
