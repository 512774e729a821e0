"""Composable Diffusion (Liu et al., ECCV 2022): the experts' predictions are added.

As Collaborative Diffusion uses it for its baseline (Huang et al. 2023, section 4.2): the average of the uni-modal
predictions,

    eps(x_t, t) = 1/M sum_m eps_m(x_t, t, c_m).

The authors' own code (preset "official") weighs what each condition adds to an unconditional prediction (equation 11):

    eps(x_t, t) = eps_u(x_t, t) + sum_m w (eps_m(x_t, t, c_m) - eps_u(x_t, t)).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from concord.methods.base import Batch, Method, Trace, register
from concord.methods.core.experts import bind_experts, modalities
from concord.methods.core.sampler import ddim


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
        combine: Literal["average", "conjunction"] = "average"
        weight: float = 7.5  # w of every condition; used by 'conjunction' alone (the official code's default)

        @classmethod
        def official(cls) -> dict[str, Any]:
            return {"combine": "conjunction"}

    def denoisers(self) -> Mapping[str, nn.Module]:
        names = [*sorted(self.conditions), *(["unconditional"] if self._conjunction else [])]
        return {f"eps-{name}": self.bank.expert(name) for name in names}

    @property
    def _conjunction(self) -> bool:
        return self.params.combine == "conjunction"

    @torch.inference_mode()
    def sample(self, batch: Batch, trace: Trace) -> Tensor:
        p = self.params
        experts = bind_experts(self.bank, batch, modalities(batch))
        unconditional = None
        if self._conjunction:
            unconditional = self.bank.expert("unconditional").bind(batch.conditions, self.bank.schedule)

        def denoise(x_t: Tensor, t: int) -> Tensor:
            eps = torch.stack([expert(x_t, t) for expert in experts])  # (M, B, C, h, w)
            if unconditional is None:
                return eps.mean(dim=0)
            eps_u = unconditional(x_t, t)  # (B, C, h, w)
            return eps_u + p.weight * (eps - eps_u).sum(dim=0)  # equation 11

        x_0 = ddim(denoise, self.bank.schedule, batch.generators, self.bank.latent_shape, self.device, p.steps, p.eta)
        return self.bank.autoencoder.decode(x_0)
