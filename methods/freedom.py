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
    style_reference      the style picture goes from its own size to CLIP's 224 (clip/base_clip.py)
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from concord.methods.base import Trace, register
from concord.methods.core.sampler import Step
from concord.methods.guidance.autodiff import pull_back
from concord.methods.guidance.method import GuidedMethod, GuidedParams, Space


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
                "ddim_noise": "coded",
                "windows": {"mask": (201, 1000), "identity": (101, 1000), "landmarks": (201, 1000)},
                "noise_last_step": True,
                "style_repeat": 3,
                "style_repeat_window": (400, 700),
                "style_reference": "encoder",
            }

    def correct(self, space: Space, x_t: Tensor, step: Step, active: Sequence[str], trace: Trace) -> Tensor:
        t = step.t
        point = space.at(x_t, t)  # eps, x_0|t, image: one forward pass for all conditions
        slopes = {name: space.slope(name, point.images, t)[0] for name in active}  # dE_i / d image
        self.tell_losses(space, point.x_0, t, trace, point.images)
        self._tell_cosines(space, point, slopes, t, trace)
        moved = step(point.x_t, point.eps).detach()

        # A step size that needs its gradient's length needs a pass of its own; the others pass backwards as one sum.
        alone = [name for name in active if space.p.rules.rule(name).startswith("relative")]
        joined = [name for name in active if name not in alone]
        for i, name in enumerate(alone):
            keep = bool(joined) or i + 1 < len(alone)
            (gradient,) = pull_back(point.images, point.x_t, slopes[name][None], keep, tally=space.tally)
            space.require_finite(gradient, (name,), t)
            moved = moved - space.step_size(name, gradient, point, step) * gradient
        if joined:
            total = torch.stack([space.step_size(name, slopes[name], point, step) * slopes[name] for name in joined])
            (gradient,) = pull_back(point.images, point.x_t, total.sum(dim=0)[None], tally=space.tally)
            moved = moved - space.require_finite(gradient, joined, t)
        return moved

    def _tell_cosines(self, space: Space, point: Any, slopes: dict[str, Tensor], t: int, trace: Trace) -> None:
        if "gradient-cosine" not in trace.wanted or len(slopes) < len(space.energies):
            return
        found = pull_back(point.images, point.x_t, list(slopes.values()), keep=True)
        gradients = dict(zip(slopes, found, strict=True))
        pairs = list(combinations(slopes, 2))
        self.tell_cosines(space, pairs, {(a, b): (gradients[a], gradients[b]) for a, b in pairs}, t, trace)
