"""AMDM: its two equations against what they claim, and its algorithm against the paper's, spelt out again."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toy_networks import toy_networks

from concord.benchmarks.run.meter import EvaluationCounter
from concord.data.errors import ConcordError
from concord.data.networks import Networks
from concord.data.request import Conditions, Request
from concord.methods.amdm import Amdm, aggregate, manifold_step, official_mean, slerp, spherical_weights
from concord.methods.base import make_params
from concord.methods.core.sampler import ddim
from concord.methods.core.schedule import Schedule

SHAPE = (3, 4, 4)
SIZE = math.sqrt(math.prod(SHAPE))
STEPS = 6


class ToyExpert(nn.Module):
    """A prediction that follows the condition's text; every call is a forward, so that it can be counted."""

    def __init__(self, rate: float, shape: tuple[int, ...] = SHAPE, schedule: Schedule | None = None) -> None:
        super().__init__()
        self.rate, self.latent_shape, self.own = rate, shape, schedule

    def forward(self, x_t: Tensor, t: int, shift: Tensor) -> Tensor:
        return torch.sin(self.rate * x_t + shift[:, None, None, None]) * (0.5 + t / 1000)

    def bind(self, conditions: Sequence[Conditions], schedule: Schedule) -> Any:
        shift = torch.tensor([len(c.text or "") / 10 for c in conditions])
        return Bound(self, shift, self.own or schedule)


class Bound:
    def __init__(self, expert: ToyExpert, shift: Tensor, schedule: Schedule) -> None:
        self.expert, self.shift, self.schedule = expert, shift, schedule

    def __call__(self, x_t: Tensor, t: int) -> Tensor:
        return self.expert(x_t, t, self.shift)


class ToyWorld:
    device = torch.device("cpu")
    schedule = Schedule.scaled_linear()
    latent_shape = SHAPE
    autoencoder = SimpleNamespace(decode=lambda x: x)

    def __init__(self, **experts: ToyExpert) -> None:
        self.experts = {"text": ToyExpert(1.0), "mask": ToyExpert(2.0), "style": ToyExpert(0.5), **experts}

    def expert(self, name: str) -> ToyExpert:
        return self.experts[name]

    @property
    def networks(self) -> Networks:
        return toy_networks(self)


class Three(Amdm):
    conditions = frozenset({"text", "mask", "style"})


def make(kind: type[Amdm] = Amdm, toys: ToyWorld | None = None, **params: Any) -> Any:
    return kind(make_params(kind, {"steps": STEPS, **params}), (toys or ToyWorld()).networks)


def requests(count: int = 3, style: bool = False) -> list[Request]:
    picture = np.zeros((8, 8, 3), np.uint8) if style else None
    mask = np.zeros((64, 64), np.int64)
    return [
        Request.make("toy", str(i), 0, Conditions(text="a" * (i + 1), mask=mask, style=picture)) for i in range(count)
    ]


def latents(method: Any, asked: Sequence[Request]) -> Tensor:
    """What the method decodes, before `generate` clamps it (the toy decoder is the identity)."""
    from concord.methods.base import Batch, Trace

    generators = [torch.Generator().manual_seed(r.seed) for r in asked]
    return method.sample(Batch(list(asked), generators, torch.device("cpu")), Trace())


def alone(name: str, asked: Sequence[Request], eta: float = 0.0, steps: int = STEPS) -> Tensor:
    """The sample of one model."""
    toys = ToyWorld()
    denoise = toys.expert(name).bind([r.conditions for r in asked], toys.schedule)
    generators = [torch.Generator().manual_seed(r.seed) for r in asked]
    return ddim(denoise, toys.schedule, generators, SHAPE, "cpu", steps, eta)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ------------------------------------------------------------------------------------------------------- the equations


@pytest.mark.parametrize("w", [0.0, 0.3, 0.5, 0.8, 1.0])
def test_aggregation_keeps_the_norm_of_orthogonal_vectors_of_equal_norm(w: float) -> None:
    a, b = random(1, *SHAPE), random(1, *SHAPE, seed=1)
    b = b - (a * b).sum() / a.square().sum() * a
    b = b * a.norm() / b.norm()
    torch.testing.assert_close(aggregate([a, b], spherical_weights([w])).norm(), a.norm())


