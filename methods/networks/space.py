"""The space that a generator samples in: images there and back, and the shape of its noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Codec(Protocol):
    """Images (B, 3, H, W) in [0, 1] to the space that is sampled in, and back, not clamped."""

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> what is sampled, (B, C, h, w)."""

    def decode(self, x: Tensor) -> Tensor:
        """What is sampled (B, C, h, w) -> images (B, 3, H, W), about [0, 1]."""


@dataclass(frozen=True)
class LatentSpace:
    """latent_shape: of one image there, (C, h, w). image_size: pixels of its images."""

    codec: Codec
    latent_shape: tuple[int, ...]
    image_size: int

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> x_0 (B, C, h, w)."""
        return self.codec.encode(images)

    def decode(self, x: Tensor) -> Tensor:
        """x_0 (B, C, h, w) -> images (B, 3, H, W) around [0, 1]; not clamped: a guide's gradient survives."""
        return self.codec.decode(x)
