"""The samplers: DDIM (Song et al. 2021, equation 12), ancestral sampling, and a loop for guided steps.

Every step is x_{t'} = step(x_t, eps) with t' < t. A guided method corrects it; the loop around it may travel back in
time (RePaint, Lugmayr et al. 2022), which gives a guided sample the chance to become a likely one again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from concord.methods.core.noise import draw_noise
from concord.methods.core.schedule import Schedule

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
    noise_last_step: bool = False,
) -> Tensor:
    """x_0 (B, *shape): noise from each request's generator, then `steps` DDIM steps.

    noise_last_step: where eta > 0, the last step, which ends at abar_0 < 1, draws noise as well, as latent diffusion's
    code does.
    """
    x_t = draw_noise(generators, shape, device)
    timesteps = schedule.ddim_timesteps(steps)
    for t, t_previous in zip(timesteps, [*timesteps[1:], -1], strict=True):
        eps = denoise(x_t, t)
        # Fresh noise follows the request's own stream, one draw a step; the last step adds none (Algorithm 2, line 3).
        noise = draw_noise(generators, shape, device) if eta > 0 and (t_previous >= 0 or noise_last_step) else None
        x_t = ddim_step(schedule, eps, x_t, t, t_previous, eta if noise is not None else 0.0, noise)
    return x_t


# -------------------------------------------------------------------------------------------------- other base steps

Kind = Literal["ancestral", "reverse-diffusion", "ddim", "ddim-official"]


def ddpm_step(
    schedule: Schedule, eps: Tensor, x_t: Tensor, t: int, t_previous: int, noise: Tensor | None = None
) -> Tensor:
    """A draw from q(x_{t'} | x_t, x_0|t) (DDPM, Ho et al. 2020, equations 6 and 7), t' any timestep before t.

    noise: like x_t; None gives the mean. t_previous: -1 is taken as 0, as in `ddim_step`.
    """
    abar, abar_previous = schedule.abar(t, x_t), schedule.abar(max(t_previous, 0), x_t)
    x_0 = (x_t - (1 - abar).sqrt() * eps) / abar.sqrt()
    mean = posterior_weight(schedule, t, t_previous, x_t) * x_0
    mean = mean + (abar / abar_previous).sqrt() * (1 - abar_previous) / (1 - abar) * x_t
    if noise is None:
        return mean
    return mean + ((1 - abar_previous) * (1 - abar / abar_previous) / (1 - abar)).clamp(min=0).sqrt() * noise


def posterior_weight(schedule: Schedule, t: int, t_previous: int, like: Tensor) -> Tensor:
    """sqrt(abar_t') beta / (1 - abar_t), beta = 1 - abar_t / abar_t': the weight of x_0|t in DDPM's posterior mean."""
    abar, abar_previous = schedule.abar(t, like), schedule.abar(max(t_previous, 0), like)
    return abar_previous.sqrt() * (1 - abar / abar_previous) / (1 - abar)


def reverse_diffusion_step(
    schedule: Schedule, eps: Tensor, x_t: Tensor, t: int, t_previous: int, noise: Tensor | None = None
) -> Tensor:
    """x_{t'} = (2 - sqrt(1 - beta)) x_t + beta s + sqrt(beta) z (Song et al. 2021, SDE paper; as Z-Magic prints it).

    beta = 1 - abar_t / abar_t'; the score s = -eps / sqrt(1 - abar_t). noise: z, like x_t; None leaves it out.
    """
    abar, abar_previous = schedule.abar(t, x_t), schedule.abar(max(t_previous, 0), x_t)
    beta = 1 - abar / abar_previous
    moved = (2 - (1 - beta).sqrt()) * x_t - beta / (1 - abar).sqrt() * eps
    return moved if noise is None else moved + beta.sqrt() * noise


@dataclass(frozen=True)
class Step:
    """The unguided step from t to t' with its noise drawn: x_{t'} as a differentiable function of x_t and eps.

    'ancestral': DDPM's posterior. 'reverse-diffusion': its discretisation in score papers. 'ddim': DDIM with eta.
    'ddim-official': as FreeDoM's code has it: noise of the standard deviation eta sqrt(1 - abar_t'), whatever the step.
    """

    kind: Kind
    schedule: Schedule
    t: int
    t_previous: int
    noise: Tensor | None
    eta: float = 0.0
    branch_noises: tuple[Tensor, ...] = ()  # further draws like `noise`, for steps that branch (`branch`)

    def branch(self, number: int) -> Step:
        """The same step with another draw of its noise: 0 is this one, 1 the first of `branch_noises`."""
        if number == 0 or self.noise is None:
            return self
        return replace(self, noise=self.branch_noises[number - 1], branch_noises=())

    def __call__(self, x_t: Tensor, eps: Tensor) -> Tensor:
        """x_t and eps (R, C, h, w), where R is the batch of `noise` or a multiple of it."""
        noise = self.noise
        if noise is not None and len(noise) != len(x_t):
            noise = noise.repeat(len(x_t) // len(noise), *[1] * (noise.ndim - 1))
        if self.kind == "ancestral":
            return ddpm_step(self.schedule, eps, x_t, self.t, self.t_previous, noise)
        if self.kind == "reverse-diffusion":
            return reverse_diffusion_step(self.schedule, eps, x_t, self.t, self.t_previous, noise)
        eta = 0.0 if noise is None else self.eta
        if self.kind == "ddim":
            return ddim_step(self.schedule, eps, x_t, self.t, self.t_previous, eta, noise)
        abar_previous = self.schedule.abar(max(self.t_previous, 0), x_t)
        x_0 = self.schedule.x0_from_eps(eps, x_t, self.t)
        x_previous = abar_previous.sqrt() * x_0 + (1 - abar_previous).sqrt() * (1 - eta**2) ** 0.5 * eps
        return x_previous if noise is None else x_previous + (1 - abar_previous).sqrt() * eta * noise

    @property
    def is_random(self) -> bool:
        """Whether the step has room for noise; whether the last one draws it is the loop's to say."""
        return self.kind in ("ancestral", "reverse-diffusion") or self.eta > 0


# ------------------------------------------------------------------------------------------------------ guided sampling

Correct = Callable[[Tensor, Step], Tensor]
"""correct(x_t, step) -> x_{t'}: the step with whatever guidance adds to it."""


def turns(
    timesteps: Sequence[int], repeats: Callable[[int], int], repeat_last_step: bool = False
) -> Iterator[tuple[int, int, int]]:
    """(t, t', times) of every step: t' = -1 in the last one, which is taken once unless it is to be repeated too."""
    for t, t_previous in zip(timesteps, [*timesteps[1:], -1], strict=True):
        yield t, t_previous, 1 if t_previous < 0 and not repeat_last_step else repeats(t)


def guided(
    correct: Correct,
    schedule: Schedule,
    generators: Sequence[torch.Generator],
    shape: Sequence[int],
    device: torch.device | str,
    steps: int = 100,
    kind: Kind = "ancestral",
    eta: float = 0.0,
    repeats: Callable[[int], int] = lambda t: 1,
    dtype: torch.dtype | None = None,
    repeat_last_step: bool = False,
    noise_last_step: bool = False,
    branches: int = 0,
) -> Tensor:
    """x_0 (B, *shape): `steps` corrected steps; repeats(t) >= 1 times at t, each but the last followed by the way back.

    The way back is one of the forward diffusion: x_t = sqrt(abar_t / abar_t') x_{t'} + sqrt(1 - abar_t / abar_t') z.
    With a correction that only steps, and 'ddim', the sample is that of `ddim`, bit by bit.

    dtype: of the sample; that of the noise where absent.
    repeat_last_step: the last step takes its turns as well, the way back starting at abar_0.
    noise_last_step: the last step draws noise as well, as latent diffusion's code does: it ends at abar_0 < 1.
    branches: how many further noises every random step brings (`Step.branch`); they are drawn after its own.
    """

    def draw() -> Tensor:
        noise = draw_noise(generators, shape, device)
        return noise if dtype is None else noise.to(dtype)

    x_t = draw()
    for t, t_previous, count in turns(schedule.ddim_timesteps(steps), repeats, repeat_last_step):
        for turn in range(count):
            step = Step(kind, schedule, t, t_previous, None, eta)
            if step.is_random and (noise_last_step or t_previous >= 0):
                step = replace(step, noise=draw(), branch_noises=tuple(draw() for _ in range(branches)))
            x_previous = correct(x_t, step)
            if turn + 1 < count:
                kept = schedule.abar(t, x_t) / schedule.abar(max(t_previous, 0), x_t)
                x_t = kept.sqrt() * x_previous + (1 - kept).sqrt() * draw()
        x_t = x_previous
    return x_t