def test_aggregation_of_parallel_vectors_does_not_keep_the_norm() -> None:
    """What happens with a shared x_T: the growth that the file's head states."""
    a = random(1, *SHAPE)
    grown = aggregate([a, a], spherical_weights([0.5])).norm() / a.norm()
    assert float(grown) == pytest.approx(0.5 + math.sqrt(0.75)) == pytest.approx(1.366, abs=1e-3)


def test_printed_weights_of_three_models_have_no_unit_norm() -> None:
    first, second = 0.47, 0.5
    one, two = math.sqrt(1 - first**2), math.sqrt(1 - second**2)
    found = spherical_weights([first, second])
    assert found == pytest.approx([first * second, one * second, one * two])
    squares = sum(c**2 for c in found)
    assert squares == pytest.approx(1 - first**2 * (1 - second**2))
    assert math.sqrt(squares) == pytest.approx(0.913, abs=5e-4)
    assert sum(c**2 for c in spherical_weights([first, second], unit_norm=True)) == pytest.approx(1)


@pytest.mark.parametrize("weights", [(0.4,), (0.47, 0.5), (0.9, 0.2, 0.6)])
def test_weights_of_unit_norm_are_equation_9_repeated(weights: tuple[float, ...]) -> None:
    samples = [random(1, *SHAPE, seed=k) for k in range(len(weights) + 1)]
    mixed = samples[0]
    for w, sample in zip(weights, samples[1:], strict=True):
        mixed = w * mixed + math.sqrt(1 - w**2) * sample
    torch.testing.assert_close(aggregate(samples, spherical_weights(weights, unit_norm=True)), mixed)
    if len(weights) == 1:
        assert spherical_weights(weights) == spherical_weights(weights, unit_norm=True)


