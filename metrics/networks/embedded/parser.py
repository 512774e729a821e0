"""Face parser: images to the 19 classes of CelebAMask-HQ (a small U-Net, Ronneberger et al. 2015, with SiLU)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from concord.metrics.networks.embedded.blocks import ResidualBlock, for_scoring, load_perception
from concord.metrics.networks.protocols import NO_FACE

FACE_PARTS = {(1,): 135, (2,): 3, (3, 4, 5): 24, (10, 11, 12): 6}
"""Classes of skin, nose, eyes or glasses, and mouth -> pixels; half of the least on 1,000 faces of 64x64."""


class FaceParser(nn.Module):
    """Images (B, 3, 64, 64) in [0, 1] -> logits (B, 19, 64, 64), CelebAMask-HQ order."""

    def __init__(self, width: int = 24, classes: int = 19) -> None:
        super().__init__()
        w = width
        self.stem = nn.Conv2d(3, w, 3, padding=1)  # 64
        self.down1 = nn.Sequential(nn.Conv2d(w, 2 * w, 2, stride=2), ResidualBlock(2 * w))  # 32
        self.down2 = nn.Sequential(nn.Conv2d(2 * w, 3 * w, 2, stride=2), ResidualBlock(3 * w))  # 16
        self.down3 = nn.Sequential(nn.Conv2d(3 * w, 3 * w, 2, stride=2), ResidualBlock(3 * w))  # 8
        self.middle = ResidualBlock(3 * w)
        self.up2 = nn.Sequential(nn.Conv2d(6 * w, 3 * w, 1), ResidualBlock(3 * w))
        self.up1 = nn.Sequential(nn.Conv2d(5 * w, 2 * w, 1), ResidualBlock(2 * w))
        self.up0 = nn.Sequential(nn.Conv2d(3 * w, w, 1), ResidualBlock(w))
        self.head = nn.Conv2d(w, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        x0 = self.stem(images * 2 - 1)  # (B, w, 64, 64)
        x1 = self.down1(x0)  # (B, 2w, 32, 32)
        x2 = self.down2(x1)  # (B, 3w, 16, 16)
        x3 = self.middle(self.down3(x2))  # (B, 3w, 8, 8)
        x = self.up2(torch.cat([_double(x3), x2], 1))
        x = self.up1(torch.cat([_double(x), x1], 1))
        return self.head(self.up0(torch.cat([_double(x), x0], 1)))


def _double(x: Tensor) -> Tensor:
    return torch.nn.functional.interpolate(x, scale_factor=2, mode="nearest")


@dataclass(frozen=True)
class SynthParser:
    """The parser, and by what it sees whether there is a face.

    confidence: the least mean probability of a face. On 1,000 faces the judge's is 0.955 and more, the guide's 0.918;
    on noise, decoded noise and 240 style references none reaches 0.92 (judge) or 0.89 (guide) with all parts of a face
    in the image.
    """

    network: FaceParser
    confidence: float

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (B, 19, 64, 64); gradients pass."""
        return self.network(images)

    @torch.inference_mode()
    def parse(self, images: Tensor) -> Tensor:
        """Logits (B, 19, 64, 64), CelebAMask-HQ order."""
        return self.network(for_scoring(images, self.network))

    def labels(self, images: Tensor) -> Tensor:
        """Classes int64 (B, 64, 64)."""
        return self.parse(images).argmax(1)

    def has_face(self, images: Tensor) -> Tensor:
        """bool (B,): whether the parser sees every part that a face has, and is sure of what it sees."""
        probability, classes = self.parse(images).softmax(1).max(1)  # (B, 64, 64) each
        present = probability.mean((1, 2)) >= self.confidence
        for kinds, least in FACE_PARTS.items():
            present = present & (torch.isin(classes, torch.tensor(kinds, device=classes.device)).sum((1, 2)) >= least)
        return present

    def face_status(self, images: Tensor) -> list[str]:
        """'ok' or 'no face found'."""
        return ["ok" if face else NO_FACE for face in self.has_face(images).tolist()]


def load_parser(path: Path, confidence: float, device: torch.device | str = "cpu") -> SynthParser:
    """The parser of SynthFaces from its committed weights."""
    return SynthParser(load_perception(FaceParser, path, device), confidence)
