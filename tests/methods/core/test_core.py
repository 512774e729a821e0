"""Schedule and sampler against diffusers' DDIMScheduler, closed forms and explicit loops."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDIMScheduler

from concord.methods.core.noise import draw_noise
from concord.methods.core.sampler import ddim, ddim_step
from concord.methods.core.schedule import Schedule

SCHEDULE = Schedule.scaled_linear()


def diffusers_ddim() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.0015,
        beta_end=0.0195,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
    )


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_schedule_equals_diffusers() -> None:
    torch.testing.assert_close(SCHEDULE.alphas_cumprod.float(), diffusers_ddim().alphas_cumprod, rtol=1e-5, atol=0)


def test_timesteps_are_those_of_the_official_code() -> None:
    expected = [t + 1 for t in range(0, 1000, 20)][::-1]
    assert SCHEDULE.ddim_timesteps(50) == expected
    scheduler = diffusers_ddim()
    scheduler.set_timesteps(50)
    assert scheduler.timesteps.tolist() == expected
    assert SCHEDULE.ddim_timesteps(1000)[0] == 999
    with pytest.raises(ValueError, match=r"expected 1\.\.1000"):
        SCHEDULE.ddim_timesteps(0)


def test_parametrisations_invert_each_other() -> None:
    x_0, noise = torch.randn(2, 5, 3, 4, 4, dtype=torch.float64)
    for t in (0, 500, 999, torch.tensor([0, 10, 500, 998, 999])):
        x_t, v = SCHEDULE.diffuse(x_0, noise, t), SCHEDULE.velocity(x_0, noise, t)
        torch.testing.assert_close(SCHEDULE.eps_from_velocity(v, x_t, t), noise)
        torch.testing.assert_close(SCHEDULE.x0_from_eps(noise, x_t, t), x_0, rtol=1e-6, atol=1e-9)


def denoise(x_t: torch.Tensor, t: int) -> torch.Tensor:
    return torch.tanh(x_t) * math.cos(t / 300)


def test_deterministic_sampler_equals_diffusers() -> None:
    scheduler = diffusers_ddim()
    scheduler.set_timesteps(50)
    x = draw_noise(generators(1, 2), (3, 4, 4))
    for t in scheduler.timesteps:
        x = scheduler.step(denoise(x, int(t)), t, x, eta=0.0).prev_sample
    ours = ddim(denoise, SCHEDULE, generators(1, 2), (3, 4, 4), "cpu", steps=50)
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_stochastic_sampler_equals_diffusers_on_the_same_noise(eta: float) -> None:
    scheduler = diffusers_ddim()
    scheduler.set_timesteps(20)
    own = generators(3, 4)
    x = draw_noise(own, (3, 4, 4))
    steps = scheduler.timesteps.tolist()
    for t in steps[:-1]:
        x = scheduler.step(denoise(x, t), t, x, eta=eta, variance_noise=draw_noise(own, (3, 4, 4))).prev_sample
    x = scheduler.step(denoise(x, steps[-1]), steps[-1], x, eta=0.0).prev_sample  # the last step adds no noise
    ours = ddim(denoise, SCHEDULE, generators(3, 4), (3, 4, 4), "cpu", steps=20, eta=eta)
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)


def test_exact_noise_prediction_recovers_the_data() -> None:
    """With the true eps of one data point, DDIM ends at that point's x_{t=0} (sqrt(abar_0) x_0 + small noise)."""
    x_0 = torch.randn(1, 3, 4, 4)

    def oracle(x_t: torch.Tensor, t: int) -> torch.Tensor:
        abar = SCHEDULE.abar(t, x_t)
        return (x_t - abar.sqrt() * x_0) / (1 - abar).sqrt()

    found = ddim(oracle, SCHEDULE, generators(5), (3, 4, 4), "cpu", steps=50)
    assert float((found - x_0).abs().max()) < 0.2
    assert float((found - x_0).abs().max()) < 0.06 * float(draw_noise(generators(5), (3, 4, 4)).abs().max())


def test_sigma_of_eta_one_is_the_ancestral_posterior() -> None:
    """Equation 16 at eta = 1 is DDPM's posterior variance beta_tilde for consecutive steps."""
    t = 500
    abar, before = SCHEDULE.alphas_cumprod[t], SCHEDULE.alphas_cumprod[t - 1]
    beta_tilde = (1 - before) / (1 - abar) * (1 - abar / before)
    x, eps, z = torch.randn(3, 1, 1, 2, 2, dtype=torch.float64)
    noisy, quiet = (ddim_step(SCHEDULE, eps, x, t, t - 1, 1.0, noise) for noise in (z, torch.zeros_like(z)))
    torch.testing.assert_close(noisy - quiet, beta_tilde.sqrt() * z)


def test_noise_is_per_request() -> None:
    together = draw_noise(generators(7, 8, 9), (2, 3))
    alone = torch.cat([draw_noise(generators(seed), (2, 3)) for seed in (9, 7, 8)])[[1, 2, 0]]
    assert torch.equal(together, alone)
    assert not torch.equal(together[0], together[1])
