"""SuperDiff (Skreta, Atanackovic, Bose, Tong, Neklyudov, 2024): experts are joined by their densities along the path.

    dy = 2 v dsigma + sqrt(2 sigma |dsigma|) z,   v = sum_k kappa_k (eps_u + w (eps_k - eps_u)),   sum_k kappa_k = 1

in the coordinates of `core.reverse_sde`, where the log density of every expert k is followed without a divergence
(theorem 1, the Ito density estimate). The weights of a request are its own, and follow from these densities:

    AND (proposition 6)  kappa solves d log q_1 = d log q_2 = .. = d log q_M: all densities rise alike. M - 1 linear
                         equations and the sum; for two experts the authors' formula, and nothing keeps kappa in [0, 1]
    OR (algorithm 1)     kappa = softmax_k(T (log q_k + bias_k)): the mixture of the experts

Differences: the authors sample Stable Diffusion 1.4 in 1,000 Euler-Maruyama steps with w = 7.5; `discretisation` has
DDPM's step too, which leaves no noise behind where steps are few. Their code has two experts; where the equations
leave kappa open, as experts agree, it is as near to 1 / M as they allow. Their code's OR adds the squared term with
the other sign than its AND (applications/images/clip_eval.py at e3afac2); here both are theorem 1's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from concord.methods.base import Batch, Method, Trace, register
from concord.methods.core.experts import LAYOUT_MODELS, bind_experts, layout_models, modalities
from concord.methods.core.noise import draw_noise
from concord.methods.core.reverse_sde import Discretisation, Leg, legs, start
from concord.methods.networks.protocols import GuidedDenoiser, TrainedDenoiser

Experts = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""(x_t, t) -> eps (M, B, C, h, w) of every expert, and the same under classifier-free guidance."""


class SuperDiffParams(Method.Params):
    """The values of the authors' script for Stable Diffusion."""

    combine: Literal["and", "or"] = "and"
    steps: int = Field(1000, ge=2, le=1000)
    discretisation: Discretisation = "euler"
    weight: float = Field(7.5, ge=0)  # w of classifier-free guidance within every expert; 1 needs no other model
    temperature: float = Field(1.0, ge=0)  # T of OR


def weights_and(eps: Tensor, guided: Tensor, noise: Tensor, leg: Leg) -> Tensor:
    """kappa (B, M), float64: under dy = noise + 2 dsigma sum_k kappa_k guided_k all log densities change alike.

    eps, guided (M, B, C, h, w); noise (B, C, h, w), already scaled. The unknown is what kappa has beyond 1 / M.
    """
    m = len(eps)
    e, g = eps.flatten(2).double(), guided.flatten(2).double()  # (M, B, D)
    change = 2 * leg.change
    even = noise.flatten(1).double() + change * g.mean(dim=0)  # dy of kappa = 1 / M
    apart = e[:-1] - e[-1:]  # (M - 1, B, D)
    # <dy, e_j - e_M> + |dsigma| (|e_j|^2 - |e_M|^2) = 0 for j < M
    system = change * torch.einsum("jbd,kbd->bjk", apart, g)
    squares = e.square().sum(dim=2)
    wanted = -torch.einsum("bd,jbd->bj", even, apart) - abs(leg.change) * (squares[:-1] - squares[-1:]).T
    system = torch.cat([system, system.new_ones(system.shape[0], 1, m)], dim=1)  # sum of the unknowns: 0
    wanted = torch.cat([wanted, wanted.new_zeros(len(wanted), 1)], dim=1)
    # Rows brought to one length, so that the inverse's tolerance tells experts that agree from small steps.
    length = system.norm(dim=2, keepdim=True).amax(dim=1, keepdim=True).clamp(min=1e-300)
    scale = system.norm(dim=2).clamp(min=1e-12 * length[..., 0])
    solved = torch.linalg.pinv(system / scale[..., None], rtol=1e-9) @ (wanted / scale)[..., None]
    return 1 / m + solved[..., 0]


@torch.inference_mode()
def superposed(
    experts: Experts,
    leg_list: Sequence[Leg],
    y: Tensor,
    generators: Sequence[torch.Generator],
    params: SuperDiffParams,
    trace: Trace,
    names: Sequence[str] = (),
) -> tuple[Tensor, Tensor]:
    """The clean sample (B, C, h, w), and log q_k along the path less its value at the start, float64 (B, M)."""
    log_q: Tensor | None = None
    for leg in leg_list:
        eps, guided = experts(y * leg.scale, leg.t)
        if log_q is None:
            log_q = torch.zeros(len(y), len(eps), dtype=torch.float64, device=y.device)
        noise = leg.spread * draw_noise(generators, y.shape[1:], y.device) if leg.spread else torch.zeros_like(y)
        if params.combine == "and":
            kappa = weights_and(eps, guided, noise, leg)
        else:
            kappa = (params.temperature * log_q).softmax(dim=1)
        dy = noise + 2 * leg.change * torch.einsum("bk,kb...->b...", kappa.to(y.dtype), guided)
        log_q = log_q + leg.log_density_change(eps, dy).T
        trace("kappa", leg.t, kappa, parts=names)
        y = y + dy
    assert log_q is not None  # there are two legs at least
    return y, log_q


