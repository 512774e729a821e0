"""The rows of one model: a latent diffusion model (Rombach et al. 2022), one condition, the same sampler as all others.

They show what each expert brings to a composition: text-only knows nothing of the mask, mask-only nothing of the text,
unconditional nothing of either. In the world of layouts:

    layout-interaction   told boxes, categories and interactions     (InteractDiffusion's part in AMDM's paper)
    layout-attribute     told boxes, categories and colours          (MIGC's)
    layout-style         told a reference image's palette            (IP-Adapter's)

All of them are models over one autoencoder with one noise schedule, each with classifier-free guidance inside its own
prediction: eps_m = eps_m(x_t, null) + g (eps_m(x_t, c) - eps_m(x_t, null)).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from concord.methods.base import Batch, Method, Trace, register
from concord.methods.core.experts import bind_experts, guided_rows
from concord.methods.core.sampler import ddim
from concord.methods.core.tunable import TuneRange
from concord.methods.networks.protocols import GuidedDenoiser


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
        eta: Annotated[float, TuneRange(0, 1)] = Field(0.0, ge=0, le=1)

    def denoisers(self) -> Mapping[str, nn.Module]:
        return {f"eps-{self.expert}": self.networks.get(f"expert/{self.expert}", nn.Module)}

    @classmethod
    def roles(cls, params: Params, conditions: Sequence[str]) -> tuple[str, ...]:
        return ("schedule", "space", f"expert/{cls.expert}")

    @classmethod
    def evaluations(
        cls, params: Params, conditions: Sequence[str], timesteps: Sequence[int] | None = None
    ) -> Mapping[str, float]:
        return {f"eps-{cls.expert}": params.steps}

    @torch.inference_mode()
    def sample(self, batch: Batch, trace: Trace) -> Tensor:
        p = self.params
        (denoise,) = bind_experts(self.networks, batch, [self.expert])
        x_0 = ddim(denoise, self.schedule, batch.generators, self.space.latent_shape, self.device, p.steps, p.eta)
        return self.space.decode(x_0)


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


# -------------------------------------------------------------------------------------------- of the world of layouts


class LayoutExpertAlone(Method["LayoutExpertAlone.Params"]):
    """eps(x_t, t) of one layout model, as GLIGEN's family samples it."""

    paper = "arXiv:2112.10752"
    citation = (
        "Rombach, Blattmann, Lorenz, Esser, Ommer: "
        "High-Resolution Image Synthesis with Latent Diffusion Models. CVPR 2022"
    )
    conditions = frozenset({"layout"})
    training_free = True
    auto_include = False  # suites of layouts name their rows
    expert: ClassVar[str]

    class Params(Method.Params):
        steps: int = Field(50, ge=1, le=1000)  # T, AMDM section 4
        eta: float = Field(0.0, ge=0, le=1)
        guidance: Annotated[float, TuneRange(1, 7.5)] = Field(2.0, ge=0)
        # g of the embedded models; 7.5 is for Stable Diffusion

    def denoisers(self) -> Mapping[str, nn.Module]:
        return {f"eps-{self.expert}": self.networks.get(f"expert/{self.expert}", nn.Module)}

    @classmethod
    def roles(cls, params: Params, conditions: Sequence[str]) -> tuple[str, ...]:
        return ("schedule", "space", f"expert/{cls.expert}")

    @classmethod
    def evaluations(
        cls, params: Params, conditions: Sequence[str], timesteps: Sequence[int] | None = None
    ) -> Mapping[str, float]:
        return {f"eps-{cls.expert}": guided_rows(params.guidance) * params.steps}

    @torch.inference_mode()
    def sample(self, batch: Batch, trace: Trace) -> Tensor:
        p, schedule = self.params, self.schedule
        denoise = self.networks.get(f"expert/{self.expert}", GuidedDenoiser).bind(
            batch.conditions, schedule, p.guidance
        )
        x_0 = ddim(denoise, schedule, batch.generators, self.space.latent_shape, self.device, p.steps, p.eta)
        return self.space.decode(x_0)


@register
class LayoutInteraction(LayoutExpertAlone):
    """The model of boxes, categories and interactions alone: it has to guess the colours."""

    name, title, expert = "layout-interaction", "Interaction model", "interaction"


@register
class LayoutAttribute(LayoutExpertAlone):
    """The model of boxes, categories and colours alone: it has to guess the interactions."""

    name, title, expert = "layout-attribute", "Attribute model", "attribute"


@register
class LayoutStyle(LayoutExpertAlone):
    """The model of a reference image's palette alone: it has to guess the layout."""

    name, title, expert = "layout-style", "Style model", "style"
    conditions = frozenset({"style"})
