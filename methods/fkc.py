"""Feynman-Kac correctors (Skreta et al. 2025): particles of the composed reverse SDE, weighted so as to be right.

The target is a product of powers of the experts' densities at every noise level, prod_k q_k^{b_k}: products of experts
(b_k = w), their geometric average (b_k = w / M), and the conjunction q_u prod_k (q_k / q_u)^w, whose b_u = 1 - w M.
Sampling with the sum of the scores alone, as Composable does, misses it; the particles' weights put that right. In the
coordinates of `core.reverse_sde`, with E = sum_k b_k eps_k (the paper's propositions 3.1 to 3.3 are its special cases):

    dy       = 2 E dsigma + sqrt(2 sigma |dsigma|) z
    d log w  = |dsigma| / sigma (||E||^2 - sum_k b_k ||eps_k||^2)

Each request has M particles of its own, so that no image depends on another request. They are resampled systematically
where their effective sample size (sum w)^2 / sum w^2 falls to `resample_below` of M; the image that is kept is one of
them, drawn by its weight from the request's own generator. One image costs M times the evaluations of one sample.

As the authors' code (fkc-diffusion, generate_images.py at f6070aa) does: increments less their mean over the particles
and cut at +-1 (`clip`), resampling at every step but the last, and weights of 1e-6 at least (`floor`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from concord.data.errors import ConcordError
from concord.methods.base import Batch, Method, Trace, register
from concord.methods.core.experts import modalities
from concord.methods.core.noise import draw_noise
from concord.methods.core.reverse_sde import Discretisation, Leg, legs
from concord.methods.networks.protocols import TrainedDenoiser


class FKCParams(Method.Params):
    """The values of the authors' code; M, the target and w are a row's to choose."""

    particles: int = Field(8, ge=1, le=1024)  # M
    target: Literal["product", "average", "conjunction"] = "conjunction"
    weight: float = Field(1.0, gt=0)  # w
    steps: int = Field(32, ge=2, le=1000)
    discretisation: Discretisation = "euler"
    resample_below: float = Field(1.0, ge=0, le=1)  # of M; 1: at every step, 0: never
    clip: float | None = Field(1.0, gt=0)  # of an increment of log w less its mean; None: not cut
    floor: float = Field(1e-6, ge=0, lt=1)  # of a weight in resampling

    def exponents(self, experts: int) -> list[float]:
        """b of every expert, then of the unconditional model where it has one."""
        if self.target == "conjunction":
            return [self.weight] * experts + [1 - self.weight * experts]
        return [self.weight / experts if self.target == "average" else self.weight] * experts


def log_weight_change(eps: Tensor, exponents: Tensor, leg: Leg) -> Tensor:
    """d log w of every row: eps (K, R, C, h, w), exponents b (K,); float64 (R,)."""
    flat = eps.flatten(2).double()
    b = exponents.double()
    combined = torch.einsum("k,krd->rd", b, flat).square().sum(dim=1)
    apart = torch.einsum("k,kr->r", b, flat.square().sum(dim=2))
    return abs(leg.change) / leg.sigma * (combined - apart)


def effective_size(log_w: Tensor) -> Tensor:
    """(sum w)^2 / sum w^2 of log w (..., M): 1 where one particle has all the weight, M where all agree."""
    w = log_w.softmax(dim=-1)
    return 1 / w.square().sum(dim=-1)


def systematic(weights: Tensor, u: Tensor) -> Tensor:
    """Indices (B, M) of a systematic draw of M from weights (B, M), whose rows need not sum to 1; u (B,) in [0, 1)."""
    m = weights.shape[1]
    edges = weights.double().cumsum(1)
    steps = torch.arange(m, dtype=torch.float64, device=weights.device)
    places = (steps + u[:, None]) / m * edges[:, -1:]
    return torch.searchsorted(edges, places, right=True).clamp(max=m - 1)


@torch.inference_mode()
def corrected(
    denoise: Callable[[Tensor, int], Tensor],
    exponents: Sequence[float],
    path: Sequence[Leg],
    y: Tensor,
    generators: Sequence[torch.Generator],
    params: FKCParams,
    ids: Sequence[str],
    trace: Trace,
) -> tuple[Tensor, Tensor]:
    """Particles (B, M, C, h, w) of the clean sample and their log weights, float64 (B, M).

    denoise: (x_t (B M, C, h, w), t) -> eps (K, B M, C, h, w). y: (B, M, C, h, w), N(0, sigma^2) of the highest noise;
    the target there, a product of powers b_k of that, is narrower by sqrt(sum b), and so is the start made.
    Raises ConcordError where the weights of a request are no numbers any more, naming step and request.
    """
    b, m = y.shape[:2]
    powers = torch.tensor(list(exponents), dtype=torch.float64, device=y.device)
    y = y / sum(exponents) ** 0.5
    log_w = torch.zeros(b, m, dtype=torch.float64, device=y.device)
    lost = torch.full((b,), -1, device=y.device)  # the first step whose weights are no numbers; read at the end alone
    for leg in path:
        eps = denoise(y.flatten(0, 1) * leg.scale, leg.t)  # (K, B M, C, h, w)
        total = torch.einsum("k,k...->...", powers.to(y.dtype), eps).reshape_as(y)
        y = y + 2 * leg.change * total
        if leg.spread == 0:  # the last leg only removes the noise that is left
            continue
        y = y + leg.spread * draw_noise(generators, y.shape[1:], y.device)
        change = log_weight_change(eps, powers, leg).reshape(b, m)
        change = change - change.mean(dim=1, keepdim=True)  # a constant cancels
        log_w = log_w + (change if params.clip is None else change.clamp(-params.clip, params.clip))
        lost = torch.where((lost < 0) & ~torch.isfinite(log_w).all(dim=1), leg.t, lost)
        trace("effective-size", leg.t, effective_size(log_w))
        if m > 1 and params.resample_below > 0:
            y, log_w = _resampled(y, log_w, generators, params)
    for row, t in enumerate(lost.tolist()):
        if t >= 0:
            raise ConcordError(
                f"method 'fkc', step t = {t}: all weights of request {ids[row]} have vanished; take smaller powers "
                "(weight), more steps, or cut the increments (clip)"
            )
    return y, log_w


def _resampled(
    y: Tensor, log_w: Tensor, generators: Sequence[torch.Generator], params: FKCParams
) -> tuple[Tensor, Tensor]:
    """Particles drawn anew, their log weights 0, for the requests whose effective size is low enough.

    Each request draws its own number at every step, whether it needs it or not: nothing waits for the device.
    """
    m = y.shape[1]
    u = torch.cat([torch.rand(1, generator=generator, dtype=torch.float64) for generator in generators]).to(y.device)
    due = effective_size(log_w) <= params.resample_below * m * (1 + 1e-12)  # (B,)
    drawn = systematic(log_w.softmax(dim=1).clamp(min=params.floor), u)
    kept = torch.where(due[:, None], drawn, torch.arange(m, device=y.device))  # (B, M)
    y = y.gather(1, kept.reshape(*kept.shape, *[1] * (y.ndim - 2)).expand_as(y))
    return y, torch.where(due[:, None], torch.zeros_like(log_w), log_w)


@register
class FeynmanKac(Method["FeynmanKac.Params"]):
    """M weighted particles a request; the stored image is one of them."""

    name, title, paper = "fkc", "Feynman-Kac correctors", "arXiv:2503.02819"
    citation = (
        "Skreta, Akhound-Sadegh, Ohanesian, Bondesan, Aspuru-Guzik, Doucet, Brekelmans, Tong, Neklyudov: Feynman-Kac "
        "Correctors in Diffusion: Annealing, Guidance, and Product of Experts. ICML 2025"
    )
    conditions = frozenset({"text", "mask"})
    minimum_conditions = 2
    training_free = True
    auto_include = False
    traces = ("effective-size",)

    class Params(FKCParams):
        def models(self, conditions: Sequence[str]) -> list[str]:
            return [*conditions, *(["unconditional"] if self.target == "conjunction" else [])]

    def denoisers(self) -> Mapping[str, nn.Module]:
        names = self.params.models(sorted(self.conditions))
        return {f"eps-{name}": self.networks.get(f"expert/{name}", nn.Module) for name in names}

    @classmethod
    def roles(cls, params: Params, conditions: Sequence[str]) -> tuple[str, ...]:
        return ("schedule", "space", *(f"expert/{name}" for name in params.models(conditions)))

    @classmethod
    def evaluations(
        cls, params: Params, conditions: Sequence[str], timesteps: Sequence[int] | None = None
    ) -> Mapping[str, float]:
        return {f"eps-{name}": params.steps * params.particles for name in params.models(conditions)}

    @torch.inference_mode()
    def sample(self, batch: Batch, trace: Trace) -> Tensor:
        p, schedule, m = self.params, self.schedule, self.params.particles
        names = p.models(modalities(batch))
        conditions = [condition for condition in batch.conditions for _ in range(m)]
        bound = [self.networks.get(f"expert/{name}", TrainedDenoiser).bind(conditions, schedule) for name in names]

        def denoise(x_t: Tensor, t: int) -> Tensor:
            return torch.stack([expert(x_t, t) for expert in bound])

        exponents = p.exponents(len(names) - (p.target == "conjunction"))
        path = legs(schedule, p.steps, p.discretisation)
        y = draw_noise(batch.generators, (m, *self.space.latent_shape), self.device) / path[0].scale
        ids = [request.id for request in batch.requests]
        particles, log_w = corrected(denoise, exponents, path, y, batch.generators, p, ids, trace)
        chosen = [
            int(torch.multinomial(weights.softmax(0).cpu(), 1, generator=generator))
            for weights, generator in zip(log_w, batch.generators, strict=True)
        ]
        x_0 = torch.stack([own[index] for own, index in zip(particles, chosen, strict=True)])  # (B, C, h, w)
        return self.space.decode(x_0).clamp(0, 1)
