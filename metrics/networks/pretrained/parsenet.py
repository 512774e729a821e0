"""Parsenet, CelebAMask-HQ's own face parser (Lee et al., CVPR 2020): the judge of masks, as in Collaborative Diffusion.

A U-Net (Ronneberger et al. 2015) of a quarter of the usual width, with transposed convolutions. Its classes are in the
CelebAMask-HQ order already, as it was trained on the masks of that dataset. Preparation as in the dataset's test
script: NEAREST to 512, then (x - 0.5) / 0.5.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from concord.data.labels import CLASSES
from concord.metrics.networks.pretrained.weights import frozen, load_strictly, read_state, weight_path

SIZE = 512


class DoubleConv(nn.Module):
    """Twice relu(norm(conv(x))), the convolutions with bias."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = _conv(channels, out_channels), _conv(out_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x))


def _conv(channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels), nn.ReLU())


class Up(nn.Module):
    """Doubled by a transposed convolution, joined with the encoder's feature, which comes first."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(channels, out_channels, 2, stride=2)
        self.conv = DoubleConv(channels, out_channels)

    def forward(self, skip: Tensor, x: Tensor) -> Tensor:
        return self.conv(torch.cat([skip, self.up(x)], dim=1))


class Parsenet(nn.Module):
    """Normalised images (B, 3, H, W), sides multiples of 16 -> logits (B, 19, H, W), CelebAMask-HQ order."""

    def __init__(self, width: int = 16, classes: int = CLASSES) -> None:
        super().__init__()
        w = width
        self.conv1, self.conv2 = DoubleConv(3, w), DoubleConv(w, 2 * w)
        self.conv3, self.conv4 = DoubleConv(2 * w, 4 * w), DoubleConv(4 * w, 8 * w)
        self.center = DoubleConv(8 * w, 16 * w)
        self.up_concat4, self.up_concat3 = Up(16 * w, 8 * w), Up(8 * w, 4 * w)
        self.up_concat2, self.up_concat1 = Up(4 * w, 2 * w), Up(2 * w, w)
        self.final = nn.Conv2d(w, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.conv1(x)
        x2 = self.conv2(F.max_pool2d(x1, 2))
        x3 = self.conv3(F.max_pool2d(x2, 2))
        x4 = self.conv4(F.max_pool2d(x3, 2))
        x = self.up_concat4(x4, self.center(F.max_pool2d(x4, 2)))
        return self.final(self.up_concat1(x1, self.up_concat2(x2, self.up_concat3(x3, x))))


class ParsenetParser(nn.Module):
    """Images (B, 3, H, W) RGB in [0, 1] -> logits (B, 19, 512, 512), CelebAMask-HQ order."""

    def __init__(self, network: Parsenet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(nearest(images, (SIZE, SIZE)) * 2 - 1)

    def parse(self, images: Tensor) -> Tensor:
        """The same, by name."""
        return self(images)

    def labels(self, images: Tensor) -> Tensor:
        """Classes int64 (B, H, W) at the images' own size, taken at the centres of their pixels."""
        classes = self(images).argmax(1)
        return nearest(classes[:, None].to(torch.uint8), (images.shape[2], images.shape[3]))[:, 0].long()


def nearest(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Pillow's NEAREST (B, C, H, W) -> (B, C, *size): the source pixel under the centre of each new one."""
    return x if x.shape[2:] == size else F.interpolate(x, size, mode="nearest-exact")


def load_parsenet(path: Path | None = None, device: torch.device | str = "cpu", width: int = 16) -> ParsenetParser:
    """The parser with the weights of CelebAMask-HQ's `parsenet/model.pth` (width 16)."""
    path = weight_path("parsenet", path)
    network = Parsenet(width)
    load_strictly(network, read_state(path), path)
    parser = frozen(ParsenetParser(network), device)
    assert isinstance(parser, ParsenetParser)
    return parser
