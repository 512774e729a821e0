"""MT-Diffusion's equations 4 and 5 against a chain that follows equation 3 step by step, and what its weights do.

The chain keeps z_t as a linear combination of z_0, of every E_i(x_i) and of every step's own noise: its mean and its
covariances follow by counting, without any closed form. float64.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from concord.data.errors import ConcordError
from concord.methods.core.sampler import ddpm_step
from concord.methods.core.schedule import Schedule
from concord.methods.mt_diffusion import Aggregation, infer, pairs

STEPS = 60
SHORT = Schedule.scaled_linear(0.002, 0.2, STEPS)
LONG = Schedule.scaled_linear()
COSINE = Schedule(
    torch.cumprod(
        torch.tensor(
            [
                1
                - min(
                    1
                    - math.cos((t + 8.008) / 1008.008 * math.pi / 2) ** 2
                    / math.cos((t - 1 + 8.008) / 1008.008 * math.pi / 2) ** 2,
                    0.999,
                )
                for t in range(1, 1001)
            ],
            dtype=torch.float64,
        ),
        dim=0,
    )
)
"""ADM's cosine schedule (Nichol and Dhariwal 2021), which the paper trains with on ImageNet."""


def aggregation(seed: int = 0, modalities: int = 2) -> Aggregation:
    weights = torch.rand(modalities, STEPS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 0.3
    return Aggregation(SHORT, weights)


def chain(process: Aggregation) -> np.ndarray:
    """Coefficients (T + 1, 1 + N + T) of z_0, z_1, .., z_T over (z_0, E_1 .. E_N, eps_1 .. eps_T), by equation 3."""
    schedule, count = process.schedule, len(process.weights)
    abar = schedule.alphas_cumprod.numpy()
    z = np.zeros((schedule.steps + 1, 1 + count + schedule.steps))
    z[0, 0] = 1
    for t in range(schedule.steps):
        alpha = abar[t] / (abar[t - 1] if t else 1.0)
        moved = z[t].copy()
        for i in range(count):
            moved[1 + i] += float(process.weights[i, t])
        z[t + 1] = math.sqrt(alpha) * moved
        z[t + 1, 1 + count + t] += math.sqrt(1 - alpha)
    return z


Z_0, E = 0.7, (1.3, -0.4)


def moments(process: Aggregation) -> tuple[np.ndarray, np.ndarray]:
    """Means (T + 1,) and covariances (T + 1, T + 1) of z_0 .. z_T given z_0 and X, from the chain."""
    z = chain(process)
    count = len(process.weights)
    mean = z[:, : 1 + count] @ np.array([Z_0, *E[:count]])
    return mean, z[:, 1 + count :] @ z[:, 1 + count :].T


@pytest.mark.parametrize("modalities", [1, 2])
def test_equation_4_is_the_chain(modalities: int) -> None:
    process = aggregation(modalities=modalities)
    mean, covariance = moments(process)
    encoded = [torch.tensor([e], dtype=torch.float64) for e in E[:modalities]]
    z_0, noise = torch.tensor([Z_0], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for t in range(STEPS):
        ours = float(process.diffuse(z_0, noise, encoded, t))
        assert ours == pytest.approx(mean[t + 1], rel=1e-12)
        one = float(process.diffuse(z_0, torch.ones(1, dtype=torch.float64), encoded, t)) - ours
        assert one**2 == pytest.approx(covariance[t + 1, t + 1], rel=1e-12)
        many = process.diffuse(z_0, noise, encoded, torch.tensor([t]))
        assert float(many) == pytest.approx(ours, rel=1e-12)


def test_equation_4_is_a_simulated_chain() -> None:
    """Drawn, not counted: 200,000 chains of equation 3, mean and variance within five standard errors."""
    process, n = aggregation(3), 200_000
    rng = np.random.default_rng(0)
    abar, z = SHORT.alphas_cumprod.numpy(), np.full(n, Z_0)
    encoded = [torch.tensor([e], dtype=torch.float64) for e in E]
    for t in range(STEPS):
        alpha = abar[t] / (abar[t - 1] if t else 1.0)
        pulled = sum(float(w) * e for w, e in zip(process.weights[:, t], E, strict=True))
        z = math.sqrt(alpha) * (z + pulled) + math.sqrt(1 - alpha) * rng.standard_normal(n)
        if t % 20 == 19:
            want = float(process.diffuse(torch.tensor([Z_0]).double(), torch.zeros(1).double(), encoded, t))
            variance = 1 - abar[t]
            assert abs(z.mean() - want) < 5 * math.sqrt(variance / n)
            assert abs(z.var() - variance) < 5 * variance * math.sqrt(2 / n)


@pytest.mark.parametrize(("t", "s"), [(59, 58), (20, 19), (1, 0), (40, 22), (59, 0)])
def test_equation_5_is_the_chain_conditioned(t: int, s: int) -> None:
    """z_s given z_t, z_0 and X, by conditioning the chain's joint Gaussian; s = t - 1 is the paper's."""
    process = aggregation(1)
    mean, covariance = moments(process)
    a, b = s + 1, t + 1
    z_t = 0.9
    gain = covariance[a, b] / covariance[b, b]
    want, variance = mean[a] + gain * (z_t - mean[b]), covariance[a, a] - gain * covariance[a, b]
    tensor = lambda x: torch.tensor([x], dtype=torch.float64)  # noqa: E731
    encoded = [tensor(e) for e in E]
    assert float(process.posterior_mean(tensor(z_t), tensor(Z_0), encoded, t, s)) == pytest.approx(want, rel=1e-10)
    assert process.variance(t, s) == pytest.approx(variance, rel=1e-10)
    # the second form, by the noise that equation 4 says is in z_t (equation 10)
    eps = (z_t - mean[b]) / math.sqrt(covariance[b, b])
    assert float(process.mean(tensor(z_t), tensor(eps), encoded, t, s)) == pytest.approx(want, rel=1e-10)
    # DDIM's step with eta = 1 is the same draw; with eta = 0 it keeps the marginal (Song et al. 2021)
    noise = tensor(0.37)
    full = float(process.step(tensor(z_t), tensor(eps), encoded, t, s, 1.0, noise))
    assert full == pytest.approx(want + math.sqrt(variance) * 0.37, rel=1e-10)
    near = float(process.step(tensor(z_t), tensor(eps), encoded, t, s, 1 - 1e-9, noise))
    assert near == pytest.approx(full, rel=1e-6)
    kept = float(process.step(tensor(z_t), tensor(eps), encoded, t, s, 0.0, None))
    assert kept == pytest.approx(mean[a] + math.sqrt(covariance[a, a]) * eps, rel=1e-10)


def test_the_last_step_ends_at_the_predicted_image() -> None:
    process, encoded = aggregation(1), [torch.tensor([e], dtype=torch.float64) for e in E]
    z_0, noise = torch.tensor([Z_0], dtype=torch.float64), torch.tensor([0.3], dtype=torch.float64)
    z_t = process.diffuse(z_0, noise, encoded, 7)
    for eta in (0.0, 1.0):
        assert float(process.step(z_t, noise, encoded, 7, -1, eta, None)) == pytest.approx(Z_0, rel=1e-12)
    assert process.variance(7, -1) == 0


def test_without_weights_it_is_ddpm() -> None:
    process = Aggregation(LONG, torch.zeros(1, 1000, dtype=torch.float64))
    generator = torch.Generator().manual_seed(0)
    z, eps, e, noise = torch.randn(4, 2, 3, generator=generator, dtype=torch.float64)
    for t, s in ((999, 998), (500, 480), (3, 0)):
        ours = process.step(z, eps, [e], t, s, 1.0, noise)
        torch.testing.assert_close(ours, ddpm_step(LONG, eps, z, t, s, noise), rtol=1e-10, atol=1e-12)
        assert torch.equal(process.diffuse(z, eps, [e], t), LONG.diffuse(z, eps, t))


def test_a_clean_signal_that_drifts() -> None:
    """`clean` is what z_t is DDPM's of; with the bounded weights it is z_0 + t / T E(x)."""
    process = Aggregation.make(LONG, 2)
    generator = torch.Generator().manual_seed(0)
    z_0, e, f, noise = torch.randn(4, 3, 5, generator=generator, dtype=torch.float64)
    t = torch.tensor([0, 499, 999])
    z_t = process.diffuse(z_0, noise, [e, f], t)
    torch.testing.assert_close(LONG.diffuse(process.clean(z_0, [e, f], t), noise, t), z_t)
    part = ((t + 1) / 1000).double()[:, None]
    torch.testing.assert_close(process.clean(z_0, [e, f], t), z_0 + part * (e + f))


@pytest.mark.parametrize(("schedule", "low", "high"), [(LONG, 1000.0, 6000.0), (COSINE, 900.0, 1100.0)])
def test_what_the_weights_do(schedule: Schedule, low: float, high: float) -> None:
    """The paper's aggregate is in the thousands near T, the bounded one never larger than the image's own factor."""
    paper, bounded = (Aggregation.make(schedule, 1, kind) for kind in ("paper", "bounded"))
    own = schedule.alphas_cumprod.sqrt()
    assert low < float(paper.drift[0, 998]) < high
    assert float(paper.weights[0, 998]) == float(paper.weights[0, 999]) == 999.0
    assert float(paper.weights[0, 499]) == 1.0
    assert bool((bounded.drift[0] <= own * (1 + 1e-9)).all())
    assert bool((bounded.drift[0] > 0).all())
    assert float(bounded.weights.max()) <= 1 / schedule.steps


def test_weights_without_an_end_point_are_refused() -> None:
    t = torch.arange(1, 1001, dtype=torch.float64)
    with pytest.raises(ValueError, match="end point at t = T"):
        Aggregation(LONG, (t / (1000 - t))[None])


# --------------------------------------------------------------------------------- Algorithm 1 with the exact denoiser


def exact(process: Aggregation, known: float) -> tuple[float, float]:
    """Mean and deviation of z_0 by Algorithm 1 from N(0, 1), where z_0 ~ N(0, 1) and X = `known` are independent.

    The best denoiser is then known: E[eps | z_t, X] = sqrt(1 - abar) (z_t - atilde x).
    """
    n = 4000
    generators = [torch.Generator().manual_seed(0)]
    x = torch.full((1, n), known)

    def predict(z_t: torch.Tensor, t: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        abar = process.abar(t)
        return (1 - abar) ** 0.5 * (z_t - process.signal([x], t)), {}

    z_0, found = infer(predict, lambda _, e: e, process, {"x": x}, {}, generators, (n,), "cpu", 1000)
    assert torch.equal(found["x"], x)
    return float(z_0.mean()), float(z_0.std())


def test_algorithm_1_with_the_exact_denoiser_needs_bounded_weights() -> None:
    """z_0 has mean 0, whatever X is. The bounded start is right; the paper's is off by atilde_T sqrt(abar_T) x."""
    mean, deviation = exact(Aggregation.make(LONG, 1), 1.0)
    assert abs(mean) < 5 / math.sqrt(4000)
    assert deviation == pytest.approx(1, abs=0.05)
    paper = Aggregation.make(LONG, 1, "paper")
    mean, _ = exact(paper, 1.0)
    missed = float(paper.drift[0, 999] * LONG.alphas_cumprod[999].sqrt())
    assert missed > 5
    assert mean == pytest.approx(-missed, rel=0.05)


# ------------------------------------------------------------------------------------------------ known and unknown


def test_any_subset_may_be_known() -> None:
    process = Aggregation.make(LONG, 2)
    generator = torch.Generator().manual_seed(0)
    x = {name: torch.randn(1, 6, generator=generator) for name in ("a", "b")}
    calls: list[tuple[str, torch.Tensor]] = []

    def encode(name: str, data: torch.Tensor) -> torch.Tensor:
        calls.append((name, data))
        return data

    def predict(z_t: torch.Tensor, t: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return z_t * 0.5, {"a": z_t + t, "b": z_t - t}

    def run(known: dict[str, torch.Tensor], start: dict[str, torch.Tensor], z_0: torch.Tensor | None = None):  # type: ignore[no-untyped-def]
        calls.clear()
        return infer(
            predict, encode, process, known, start, [torch.Generator().manual_seed(1)], (6,), "cpu", 5, z_0=z_0
        )

    _, found = run(x, {})
    assert all(torch.equal(found[name], x[name]) for name in x)
    assert [name for name, _ in calls] == ["a", "b"]  # known ones are encoded once, and nothing else is
    z_0, found = run({"a": x["a"]}, {"b": x["b"]})
    assert torch.equal(found["a"], x["a"])
    assert not torch.equal(found["b"], x["b"])
    assert [name for name, _ in calls] == ["a", *["b"] * 5]
    assert torch.equal(calls[1][1], x["b"])  # the first encoding is of the start, the others of predictions
    first, second = run({}, x)[0], run({}, x)[0]
    assert torch.equal(first, second)
    assert not torch.equal(first, z_0)
    kept, found = run({}, x, z_0=z_0)  # the image is known: it comes back as it is, and only X is found
    assert torch.equal(kept, z_0)
    assert not torch.equal(found["a"], x["a"])
    with pytest.raises(ConcordError, match="modality 'a' is both known and to be found"):
        run(x, x)


def test_all_steps_and_fewer() -> None:
    whole, some = pairs(LONG, 1000), pairs(LONG, 50)
    assert (whole[0], whole[-1], len(whole)) == ((999, 998), (0, -1), 1000)
    assert (some[0], some[-1], len(some)) == ((981, 961), (1, -1), 50)
