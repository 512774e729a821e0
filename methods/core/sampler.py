"""The one sampler: DDIM (Song et al. 2021, equation 12), from deterministic (eta = 0) to ancestral (eta = 1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from methods.core.noise import draw_noise
from methods.core.schedule import Schedule

Denoiser = Callable[[Tensor, int], Tensor]
"""denoise(x_t, t) -> eps: x_t (B, C, h, w), t the timestep of all rows, eps like x_t."""


def ddim_step(
    schedule: Schedule, eps: Tensor, x_t: Tensor, t: int, t_previous: int, eta: float = 0.0, noise: Tensor | None = None
) -> Tensor:
    """x_{t'} from x_t for t' < t (Song et al. 2021, equations 12 and 16).

    t_previous: -1 for the last step, where abar is taken as abar_0, as latent diffusion and Collaborative Diffusion do.
    noise: like x_t; needed where eta > 0.
    """
    abar, abar_previous = schedule.abar(t, x_t), schedule.abar(max(t_previous, 0), x_t)
    x_0 = (x_t - (1 - abar).sqrt() * eps) / abar.sqrt()
    sigma = eta * ((1 - abar_previous) / (1 - abar) * (1 - abar / abar_previous)).clamp(min=0).sqrt()
    x_previous = abar_previous.sqrt() * x_0 + (1 - abar_previous - sigma**2).clamp(min=0).sqrt() * eps
    if eta > 0:
        if noise is None:
            raise ValueError("eta > 0 needs noise")
        x_previous = x_previous + sigma * noise
    return x_previous


def ddim(
    denoise: Denoiser,
    schedule: Schedule,
    generators: Sequence[torch.Generator],
    shape: Sequence[int],
    device: torch.device | str,
    steps: int = 50,
    eta: float = 0.0,
) -> Tensor:
    """x_0 (B, *shape): noise from each request's generator, then `steps` DDIM steps."""
    x_t = draw_noise(generators, shape, device)
    timesteps = schedule.ddim_timesteps(steps)
    for t, t_previous in zip(timesteps, [*timesteps[1:], -1], strict=True):
        eps = denoise(x_t, t)
        # Fresh noise follows the request's own stream, one draw a step; the last step adds none (Algorithm 2, line 3).
        noise = draw_noise(generators, shape, device) if eta > 0 and t_previous >= 0 else None
        x_t = ddim_step(schedule, eps, x_t, t, t_previous, eta if noise is not None else 0.0, noise)
    return x_t
