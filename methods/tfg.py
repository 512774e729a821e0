"""Training-free guidance in one framework (TFG; Ye, Lin, Han, Xu, Liu, Liang, Ma, Zou, Ermon, NeurIPS 2024).

At every step t, N_recur times (Algorithm 1), with f(x_0) = -sum_i s_i E_i(c_i, x_0), the log of what is asked for:

    x_0     = (x_t - sqrt(1 - abar_t) eps) / sqrt(abar_t)
    f~(x)   = log mean_k exp f(x + delta_k),  delta_k ~ N(0, (sigma sqrt(1 - abar_t))^2 I)      implicit smoothing
    D_t     = rho_t grad_{x_t} f~(x_0(x_t))                                                    variance guidance
    D_0     : N_iter times x_0' <- x_0' + mu_t grad f~(x_0'), from x_0;  D_0 = x_0' - x_0      mean guidance
    x_{t'}  = DDIM(x_t, x_0, eta) + D_t / sqrt(alpha_t) + sqrt(abar_t') D_0,   alpha_t = abar_t / abar_t'
    x_t     = sqrt(alpha_t) x_{t'} + sqrt(1 - alpha_t) z                                       before another turn

rho_t = rho s(t) T / sum s over T steps, and mu_t alike, with s = alpha_t ('increase'), 1 - alpha_t ('decrease') or 1.
FreeDoM, DPS, LGD, MPGD and Universal Guidance are corners of these parameters, but each with a step length of its own:
`strength_rule` 'freedom' makes D_t what FreeDoM adds (its rules, windows and strengths), 'ugd' adds to eps what forward
guidance of Universal Guidance adds; then rho does nothing.

Defaults are those of the authors' image scripts (Training-Free-Guidance at f8d17f3): K = 1, N_iter = 4, eta = 1. A
search finds rho, mu and sigma for every task; those of CIFAR's labels stand here. Conditions weigh alike in f.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from concord.methods.base import Batch, Trace, register
from concord.methods.core.noise import draw_noise
from concord.methods.core.sampler import Step
from concord.methods.guidance.autodiff import vjp
from concord.methods.guidance.context import GuidanceContext, State
from concord.methods.guidance.method import GuidedMethod, Passes
from concord.methods.guidance.parameters import GuidedParams, Sampler, Strengths, Windows

ALWAYS = (-1, 1000)
Course = Literal["increase", "decrease", "constant"]


@register
class TrainingFreeGuidance(GuidedMethod["TrainingFreeGuidance.Params"]):
    """Variance guidance, mean guidance, implicit smoothing and recurrence."""

    name, title, paper = "tfg", "TFG", "arXiv:2409.15761"
    citation = (
        "Ye, Lin, Han, Xu, Liu, Liang, Ma, Zou, Ermon: TFG: Unified Training-Free Guidance for Diffusion Models. "
        "NeurIPS 2024"
    )
    traces = ("condition-loss",)

    class Params(GuidedParams):
        sampler: Sampler = "ddim"
        eta: float = Field(1.0, ge=0, le=1)
        strengths: Strengths = Strengths(text=1, identity=1, mask=1, landmarks=1, style=1)
        windows: Windows = Windows(text=ALWAYS, identity=ALWAYS, mask=ALWAYS, landmarks=ALWAYS, style=ALWAYS)
        rho: float = Field(1.0, ge=0)  # of variance guidance, as a mean over the steps
        mu: float = Field(0.25, ge=0)  # of mean guidance
        sigma: float = Field(0.001, ge=0)  # of implicit smoothing; 0 leaves it out
        rho_course: Course = "increase"
        mu_course: Course = "increase"
        sigma_course: Literal["decrease", "constant"] = "decrease"
        samples: int = Field(1, ge=1)  # K
        iterations: int = Field(4, ge=0)  # N_iter
        strength_rule: Literal["constant", "freedom", "ugd"] = "constant"
        clip_x0: Literal["never", "pixels"] = "never"  # 'pixels': x_0 to [-1, 1], where pixels are sampled

        def course(self, which: Course, t: int, alphas: dict[int, float]) -> float:
            """s(t) T / sum s: 1 in the mean over the steps."""
            kinds = {"increase": lambda a: a, "decrease": lambda a: 1 - a, "constant": lambda a: 1.0}
            total = sum(kinds[which](alpha) for alpha in alphas.values())
            return kinds[which](alphas[t]) * len(alphas) / total

    @classmethod
    def passes(cls, params: Params, active: Sequence[str], text_conditioned: bool) -> Passes:
        # Mean guidance goes through the decoder and the guides alone.
        by_condition = len(active) if params.strength_rule != "constant" else int(params.rho > 0)
        return Passes(1, by_condition)

    def sample(self, batch: Batch, trace: Trace) -> Tensor:
        self._generators = batch.generators  # smoothing draws from the requests' own streams
        return super().sample(batch, trace)

    def correct(self, context: GuidanceContext, x_t: Tensor, step: Step, active: Sequence[str], trace: Trace) -> Tensor:
        p, t = self.params, step.t
        alphas = self._alphas()
        state = context.evaluate(x_t, t)
        self.log_losses(context, state.x_0, t, trace, state.images)
        noises = self._noises(state.x_0, t)
        pulled = self._variance_guidance(context, state, step, active, noises, alphas)  # before the graph goes
        x_0 = self._clipped(state.x_0.detach())
        abar = context.schedule.abar(t, x_t)
        eps = state.eps.detach() if p.clip_x0 == "never" else (x_t - abar.sqrt() * x_0) / (1 - abar).sqrt()
        moved = step(x_t, eps) + pulled
        if p.mu > 0 and p.iterations:
            mu = p.mu * p.course(p.mu_course, t, alphas)
            x = x_0
            for _ in range(p.iterations):
                x = x + mu * self._gradient(context, x, active, noises, t)
            moved = moved + context.schedule.abar(max(step.t_previous, 0), x_t).sqrt() * (x - x_0)
        return moved

    # ------------------------------------------------------------------------------------------------- its four parts

    def _variance_guidance(
        self,
        context: GuidanceContext,
        state: State,
        step: Step,
        active: Sequence[str],
        noises: Sequence[Tensor],
        alphas: dict[int, float],
    ) -> Tensor:
        """What is added to x_{t'} for D_t, like x_t."""
        p, t = self.params, step.t
        if p.strength_rule == "constant":
            if p.rho == 0:
                return torch.zeros_like(state.x_t)
            at_x0 = self._gradient(context, state.x_0.detach(), active, noises, t)  # of f~, like x_0
            (gradient,) = vjp(state.x_0, state.x_t, at_x0[None], counter=context.counter)
            rho = p.rho * p.course(p.rho_course, t, alphas)
            return rho * context.require_finite(gradient, active, t) / alphas[t] ** 0.5
        parts = []
        for name in active:
            image_grad, _ = context.image_grad(name, state.images, t)  # dE_i / d image
            (gradient,) = vjp(state.images, state.x_t, image_grad[None], True, context.counter)
            context.require_finite(gradient, (name,), t)
            size = context.step_size(name, gradient, state, step) if p.strength_rule == "freedom" else p.strength(name)
            parts.append(size * gradient)
        total = torch.stack(parts).sum(dim=0)
        if p.strength_rule == "freedom":
            return -total
        x_t, eps, abar = state.x_t.detach(), state.eps.detach(), context.schedule.abar(t, state.x_t)
        return step(x_t, eps + (1 - abar).sqrt() * total) - step(x_t, eps)

    def _gradient(
        self, context: GuidanceContext, x_0: Tensor, active: Sequence[str], noises: Sequence[Tensor], t: int
    ) -> Tensor:
        """grad f~ at x_0 (B, C, h, w), through the decoder and the guides."""
        x = x_0.detach().requires_grad_(True)
        found = []  # f(x + delta_k), (B,), on the graph
        for noise in noises or [torch.zeros_like(x)]:
            images = context.decode(x + noise)
            found.append(-torch.stack([self.params.strength(n) * context.energies[n](images) for n in active]).sum(0))
        smoothed = torch.stack(found).logsumexp(dim=0)
        (gradient,) = torch.autograd.grad(smoothed.sum(), x)
        return context.require_finite(gradient, active, t)

    def _noises(self, x_0: Tensor, t: int) -> list[Tensor]:
        """delta_1 .. delta_K, the same for every use in one turn; none where nothing is smoothed."""
        p = self.params
        if p.sigma == 0:
            return []
        abar = float(self.schedule.alphas_cumprod[t])
        spread = p.sigma * ((1 - abar) ** 0.5 if p.sigma_course == "decrease" else 1.0)
        return [spread * draw_noise(self._generators, x_0.shape[1:], x_0.device) for _ in range(p.samples)]

    def _clipped(self, x_0: Tensor) -> Tensor:
        pixels = tuple(x_0.shape[2:]) == (self.networks.image_size,) * 2
        return x_0.clamp(-1, 1) if self.params.clip_x0 == "pixels" and pixels else x_0

    def _alphas(self) -> dict[int, float]:
        """alpha_t = abar_t / abar_t' of every step of the grid."""
        times = self.schedule.ddim_timesteps(self.params.steps)
        table = self.schedule.alphas_cumprod
        return {t: float(table[t] / table[max(after, 0)]) for t, after in zip(times, [*times[1:], -1], strict=True)}
