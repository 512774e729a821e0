"""IR-SE50 (ArcFace, Deng et al. 2019, in the form of TreB1eN's InsightFace_Pytorch): FreeDoM's and Z-Magic's identity.

FreeDoM looks at a fixed window of the image and aligns nothing: rows 35..222 and columns 32..219 of the image at
256 x 256, averaged down to 112 x 112, in [-1, 1]. On images that are not framed like CelebA-HQ that window is not
the face. Values are unit vectors of 512 numbers.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from concord.metrics.networks.pretrained.weights import frozen, load_strictly, read_state, weight_path
from concord.metrics.networks.protocols import FREEDOM_WINDOW

UNITS = (3, 4, 14, 3)  # blocks of each stage; the first of a stage halves the image


class Squeeze(nn.Module):
    """Channels weighed by a sigmoid of their means (Hu et al. 2018)."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.fc2(F.relu(self.fc1(x.mean(dim=(2, 3), keepdim=True))))
        return x * weight.sigmoid()


class Unit(nn.Module):
    """Shortcut + squeeze(norm(conv(prelu(conv(norm(x)))))); the stride is the second convolution's."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)  # every second pixel
        if channels != out_channels:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, out_channels, 3, padding=1, bias=False),
            nn.PReLU(out_channels),
            nn.Conv2d(out_channels, out_channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            Squeeze(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut_layer(x) + self.res_layer(x)


class IRSE50(nn.Module):
    """Faces (B, 3, 112, 112) in [-1, 1] -> unit vectors (B, 8 w); the published width w is 64."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.PReLU(width)
        )
        units, channels = [], width
        for stage, count in enumerate(UNITS):
            for unit in range(count):
                units.append(Unit(channels, width * 2**stage, 2 if unit == 0 else 1))
                channels = width * 2**stage
        self.body = nn.Sequential(*units)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.Dropout(0.4),
            nn.Flatten(),
            nn.Linear(channels * 7 * 7, channels),
            nn.BatchNorm1d(channels),
        )

    def forward(self, faces: Tensor) -> Tensor:
        return F.normalize(self.output_layer(self.body(self.input_layer(faces))), dim=1)


class FixedCropIdentity(nn.Module):
    """Images (B, 3, H, W) RGB in [0, 1] -> unit vectors (B, 512) of FreeDoM's fixed window; differentiable."""

    def __init__(self, network: IRSE50) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.embed_window(images, FREEDOM_WINDOW)

    def embed_window(self, images: Tensor, window: tuple[int, int, int, int]) -> Tensor:
        """window: top, bottom, left and right at 256 x 256."""
        if images.shape[2] != 256 or images.shape[3] != 256:
            images = F.adaptive_avg_pool2d(images, 256)
        top, bottom, left, right = window
        return self.network(F.adaptive_avg_pool2d(images[:, :, top:bottom, left:right], 112) * 2 - 1)

    embed = forward

    def embed_faces(self, images: Tensor) -> tuple[Tensor, list[str]]:
        """(unit vectors, 'ok' for each): a fixed window is always found."""
        return self(images), ["ok"] * len(images)


def load_ir_se50(path: Path | None = None, device: torch.device | str = "cpu", width: int = 64) -> FixedCropIdentity:
    """The network with the weights of `model_ir_se50.pth` (width 64)."""
    path = weight_path("ir-se50", path)
    network = IRSE50(width)
    load_strictly(network, read_state(path), path)
    identity = frozen(FixedCropIdentity(network), device)
    assert isinstance(identity, FixedCropIdentity)
    return identity
