"""The noise schedule and the algebra between its parametrisations (DDPM, Ho et al. 2020; DDIM, Song et al. 2021).

    q(x_t | x_0) = N(sqrt(abar_t) x_0, (1 - abar_t) I),   abar_t = prod_{s <= t} (1 - beta_s)

Timesteps are 0-based: t = 0 means diffused for one step. Tables are float64; they are cast where they meet a tensor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Schedule:
    """alphas_cumprod: float64 (T,), abar_0 .. abar_{T-1}, strictly decreasing in (0, 1)."""

    alphas_cumprod: Tensor

    @classmethod
    def scaled_linear(cls, start: float = 0.0015, end: float = 0.0195, steps: int = 1000) -> Schedule:
        """beta_t = (linspace(sqrt(start), sqrt(end)))^2: latent diffusion's, which Collaborative Diffusion uses."""
        betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
        return cls(torch.cumprod(1 - betas, dim=0))

    @property
    def steps(self) -> int:
        """T, the number of training timesteps."""
        return len(self.alphas_cumprod)

    def abar(self, t: int | Tensor, like: Tensor) -> Tensor:
        """abar_t, to broadcast over `like` (B, ...): a scalar for an int, (B, 1, ...) for a tensor of timesteps."""
        if isinstance(t, int):
            return self.alphas_cumprod[t].to(like.dtype).to(like.device)
        value = self.alphas_cumprod.to(t.device)[t].to(like.dtype).to(like.device)
        return value.reshape(-1, *[1] * (like.ndim - 1))

    def diffuse(self, x_0: Tensor, noise: Tensor, t: int | Tensor) -> Tensor:
        """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps."""
        abar = self.abar(t, x_0)
        return abar.sqrt() * x_0 + (1 - abar).sqrt() * noise

    def velocity(self, x_0: Tensor, noise: Tensor, t: int | Tensor) -> Tensor:
        """v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0 (Salimans and Ho 2022, progressive distillation)."""
        abar = self.abar(t, x_0)
        return abar.sqrt() * noise - (1 - abar).sqrt() * x_0

    def eps_from_velocity(self, v: Tensor, x_t: Tensor, t: int | Tensor) -> Tensor:
        """eps = sqrt(abar_t) v + sqrt(1 - abar_t) x_t."""
        abar = self.abar(t, x_t)
        return abar.sqrt() * v + (1 - abar).sqrt() * x_t

    def x0_from_eps(self, eps: Tensor, x_t: Tensor, t: int | Tensor) -> Tensor:
        """x_0|t = (x_t - sqrt(1 - abar_t) eps) / sqrt(abar_t): the predicted clean sample."""
        abar = self.abar(t, x_t)
        return (x_t - (1 - abar).sqrt() * eps) / abar.sqrt()

    def ddim_timesteps(self, steps: int) -> list[int]:
        """`steps` timesteps of all of them, descending; see `ddim_timesteps`."""
        return ddim_timesteps(steps, self.steps)


def ddim_timesteps(steps: int, total: int = 1000) -> list[int]:
    """`steps` of `total` timesteps, descending: range(0, T, T // steps) + 1, as latent diffusion counts.

    For 50 of 1000: 981, 961, .., 1. Where `steps` does not divide T, latent diffusion's and FreeDoM's codes take more
    steps than they are asked for (31 for 30 of 1,000, from 991 on); here the noisiest of them are left out.
    Raises ValueError unless 1 <= steps <= total.
    """
    if not 1 <= steps <= total:
        raise ValueError(f"steps = {steps}: expected 1..{total}")
    stride = total // steps
    return [min(t + 1, total - 1) for t in range(0, stride * steps, stride)][::-1]


def load_schedule(start: float = 0.0015, end: float = 0.0195, steps: int = 1000) -> Schedule:
    """Latent diffusion's schedule, as a role of a profile."""
    return Schedule.scaled_linear(start, end, steps)
