"""The dynamic diffuser of Collaborative Diffusion (Huang et al. 2023, section 3.2, figure 3, supplement A.1).

A small time-conditional UNet that predicts one modality's influence I_m(x_t, t, c_m) at every latent pixel. The
timestep enters by adaptive layer normalisation (equation 9), the condition by cross-attention (equations 10 and 11).
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from concord.data.checkpoints import load_network
from concord.methods.networks.experts import LATENT, Encoded


class AdaptiveLayerNorm(nn.Module):
    """h_out = (1 + s(t)) LayerNorm(h_in) + b(t), normalised over the channels (equation 9); h is (B, C, H, W)."""

    def __init__(self, channels: int, time: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, elementwise_affine=False)
        self.project = nn.Linear(time, 2 * channels)  # s(t) and b(t)

    def forward(self, h: Tensor, time: Tensor) -> Tensor:
        scale, bias = self.project(time)[:, :, None, None].chunk(2, dim=1)
        return (1 + scale) * self.norm(h.movedim(1, -1)).movedim(-1, 1) + bias


class Block(nn.Module):
    """Residual convolutions with adaptive normalisation, then cross-attention to the condition's tokens."""

    def __init__(self, channels: int, time: int, tokens: int, attend: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = AdaptiveLayerNorm(channels, time), AdaptiveLayerNorm(channels, time)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.attend = attend
        if attend:
            self.norm3 = AdaptiveLayerNorm(channels, time)
            self.attention = nn.MultiheadAttention(channels, 2, kdim=tokens, vdim=tokens, batch_first=True)

    def forward(self, h: Tensor, time: Tensor, encoded: Encoded) -> Tensor:
        silu = nn.functional.silu
        h = h + self.conv2(silu(self.norm2(self.conv1(silu(self.norm1(h, time))), time)))
        if self.attend:
            query = self.norm3(h, time).flatten(2).transpose(1, 2)  # (B, H W, C)
            padding = None if encoded.keep is None else encoded.keep < 0.5
            found, _ = self.attention(query, encoded.tokens, encoded.tokens, padding, need_weights=False)
            h = h + found.transpose(1, 2).reshape(h.shape)
        return h


class DynamicDiffuser(nn.Module):
    """I_m = D_phi_m(x_t, t, c_m): latents (B, 6, 16, 16), t, tau(c_m) -> influence (B, 1, 16, 16) (equation 5)."""

    def __init__(self, tokens: int = 96, width: int = 16, time: int = 48) -> None:
        super().__init__()
        self.time_width = time
        self.time = nn.Sequential(nn.Linear(time, time), nn.SiLU(), nn.Linear(time, time), nn.SiLU())
        # Where a query stands decides what it asks of the condition's tokens.
        self.place = nn.Parameter(torch.randn(1, width, *LATENT[1:]) * 0.02)
        self.stem = nn.Conv2d(LATENT[0], width, 3, padding=1)
        self.down = Block(width, time, tokens, attend=True)
        self.shrink = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.middle = Block(2 * width, time, tokens, attend=True)
        self.grow = nn.Conv2d(2 * width, width, 1)
        self.up = Block(width, time, tokens, attend=True)
        self.head = nn.Conv2d(width, 1, 3, padding=1)
        nn.init.zeros_(self.head.weight)  # all modalities start with equal influence: the average of Composable
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)

    def forward(self, x_t: Tensor, t: Tensor | int, encoded: Encoded) -> Tensor:
        time = self.time(self._wave(t, x_t))
        fine = self.down(self.stem(x_t) + self.place, time, encoded)  # (B, w, 16, 16)
        coarse = self.middle(self.shrink(fine), time, encoded)  # (B, 2w, 8, 8)
        grown = nn.functional.interpolate(self.grow(coarse), scale_factor=2, mode="nearest")
        return self.head(self.up(fine + grown, time, encoded))

    def _wave(self, t: Tensor | int, like: Tensor) -> Tensor:
        """Sinusoidal embedding of t (B, time); Vaswani et al. 2017."""
        steps = torch.as_tensor(t, device=like.device, dtype=like.dtype).reshape(-1).expand(len(like))
        half = self.time_width // 2
        frequency = torch.exp(-math.log(10_000) * torch.arange(half, device=like.device, dtype=like.dtype) / half)
        angle = steps[:, None] * frequency
        return torch.cat([angle.sin(), angle.cos()], dim=1)


def load_dynamic_diffuser(path: Path, device: torch.device | str = "cpu") -> DynamicDiffuser:
    """A dynamic diffuser of SynthFaces from its committed weights."""
    return load_network(DynamicDiffuser, path, device)
