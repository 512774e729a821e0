"""FreeDoM (Yu et al., ICCV 2023): an unconditional diffusion model, guided by the gradient of energies at x_0|t.

    x_{t'} = step(x_t, eps) - sum_i rho_i grad_{x_t} E_i(c_i, x_0|t(x_t))
    x_t    = sqrt(1 - beta) x_{t'} + sqrt(beta) z                   and again, r_t turns in all (time travel)

The released code has one sampler per condition, and none for several; conditions are joined by their sum here, as the
paper's equation for multiple conditions and as Z-Magic's authors do for their baseline.

Preset "official" is the released code (vvictoryuki/FreeDoM at 1394b1d), which does more than the paper says:

    norm                 over the whole batch, so that an image depends on its neighbours (`energies.objective`; the
                         scripts run one image at a time, where nothing changes)
    text_residual        embeddings that are not normalised
    ddim_noise           DDIM's noise has the standard deviation eta sqrt(1 - abar_t') at every step
    windows              guided where i > 200 (mask, landmarks) or i > 100 (identity), i = t - 1 in the count of
                         Face-GD/functions/denoising.py; the defaults here take t for i, one step of a grid that
                         holds t = 201 or t = 101 earlier
    noise_last_step      Stable Diffusion's last step ends at abar_0 < 1 and draws noise (SD_style/ldm/models/diffusion/
                         ddim.py, lines 266-270); pixels end at abar = 1, where nothing is left to draw
    style_repeat         three turns where 40 <= index < 70 of 100 steps, t = 401 to 691 (the same file)
                         (its windows count steps: with another number of them it guides at other t, and ours do not)
    style_reference      the style image goes from its own size to CLIP's 224 (clip/base_clip.py)

What no preset can set, since a request brings the map and the points themselves: the code takes the parser's logits of
a reference image (`mask_residual: logits` compares with the map), and the points that the landmark network finds in
one, which it reads with its colours in the order BGR.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from concord.methods.base import Trace, register
from concord.methods.core.sampler import Step
from concord.methods.guidance.autodiff import vjp
from concord.methods.guidance.context import GuidanceContext, State
from concord.methods.guidance.method import GuidedMethod, Passes
from concord.methods.guidance.parameters import GuidedParams


@register
class FreeDoM(GuidedMethod["FreeDoM.Params"]):
    """The sum of the energies' gradients."""

    name, title, paper = "freedom", "FreeDoM", "arXiv:2303.09833"
    citation = (
        "Yu, Wang, Zhao, Ghanem, Zhang: FreeDoM: Training-Free Energy-Guided Conditional Diffusion Model. ICCV 2023"
    )

    class Params(GuidedParams):
        @classmethod
        def official(cls) -> dict[str, Any]:
            return {
                "norm": "batch",
                "text_residual": "raw",
                "ddim_noise": "official",
                "windows": {"mask": (201, 1000), "identity": (101, 1000), "landmarks": (201, 1000)},
                "noise_last_step": True,
                "style_repeat": 3,
                "style_repeat_window": (400, 700),
                "style_reference": "encoder",
            }

        def alone_and_joined(self, active: Sequence[str]) -> tuple[list[str], list[str]]:
            """Conditions whose step size needs the gradient's length, so a pass of its own; and all others."""
            alone = [name for name in active if self.rules.rule(name).startswith("relative")]
            return alone, [name for name in active if name not in alone]

    @classmethod
    def passes(cls, params: Params, active: Sequence[str], text_conditioned: bool) -> Passes:
        alone, joined = params.alone_and_joined(active)
        return Passes(1, len(alone) + bool(joined))

    def correct(self, context: GuidanceContext, x_t: Tensor, step: Step, active: Sequence[str], trace: Trace) -> Tensor:
        t = step.t
        state = context.evaluate(x_t, t)  # eps, x_0|t, image: one forward pass for all conditions
        image_grads = {name: context.image_grad(name, state.images, t)[0] for name in active}  # dE_i / d image
        self.log_losses(context, state.x_0, t, trace, state.images)
        self._record(context, state, image_grads, t, trace)
        moved = step(state.x_t, state.eps).detach()

        alone, joined = self.params.alone_and_joined(active)
        for i, name in enumerate(alone):
            again = bool(joined) or i + 1 < len(alone)
            (gradient,) = vjp(state.images, state.x_t, image_grads[name][None], again, context.counter)
            context.require_finite(gradient, (name,), t)
            moved = moved - context.step_size(name, gradient, state, step) * gradient
        if joined:  # rho does not depend on the gradient: all of them pass backwards as one sum
            scaled = [context.step_size(name, image_grads[name], state, step) * image_grads[name] for name in joined]
            total = torch.stack(scaled).sum(dim=0)
            (gradient,) = vjp(state.images, state.x_t, total[None], counter=context.counter)
            moved = moved - context.require_finite(gradient, joined, t)
        return moved

    def _record(
        self, context: GuidanceContext, state: State, image_grads: dict[str, Tensor], t: int, trace: Trace
    ) -> None:
        """The cosine of every two conditions' gradients, where all of them are active."""
        if "gradient-cosine" not in trace.wanted or len(image_grads) < len(context.energies):
            return
        found = vjp(state.images, state.x_t, list(image_grads.values()), retain_graph=True)
        gradients = dict(zip(image_grads, found, strict=True))
        self.record_cosines({(a, b): (gradients[a], gradients[b]) for a, b in combinations(gradients, 2)}, t, trace)
