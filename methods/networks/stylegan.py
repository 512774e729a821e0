"""A StyleGAN2-type generator and discriminator (Karras et al., CVPR 2020) at 64x64, and encoders into its W+.

    w      = f(z / rms(z))                                         the mapping network
    w'_ijk = s_i w_ijk                                             modulation: s = A w + b      (equation 1)
    w''    = w' / sqrt(sum_ik w'_ijk^2 + eps)                      demodulation                 (equation 3)

W+ has one vector per layer (Abdal et al. 2019): 9 convolutions and the last image layer make 10 at 64x64. A convolution
with w'' is computed as shared weights between a scaling of its input (s) and of its output (the demodulation): the same
number, and no grouped convolution. A layer that doubles the resolution convolves first and interpolates then, a quarter
of the arithmetic of the paper's transposed convolution; the picture is the sum of all resolutions' images ("skip"). The
discriminator is residual, ends in the minibatch deviation, and begins at half the resolution with 2x2 pixels in the
channels. All weights are N(0, 1), scaled as they are used (equalised learning rate, Karras et al. 2018).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, leaky_relu, linear, one_hot, pixel_unshuffle

from concord.data.checkpoints import load_network
from concord.metrics.networks.embedded.blocks import ResidualBlock

GAIN = math.sqrt(2)  # of the leaky ReLU with slope 0.2
EPSILON = 1e-8
CLASSES = 19


def activate(x: Tensor) -> Tensor:
    """Leaky ReLU that keeps unit variance."""
    return leaky_relu(x, 0.2) * GAIN


class Dense(nn.Module):
    """A linear layer at an equalised learning rate; `slow` below 1 makes it learn as much more slowly."""

    def __init__(self, inputs: int, outputs: int, bias: float = 0.0, slow: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / slow)
        self.bias = nn.Parameter(torch.full((outputs,), bias / slow))
        self.scale, self.slow = slow / math.sqrt(inputs), slow

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight * self.scale, self.bias * self.slow)


class Convolution(nn.Module):
    """A plain convolution at an equalised learning rate."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scale, self.padding = 1 / math.sqrt(inputs * kernel**2), kernel // 2

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(x, self.weight * self.scale, self.bias, padding=self.padding)


