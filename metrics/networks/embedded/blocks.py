"""Convolutional blocks that the small networks share. Smooth activations (SiLU): guides are differentiated twice."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from concord.data.checkpoints import load_network
from concord.data.errors import ConcordError

Network = TypeVar("Network", bound=nn.Module)
SIDE = 64


def load_perception(kind: type[Network], path: Path, device: torch.device | str) -> Network:
    """An embedded network that judges or guides; its kernels lie channels last, as scoring lays its images."""
    return load_network(kind, path, device).to(memory_format=torch.channels_last)


def for_scoring(images: Tensor, network: nn.Module) -> Tensor:
    """Images (B, 3, 64, 64) on the network's device, channels last; ConcordError for another size."""
    if images.ndim != 4 or images.shape[1:] != (3, SIDE, SIDE):
        raise ConcordError(f"images of shape {tuple(images.shape)}: the embedded judges expect (B, 3, {SIDE}, {SIDE})")
    device = next(network.parameters()).device
    return images.to(device).contiguous(memory_format=torch.channels_last)


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), the second convolution starting at zero.

    (B, C, H, W) -> (B, C', H, W).
    """

    def __init__(self, channels: int, out_channels: int | None = None, groups: int = 8) -> None:
        super().__init__()
        out_channels = out_channels or channels
        self.body = nn.Sequential(
            nn.GroupNorm(groups, channels),
            nn.SiLU(),
            nn.Conv2d(channels, out_channels, 3, padding=1),
            nn.GroupNorm(groups, out_channels),
            nn.SiLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        last = self.body[-1]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.skip = nn.Identity() if out_channels == channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.body(x)


class Pyramid(nn.Module):
    """Images (B, 3, 64, 64) in [0, 1] -> a feature vector (B, D): halved five times, then averaged."""

    def __init__(self, width: int, features: int) -> None:
        super().__init__()
        w = width
        self.body = nn.Sequential(
            nn.Conv2d(12, w, 3, padding=1),  # (B, w, 32, 32), after pixel_unshuffle
            ResidualBlock(w),
            nn.Conv2d(w, 2 * w, 3, stride=2, padding=1),  # 16
            ResidualBlock(2 * w),
            ResidualBlock(2 * w),
            nn.Conv2d(2 * w, 3 * w, 3, stride=2, padding=1),  # 8
            ResidualBlock(3 * w),
            nn.Conv2d(3 * w, 4 * w, 3, stride=2, padding=1),  # 4
            ResidualBlock(4 * w),
            nn.GroupNorm(8, 4 * w),
            nn.SiLU(),
        )
        # A drawn face is centred: where a thing is says what it is, so the 4x4 grid is kept rather than averaged away.
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(4 * w * 16, features))

    def maps(self, images: Tensor) -> Tensor:
        """What the head reads, (B, 4 w, 4, 4)."""
        return self.body(torch.nn.functional.pixel_unshuffle(images * 2 - 1, 2))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.maps(images))
