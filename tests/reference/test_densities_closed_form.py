"""SuperDiff and Feynman-Kac correctors on Gaussian experts, where every density, product and moment is known."""

import math
from itertools import pairwise

import pytest
import torch

from concord.data.errors import ConcordError
from concord.methods.base import Trace
from concord.methods.core.reverse_sde import legs, start
from concord.methods.core.schedule import Schedule
from concord.methods.fkc import FKCParams, corrected, effective_size, log_weight_change, systematic
from concord.methods.superdiff import SuperDiffParams, superposed, weights_and

SCHEDULE = Schedule.scaled_linear()
SHAPE = (2, 1, 1)  # C, h, w: two numbers


def generators(n, first=0):
    return [torch.Generator().manual_seed(first + i) for i in range(n)]


class Gaussian:
    """q(x_0) = N(mean, spread^2 I): eps of x_t = sqrt(abar) y in closed form."""

    def __init__(self, mean, spread):
        self.mean, self.spread = torch.tensor(mean).reshape(SHAPE), spread

    def __call__(self, x_t, t):
        abar = float(SCHEDULE.alphas_cumprod[t])
        sigma = math.sqrt((1 - abar) / abar)
        return sigma * (x_t / math.sqrt(abar) - self.mean) / (self.spread**2 + sigma**2)

    def log_q(self, y, sigma):
        """Of y (B, C, h, w) at a noise level, float64 (B,)."""
        variance = self.spread**2 + sigma**2
        apart = (y.double() - self.mean.double()).flatten(1)
        return -(apart.square().sum(1) / variance + apart.shape[1] * math.log(2 * math.pi * variance)) / 2


def together(experts):
    def both(x_t, t):
        eps = torch.stack([expert(x_t, t) for expert in experts])
        return eps, eps

    return both


def run(experts, params, n=256, steps=None):
    path = legs(SCHEDULE, params.steps, params.discretisation)
    draws = generators(n)
    y = start(SCHEDULE, params.steps, draws, SHAPE, "cpu")
    x_0, log_q = superposed(together(experts), path, y, draws, params, Trace())
    return y, x_0, log_q


# ---------------------------------------------------------------------------------------------------------- the reverse


@pytest.mark.parametrize("kind", ["euler", "ancestral"])
def test_one_expert_is_sampled_with_its_own_mean_and_spread(kind):
    """The spread's error of both discretisations is of first order in the step; at 500 steps it is small."""
    expert, n = Gaussian([0.7, -0.4], 0.3), 600
    _, x_0, _ = run([expert], SuperDiffParams(steps=500, weight=1, combine="or", discretisation=kind), n=n)
    x_0 = x_0.flatten(1)
    assert (x_0.mean(0) - expert.mean.flatten()).abs().max() < 4 * 0.3 / math.sqrt(n) + 0.02
    assert abs(x_0.std(0).mean() / 0.3 - 1) < 4 / math.sqrt(4 * n) + 0.03


@pytest.mark.parametrize("kind", ["euler", "ancestral"])
def test_a_path_ends_without_noise_at_the_predicted_clean_sample(kind):
    last = legs(SCHEDULE, 20, kind)[-1]
    assert last.spread == 0
    assert 2 * last.change == pytest.approx(-last.sigma)


def test_the_density_along_a_path_tends_to_the_density_at_its_end():
    """Theorem 1: the estimate's error falls with the step."""
    a, b = Gaussian([0.5, 0.0], 0.5), Gaussian([-0.5, 0.3], 0.8)
    errors = []
    for steps in (50, 200, 1000):
        path = legs(SCHEDULE, steps, "euler")
        draws = generators(200)
        y = start(SCHEDULE, steps, draws, SHAPE, "cpu")
        first = y
        found = torch.zeros(len(y), dtype=torch.float64)
        for leg, after in pairwise(path):  # sampled from a, followed under b
            noise = torch.stack([torch.randn(SHAPE, generator=g) for g in draws])
            dy = 2 * leg.change * a(y * leg.scale, leg.t) + leg.spread * noise
            found += leg.log_density_change(b(y * leg.scale, leg.t), dy)
            y, end = y + dy, after.sigma
        exact = b.log_q(y, end) - b.log_q(first, path[0].sigma)
        errors.append(float((found - exact).abs().mean()))
    assert errors[0] > 1.5 * errors[1] > 2 * errors[2]
    assert errors[2] < 0.35


# ------------------------------------------------------------------------------------------------------------ SuperDiff


