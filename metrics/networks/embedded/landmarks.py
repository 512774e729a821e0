"""Landmark regressor of SynthFaces: 68 points in iBUG order, in pixels (pixel centres at .5).

Stands where MobileFaceNet (as a guide) and FAN (as a judge) stand at the papers' scale.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from concord.metrics.networks.embedded.blocks import Pyramid

POINTS = 68


class LandmarkNetwork(nn.Module):
    """Images (B, 3, 64, 64) in [0, 1] -> landmarks (B, 68, 2), x and y in pixels.

    The network tells how far each point lies from where it lies on average; `mean` and `spread` (pixels) are part of
    its state.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.image = Pyramid(width, 2 * POINTS)
        self.register_buffer("mean", torch.full((POINTS, 2), 32.0))
        self.register_buffer("spread", torch.ones(POINTS, 2))

    def forward(self, images: Tensor) -> Tensor:
        return self.mean + self.spread * self.image(images).unflatten(1, (POINTS, 2))
