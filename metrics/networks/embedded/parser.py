"""Face parser: images to the 19 classes of CelebAMask-HQ (a small U-Net, Ronneberger et al. 2015, with SiLU)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from concord.metrics.networks.embedded.blocks import ResidualBlock


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