def test_weights_of_two_experts_are_the_authors_formula():
    torch.manual_seed(0)
    eps_u, a, b, noise = (torch.randn(5, *SHAPE, dtype=torch.float64) for _ in range(4))
    leg, w = legs(SCHEDULE, 100, "euler")[40], 7.5
    eps = torch.stack([a, b])
    kappa = weights_and(eps, eps_u + w * (eps - eps_u), noise, leg)

    def dot(p, q):
        return (p * q).flatten(1).sum(1)

    first = noise + 2 * leg.change * (eps_u + w * (b - eps_u))  # the step of kappa_a = 0, with the same noise
    over = abs(leg.change) * dot(b - a, b + a) - dot(first, a - b)
    expected = over / (2 * leg.change * w * dot(a - b, a - b))
    assert torch.allclose(kappa[:, 0], expected, rtol=1e-9)
    assert torch.allclose(kappa.sum(1), torch.ones(5, dtype=torch.float64))


@pytest.mark.parametrize("experts", [2, 3, 5])
def test_all_densities_change_alike_under_and(experts):
    torch.manual_seed(experts)
    shape = (4, 8, 8)
    eps, guided = torch.randn(experts, 6, *shape), torch.randn(experts, 6, *shape)
    noise, leg = torch.randn(6, *shape), legs(SCHEDULE, 50, "ancestral")[20]
    kappa = weights_and(eps, guided, noise, leg)
    dy = noise + 2 * leg.change * torch.einsum("bk,kb...->b...", kappa.float(), guided)
    changes = leg.log_density_change(eps, dy)  # (M, B)
    assert torch.allclose(changes, changes[:1].expand_as(changes), rtol=1e-4, atol=1e-3)
    assert torch.allclose(kappa.sum(1), torch.ones(6, dtype=torch.float64), atol=1e-6)


def test_experts_that_agree_weigh_alike():
    eps = torch.randn(1, 3, *SHAPE).expand(3, -1, -1, -1, -1)
    kappa = weights_and(eps, eps, torch.randn(3, *SHAPE), legs(SCHEDULE, 50, "euler")[10])
    assert torch.allclose(kappa, torch.full_like(kappa, 1 / 3))


def test_samples_of_and_are_as_likely_under_one_expert_as_under_the_other():
    a, b = Gaussian([1.0, 0.0], 0.5), Gaussian([-1.0, 0.0], 0.5)
    apart = {}
    for combine in ("and", "or"):
        _, x_0, _ = run([a, b], SuperDiffParams(steps=500, weight=1, combine=combine), n=100)
        apart[combine] = float((a.log_q(x_0, 0.0) - b.log_q(x_0, 0.0)).abs().median())
    assert apart["and"] < 0.6  # on the line between the means: the difference is 16 x
    assert apart["or"] > 5  # one or the other


def test_or_samples_the_mixture():
    a, b = Gaussian([2.0, 0.0], 0.3), Gaussian([-2.0, 0.0], 0.3)
    _, x_0, log_q = run([a, b], SuperDiffParams(steps=500, weight=1, combine="or"), n=200)
    x = x_0.flatten(1)[:, 0]
    near = (x.abs() - 2).abs() < 1.2
    assert near.float().mean() > 0.97
    assert 0.4 < (x[near] > 0).float().mean() < 0.6
    told = log_q[:, 0] > log_q[:, 1]
    assert (told == (x > 0))[near].float().mean() > 0.97


def test_a_batch_gives_what_its_rows_give_alone():
    a, b = Gaussian([1.0, 0.0], 0.5), Gaussian([-1.0, 0.0], 0.5)
    params = SuperDiffParams(steps=20, weight=1)
    path = legs(SCHEDULE, 20, "euler")
    draws = generators(8)
    y = start(SCHEDULE, 20, draws, SHAPE, "cpu")
    whole, _ = superposed(together([a, b]), path, y, draws, params, Trace())
    for row in range(8):
        draws = generators(1, row)
        y = start(SCHEDULE, 20, draws, SHAPE, "cpu")
        alone, _ = superposed(together([a, b]), path, y, draws, params, Trace())
        assert torch.allclose(alone[0], whole[row], atol=1e-5)


# ------------------------------------------------------------------------------------------------------- Feynman-Kac


def particles(experts, params, n, m, first=0):
    """Clean particles (n, m, 2) and their weights, which sum to 1 in every request."""
    path = legs(SCHEDULE, params.steps, params.discretisation)
    draws = generators(n, first)
    y = torch.stack([torch.randn((m, *SHAPE), generator=g) for g in draws]) / path[0].scale

    def denoise(x_t, t):
        return torch.stack([expert(x_t, t) for expert in experts])

    count = len(experts) - (params.target == "conjunction")
    ids = [str(i) for i in range(n)]
    x_0, log_w = corrected(denoise, params.exponents(count), path, y, draws, params, ids, Trace())
    return x_0.flatten(2), log_w.softmax(dim=1)


def product(experts, exponents):
    """Mean and standard deviation of prod N(m_k, s_k^2)^b_k."""
    precision = sum(b / e.spread**2 for b, e in zip(exponents, experts, strict=True))
    mean = sum(b * e.mean.flatten() / e.spread**2 for b, e in zip(exponents, experts, strict=True)) / precision
    return mean, precision**-0.5


