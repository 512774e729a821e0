"""Collaborative Diffusion (Huang et al., CVPR 2023): influence functions weigh the experts.

How much weight each expert gets is decided for every pixel and step:

    I_m = D_phi_m(x_t, t, c_m)                                                      (equation 5)
    eps(x_t, t) = sum_m  softmax_m(I)_m  *  eps_theta_m(x_t, t, c_m)                (equations 6, 7; Algorithm 2)

The equations hold for any number of modalities with an expert and a dynamic diffuser; here they are text and mask, as
in the paper's experiments. Preset "official" is what the authors' code
does beyond the paper: an ancestral sampler (eta = 1) whose last step adds noise, too, and a mask influence that is
rescaled over time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from concord.data.conditions.base import condition_names
from concord.methods.base import Batch, Method, Trace, register
from concord.methods.core.experts import modalities
from concord.methods.core.sampler import ddim
from concord.methods.core.tunable import TuneRange
from concord.methods.networks.protocols import EncodingDenoiser, Influence


@register
class Collaborative(Method["Collaborative.Params"]):
    """Experts joined by learned, spatially and temporally varying influence functions."""

    name, title, paper = "collaborative", "Collaborative Diffusion", "arXiv:2304.10530"
    citation = "Huang, Chan, Jiang, Liu: Collaborative Diffusion for Multi-Modal Face Generation and Editing. CVPR 2023"
    conditions = frozenset({"text", "mask"})
    minimum_conditions = 2
    training_free = False  # the dynamic diffusers are trained (Algorithm 1); the experts stay as they are
    traces = ("influence",)

    class Params(Method.Params):
        old_names: ClassVar[Mapping[str, str]] = {"noisy_end": "noise_last_step"}

        steps: int = Field(50, ge=1, le=1000)  # supplement B.2
        eta: Annotated[float, TuneRange(0, 1)] = Field(0.0, ge=0, le=1)  # DDIM; the authors' code samples with 1.0
        noise_last_step: bool = False  # noise in the last step, too, where eta > 0, as the authors' code (0.03 of x_0)
        vary_in_space: bool = True  # False: each step's influence is its mean over the pixels (Table 2, w/o spatial)
        vary_in_time: bool = True  # False: each pixel's influence is its mean over the steps (Table 2, w/o temporal)
        mask_schedule: Literal["none", "cosine_decay"] = "none"  # authors' code rescales the mask's influence over time
        mask_factor: Annotated[float, TuneRange(0.25, 8, when={"mask_schedule": ["cosine_decay"]})] = 2.0
        # its strength there; without effect where mask_schedule is 'none'

        @classmethod
        def official(cls) -> dict[str, Any]:
            return {"eta": 1.0, "noise_last_step": True, "mask_schedule": "cosine_decay"}

    def denoisers(self) -> Mapping[str, nn.Module]:
        names = sorted(self.conditions)
        experts = {f"eps-{name}": self.networks.get(f"expert/{name}", nn.Module) for name in names}
        return experts | {f"influence-{name}": self.networks.get(f"influence/{name}", nn.Module) for name in names}

    @classmethod
    def roles(cls, params: Params, conditions: Sequence[str]) -> tuple[str, ...]:
        names = sorted(cls.conditions)
        return ("schedule", "space", *(f"expert/{name}" for name in names), *(f"influence/{name}" for name in names))

    @classmethod
    def evaluations(
        cls, params: Params, conditions: Sequence[str], timesteps: Sequence[int] | None = None
    ) -> Mapping[str, float]:
        runs = 1 if params.vary_in_time else 2  # a first run records the influence, a second one takes its mean
        experts = {f"eps-{name}": runs * params.steps for name in conditions}
        return experts | {f"influence-{name}": params.steps for name in conditions}

    @torch.inference_mode()
    def sample(self, batch: Batch, trace: Trace) -> Tensor:
        p = self.params
        order = ("mask", *(c for c in condition_names() if c != "mask"))  # of the softmax, as the authors coded it
        names = modalities(batch, order=order)
        models = [self.networks.get(f"expert/{name}", EncodingDenoiser) for name in names]
        experts = [model.bind(batch.conditions, self.schedule) for model in models]
        diffusers = [self.networks.get(f"influence/{name}", Influence) for name in names]

        def influence(x_t: Tensor, t: int) -> Tensor:
            """softmax_m I_m: (M, B, 1, h, w)."""
            logits = torch.stack([d(x_t, t, e.encoded) for d, e in zip(diffusers, experts, strict=True)])  # line 6
            weight = logits.softmax(dim=0)  # line 8, equation 6
            if not p.vary_in_space:
                weight = weight.mean(dim=(-2, -1), keepdim=True).expand_as(logits)
            if p.mask_schedule == "cosine_decay":
                weight = _decay_mask(weight, names, t, self.schedule.steps, p.mask_factor)
            return weight

        def run(weigh: Callable[[Tensor, int], Tensor], generators: Sequence[torch.Generator], trace: Trace) -> Tensor:
            def denoise(x_t: Tensor, t: int) -> Tensor:  # Algorithm 2
                eps = torch.stack([expert(x_t, t) for expert in experts])  # (M, B, C, h, w)  line 5
                weight = weigh(x_t, t)  # (M, B, 1, h, w)  lines 6-8
                trace("influence", t, weight[:, :, 0], batch_dim=1, parts=names)
                return (weight * eps).sum(dim=0)  # (B, C, h, w)  line 9, equation 7

            shape, schedule = self.space.latent_shape, self.schedule
            return ddim(denoise, schedule, generators, shape, self.device, p.steps, p.eta, p.noise_last_step)

        if p.vary_in_time:
            return self.space.decode(run(influence, batch.generators, trace))
        # The paper does not say how it removed the temporal variation. Here a first run of the same noise records the
        # influence, and a second one uses its mean over the steps at every step: nothing is left that varies in time.
        first = Trace("influence")
        run(influence, [g.clone_state() for g in batch.generators], first)
        mean = first.stacked("influence")[1].mean(dim=1)  # (B, S, M, h, w) -> (B, M, h, w)
        constant = mean.movedim(1, 0)[:, :, None].to(self.device)  # (M, B, 1, h, w)
        return self.space.decode(run(lambda x_t, t: constant, batch.generators, trace))


def _decay_mask(weight: Tensor, names: list[str], t: int, steps: int, factor: float) -> Tensor:
    """The official sampler's rescaling: m <- m (cos((1 - t/T) pi) + 1)/2, others fill up to 1, m <- factor m, sum to 1.

    With two modalities that is text = 1 - m, as coded; with more, the others keep their proportions.
    """
    if "mask" not in names:
        return weight
    m = names.index("mask")
    mask = weight[m] * (math.cos((1 - t / steps) * math.pi) + 1) / 2
    others = torch.cat([weight[:m], weight[m + 1 :]])
    others = others / others.sum(dim=0).clamp(min=1e-12) * (1 - mask)
    scaled = torch.cat([others[:m], (factor * mask)[None], others[m:]])
    return scaled / scaled.sum(dim=0)
