"""The world of layouts: each of its models alone, their predictions added, and AMDM over them.

    interaction   told boxes, categories and interactions     (InteractDiffusion's part in AMDM's paper)
    attribute     told boxes, categories and colours          (MIGC's)
    style         told a reference image's palette            (IP-Adapter's)

All are latent diffusion models over one autoencoder with one noise schedule, each with classifier-free guidance inside
its own prediction: eps_m = eps_m(x_t, null) + g (eps_m(x_t, c) - eps_m(x_t, null)).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from concord.data.errors import ConcordError
from concord.data.request import Conditions
from concord.methods.amdm import Amdm, Model, check_compatible
from concord.methods.base import Batch, Method, P, Trace, register
from concord.methods.core.experts import modalities
from concord.methods.core.sampler import ddim
from concord.methods.networks.experts import Bound
from concord.methods.networks.layout_experts import KINDS

Guidance = Annotated[float, Field(ge=0)]


class LayoutMethod(Method[P]):
    """What all methods over the layout models share."""

    conditions = frozenset({"layout"})
    training_free = True
    joins_open_suites = False  # suites of layouts name their rows
    kinds: ClassVar[tuple[str, ...]]  # the models that it may use

    def denoisers(self) -> Mapping[str, nn.Module]:
        return {f"eps-{kind}": self.bank.layout_expert(kind) for kind in self.kinds}

    def bound(self, kind: str, conditions: Sequence[Conditions], guidance: float) -> Bound:
        """One model's denoiser."""
        return self.bank.layout_expert(kind).bind(conditions, self.bank.schedule, guidance)


class LayoutExpertAlone(LayoutMethod["LayoutExpertAlone.Params"]):
    """eps(x_t, t) of one model, as GLIGEN's family samples it."""

    paper = "arXiv:2112.10752"
    citation = (
        "Rombach, Blattmann, Lorenz, Esser, Ommer: "
        "High-Resolution Image Synthesis with Latent Diffusion Models. CVPR 2022"
    )

    class Params(Method.Params):
        steps: int = Field(50, ge=1, le=1000)  # T, AMDM section 4
        eta: float = Field(0.0, ge=0, le=1)
        guidance: Guidance = 2.0  # g of the embedded models; 7.5 is for Stable Diffusion

    @torch.inference_mode()
    def sample(self, batch: Batch, trace: Trace) -> Tensor:
        p = self.params
        denoise = self.bound(self.kinds[0], batch.conditions, p.guidance)
        shape = self.bank.latent_shape
        x_0 = ddim(denoise, self.bank.schedule, batch.generators, shape, self.device, p.steps, p.eta)
        return self.bank.scenes_autoencoder.decode(x_0)


@register
class LayoutInteraction(LayoutExpertAlone):
    """The model of boxes, categories and interactions alone: it has to guess the colours."""

    name, title, kinds = "layout-interaction", "Interaction model", ("interaction",)


@register
class LayoutAttribute(LayoutExpertAlone):
    """The model of boxes, categories and colours alone: it has to guess the interactions."""

    name, title, kinds = "layout-attribute", "Attribute model", ("attribute",)


@register
class LayoutStyle(LayoutExpertAlone):
    """The model of a reference image's palette alone: it has to guess the layout."""

    name, title, kinds = "layout-style", "Style model", ("style",)
    conditions = frozenset({"style"})


def kinds_of(batch: Batch) -> list[str]:
    """The models that take the batch's conditions, in the order of `KINDS`."""
    given = modalities(batch)
    return [kind for kind, (condition, _) in KINDS.items() if condition in given]


@register
class ComposableLayouts(LayoutMethod["ComposableLayouts.Params"]):
    """Composable Diffusion over the layout models (equation 11): what each condition adds to its model's own null.

    eps(x_t, t) = 1/M sum_m eps_m(x_t, null) + w sum_m (eps_m(x_t, c_m) - eps_m(x_t, null))

    The paper has one unconditional model; each of these has its own. w = 1/M is the average of the plain predictions.
    """

    name, title, paper = "composable-layouts", "Composable Diffusion", "arXiv:2206.01714"
    citation = (
        "Liu, Li, Du, Torralba, Tenenbaum: Compositional Visual Generation with Composable Diffusion Models. ECCV 2022"
    )
    conditions = frozenset({"layout", "style"})
    kinds = tuple(KINDS)

    class Params(Method.Params):
        steps: int = Field(50, ge=1, le=1000)
        eta: float = Field(0.0, ge=0, le=1)
        weight: Guidance = 1.0  # w of every condition; the official code's 7.5 is for Stable Diffusion

        @classmethod
        def official(cls) -> dict[str, Any]:
            return {"weight": 7.5}

    @torch.inference_mode()
    def sample(self, batch: Batch, trace: Trace) -> Tensor:
        p = self.params
        kinds = kinds_of(batch)
        experts = [self.bound(kind, batch.conditions, p.weight * len(kinds)) for kind in kinds]

        def denoise(x_t: Tensor, t: int) -> Tensor:
            return torch.stack([expert(x_t, t) for expert in experts]).mean(dim=0)  # the M in the weight cancels

        shape = self.bank.latent_shape
        x_0 = ddim(denoise, self.bank.schedule, batch.generators, shape, self.device, p.steps, p.eta)
        return self.bank.scenes_autoencoder.decode(x_0)


@register
class AmdmLayouts(Amdm["AmdmLayouts.Params"]):
    """AMDM over the layout models, as in its paper: the interaction model goes on alone, the others lend to it.

    order: of 'interaction', 'attribute' and, with a reference image, 'style'.
    """

    name, title = "amdm-layouts", "AMDM"
    conditions = frozenset({"layout", "style"})
    minimum_conditions = 1  # one layout is the condition of two models
    kinds: ClassVar[tuple[str, ...]] = tuple(KINDS)

    class Params(Amdm.Params):
        guidance: Guidance = 2.0  # g of every model; 7.5 is for Stable Diffusion

    def denoisers(self) -> Mapping[str, nn.Module]:
        return {f"eps-{kind}": self.bank.layout_expert(kind) for kind in self.kinds}

    def models(self, batch: Batch) -> list[Model]:
        p = self.params
        given = kinds_of(batch)
        names = list(p.order) or given
        if sorted(names) != sorted(given):
            raise ConcordError(
                f"method '{self.name}', parameter 'order': {', '.join(names)}; expected each of {', '.join(given)}"
            )
        found = []
        for name in names:
            expert = self.bank.layout_expert(name)
            bound = expert.bind(batch.conditions, self.bank.schedule, p.guidance)
            found.append(Model(name, bound, bound.schedule, tuple(self.bank.latent_shape)))
        return found

    @torch.inference_mode()
    def sample(self, batch: Batch, trace: Trace) -> Tensor:
        models = self.models(batch)
        check_compatible(self.name, models)
        return self.bank.scenes_autoencoder.decode(self.aggregated(models, batch))
