"""Universal Guidance (Bansal et al., ICLR 2024): a diffusion model guided by any loss l_i on the predicted clean image.

    forward     eps^ = eps + sqrt(1 - abar_t) sum_i s_i grad_{z_t} l_i(c_i, f_i(z^_0))
    backward    Delta = argmin_D sum_i s_i l_i(c_i, f_i(z^_0 + D)), a few steps of gradient descent from D = 0
                eps^ <- eps^ - sqrt(abar_t / (1 - abar_t)) Delta
    recurrence  z_{t'} = step(z_t, eps^), then back to z_t with fresh noise: k turns at every step

Losses, strengths and turns of the authors' scripts: style 6 turns with s = 6 on a text-driven model with scale 3,
segmentation 10 turns with s = 400, face 2 turns with s = 20,000; all forward only, 500 DDIM steps. A text alone has no
script there; s is that of their ImageNet runs. The losses here are `guidance`'s energies, told apart by their residual.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from concord.methods.base import Trace, register
from concord.methods.core.sampler import Step
from concord.methods.guidance.autodiff import pull_back
from concord.methods.guidance.energies import Strengths, Windows
from concord.methods.guidance.method import GuidedMethod, GuidedParams, Space

ALWAYS = (-1, 1000)


@register
class UniversalGuidance(GuidedMethod):
    """Forward and backward guidance with self-recurrence."""

    name, title, paper = "ugd", "Universal Guidance", "arXiv:2302.07121"
    citation = (
        "Bansal, Chu, Schwarzschild, Sengupta, Goldblum, Geiping, Goldstein: "
        "Universal Guidance for Diffusion Models. ICLR 2024"
    )
    conditions = frozenset({"text", "identity", "mask", "style"})
    traces = ("condition-loss",)

    class Params(GuidedParams):
        steps: int = Field(500, ge=1, le=1000)
        sampler: Literal["auto", "ancestral", "reverse-diffusion", "ddim", "ddim-coded"] = "ddim"
        eta: float = Field(0.0, ge=0, le=1)
        strengths: Strengths = Strengths(text=2, identity=20_000, mask=400, landmarks=0, style=6)
        windows: Windows = Windows(text=ALWAYS, identity=ALWAYS, mask=ALWAYS, landmarks=ALWAYS, style=ALWAYS)
        repeat: int = Field(6, ge=1)  # k
        text_scale: float = 3.0
        mask_residual: Literal["probabilities", "logits", "cross-entropy"] = "cross-entropy"
        style_residual: Literal["gram", "relative", "embedding"] = "embedding"
        forward: bool = True
        backward_steps: int = Field(0, ge=0)  # m; 0 leaves backward guidance out, as their scripts do
        backward_rate: float = Field(0.01, gt=0)  # of the gradient descent

    def correct(self, space: Space, x_t: Tensor, step: Step, active: Sequence[str], trace: Trace) -> Tensor:
        p = self.params
        assert isinstance(p, UniversalGuidance.Params)
        t, abar = step.t, space.schedule.abar(step.t, x_t)
        point = space.at(x_t, t)
        self.tell_losses(space, point.x_0, t, trace, point.images)
        eps = point.eps.detach()
        if p.forward:
            slope = self._slope(space, point.images, active, t)
            (gradient,) = pull_back(point.images, point.x_t, slope[None], tally=space.tally)
            eps = eps + (1 - abar).sqrt() * space.require_finite(gradient, active, t)
        if p.backward_steps:
            eps = eps - (abar / (1 - abar)).sqrt() * self._delta(space, point.x_0.detach(), active, t)
        return step(x_t, eps)

    def _slope(self, space: Space, images: Tensor, active: Sequence[str], t: int) -> Tensor:
        """sum_i s_i dl_i / d image."""
        slopes = [space.p.strength(name) * space.slope(name, images, t)[0] for name in active]
        return torch.stack(slopes).sum(dim=0)

    def _delta(self, space: Space, x_0: Tensor, active: Sequence[str], t: int) -> Tensor:
        """Delta (B, C, h, w): what the clean prediction has to change by to meet the conditions."""
        p = self.params
        assert isinstance(p, UniversalGuidance.Params)
        delta = torch.zeros_like(x_0)
        for _ in range(p.backward_steps):
            z = (x_0 + delta).requires_grad_(True)
            images = space.decode(z)
            (gradient,) = pull_back(images, z, self._slope(space, images, active, t)[None])
            delta = delta - p.backward_rate * space.require_finite(gradient, active, t)
        return delta