def modulated_convolution(x: Tensor, weight: Tensor, style: Tensor, demodulate: bool = True) -> Tensor:
    """Each sample convolved with its own weights (equations 1 and 3).

    x: (B, I, H, W). weight: (O, I, k, k), k odd. style: (B, I). Returns (B, O, H, W).
    """
    x = conv2d(x * style[:, :, None, None], weight, padding=weight.shape[-1] // 2)
    if not demodulate:
        return x
    energy = style.square() @ weight.square().sum((2, 3)).T  # (B, O)
    return x * (energy + EPSILON).rsqrt()[:, :, None, None]


class StyledLayer(nn.Module):
    """Modulated convolution, doubling if wanted, noise, bias, leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, width: int, double: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.style = Dense(width, inputs, bias=1.0)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.strength = nn.Parameter(torch.zeros(()))  # of the noise
        self.scale, self.doubles = 1 / math.sqrt(9 * inputs), double

    def forward(self, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        """x (B, I, H, W), w (B, D), noise (B, 1, H', W') -> (B, O, H', W')."""
        x = modulated_convolution(x, self.weight * self.scale, self.style(w))
        if self.doubles:
            x = interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return activate(x + self.strength * noise + self.bias[:, None, None])


class ImageLayer(nn.Module):
    """Features to RGB: a modulated 1x1 convolution without demodulation."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, inputs, 1, 1))
        self.style = Dense(width, inputs, bias=1.0)
        self.bias = nn.Parameter(torch.zeros(3))
        self.scale = 1 / math.sqrt(inputs)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return modulated_convolution(x, self.weight * self.scale, self.style(w), False) + self.bias[:, None, None]


class StyleGenerator(nn.Module):
    """W+ codes (B, L, D) and noise -> images (B, 3, S, S) around [0, 1], not clamped.

    channels: of the resolutions 4, 8, 16, ..; five of them make 64x64 and L = 10.
    """

    w_mean: Tensor
    w_std: Tensor

    def __init__(self, channels: Sequence[int] = (96, 96, 80, 48, 24), width: int = 96, depth: int = 4) -> None:
        super().__init__()
        self.width, self.size = width, 4 * 2 ** (len(channels) - 1)
        slow = 0.01  # the mapping learns at a hundredth of the rate
        self.mapping = nn.ModuleList(Dense(width, width, slow=slow) for _ in range(depth))
        self.register_buffer("w_mean", torch.zeros(width))
        self.register_buffer("w_std", torch.ones(width))
        self.constant = nn.Parameter(torch.randn(channels[0], 4, 4))
        self.layers = nn.ModuleList([StyledLayer(channels[0], channels[0], width)])
        for before, here in itertools.pairwise(channels):
            self.layers.append(StyledLayer(before, here, width, double=True))
            self.layers.append(StyledLayer(here, here, width))
        self.images = nn.ModuleList(ImageLayer(c, width) for c in channels)

    @property
    def codes(self) -> int:
        """L, the vectors of a W+ code."""
        return len(self.layers) + 1

    @property
    def noise_sizes(self) -> list[int]:
        """The height (and width) of every layer's noise, in order."""
        return [4 * 2 ** ((number + 1) // 2) for number in range(len(self.layers))]

    def map(self, z: Tensor) -> Tensor:
        """w (B, D) from z (B, D) ~ N(0, I)."""
        w = z * (z.square().mean(-1, keepdim=True) + EPSILON).rsqrt()
        for layer in self.mapping:
            w = activate(layer(w))
        return w

    def plus(self, w: Tensor) -> Tensor:
        """The W+ code (B, L, D) that repeats w (B, D) in every layer."""
        return w[:, None].expand(-1, self.codes, -1)

    @torch.no_grad()
    def measure(self, samples: int = 8192) -> None:
        """Find the mean and the deviation of w, which encoders start from and are held to."""
        z = torch.randn(samples, self.width, generator=torch.Generator("cpu").manual_seed(0))
        w = self.map(z.to(self.constant))
        self.w_mean.copy_(w.mean(0))
        self.w_std.copy_(w.std(0).clamp(min=1e-3))

    def forward(self, codes: Tensor, noise: Sequence[Tensor]) -> Tensor:
        """codes (B, L, D); noise: one (B, 1, s, s) per convolution, s as `noise_sizes` says."""
        x = self.constant.expand(len(codes), -1, -1, -1)
        picture: Tensor | None = None
        for number, layer in enumerate(self.layers):
            x = layer(x, codes[:, number], noise[number])
            if number % 2 == 0:  # the last layer of a resolution: its image is added to the enlarged one so far
                image = self.images[number // 2](x, codes[:, number + 1])
                if picture is not None:
                    image = image + interpolate(picture, scale_factor=2, mode="bilinear", align_corners=False)
                picture = image
        assert picture is not None
        return (picture + 1) / 2


def draw_layer_noise(generators: Sequence[torch.Generator], sizes: Sequence[int], device: torch.device) -> list[Tensor]:
    """Noise inputs of every layer, row i from generators[i] alone: an image does not depend on its batch."""
    from concord.methods.core.noise import draw_noise

    return [draw_noise(generators, (1, size, size), device) for size in sizes]


# ------------------------------------------------------------------------------------------------------ discriminator


class DiscriminatorBlock(nn.Module):
    """Residual: two convolutions and half the resolution, beside a 1x1 convolution; divided by sqrt(2)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = Convolution(inputs, inputs)
        self.second = Convolution(inputs, outputs)
        self.skip = Convolution(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        half = torch.nn.functional.avg_pool2d
        body = activate(self.second(half(activate(self.first(x)), 2)))  # halved first: a quarter of the arithmetic
        return (body + self.skip(half(x, 2))) / GAIN


def minibatch_deviation(x: Tensor, group: int = 4) -> Tensor:
    """(B, C, H, W) -> (B, C + 1, H, W): the mean deviation within groups, so that alike samples show (Karras 2018).

    A batch that `group` does not divide is one group.
    """
    size = group if len(x) % group == 0 else len(x)
    parts = x.reshape(-1, size, *x.shape[1:])  # (G, size, C, H, W)
    deviation = ((parts - parts.mean(1, keepdim=True)).square().mean(1) + EPSILON).sqrt().mean((1, 2, 3))  # (G,)
    plane = deviation.repeat_interleave(size)[:, None, None, None].expand(-1, 1, *x.shape[2:])
    return torch.cat([x, plane], dim=1)


class StyleDiscriminator(nn.Module):
    """Images (B, 3, S, S) in [0, 1] -> logits (B,), high for real ones. channels: of 4, 8, .., S/2 pixels."""

    def __init__(self, channels: Sequence[int] = (96, 96, 80, 48)) -> None:
        super().__init__()
        wide = list(reversed(channels))
        self.first = Convolution(12, wide[0])
        self.blocks = nn.ModuleList(DiscriminatorBlock(a, b) for a, b in itertools.pairwise(wide))
        self.last = Convolution(wide[-1] + 1, wide[-1])
        self.dense = Dense(16 * wide[-1], wide[-1])
        self.head = Dense(wide[-1], 1)

    def forward(self, images: Tensor) -> Tensor:
        x = activate(self.first(pixel_unshuffle(images * 2 - 1, 2)))
        for block in self.blocks:
            x = block(x)
        x = activate(self.last(minibatch_deviation(x)))
        return self.head(activate(self.dense(x.flatten(1))))[:, 0]


class StyleGAN(nn.Module):
    """Generator and discriminator, as they are trained together."""

    def __init__(self, generator: StyleGenerator, discriminator: StyleDiscriminator) -> None:
        super().__init__()
        self.generator, self.discriminator = generator, discriminator


# ----------------------------------------------------------------------------------------------------------- encoders


class MaskToCode(nn.Module):
    """Masks int64 (B, S, S) -> W+ codes in deviations from the mean (B, L, D), as pSp's (Richardson et al. 2021).

    A pyramid of features; the coarse layers of the code read its smallest map, the fine ones its largest.
    """

    def __init__(self, codes: int = 10, width: int = 96, channels: int = 32, size: int = 64) -> None:
        super().__init__()
        c = channels
        self.codes, self.size = codes, size
        self.stem = nn.Sequential(nn.Conv2d(CLASSES, c, 4, stride=4), ResidualBlock(c))  # 16x16
        self.middle = nn.Sequential(nn.Conv2d(c, 2 * c, 3, stride=2, padding=1), ResidualBlock(2 * c))  # 8x8
        self.coarse = nn.Sequential(nn.Conv2d(2 * c, 2 * c, 3, stride=2, padding=1), ResidualBlock(2 * c))  # 4x4
        self.split = (min(4, codes), min(8, codes))  # 4x4 and 8x8; 16x16 and 32x32; 64x64
        groups = (self.split[0], self.split[1] - self.split[0], codes - self.split[1])
        cells = (size // 16) ** 2
        inputs = (2 * c * cells, 2 * c * cells, c * cells)  # the two larger maps are averaged to the smallest's size
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Flatten(), nn.Linear(i, 4 * width), nn.SiLU(), nn.Linear(4 * width, n * width))
            for i, n in zip(inputs, groups, strict=True)
            if n
        )
        for head in self.heads:
            last = head.get_submodule("3")
            assert isinstance(last, nn.Linear)
            nn.init.normal_(last.weight, std=1e-2)  # close to the mean's picture at first
            nn.init.zeros_(last.bias)

    def forward(self, masks: Tensor) -> Tensor:
        fine = self.stem(one_hot(masks, CLASSES).movedim(-1, 1).float())
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        place = torch.nn.functional.adaptive_avg_pool2d
        maps = (coarse, place(middle, coarse.shape[-1]), place(fine, coarse.shape[-1]))
        found = torch.cat([head(m) for head, m in zip(self.heads, maps, strict=False)], dim=1)
        return found.reshape(len(masks), self.codes, -1)


class TextToCode(nn.Module):
    """Caption embeddings (B, E) of the text guide -> W+ codes in deviations from the mean (B, L, D)."""

    def __init__(self, codes: int = 10, width: int = 96, embedding: int = 64, hidden: int = 256) -> None:
        super().__init__()
        self.codes = codes
        last = nn.Linear(hidden, codes * width)
        nn.init.normal_(last.weight, std=1e-2)
        nn.init.zeros_(last.bias)
        self.body = nn.Sequential(
            nn.Linear(embedding, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            last,
        )

    def forward(self, embeddings: Tensor) -> Tensor:
        scaled = embeddings * math.sqrt(embeddings.shape[1])  # unit vectors have tiny entries
        return self.body(scaled).reshape(len(embeddings), self.codes, -1)


def to_plus(generator: StyleGenerator, deviations: Tensor) -> Tensor:
    """W+ codes (B, L, D) from an encoder's output, which counts in the deviations of W around its mean."""
    return generator.w_mean + generator.w_std * deviations


def load_stylegan(path: Path, device: torch.device | str = "cpu") -> StyleGenerator:
    """The generator from its committed weights."""
    return load_network(StyleGenerator, path, device)


def load_mask_encoder(path: Path, device: torch.device | str = "cpu") -> MaskToCode:
    """The encoder of masks from its committed weights."""
    return load_network(MaskToCode, path, device)


def load_text_encoder(path: Path, device: torch.device | str = "cpu") -> TextToCode:
    """The encoder of captions from its committed weights."""
    return load_network(TextToCode, path, device)