def moments(x, w):
    """Weighted mean and standard deviation over all particles of all requests, (2,) each."""
    mean = (w[..., None] * x).sum(1).mean(0)
    return mean, (w[..., None] * (x - mean).square()).sum(1).mean(0).sqrt()


WHOLE = {"steps": 500, "discretisation": "euler", "clip": None, "floor": 0.0, "resample_below": 0.5}


@pytest.mark.parametrize(
    ("target", "weight", "experts"),
    [
        ("product", 1.0, [Gaussian([0.6, 0.2], 0.6), Gaussian([-0.4, 0.5], 0.4)]),
        ("product", 1.5, [Gaussian([0.3, -0.2], 0.7)]),  # a power of one expert: annealed
        ("average", 1.0, [Gaussian([0.6, 0.2], 0.6), Gaussian([-0.4, 0.5], 0.3)]),
        ("conjunction", 1.5, [Gaussian([0.5, 0.0], 0.5), Gaussian([0.1, 0.4], 0.5), Gaussian([0.0, 0.0], 1.0)]),
    ],
)
def test_particles_have_the_moments_of_the_target(target, weight, experts):
    params = FKCParams(particles=64, target=target, weight=weight, **WHOLE)
    x, w = particles(experts, params, n=60, m=64)
    mean, spread = product(experts, params.exponents(len(experts) - (target == "conjunction")))
    found, deviation = moments(x, w)
    assert (found - mean).abs().max() < 0.06
    assert (deviation / spread - 1).abs().max() < 0.1


def test_the_error_of_the_spread_falls_with_the_particles():
    """One particle is the plain sum of scores, which is too wide or too narrow; more of them put it right."""
    experts = [Gaussian([0.0, 0.0], 0.5)]
    _, exact = product(experts, [1.5])
    errors = {}
    for m, n in ((1, 800), (8, 150), (64, 40)):
        params = FKCParams(particles=m, target="product", weight=1.5, **{**WHOLE, "steps": 250})
        x, w = particles(experts, params, n=n, m=m)
        _, deviation = moments(x, w)
        errors[m] = float((deviation / exact - 1).abs().mean())
    assert errors[1] > 0.1
    assert errors[1] > 1.4 * errors[8]
    assert errors[64] < 0.06


def test_weights_of_the_papers_special_cases():
    torch.manual_seed(1)
    e1, e2 = torch.randn(2, 7, *SHAPE, dtype=torch.float64)
    leg = legs(SCHEDULE, 50, "euler")[25]
    rate = leg.sigma * abs(leg.change)  # g^2 dtau / 2
    s1, s2 = -e1 / leg.sigma, -e2 / leg.sigma
    eps, b = torch.stack([e1, e2]), 2.5

    def inner(p, q):
        return (p * q).flatten(1).sum(1)

    average = log_weight_change(eps, torch.tensor([1 - b, b]), leg)  # classifier-free guidance of strength b
    assert torch.allclose(average, rate * b * (b - 1) * inner(s1 - s2, s1 - s2))
    both = log_weight_change(eps, torch.tensor([1.0, 1.0]), leg)
    assert torch.allclose(both, 2 * rate * inner(s1, s2))
    annealed = log_weight_change(eps[:1], torch.tensor([b]), leg)
    assert torch.allclose(annealed, rate * b * (b - 1) * inner(s1, s1))


def test_systematic_resampling_takes_every_particle_as_often_as_its_weight_says():
    weights = torch.tensor([[0.5, 0.25, 0.125, 0.125], [0.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    for u in (0.0, 0.3, 0.999):
        index = systematic(weights, torch.tensor([u, u], dtype=torch.float64))
        counts = torch.bincount(index[0], minlength=4)
        assert (counts - 4 * weights[0]).abs().max() < 1  # never off by one or more
        assert index[1].tolist() == [1, 1, 1, 1]
    assert effective_size(torch.zeros(1, 4)).item() == pytest.approx(4)
    assert effective_size(torch.tensor([[0.0, -1e9]])).item() == pytest.approx(1)


def test_weights_that_vanish_name_step_and_request():
    def lost(x_t, t):
        return torch.stack([torch.full_like(x_t, math.nan if t < 500 else 0.0)])

    params = FKCParams(particles=4, target="product", **WHOLE)
    path = legs(SCHEDULE, 10, "ancestral")
    draws = generators(2)
    y = torch.zeros(2, 4, *SHAPE)
    with pytest.raises(ConcordError, match=r"step t = 401: all weights of request first have vanished"):
        corrected(lost, [1.0], path, y, draws, params, ["first", "second"], Trace())


def test_no_request_looks_at_another():
    experts = [Gaussian([0.6, 0.2], 0.6), Gaussian([-0.4, 0.5], 0.4)]
    params = FKCParams(particles=8, target="product", steps=20)
    whole, _ = particles(experts, params, n=8, m=8)
    for row in range(8):
        alone, _ = particles(experts, params, n=1, m=8, first=row)
        assert torch.allclose(alone[0], whole[row], atol=1e-5)
