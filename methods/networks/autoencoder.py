"""The first stage of latent diffusion (Rombach et al. 2022): images 64x64x3 to latents 16x16x6 and back.

Both directions are a linear map of 4x4 patches, found in closed form as their principal components, plus a residual
network that starts at zero. The linear part gives a usable latent space at once; the networks learn what it misses.
Latents are scaled by the components' deviations and held near unit variance in training, as diffusion expects them.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from concord.data.checkpoints import load_network
from concord.methods.networks.space import LatentSpace
from concord.metrics.networks.embedded.blocks import ResidualBlock

PATCH = 4


class Autoencoder(nn.Module):
    """encode: images (B, 3, 64, 64) in [0, 1] -> latents (B, 6, 16, 16); decode: back, not clamped."""

    mean: Tensor
    basis: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(self, channels: int = 6, width: int = 64, fine_width: int = 32, blocks: int = 2) -> None:
        super().__init__()
        self.channels = channels
        patch = 3 * PATCH**2
        self.register_buffer("mean", torch.zeros(patch))
        self.register_buffer("basis", torch.zeros(channels, patch))  # rows orthonormal
        self.register_buffer("shift", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))
        self.analysis = nn.Sequential(
            nn.Conv2d(12, fine_width, 3, padding=1),  # 32x32
            ResidualBlock(fine_width),
            nn.Conv2d(fine_width, width, 4, stride=2, padding=1),  # 16x16
            *[ResidualBlock(width) for _ in range(blocks)],
            _zero(nn.Conv2d(width, channels, 3, padding=1)),
        )
        self.synthesis = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),  # 16x16
            *[ResidualBlock(width) for _ in range(blocks)],
            nn.Conv2d(width, 4 * fine_width, 1),
            nn.PixelShuffle(2),  # 32x32
            ResidualBlock(fine_width),
            ResidualBlock(fine_width),
            nn.GroupNorm(8, fine_width),
            nn.SiLU(),
            _zero(nn.Conv2d(fine_width, 12, 3, padding=1)),
        )

    @torch.no_grad()
    def fit_linear(self, images: Tensor) -> None:
        """Principal components of the 4x4 patches of `images` (N, 3, 64, 64) in [0, 1]."""
        patches = pixel_unshuffle(images * 2 - 1, PATCH).movedim(1, -1).flatten(0, -2).double()  # (N 16 16, 48)
        mean = patches.mean(0)
        covariance = (patches - mean).T @ (patches - mean) / (len(patches) - 1)
        values, vectors = torch.linalg.eigh(covariance)  # ascending
        self.mean.copy_(mean)
        self.basis.copy_(vectors.T.flip(0)[: self.channels])
        self.shift.zero_()
        self.scale.copy_(values.flip(0)[: self.channels].sqrt())

    def _analyse(self, images: Tensor) -> Tensor:
        x = images * 2 - 1
        patches = pixel_unshuffle(x, PATCH) - self.mean[:, None, None]
        linear = torch.einsum("cp,bphw->bchw", self.basis, patches)  # (B, 6, 16, 16)
        return linear + self.analysis(pixel_unshuffle(x, 2))

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, 64, 64) in [0, 1] -> latents (B, 6, 16, 16)."""
        return (self._analyse(images) - self.shift[:, None, None]) / self.scale[:, None, None]

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, 6, 16, 16) -> images (B, 3, 64, 64) around [0, 1], not clamped: a guide's gradient survives."""
        z = latents * self.scale[:, None, None] + self.shift[:, None, None]
        linear = torch.einsum("cp,bchw->bphw", self.basis, z) + self.mean[:, None, None]  # (B, 48, 16, 16)
        return (pixel_shuffle(linear, PATCH) + pixel_shuffle(self.synthesis(latents), 2) + 1) / 2

    def forward(self, images: Tensor) -> Tensor:
        """The reconstruction."""
        return self.decode(self.encode(images))


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def load_space(path: Path, device: torch.device | str = "cpu") -> LatentSpace:
    """An embedded first stage: 64x64 images, latents (6, 16, 16)."""
    network = load_network(Autoencoder, path, device)
    return LatentSpace(network, (network.channels, 16, 16), 64)
