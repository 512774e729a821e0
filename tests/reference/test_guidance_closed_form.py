"""Guided sampling where everything has a closed form: Gaussian data, linear-Gaussian conditions, the exact noise.

Data x_0 ~ N(m, S) in two dimensions, conditions y_i = a_i . x_0 + noise of variance v_i. The exact eps is linear in
x_t, the energies are quadratic, so that every guided step is affine in x_t: what the production code makes of a few
points gives the whole map, and moments can be carried through all steps without sampling. They are compared with those
of the exact posterior p(x_0 | y_1, y_2). Both methods take p(y | x_0|t) for p(y | x_t), which counts the uncertainty of
x_0 given x_t for nothing: they come near the posterior and do not reach it, and how near is measured here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toy_guidance import NAMES, Quadratic, ToyWorld, make, make_context

from concord.methods.base import Trace
from concord.methods.core.sampler import Step, guided
from concord.methods.freedom import FreeDoM
from concord.methods.z_magic import ZMagic

MEAN = torch.tensor([0.3, -0.2], dtype=torch.float64)
COVARIANCE = torch.tensor([[1.0, 0.4], [0.4, 0.6]], dtype=torch.float64)
SCHEDULE = ToyWorld.schedule


@dataclass(frozen=True)
class Condition:
    name: str
    a: tuple[float, float]
    y: float
    v: float


WEAK = (Condition("text", (1.0, 0.0), 1.0, 2.0), Condition("mask", (0.6, 0.8), -0.5, 3.0))
STRONG = (Condition("text", (1.0, 0.0), 1.0, 0.4), Condition("mask", (0.6, 0.8), -0.5, 0.5))


def model(x: Tensor, t: int) -> Tensor:
    """E[eps | x_t]: minus sqrt(1 - abar) times the score of N(sqrt(abar) m, abar S + (1 - abar) I)."""
    abar = SCHEDULE.alphas_cumprod[t]
    spread = abar * COVARIANCE + (1 - abar) * torch.eye(2, dtype=torch.float64)
    away = x.flatten(1) - abar.sqrt() * MEAN
    return ((1 - abar).sqrt() * away @ torch.linalg.inv(spread)).reshape(x.shape)


def posterior(conditions: tuple[Condition, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of x_0 given all conditions."""
    precision, pull = torch.linalg.inv(COVARIANCE), torch.linalg.inv(COVARIANCE) @ MEAN
    for c in conditions:
        a = torch.tensor(c.a, dtype=torch.float64)
        precision = precision + torch.outer(a, a) / c.v
        pull = pull + a * c.y / c.v
    covariance = torch.linalg.inv(precision)
    return (covariance @ pull).numpy(), covariance.numpy()


def corrector(
    kind: Any, conditions: tuple[Condition, ...], rows: int, **params: Any
) -> Callable[[Tensor, Step], Tensor]:
    """The production step of a method with Bayes' own step size."""
    names = tuple(c.name for c in conditions)
    method = make(
        kind,
        rules=dict.fromkeys(NAMES, "score"),
        strengths=dict.fromkeys(NAMES, 1.0),
        order=names,
        windows=dict.fromkeys(NAMES, (-1, 1000)),
        **params,
    )
    energies = [
        Quadratic(
            c.name, torch.tensor([c.a], dtype=torch.float64), torch.full((rows, 1), c.y, dtype=torch.float64), c.v
        )
        for c in conditions
    ]
    context = make_context(model, energies, method.params, rows)

    def correct(x: Tensor, step: Step) -> Tensor:
        if not conditions:
            return step(x, model(x, step.t))
        with torch.enable_grad():
            return method.correct(context, x, step, names, Trace()).detach()

    return correct


def carried_moments(
    kind: Any, conditions: tuple[Condition, ...], steps: int, **params: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the guided sampler's x_0, by the affine maps of its steps."""
    correct = corrector(kind, conditions, 3, **params)
    probes = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)[:, :, None, None]
    mean, covariance = np.zeros(2), np.eye(2)
    timesteps = SCHEDULE.ddim_timesteps(steps)
    for t, t_previous in zip(timesteps, [*timesteps[1:], -1], strict=True):
        quiet = Step("ancestral", SCHEDULE, t, t_previous, torch.zeros_like(probes))
        moved = correct(probes, quiet).flatten(1).numpy()
        jacobian = (moved[1:] - moved[0]).T
        mean, covariance = moved[0] + jacobian @ mean, jacobian @ covariance @ jacobian.T
        if t_previous >= 0:
            # Noise enters before guidance is added (Z-Magic's x^ holds it too), so that its own map is probed as well.
            noises = probes.clone()
            noisy = Step("ancestral", SCHEDULE, t, t_previous, noises)
            push = correct(torch.zeros_like(probes), noisy).flatten(1).numpy()
            spread = (push[1:] - push[0]).T
            covariance = covariance + spread @ spread.T
    return mean, covariance


