"""MobileFaceNet (Chen et al., CCBR 2018) with 136 outputs, of pytorch_face_landmark: FreeDoM's and Z-Magic's landmarks.

The network sees a square of the image, 112 x 112 RGB in [0, 1], and answers 68 points in iBUG order as shares of that
square. FreeDoM fixes the square once, from the *reference* image, and cuts every generated image with it: where the
generated face lies elsewhere, that is part of the distance. Its rule from a face box (x1, y1, x2, y2):

    w = x2 - x1 + 1, h = y2 - y1 + 1;  side = int(1.2 min(w, h));  centre = (x1 + w // 2, y1 + h // 2)

and bicubic (a = -0.75, no antialiasing) to 112. Two differences: FreeDoM reads the reference as BGR, resized by
OpenCV's bilinear, and the generated image as RGB, so that even the reference itself is not at distance 0; here both
are RGB and bicubic. And a square that leaves the image is completed with black, where FreeDoM's slicing would wrap
around or shrink.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from concord.metrics.face.square import Square, landmark_vector
from concord.metrics.networks.pretrained.weights import frozen, load_strictly, read_state, weight_path

SIZE = 112
POINTS = 68


class ConvNorm(nn.Module):
    """norm(conv(x)), with a PReLU behind it unless `linear`."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        kernel: int = 1,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.prelu = nn.Identity() if linear else nn.PReLU(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.prelu(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    """Widened, filtered depth-wise, projected; added to its input where `residual`."""

    def __init__(self, channels: int, out_channels: int, middle: int, stride: int = 1, residual: bool = False) -> None:
        super().__init__()
        self.conv = ConvNorm(channels, middle)
        self.conv_dw = ConvNorm(middle, middle, 3, stride, 1, groups=middle)
        self.project = ConvNorm(middle, out_channels, linear=True)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.conv_dw(self.conv(x)))
        return x + y if self.residual else y


class Repeated(nn.Module):
    """`count` residual bottlenecks."""

    def __init__(self, channels: int, count: int, middle: int) -> None:
        super().__init__()
        self.model = nn.Sequential(*(Bottleneck(channels, channels, middle, residual=True) for _ in range(count)))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class Output(nn.Module):
    """One depth-wise filter as large as the image, then a linear layer."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.conv_6_dw = ConvNorm(channels, channels, 7, groups=channels, linear=True)
        self.linear = nn.Linear(channels, outputs, bias=False)
        self.bn = nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.linear(self.conv_6_dw(x).flatten(1)))


class MobileFaceNet(nn.Module):
    """Faces (B, 3, 112, 112) RGB in [0, 1] -> (B, 136): x and y of 68 points as shares of the square."""

    def __init__(self, outputs: int = 2 * POINTS, width: int = 64) -> None:
        super().__init__()
        w = width
        self.conv1 = ConvNorm(3, w, 3, 2, 1)  # 56
        self.conv2_dw = ConvNorm(w, w, 3, 1, 1, groups=w)
        self.conv_23 = Bottleneck(w, w, 2 * w, stride=2)  # 28
        self.conv_3 = Repeated(w, 4, 2 * w)
        self.conv_34 = Bottleneck(w, 2 * w, 4 * w, stride=2)  # 14
        self.conv_4 = Repeated(2 * w, 6, 4 * w)
        self.conv_45 = Bottleneck(2 * w, 2 * w, 8 * w, stride=2)  # 7
        self.conv_5 = Repeated(2 * w, 2, 4 * w)
        self.conv_6_sep = ConvNorm(2 * w, 8 * w)
        self.output_layer = Output(8 * w, outputs)

    def forward(self, faces: Tensor) -> Tensor:
        x = self.conv_3(self.conv_23(self.conv2_dw(self.conv1(faces))))
        x = self.conv_5(self.conv_45(self.conv_4(self.conv_34(x))))
        return self.output_layer(self.conv_6_sep(x))


class SquareLandmarks(nn.Module):
    """MobileFaceNet on given squares of images; differentiable."""

    def __init__(self, network: MobileFaceNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, squares: Sequence[Square]) -> Tensor:
        """Images (B, 3, H, W) RGB in [0, 1], a square each -> (B, 136), shares of the squares."""
        faces = [cut(image, square) for image, square in zip(images, squares, strict=True)]
        return self.network(torch.stack(faces))

    def landmark_vectors(self, images: Tensor, squares: Sequence[Square]) -> tuple[Tensor, list[str]]:
        """(B, 136), and 'ok' for each: given the square, no face has to be found."""
        return self(images, squares), ["ok"] * len(images)

    def landmark_residual(self, images: Tensor, points: Tensor, squares: Sequence[Square]) -> Tensor:
        """(B, 136), as shares of the squares: less the target points (B, 68, 2) in pixels; gradients pass."""
        return self(images, squares) - landmark_vector(points.to(images.dtype), list(squares))


def cut(image: Tensor, square: Square) -> Tensor:
    """The square of an image (3, H, W), black outside of it, as (3, 112, 112)."""
    height, width = image.shape[1:]
    top, left = max(0, square.top), max(0, square.left)
    bottom, right = min(height, square.top + square.side), min(width, square.left + square.side)
    inside = image[:, top : max(top, bottom), left : max(left, right)]
    room = (
        left - square.left,
        square.side - inside.shape[2] - (left - square.left),
        top - square.top,
        square.side - inside.shape[1] - (top - square.top),
    )
    return F.interpolate(F.pad(inside, room)[None], SIZE, mode="bicubic", align_corners=False)[0]


def load_mobilefacenet(
    path: Path | None = None, device: torch.device | str = "cpu", width: int = 64
) -> SquareLandmarks:
    """The network with the weights of `mobilefacenet_model_best.pth.tar` (width 64)."""
    path = weight_path("mobilefacenet", path)
    network = MobileFaceNet(width=width)
    load_strictly(network, read_state(path, "state_dict"), path)
    landmarks = frozen(SquareLandmarks(network), device)
    assert isinstance(landmarks, SquareLandmarks)
    return landmarks
