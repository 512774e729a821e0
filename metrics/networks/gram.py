"""Gram matrices, by which styles are compared (Gatys et al. 2016)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def gram(features: Tensor) -> Tensor:
    """Gram matrices (B, C, C) of (B, C, H, W): sums over the pixels of products of channels, divided by C H W."""
    _, channels, height, width = features.shape
    flat = features.flatten(2)  # (B, C, H W)
    return flat @ flat.mT / (channels * height * width)
