"""The uni-modal rows: one latent diffusion model (Rombach et al. 2022), one condition, the same sampler as all others.

They show what each expert brings to a composition: text-only knows nothing of the mask, mask-only nothing of the text,
unconditional nothing of either.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from concord.methods.base import Batch, Method, Trace, register
from concord.methods.core.sampler import ddim


class SingleExpert(Method["SingleExpert.Params"]):
    """eps(x_t, t) = eps_theta_m(x_t, t, c_m) for one modality m."""

    paper = "arXiv:2112.10752"
    citation = (
        "Rombach, Blattmann, Lorenz, Esser, Ommer: "
        "High-Resolution Image Synthesis with Latent Diffusion Models. CVPR 2022"
    )
    training_free = True
    expert: ClassVar[str]

    class Params(Method.Params):
        steps: int = Field(50, ge=1, le=1000)  # as all rows of Collaborative Diffusion's tables (supplement B.2)
        eta: float = Field(0.0, ge=0, le=1)

    def denoisers(self) -> Mapping[str, nn.Module]:
        return {f"eps-{self.expert}": self.bank.expert(self.expert)}

    @torch.inference_mode()
    def sample(self, batch: Batch, trace: Trace) -> Tensor:
        p = self.params
        denoise = self.bank.expert(self.expert).bind(batch.conditions, self.bank.schedule)
        x_0 = ddim(denoise, self.bank.schedule, batch.generators, self.bank.latent_shape, self.device, p.steps, p.eta)
        return self.bank.autoencoder.decode(x_0)


@register
class TextOnly(SingleExpert):
    """The text-driven model alone."""

    name, title, expert = "text-only", "Text only", "text"
    conditions = frozenset({"text"})


@register
class MaskOnly(SingleExpert):
    """The mask-driven model alone."""

    name, title, expert = "mask-only", "Mask only", "mask"
    conditions = frozenset({"mask"})


@register
class Unconditional(SingleExpert):
    """The model of faces alone, which asks for nothing: the floor of guided methods, and what they start from."""

    name, title, expert = "unconditional", "Unconditional", "unconditional"
    conditions: ClassVar[frozenset[str]] = frozenset()
    minimum_conditions = 0