@pytest.mark.parametrize("w", [0.0, 0.3, 0.5, 1.0])
def test_slerp_is_equation_9_of_orthogonal_samples_and_keeps_the_norm_at_any_angle(w: float) -> None:
    a, b = random(2, *SHAPE), random(2, *SHAPE, seed=1)
    dot, square = (a * b).sum((1, 2, 3), keepdim=True), a.square().sum((1, 2, 3), keepdim=True)
    b = b - dot / square * a
    b = b * (square / b.square().sum((1, 2, 3), keepdim=True)).sqrt()
    torch.testing.assert_close(slerp([a, b], [w]), aggregate([a, b], spherical_weights([w])))
    for turn in (0.0, 1e-6, 0.01, 0.5, 1.5, 3.0):
        other = math.cos(turn) * a + math.sin(turn) * b  # of the same norm, at that angle
        found, share = slerp([a, other], [w]), 2 / math.pi * math.acos(w)
        wanted = math.cos(share * turn) * a + math.sin(share * turn) * b
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.flatten(1).norm(dim=1), square.flatten().sqrt(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("distance", [0.0, 0.5, 3.0, 100.0])
def test_the_correction_moves_by_exactly_eta_manifold_step_mu(distance: float) -> None:
    x, mu = random(4, *SHAPE), random(4, *SHAPE, seed=1)
    moved = manifold_step(x, mu, distance) - x
    torch.testing.assert_close(moved.flatten(1).norm(dim=1), torch.full((4,), distance, dtype=torch.float64))
    if distance:
        cosine = torch.cosine_similarity(moved.flatten(1), (mu - x).flatten(1))
        torch.testing.assert_close(cosine, torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_the_correction_follows_the_gradient_of_the_density(sigma: float) -> None:
    x, mu = random(2, *SHAPE).requires_grad_(True), random(2, *SHAPE, seed=1)
    normal = torch.distributions.Normal(mu, sigma)
    density = normal.log_prob(x).flatten(1).sum(1).exp()  # equation 13: the density itself, not its logarithm
    (gradient,) = torch.autograd.grad(density.sum(), x)
    gradient = gradient.flatten(1) / gradient.abs().amax((1, 2, 3))[:, None]  # densities of 48 dimensions are tiny
    moved = manifold_step(x.detach(), mu, 0.7) - x.detach()
    torch.testing.assert_close(moved.flatten(1), 0.7 * gradient / gradient.norm(dim=1, keepdim=True))


def test_what_lies_on_mu_stays_there() -> None:
    x = random(2, *SHAPE)
    mu = x.clone()
    mu[1] += 1
    moved = manifold_step(x, mu, 0.5)
    assert torch.equal(moved[0], x[0])
    assert float((moved[1] - x[1]).norm()) == pytest.approx(0.5)


def test_the_norm_over_the_batch_moves_the_batch_as_one_vector() -> None:
    x, mu = random(3, *SHAPE), random(3, *SHAPE, seed=1)
    assert float((manifold_step(x, mu, 2.0, "batch") - x).norm()) == pytest.approx(2.0)
    torch.testing.assert_close(manifold_step(x[:1], mu[:1], 2.0, "batch"), manifold_step(x[:1], mu[:1], 2.0))


def test_the_official_mean_is_that_of_stable_diffusion() -> None:
    """At t = 981 of 50 steps: 1.006 x - 0.012 eps."""
    schedule = Schedule.scaled_linear(0.00085, 0.012)
    one, zero = torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    assert float(official_mean(schedule, zero, one, 981)) == pytest.approx(1.006, abs=5e-4)
    assert float(official_mean(schedule, one, zero, 981)) == pytest.approx(-0.012, abs=5e-4)


# ------------------------------------------------------------------------------------------------------- the algorithm


def algorithm_1(asked: Request, s: int, w: float, eta: tuple[float, float], sigma: float = 0.0) -> Tensor:
    """The paper's Algorithm 1 for one request, by its own formulas: equation 6 for mu and the step."""
    toys = ToyWorld()
    bar = toys.schedule.alphas_cumprod
    models = [toys.expert(name).bind([asked.conditions], toys.schedule) for name in ("text", "mask")]
    generator = torch.Generator().manual_seed(asked.seed)
    x1 = torch.randn((1, *SHAPE), generator=generator)
    x2 = x1.clone()
    timesteps = toys.schedule.ddim_timesteps(STEPS)
    for k, t in enumerate(timesteps):
        to = timesteps[k + 1] if k + 1 < len(timesteps) else 0
        a, b = float(bar[t]), float(bar[to])
        std = sigma * math.sqrt((1 - b) / (1 - a) * (1 - a / b)) if k + 1 < len(timesteps) else 0.0

        def step(model: Any, x: Tensor, t: int = t, a: float = a, b: float = b, std: float = std) -> Tensor:
            slope = math.sqrt(1 - b - std**2) - math.sqrt(b * (1 - a) / a)
            return math.sqrt(b / a) * x + slope * model(x, t)  # the mean of equation 6

        together = k < s
        means = [step(models[0], x1)] + ([step(models[1], x2)] if together else [])
        drawn = [m + std * torch.randn((1, *SHAPE), generator=generator) if std else m for m in means]
        x1 = drawn[0]
        if together:
            mixed = w * drawn[0] + math.sqrt(1 - w**2) * drawn[1]
            x1 = mixed - eta[0] * (mixed - means[0]) / (mixed - means[0]).norm()
            x2 = mixed - eta[1] * (mixed - means[1]) / (mixed - means[1]).norm()
    return x1


@pytest.mark.parametrize(("s", "w", "eta", "sigma"), [(3, 0.5, (2.0, 3.0), 0.0), (6, 0.8, (0.5, 1.0), 0.7)])
def test_two_models_are_algorithm_1(s: int, w: float, eta: tuple[float, float], sigma: float) -> None:
    asked = requests(2)
    found = latents(make(aggregation_steps=s, weights=[w], step_sizes=eta, step_unit="absolute", eta=sigma), asked)
    wanted = torch.cat([algorithm_1(request, s, w, eta, sigma) for request in asked])
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


def test_the_default_step_is_the_papers_in_the_papers_latents() -> None:
    shares = make(step_unit="share", step_sizes=(45 / 128, 55 / 128))
    torch.testing.assert_close(latents(make(), requests()), latents(shares, requests()))
    absolute = make(step_unit="absolute", step_sizes=(45 * SIZE / 128, 55 * SIZE / 128))
    torch.testing.assert_close(latents(make(), requests()), latents(absolute, requests()))


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_no_aggregation_is_the_first_model_alone(eta: float) -> None:
    asked = requests()
    torch.testing.assert_close(latents(make(aggregation_steps=0, eta=eta), asked), alone("text", asked, eta))
    turned = make(aggregation_steps=0, eta=eta, order=["mask", "text"])
    torch.testing.assert_close(latents(turned, asked), alone("mask", asked, eta))


def test_weight_1_is_the_first_model_alone() -> None:
    asked = requests()
    for steps in ((), (0.0, 0.0)):
        found = latents(make(weights=[1.0], step_sizes=steps, aggregation_steps=STEPS), asked)
        torch.testing.assert_close(found, alone("text", asked))


def test_step_size_0_is_pure_aggregation() -> None:
    none, off = make(step_sizes=(0.0, 0.0)), make(optimise=False)
    assert torch.equal(latents(none, requests()), latents(off, requests()))
    assert float((latents(make(), requests()) - latents(off, requests())).abs().max()) > 1e-2


@pytest.mark.parametrize("rule", ["average", "slerp"])
def test_equal_models_are_one_model(rule: str) -> None:
    """What equation 9 does not have with a shared x_T."""
    toys = ToyWorld(mask=ToyExpert(1.0))
    found = latents(make(toys=toys, aggregate=rule, optimise=False), requests())
    torch.testing.assert_close(found, alone("text", requests()))


def test_three_models_in_their_order() -> None:
    asked = requests(2, style=True)
    found = latents(make(Three), asked)
    assert found.shape == (2, *SHAPE)
    turned = latents(make(Three, order=["style", "mask", "text"]), asked)
    assert float((found - turned).abs().max()) > 1e-2
    assert float((found - latents(make(Three, unit_norm=True), asked)).abs().max()) > 1e-3
    # a third model of weight 0 changes nothing: printed weights of (w, 1) are (w, sqrt(1 - w^2), 0)
    two = latents(make(step_sizes=(1.0, 2.0), weights=[0.6], step_unit="absolute"), requests(2))
    with_third = make(
        Three, step_sizes=(1.0, 2.0, 0.0), weights=[0.6, 1.0], step_unit="absolute", order=["text", "mask", "style"]
    )
    torch.testing.assert_close(latents(with_third, asked), two)


# --------------------------------------------------------------------------------------------------------- the authors'


def test_official_preset_is_the_authors_loop() -> None:
    """Batch of one: own x_T, steps 1 to 3, a mean that is a step late, and both models before the window."""
    request = requests(2)[1]
    toys = ToyWorld()
    bar = toys.schedule.alphas_cumprod
    method = make(preset="official", step_sizes=(1.0, 2.0))
    p = method.params
    assert (p.first_step, p.shared_start, p.mean, p.norm_over, p.step_unit) == (
        1,
        False,
        "official",
        "batch",
        "absolute",
    )
    generator = torch.Generator().manual_seed(request.seed)
    models = [toys.expert(name).bind([request.conditions], toys.schedule) for name in ("text", "mask")]
    x = [torch.randn((1, *SHAPE), generator=generator) for _ in models]
    timesteps = toys.schedule.ddim_timesteps(STEPS)
    late: list[Tensor] = []
    for i, t in enumerate(timesteps):
        a, b = float(bar[t]), float(bar[timesteps[i + 1] if i + 1 < STEPS else 0])
        eps = [model(v, t) for model, v in zip(models, x, strict=True)]
        after = [
            math.sqrt(b) * (v - math.sqrt(1 - a) * e) / math.sqrt(a) + math.sqrt(1 - b) * e
            for v, e in zip(x, eps, strict=True)
        ]
        if 1 <= i <= 3:
            before = timesteps[i - 1]
            alpha, prod = float(bar[before] / bar[before - 1]), float(bar[before])
            mixed = 0.5 * after[0] + math.sqrt(0.75) * after[1]
            mus = [
                v / math.sqrt(alpha) - (1 - alpha) / (math.sqrt(1 - prod) * math.sqrt(alpha)) * e
                for v, e in zip(x, late, strict=True)
            ]
            after = [mixed - size * (mixed - mu) / (mixed - mu).norm() for size, mu in zip((1, 2), mus, strict=True)]
        late, x = eps, after
    torch.testing.assert_close(latents(method, [request]), x[0], rtol=1e-3, atol=1e-3)


# --------------------------------------------------------------------------------------------------- costs and promises


@pytest.mark.parametrize(
    ("params", "others"),
    [
        ({}, 3),
        ({"aggregation_steps": 0}, 0),
        ({"aggregation_steps": 6}, 6),
        ({"eta": 1.0}, 3),
        ({"preset": "official"}, 4),
        ({"optimise": False}, 3),
    ],
)
def test_the_correction_evaluates_no_network(params: dict[str, Any], others: int) -> None:
    """An added model costs s evaluations (one more where the window opens a step late), theta_1 always T."""
    toys, asked = ToyWorld(), requests(3)
    method = make(toys=toys, **params)
    counter = EvaluationCounter({name: toys.expert(name) for name in ("text", "mask")})
    method.generate(asked)
    assert counter.rows == {"text": STEPS * len(asked), "mask": others * len(asked)}


@pytest.mark.parametrize(
    "params", [{}, {"eta": 1.0}, {"shared_start": False}, {"aggregate": "average"}, {"aggregate": "slerp"}]
)
def test_an_image_depends_on_its_request_alone(params: dict[str, Any]) -> None:
    method, asked = make(**params), requests(4)
    together = latents(method, asked)
    state = torch.random.get_rng_state()
    torch.testing.assert_close(latents(method, asked[2:3]), together[2:3])
    torch.testing.assert_close(latents(method, asked[::-1]).flip(0), together)
    assert torch.equal(state, torch.random.get_rng_state())
    assert float((together[0] - together[1]).abs().max()) > 0.01


# ------------------------------------------------------------------------------------------------------------ bad input


def refused(action: Callable[[], Any], *words: str) -> None:
    with pytest.raises(ConcordError) as caught:
        action()
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_models_that_do_not_fit_are_named() -> None:
    other = Schedule.scaled_linear(0.00085, 0.012)
    fewer = Schedule(ToyWorld.schedule.alphas_cumprod[:500])
    cases = [
        (ToyExpert(2.0, shape=(4, 8, 8)), ("'mask' works in latents of shape (4, 8, 8)", "'text' in (3, 4, 4)")),
        (ToyExpert(2.0, schedule=other), ("'mask' has another noise schedule", "'text'")),
        (ToyExpert(2.0, schedule=fewer), ("'mask' has another noise schedule (500 steps",)),
    ]
    for expert, words in cases:
        refused(lambda expert=expert: make(toys=ToyWorld(mask=expert)).generate(requests()), *words)  # type: ignore[misc]


def test_parameters_out_of_range_are_named() -> None:
    refused(lambda: make(weights=[1.5]), "weights.0", "1.5")
    refused(lambda: make(weights=[-0.1]), "weights.0", "-0.1")
    refused(lambda: make(aggregation_steps=7), "aggregation_steps", "at most the 6 sampling steps", "got 7")
    refused(lambda: make(steps=2), "aggregation_steps", "at most the 2 sampling steps")
    refused(lambda: make(first_step=5), "first_step", "expected at most 3")
    refused(lambda: make(mean="official"), "mean", "first_step of 1 or more")
    refused(lambda: make(step_sizes=[-1, 2]), "step_sizes.0")
    refused(lambda: make(weights=[0.5, 0.5]).generate(requests()), "'weights': 2 values for 2 models; expected 1")
    refused(lambda: make(step_sizes=[0.5]).generate(requests()), "'step_sizes': 1 values for 2 models; expected 2")
    refused(lambda: make(order=["text", "style"]).generate(requests()), "'order': text, style", "text, mask")