@register
class SuperDiff(Method["SuperDiff.Params"]):
    """Superposition of text, mask, ...: experts of one space and one schedule."""

    name, title, paper = "superdiff", "SuperDiff", "arXiv:2412.17762"
    citation = (
        "Skreta, Atanackovic, Bose, Tong, Neklyudov: The Superposition of Diffusion Models Using the Ito Density "
        "Estimator. ICLR 2025"
    )
    conditions = frozenset({"text", "mask"})
    minimum_conditions = 2
    training_free = True
    auto_include = False
    traces = ("kappa",)

    class Params(SuperDiffParams):
        def models(self, conditions: Sequence[str]) -> list[str]:
            return [*conditions, *(["unconditional"] if self.weight != 1 else [])]

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
        return {f"eps-{name}": params.steps for name in params.models(conditions)}

    @torch.inference_mode()
    def sample(self, batch: Batch, trace: Trace) -> Tensor:
        p, schedule = self.params, self.schedule
        names = modalities(batch)
        bound = bind_experts(self.networks, batch, names)
        null = None
        if p.weight != 1:
            null = self.networks.get("expert/unconditional", TrainedDenoiser).bind(batch.conditions, schedule)

        def experts(x_t: Tensor, t: int) -> tuple[Tensor, Tensor]:
            eps = torch.stack([expert(x_t, t) for expert in bound])  # (M, B, C, h, w)
            if null is None:
                return eps, eps
            eps_u = null(x_t, t)
            return eps, eps_u + p.weight * (eps - eps_u)

        path = legs(schedule, p.steps, p.discretisation)
        y = start(schedule, p.steps, batch.generators, self.space.latent_shape, self.device)
        x_0, _ = superposed(experts, path, y, batch.generators, p, trace, names)
        return self.space.decode(x_0).clamp(0, 1)


@register
class SuperDiffLayouts(Method["SuperDiffLayouts.Params"]):
    """Superposition of layout models, each with a null condition of its own."""

    name, title, paper = "superdiff-layouts", "SuperDiff (layouts)", "arXiv:2412.17762"
    citation = (
        "Skreta, Atanackovic, Bose, Tong, Neklyudov: The Superposition of Diffusion Models Using the Ito Density "
        "Estimator. ICLR 2025"
    )
    conditions = frozenset({"layout", "style"})
    training_free = True
    auto_include = False
    traces = ("kappa",)

    class Params(SuperDiffParams):
        pass

    def denoisers(self) -> Mapping[str, nn.Module]:
        return {f"eps-{kind}": self.networks.get(f"expert/{kind}", nn.Module) for kind in LAYOUT_MODELS}

    @classmethod
    def roles(cls, params: Params, conditions: Sequence[str]) -> tuple[str, ...]:
        return ("schedule", "space", *(f"expert/{kind}" for kind in LAYOUT_MODELS))

    @classmethod
    def evaluations(
        cls, params: Params, conditions: Sequence[str], timesteps: Sequence[int] | None = None
    ) -> Mapping[str, float]:
        kinds = layout_models(conditions)
        rows = 1 if params.weight == 1 else 3  # the guided prediction takes two rows beside the expert's own
        return {f"eps-{kind}": rows * params.steps if kind in kinds else 0 for kind in LAYOUT_MODELS}

    @torch.inference_mode()
    def sample(self, batch: Batch, trace: Trace) -> Tensor:
        p, schedule = self.params, self.schedule
        kinds = layout_models(modalities(batch))
        models = [self.networks.get(f"expert/{kind}", GuidedDenoiser) for kind in kinds]
        own = [model.bind(batch.conditions, schedule, 1.0) for model in models]
        with_guidance = [model.bind(batch.conditions, schedule, p.weight) for model in models]

        def experts(x_t: Tensor, t: int) -> tuple[Tensor, Tensor]:
            eps = torch.stack([expert(x_t, t) for expert in own])  # (M, B, C, h, w)
            return eps, eps if p.weight == 1 else torch.stack([expert(x_t, t) for expert in with_guidance])

        path = legs(schedule, p.steps, p.discretisation)
        y = start(schedule, p.steps, batch.generators, self.space.latent_shape, self.device)
        x_0, _ = superposed(experts, path, y, batch.generators, p, trace, kinds)
        return self.space.decode(x_0).clamp(0, 1)