def gaps(found: tuple[np.ndarray, np.ndarray], exact: tuple[np.ndarray, np.ndarray]) -> tuple[float, float]:
    """How far mean and covariance are off: in the exact posterior's deviations, and relative in Frobenius norm."""
    mean = float(np.sqrt((found[0] - exact[0]) @ np.linalg.inv(exact[1]) @ (found[0] - exact[0])))
    return mean, float(np.linalg.norm(found[1] - exact[1]) / np.linalg.norm(exact[1]))


def test_without_conditions_the_sampler_gives_the_data() -> None:
    mean, spread = gaps(carried_moments(FreeDoM, (), 1000), (MEAN.numpy(), COVARIANCE.numpy()))
    assert mean < 0.01
    assert spread < 0.02
    coarse = gaps(carried_moments(FreeDoM, (), 100), (MEAN.numpy(), COVARIANCE.numpy()))
    assert coarse[1] < 0.12  # 100 ancestral steps shrink the spread: the floor of what follows


METHODS = [(FreeDoM, {}), (ZMagic, {"hvp": "exact", "stop": -1}), (ZMagic, {"hvp": "none", "stop": -1})]


@pytest.mark.parametrize(("kind", "params"), METHODS, ids=["freedom", "z-magic", "z-magic without H"])
def test_carried_moments_are_those_of_samples(kind: Any, params: dict[str, Any]) -> None:
    rows = 4000
    generators = [torch.Generator().manual_seed(seed) for seed in range(rows)]
    correct = corrector(kind, STRONG, rows, **params)
    x = guided(correct, SCHEDULE, generators, (2, 1, 1), "cpu", 20, dtype=torch.float64).flatten(1).numpy()
    mean, covariance = carried_moments(kind, STRONG, 20, **params)
    error = np.sqrt(np.diag(covariance) / rows)
    assert (np.abs(x.mean(axis=0) - mean) < 4 * error).all()
    np.testing.assert_allclose(np.cov(x.T), covariance, rtol=0.1, atol=0.02)


# How far mean (in the posterior's deviations) and covariance (relative) are off, as measured, by conditions and steps,
# in the order of METHODS. The unguided sampler's covariance is 0.09 off at 100 steps; the prior itself is 0.18 and 0.73
# off for weak conditions, 0.69 and 2.86 for strong ones. Z-Magic differs from FreeDoM by what a step changes, so that
# the difference vanishes as steps shrink; what both lack is the uncertainty of x_0 given x_t.
MEASURED = {
    ("weak", 100): [(0.0320, 0.184), (0.0349, 0.185), (0.0336, 0.186)],
    ("weak", 300): [(0.0313, 0.126), (0.0322, 0.126), (0.0318, 0.127)],
    ("strong", 100): [(0.1094, 0.369), (0.1211, 0.377), (0.1001, 0.382)],
    ("strong", 300): [(0.1074, 0.296), (0.1107, 0.299), (0.1045, 0.301)],
}


@pytest.mark.parametrize(("strength", "conditions"), [("weak", WEAK), ("strong", STRONG)])
def test_both_methods_come_as_near_the_exact_posterior_as_measured(
    strength: str, conditions: tuple[Condition, ...]
) -> None:
    exact = posterior(conditions)
    prior = gaps((MEAN.numpy(), COVARIANCE.numpy()), exact)
    apart = {}
    for steps in (100, 300):
        moments = [carried_moments(kind, conditions, steps, **params) for kind, params in METHODS]
        for found, (mean, spread) in zip(moments, MEASURED[strength, steps], strict=True):
            assert gaps(found, exact) == (pytest.approx(mean, abs=2e-4), pytest.approx(spread, abs=2e-3))
            assert mean < 0.25 * prior[0]
            assert spread < 0.3 * prior[1]
        apart[steps] = gaps(moments[1], moments[0])
    assert apart[300][0] < 0.5 * apart[100][0]
