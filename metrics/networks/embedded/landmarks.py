"""Landmark regressor of SynthFaces: 68 points in iBUG order, in pixels (pixel centres at .5).

Stands where MobileFaceNet (as a guide) and FAN (as a judge) stand at the papers' scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from concord.metrics.networks.embedded.blocks import Pyramid, for_scoring, load_perception
from concord.metrics.networks.embedded.parser import SynthParser

if TYPE_CHECKING:
    from concord.metrics.face.square import Square

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


@dataclass(frozen=True)
class SynthLandmarks:
    """The landmark network, and a parser that says whether there is a face at all."""

    network: LandmarkNetwork
    parser: SynthParser

    def landmark_residual(self, images: Tensor, points: Tensor, squares: Sequence[Square]) -> Tensor:
        """(B, 68, 2), as shares of the image's side: the network looks at the whole image; gradients pass."""
        return (self.network(images) - points.to(images.dtype)) / images.shape[-1]

    @torch.inference_mode()
    def landmarks(self, images: Tensor) -> tuple[Tensor, list[str]]:
        """The 68 points in iBUG order (B, 68, 2), pixels, with 'ok' or why there are none."""
        return self.network(for_scoring(images, self.network)), self.parser.face_status(images)


def load_landmarks(path: Path, parser: SynthParser, device: torch.device | str = "cpu") -> SynthLandmarks:
    """The landmark network of SynthFaces from its committed weights."""
    return SynthLandmarks(load_perception(LandmarkNetwork, path, device), parser)
