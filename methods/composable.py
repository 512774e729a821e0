"""Composable Diffusion (Liu et al., ECCV 2022): the experts' predictions are added, of faces and of layouts.

As Collaborative Diffusion uses it for its baseline (Huang et al. 2023, section 4.2): the average of the uni-modal
predictions,

    eps(x_t, t) = 1/M sum_m eps_m(x_t, t, c_m).

The authors' own code (preset "official"; their pipeline for Stable Diffusion at 1b70f92) weighs what each condition
adds to an unconditional prediction (equation 11), w = 7.5 for every condition:

    eps(x_t, t) = eps_u(x_t, t) + sum_m w (eps_m(x_t, t, c_m) - eps_u(x_t, t)).

Its scheduler is diffusers' DDIM: where eta is above 0, its last step, which ends at abar_0 < 1, draws noise as well
(`noise_last_step`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from concord.methods.base import Batch, Method, Trace, register
from concord.methods.core.experts import LAYOUT_MODELS, bind_experts, guided_rows, layout_models, modalities
from concord.methods.core.sampler import ddim
from concord.methods.core.tunable import TuneRange
from concord.methods.networks.protocols import GuidedDenoiser


@register
class Composable(Method["Composable.Params"]):
    """Average of the uni-modal predictions, or their weighted sum around an unconditional one."""

    name, title, paper = "composable", "Composable Diffusion", "arXiv:2206.01714"
    citation = (
        "Liu, Li, Du, Torralba, Tenenbaum: Compositional Visual Generation with Composable Diffusion Models. ECCV 2022"
    )
    conditions = frozenset({"text", "mask"})
    minimum_conditions = 2
    training_free = True

    class Params(Method.Params):
        steps: int = Field(50, ge=1, le=1000)  # Collaborative Diffusion, supplement B.2
        eta: float = Field(0.0, ge=0, le=1)  # DDIM; noise of the sampler
        noise_last_step: bool = False  # noise in the last step, too, where eta > 0
        combine: Literal["average", "conjunction"] = "average"
        weight: Annotated[float, TuneRange(0.5, 10, when={"combine": ["conjunction"]})] = 7.5
        # w of every condition; used by 'conjunction' alone (the official code's default)

        @classmethod
        def official(cls) -> dict[str, Any]:
            return {"combine": "conjunction", "noise_last_step": True}

        def models(self, conditions: Iterable[str]) -> list[str]:
            """The experts of these conditions, and the unconditional one where equation 11 needs it."""
            return [*conditions, *(["unconditional"] if self.combine == "conjunction" else [])]

    def denoisers(self) -> Mapping[str, nn.Module]:
        return {
            f"eps-{name}": self.networks.get(f"expert/{name}", nn.Module)
            for name in self.params.models(sorted(self.conditions))
        }

    @classmethod
    def roles(cls, params: Params, conditions: Sequence[str]) -> tuple[str, ...]:
        return ("schedule", "space", *(f"expert/{name}" for name in params.models(sorted(cls.conditions))))

    @classmethod
    def evaluations(
        cls, params: Params, conditions: Sequence[str], timesteps: Sequence[int] | None = None
    ) -> Mapping[str, float]:
        return {f"eps-{name}": params.steps for name in params.models(conditions)}

    @torch.inference_mode()
    def sample(self, batch: Batch, trace: Trace) -> Tensor:
        p = self.params
        experts = bind_experts(self.networks, batch, modalities(batch))
        unconditional = None
        if p.combine == "conjunction":
            (unconditional,) = bind_experts(self.networks, batch, ["unconditional"])

        def denoise(x_t: Tensor, t: int) -> Tensor:
            eps = torch.stack([expert(x_t, t) for expert in experts])  # (M, B, C, h, w)
            if unconditional is None:
                return eps.mean(dim=0)
            eps_u = unconditional(x_t, t)  # (B, C, h, w)
            return eps_u + p.weight * (eps - eps_u).sum(dim=0)  # equation 11

        shape, schedule = self.space.latent_shape, self.schedule
        x_0 = ddim(denoise, schedule, batch.generators, shape, self.device, p.steps, p.eta, p.noise_last_step)
        return self.space.decode(x_0)


@register
class ComposableLayouts(Method["ComposableLayouts.Params"]):
    """Composable Diffusion over the layout models (equation 11): what each condition adds to its model's own null.

    eps(x_t, t) = 1/M sum_m eps_m(x_t, null) + w sum_m (eps_m(x_t, c_m) - eps_m(x_t, null))

    The paper has one unconditional model; each of these has its own. w = 1/M is the average of the plain predictions.
    """

    name, title, paper = "composable-layouts", "Composable Diffusion", "arXiv:2206.01714"
    citation = (
        "Liu, Li, Du, Torralba, Tenenbaum: Compositional Visual Generation with Composable Diffusion Models. ECCV 2022"
    )
    conditions = frozenset({"layout", "style"})
    training_free = True
    auto_include = False  # suites of layouts name their rows

    class Params(Method.Params):
        steps: int = Field(50, ge=1, le=1000)
        eta: float = Field(0.0, ge=0, le=1)
        noise_last_step: bool = False
        weight: Annotated[float, TuneRange(0.25, 7.5)] = Field(1.0, ge=0)
        # w of every condition; the official code's 7.5 is for Stable Diffusion

        @classmethod
        def official(cls) -> dict[str, Any]:
            return {"weight": 7.5, "noise_last_step": True}

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
        rows = guided_rows(params.weight * len(kinds))
        return {f"eps-{kind}": rows * params.steps if kind in kinds else 0 for kind in LAYOUT_MODELS}

    @torch.inference_mode()
    def sample(self, batch: Batch, trace: Trace) -> Tensor:
        p, schedule = self.params, self.schedule
        kinds = layout_models(modalities(batch))
        guidance = p.weight * len(kinds)  # each model's own; the mean over M below makes it w
        models = [self.networks.get(f"expert/{kind}", GuidedDenoiser) for kind in kinds]
        experts = [model.bind(batch.conditions, schedule, guidance) for model in models]

        def denoise(x_t: Tensor, t: int) -> Tensor:
            return torch.stack([expert(x_t, t) for expert in experts]).mean(dim=0)  # (B, C, h, w), equation 11

        shape = self.space.latent_shape
        x_0 = ddim(denoise, schedule, batch.generators, shape, self.device, p.steps, p.eta, p.noise_last_step)
        return self.space.decode(x_0)
