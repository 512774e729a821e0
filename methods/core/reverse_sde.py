"""The reverse SDE in variance-exploding coordinates (Song et al. 2021, SDE paper), and densities along its paths.

    y = x_t / sqrt(abar_t),   sigma = sqrt((1 - abar_t) / abar_t),   score of q_sigma at y: s = -eps / sigma
    dy = 2 eps dsigma + sqrt(2 sigma |dsigma|) z                                          with dsigma < 0

In these coordinates no drift is left but the score's, so that what the superposition of densities (SuperDiff) and
Feynman-Kac correctors add to it is short. Along any path with that noise, whatever its drift, the log density of a
model changes by (Skreta et al. 2024, arXiv 2412.17762, theorem 1)

    d log q(y) = -<dy, eps> / sigma - |dsigma| ||eps||^2 / sigma
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from concord.methods.core.noise import draw_noise
from concord.methods.core.schedule import Schedule

Discretisation = Literal["euler", "ancestral"]


@dataclass(frozen=True)
class Leg:
    """One step from sigma to a smaller one: y' = y + 2 change eps + spread z.

    t: the timestep of the networks. scale: x_t = scale y. change: dsigma, negative. spread: of the noise; 0 at the end.
    """

    t: int
    sigma: float
    scale: float
    change: float
    spread: float

    def log_density_change(self, eps: Tensor, dy: Tensor) -> Tensor:
        """d log q of every row for a move dy, both (..., B, C, h, w): float64 (..., B)."""
        eps, dy = eps.flatten(-3).double(), dy.flatten(-3).double()
        return -((dy * eps).sum(-1) + abs(self.change) * eps.square().sum(-1)) / self.sigma


def legs(schedule: Schedule, steps: int, kind: Discretisation) -> list[Leg]:
    """`steps` legs at DDIM's timesteps, from the highest noise to none.

    'euler' is Euler-Maruyama, which leaves noise behind unless steps are many (the authors take 1,000). 'ancestral',
    DDPM's draw of q(y' | y, y_0) at the predicted y_0, tends to the same SDE: change = (sigma'^2 / sigma - sigma) / 2,
    spread = sigma' sqrt(1 - sigma'^2 / sigma^2). The last leg goes to the predicted clean sample, without noise.
    """
    timesteps = schedule.ddim_timesteps(steps)
    abars = [float(schedule.alphas_cumprod[t]) for t in timesteps]
    sigmas = [((1 - abar) / abar) ** 0.5 for abar in abars]
    found = []
    for t, abar, sigma, after in zip(timesteps, abars, sigmas, [*sigmas[1:], 0.0], strict=True):
        if kind == "euler" and after > 0:
            change = after - sigma
            spread = (2 * sigma * -change) ** 0.5
        else:
            change = (after**2 / sigma - sigma) / 2
            spread = after * (1 - (after / sigma) ** 2) ** 0.5
        found.append(Leg(t, sigma, abar**0.5, change, spread))
    return found


def start(
    schedule: Schedule,
    steps: int,
    generators: Sequence[torch.Generator],
    shape: Sequence[int],
    device: torch.device | str,
) -> Tensor:
    """y (B, *shape) of the highest noise: the x_T that every other sampler starts from, brought to this scale."""
    abar = float(schedule.alphas_cumprod[schedule.ddim_timesteps(steps)[0]])
    return draw_noise(generators, shape, device) / abar**0.5
