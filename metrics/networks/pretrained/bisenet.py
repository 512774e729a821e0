"""BiSeNet (Yu et al., ECCV 2018), the face parser of face-parsing.PyTorch: what FreeDoM and Z-Magic are guided by.

Its spatial path is the 1/8 feature of the ResNet-18 in the context path. The file `79999_iter.pth` answers in
*BiSeNet's* class order; `BiSeNetParser` converts to the CelebAMask-HQ order (data/labels.py) before anybody sees a
class.

FreeDoM's preparation: bicubic (a = -0.75, no antialiasing) to 512, then ImageNet's mean and std. The network's
first output alone is used; the other two are training's.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from concord.data.labels import CLASSES, lookup
from concord.metrics.networks.pretrained.weights import frozen, load_strictly, read_state, to_uint8, weight_path

SIZE = 512
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ConvNormReLU(nn.Module):
    """relu(norm(conv(x))), the convolution without bias."""

    def __init__(self, channels: int, out_channels: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class ResidualBlock(nn.Module):
    """ResNet's basic block (He et al. 2016): relu(x + norm(conv(relu(norm(conv(x))))))."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = nn.Sequential()  # x itself
        if stride != 1 or channels != out_channels:
            shortcut = nn.Conv2d(channels, out_channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(self.downsample(x) + y)


class ResNet18(nn.Module):
    """Images (B, 3, H, W) -> features of 1/8 (B, 128), 1/16 (B, 256) and 1/32 (B, 512); torchvision's, unclassified.

    Written out because importing torchvision takes longer than parsing an image.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False), nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(ResidualBlock(64, 64, 1), ResidualBlock(64, 64, 1))
        self.layer2 = nn.Sequential(ResidualBlock(64, 128, 2), ResidualBlock(128, 128, 1))
        self.layer3 = nn.Sequential(ResidualBlock(128, 256, 2), ResidualBlock(256, 256, 1))
        self.layer4 = nn.Sequential(ResidualBlock(256, 512, 2), ResidualBlock(512, 512, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, padding=1)
        at8 = self.layer2(self.layer1(x))
        at16 = self.layer3(at8)
        return at8, at16, self.layer4(at16)


class AttentionRefinement(nn.Module):
    """The feature, each channel weighed by a sigmoid of the image's mean feature (section 3.2 of the paper)."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = ConvNormReLU(channels, out_channels)
        self.conv_atten = nn.Conv2d(out_channels, out_channels, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        feature = self.conv(x)
        weight = self.bn_atten(self.conv_atten(feature.mean(dim=(2, 3), keepdim=True)))
        return feature * weight.sigmoid()


class ContextPath(nn.Module):
    """Images (B, 3, H, W) -> features of 1/8 (ResNet's own, and context (B, 128)) and context of 1/16."""

    def __init__(self) -> None:
        super().__init__()
        self.resnet = ResNet18()
        self.arm16, self.arm32 = AttentionRefinement(256, 128), AttentionRefinement(512, 128)
        self.conv_head32, self.conv_head16 = ConvNormReLU(128, 128), ConvNormReLU(128, 128)
        self.conv_avg = ConvNormReLU(512, 128, kernel=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        at8, at16, at32 = self.resnet(x)
        tail = self.conv_avg(at32.mean(dim=(2, 3), keepdim=True))  # one vector: broadcast over the pixels
        context16 = self.conv_head32(_to_size_of(self.arm32(at32) + tail, at16))
        context8 = self.conv_head16(_to_size_of(self.arm16(at16) + context16, at8))
        return at8, context8, context16


class FeatureFusion(nn.Module):
    """Both paths joined; channels weighed as in squeeze-and-excitation, then added to what was weighed."""

    def __init__(self, channels: int = 256) -> None:
        super().__init__()
        self.convblk = ConvNormReLU(channels, channels, kernel=1)
        self.conv1 = nn.Conv2d(channels, channels // 4, 1, bias=False)
        self.conv2 = nn.Conv2d(channels // 4, channels, 1, bias=False)

    def forward(self, spatial: Tensor, context: Tensor) -> Tensor:
        feature = self.convblk(torch.cat([spatial, context], dim=1))
        weight = self.conv2(F.relu(self.conv1(feature.mean(dim=(2, 3), keepdim=True))))
        return feature + feature * weight.sigmoid()


class Head(nn.Module):
    """Feature -> logits at the feature's size."""

    def __init__(self, channels: int, middle: int, classes: int) -> None:
        super().__init__()
        self.conv = ConvNormReLU(channels, middle)
        self.conv_out = nn.Conv2d(middle, classes, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(self.conv(x))


class BiSeNet(nn.Module):
    """Normalised images (B, 3, H, W), sides multiples of 32 -> logits (B, 19, H, W) in *BiSeNet's* class order."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.cp = ContextPath()
        self.ffm = FeatureFusion()
        self.conv_out = Head(256, 256, classes)
        self.conv_out16, self.conv_out32 = Head(128, 64, classes), Head(128, 64, classes)  # in the file; training's

    def forward(self, x: Tensor) -> Tensor:
        spatial, context, _ = self.cp(x)
        logits = self.conv_out(self.ffm(spatial, context))
        return F.interpolate(logits, x.shape[2:], mode="bilinear", align_corners=True)


class BiSeNetParser(nn.Module):
    """Images (B, 3, H, W) RGB in [0, 1] -> logits (B, 19, 512, 512) in the *CelebAMask-HQ* order; differentiable."""

    mean: Tensor
    std: Tensor
    order: Tensor

    def __init__(self, network: BiSeNet) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)
        # Channel k of the answer is the class that CelebAMask-HQ calls k: take BiSeNet's channel of that name.
        self.register_buffer("order", torch.from_numpy(lookup("celebamask-hq", "bisenet")), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[2:] != (SIZE, SIZE):
            images = F.interpolate(images, SIZE, mode="bicubic", align_corners=False)
        return self.network((images - self.mean) / self.std).index_select(1, self.order)

    def parse(self, images: Tensor) -> Tensor:
        """The same: what scores by FreeDoM's distance looks as the guide does."""
        return self(images)

    def parse_reference(self, images: Tensor) -> Tensor:
        """The same of a reference picture, which FreeDoM brings to 512 by Pillow's bilinear filter, at 8 bits."""
        if images.shape[2:] == (SIZE, SIZE):
            return self(images)
        from PIL import Image

        resized = [Image.fromarray(x).resize((SIZE, SIZE), Image.Resampling.BILINEAR) for x in to_uint8(images)]
        pictures = torch.from_numpy(np.stack([np.asarray(x) for x in resized]))
        return self(pictures.permute(0, 3, 1, 2).to(self.mean) / 255)


def _to_size_of(x: Tensor, other: Tensor) -> Tensor:
    return F.interpolate(x, other.shape[2:], mode="nearest")


def load_bisenet(path: Path | None = None, device: torch.device | str = "cpu") -> BiSeNetParser:
    """The parser with the weights of `79999_iter.pth` (face-parsing.PyTorch)."""
    path = weight_path("bisenet", path)
    network = BiSeNet()
    load_strictly(network, read_state(path), path)
    parser = frozen(BiSeNetParser(network), device)
    assert isinstance(parser, BiSeNetParser)
    return parser
