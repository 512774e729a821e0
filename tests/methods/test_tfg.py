"""TFG against FreeDoM and Universal Guidance, whose steps are corners of it, and against steps worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from toy_guidance import Quadratic, ToyWorld, make, make_context, requests

from concord.methods.base import Trace
from concord.methods.core.sampler import Step
from concord.methods.freedom import FreeDoM
from concord.methods.tfg import TrainingFreeGuidance
from concord.methods.ugd import UniversalGuidance

CORNER = {"mu": 0, "sigma": 0}


@pytest.mark.parametrize("names", [("mask",), ("text", "mask"), ("identity", "landmarks")])
@pytest.mark.parametrize("repeat", [1, 3])
def test_freedoms_step_is_a_corner(names: tuple[str, ...], repeat: int) -> None:
    freedom = FreeDoM.Params()
    shared: dict[str, Any] = {"steps": 10, "repeat": repeat, "eta": 0.5, "sampler": "auto"}
    strengths = {**freedom.strengths.model_dump(), "mask": 20.0}  # a pull that shows
    own = {"strengths": strengths, "windows": freedom.windows.model_dump()}
    expected = make(FreeDoM, strengths=strengths, **shared).generate(requests(3, names))
    found = make(TrainingFreeGuidance, strength_rule="freedom", **CORNER, **shared, **own).generate(requests(3, names))
    assert torch.allclose(found, expected, atol=1e-6)
    plain = make(TrainingFreeGuidance, rho=0, **CORNER, **shared, **own).generate(requests(3, names))
    assert not torch.allclose(plain, expected, atol=1e-4)  # the guidance does something


@pytest.mark.parametrize("repeat", [1, 2])
def test_forward_guidance_of_universal_guidance_is_a_corner(repeat: int) -> None:
    shared: dict[str, Any] = {
        "steps": 10, "repeat": repeat, "repeat_last_step": True, "eta": 0.0, "sampler": "ddim",
        "strengths": {"text": 2, "mask": 4}, "mask_residual": "cross-entropy",
    }  # fmt: skip  # a table
    expected = make(UniversalGuidance, **shared).generate(requests(3))
    found = make(TrainingFreeGuidance, strength_rule="ugd", **CORNER, **shared).generate(requests(3))
    assert torch.allclose(found, expected, atol=1e-6)


def test_a_step_on_a_linear_model_is_the_one_worked_out_by_hand() -> None:
    """x_t = 1.2, eps = 0.3 x_t, f = -(2 x_0 - 1)^2 / (2 * 0.5); two rounds of mean guidance, no noise."""
    p = {"rho": 0.4, "mu": 0.02, "sigma": 0.0, "iterations": 2, "steps": 100, "eta": 0.0, "mu_course": "constant"}
    method = make(TrainingFreeGuidance, **p)
    energy = Quadratic("mask", torch.tensor([[2.0]]), torch.tensor([[1.0]]), 0.5)
    context = make_context(lambda x, t: 0.3 * x, [energy], method.params, 1)
    step = Step("ddim", ToyWorld.schedule, 501, 491, None)
    with torch.enable_grad():
        found = method.correct(context, torch.full((1, 1, 1, 1), 1.2), step, ["mask"], Trace())

    table = ToyWorld.schedule.alphas_cumprod
    abar, before = float(table[501]), float(table[491])
    times = ToyWorld.schedule.ddim_timesteps(100)
    alphas = [float(table[t] / table[max(after, 0)]) for t, after in zip(times, [*times[1:], -1], strict=True)]
    rho = 0.4 * (abar / before) * 100 / sum(alphas)  # 'increase': as alpha_t, 0.4 in the mean
    x_0 = (1.2 - math.sqrt(1 - abar) * 0.36) / math.sqrt(abar)
    dx_0 = (1 - math.sqrt(1 - abar) * 0.3) / math.sqrt(abar)

    def slope(x: float) -> float:
        return -(2 * x - 1) * 2 / 0.5  # of f

    moved = math.sqrt(before) * x_0 + math.sqrt(1 - before) * 0.36
    moved += rho * slope(x_0) * dx_0 / math.sqrt(abar / before)
    x = x_0
    for _ in range(2):
        x += 0.02 * slope(x)
    assert float(found) == pytest.approx(moved + math.sqrt(before) * (x - x_0), rel=1e-5)


def test_smoothing_is_the_mean_of_the_likelihood_under_noise() -> None:
    """grad log E_delta exp f(x_0 + delta) of a quadratic f is that of a quadratic with the noise's variance added."""
    method = make(TrainingFreeGuidance, sigma=0.5, samples=4000, sigma_course="constant", strengths={"mask": 1})
    energy = Quadratic("mask", torch.tensor([[1.0]]), torch.tensor([[0.3]]), 0.4)  # (x - 0.3)^2 / 0.8
    context = make_context(lambda x, t: 0 * x, [energy], method.params, 1)
    method._generators = [torch.Generator().manual_seed(0)]
    x_0 = torch.full((1, 1, 1, 1), 1.1)
    with torch.enable_grad():
        found = method._gradient(context, x_0, ["mask"], method._noises(x_0, 501), 501)
    assert float(found) == pytest.approx(-(1.1 - 0.3) / (0.4 + 0.25), rel=0.1)


def test_rho_is_the_mean_over_the_steps_whatever_its_course() -> None:
    method = make(TrainingFreeGuidance, steps=20)
    alphas = method._alphas()
    for course in ("increase", "decrease", "constant"):
        values = [method.params.course(course, t, alphas) for t in alphas]
        assert sum(values) / 20 == pytest.approx(1)
    up = [method.params.course("increase", t, alphas) for t in alphas]  # from t = 951 to 1
    assert up[-1] > up[0]


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"rho": 0.0},
        {"mu": 0.0},
        {"strength_rule": "freedom"},
        {"strength_rule": "ugd"},
        {"repeat": 2, "samples": 3},
    ],
)
def test_what_is_stated_is_what_is_counted(params: dict[str, Any]) -> None:
    method = make(TrainingFreeGuidance, steps=5, **params)
    counts = dict.fromkeys(method.denoisers(), 0)
    for name, network in method.denoisers().items():
        network.register_forward_pre_hook(
            lambda _, given, name=name: counts.__setitem__(name, counts[name] + len(given[0]))  # type: ignore[misc]
        )
    method.generate(requests(2))
    stated = method.evaluations(method.params, ["text", "mask"])
    assert {name: count / 2 for name, count in counts.items()} == pytest.approx(stated)


def test_a_batch_gives_what_its_rows_give_alone() -> None:
    method = make(TrainingFreeGuidance, steps=5, samples=2)
    whole = method.generate(requests(4))
    for row, request in enumerate(requests(4)):
        assert torch.allclose(method.generate([request])[0], whole[row], atol=1e-5)
