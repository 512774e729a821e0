"""Universal Guidance (Bansal et al., ICLR 2024): a diffusion model guided by any loss l_i on the predicted clean image.

    forward     eps^ = eps + sqrt(1 - abar_t) sum_i s_i grad_{z_t} l_i(c_i, f_i(z^_0))
    backward    Delta = argmin_D sum_i s_i l_i(c_i, f_i(z^_0 + D)), a few steps of gradient descent from D = 0
                eps^ <- eps^ - sqrt(abar_t / (1 - abar_t)) Delta
    recurrence  z_{t'} = step(z_t, eps^), then back to z_t with fresh noise: k turns at every step

Turns and strengths of the authors' scripts: style 6 turns with s = 6 on a text-driven model with scale 3, segmentation
10 turns with s = 400, face 2 turns with s = 20,000; all forward only, 500 DDIM steps. A text alone has no script there;
s is that of their ImageNet runs, which take all 1,000 steps and 5 or 10 turns. The losses here are `guidance`'s
energies, told apart by their residual: the strengths are those of *their* losses, and on the default norms the style
pulls 45 to 126 times weaker and the face 23 times stronger than published (measured at s = 6 and s = 20,000), so that a
row needs strengths of its own, or the preset.

Preset "official" is the authors' code (Universal-Guided-Diffusion at ff82f88) where it differs:

    text_residual, style_residual   -100 cos of unit embeddings (scripts/style_transfer.py, lines 168 and 177)
    encoder                         of CLIP RN50 under ImageNet's mean and deviation (`guide_clip`), in profile 'paper'
    style_reference                 the style picture goes from its own size to 224 by the encoder's own preparation
    identity_residual               mean absolute difference of the embeddings' 512 numbers (scripts/face_detection.py;
                                    theirs are FaceNet's of a face that MTCNN finds, the profiles have others)
    noise_last_step                 where eta is above 0, latent diffusion's last step draws noise, too
    clip_x0                         the code for ImageNet, a model of pixels without a text, clamps x_0 to [-1, 1] after
                                    guidance and takes eps from it (guided_diffusion/gaussian_diffusion.py, line 795)
    backward_*                      Adam on a loss without s, from the x_0 that forward guidance gave, clamped, a row
                                    standing still where its loss is below a cutoff (the same file, lines 692 to 795)

Its cosines are a matrix of every image of a batch with every text or style of it, and all of them pull; its scripts
give every image of a batch the same, where that is B times the strength, or sample one image at a time. Here each image
follows its own, as if it were alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from concord.methods.base import Trace, register
from concord.methods.core.sampler import Step
from concord.methods.core.tunable import TuneRange
from concord.methods.guidance.autodiff import vjp
from concord.methods.guidance.context import GuidanceContext
from concord.methods.guidance.method import GuidedMethod, Passes
from concord.methods.guidance.parameters import GuidedParams, Sampler, Strengths, Windows

ALWAYS = (-1, 1000)


@register
class UniversalGuidance(GuidedMethod["UniversalGuidance.Params"]):
    """Forward and backward guidance with self-recurrence."""

    name, title, paper = "ugd", "Universal Guidance", "arXiv:2302.07121"
    citation = (
        "Bansal, Chu, Schwarzschild, Sengupta, Goldblum, Geiping, Goldstein: "
        "Universal Guidance for Diffusion Models. ICLR 2024"
    )
    conditions = frozenset({"text", "identity", "mask", "style"})
    traces = ("condition-loss",)

    class Params(GuidedParams):
        @classmethod
        def official(cls) -> dict[str, Any]:
            return {
                "text_residual": "cosine",
                "style_residual": "cosine",
                "encoder": "universal",
                "style_reference": "own",
                "identity_residual": "mean-absolute",
                "clip_x0": "pixels",
                "noise_last_step": True,
                "backward_optimizer": "adam",
                "backward_scaled": False,
                "backward_start": "guided",
                "backward_cutoff": 1e-5,
            }

        steps: int = Field(500, ge=1, le=1000)
        sampler: Sampler = "ddim"
        eta: float = Field(0.0, ge=0, le=1)
        strengths: Strengths = Strengths(text=2, identity=20_000, mask=400, landmarks=0, style=6)
        windows: Windows = Windows(text=ALWAYS, identity=ALWAYS, mask=ALWAYS, landmarks=ALWAYS, style=ALWAYS)
        repeat: int = Field(6, ge=1)  # k
        text_scale: Annotated[float, TuneRange(0.25, 2, share=True, when={"text_by": ["model"]})] = 3.0
        mask_residual: Literal["probabilities", "logits", "cross-entropy"] = "cross-entropy"
        style_residual: Literal["gram", "relative", "embedding", "cosine"] = "embedding"
        repeat_last_step: bool = True  # Algorithm 1 and both samplers: every step takes its k turns
        clip_x0: Literal["never", "pixels"] = "never"  # 'pixels': x_0 to [-1, 1], where pixels are sampled
        forward: bool = True
        backward_steps: int = Field(0, ge=0)  # m; 0 leaves backward guidance out, as their scripts do
        backward_rate: float = Field(0.01, gt=0)  # of the descent, or of Adam
        backward_optimizer: Literal["descent", "adam"] = "descent"
        backward_scaled: bool = True  # whether the loss that is descended carries the strengths s
        backward_start: Literal["unguided", "guided"] = "unguided"  # x_0 of eps, or of the forward-guided eps^
        backward_cutoff: float | None = None  # a row whose loss is below it stands still

    @classmethod
    def passes(cls, params: Params, active: Sequence[str], text_conditioned: bool) -> Passes:
        return Passes(1, int(params.forward))  # backward guidance goes through the decoder and the guides alone

    def correct(self, context: GuidanceContext, x_t: Tensor, step: Step, active: Sequence[str], trace: Trace) -> Tensor:
        p = self.params
        t, abar = step.t, context.schedule.abar(step.t, x_t)
        state = context.evaluate(x_t, t)
        self.log_losses(context, state.x_0, t, trace, state.images)
        eps = state.eps.detach()
        if p.forward:
            image_grad = self._image_grad(context, state.images, active, t)
            (gradient,) = vjp(state.images, state.x_t, image_grad[None], counter=context.counter)
            eps = eps + (1 - abar).sqrt() * context.require_finite(gradient, active, t)
        clamped = p.clip_x0 == "pixels" and tuple(x_t.shape[2:]) == (self.networks.image_size,) * 2
        if p.backward_steps:
            guided = p.backward_start == "guided"
            x_0 = context.schedule.x0_from_eps(eps, x_t, t) if guided else state.x_0.detach()
            eps = eps - (abar / (1 - abar)).sqrt() * (self._descended(context, x_0, active, t, clamped) - x_0)
        if clamped:
            x_0 = context.schedule.x0_from_eps(eps, x_t, t).clamp(-1, 1)
            eps = (x_t - abar.sqrt() * x_0) / (1 - abar).sqrt()
        return step(x_t, eps)

    def _image_grad(self, context: GuidanceContext, images: Tensor, active: Sequence[str], t: int) -> Tensor:
        """sum_i s_i dl_i / d image, like images (B, 3, H, W)."""
        grads = [self.params.strength(name) * context.image_grad(name, images, t)[0] for name in active]
        return torch.stack(grads).sum(dim=0)

    def _descended(self, context: GuidanceContext, x_0: Tensor, active: Sequence[str], t: int, clamped: bool) -> Tensor:
        """x_0 + Delta (B, C, h, w): the clean prediction after a few steps towards the conditions."""
        p = self.params
        z = x_0.clone().requires_grad_(True)
        move: torch.optim.Optimizer
        if p.backward_optimizer == "adam":
            move = torch.optim.Adam([z], lr=p.backward_rate)
        else:
            move = torch.optim.SGD([z], lr=p.backward_rate)
        for _ in range(p.backward_steps):
            if clamped:
                z.data.clamp_(-1, 1)
            images = context.decode(z)
            image_grad, losses = torch.zeros_like(images), torch.zeros_like(images[:, 0, 0, 0])
            for name in active:
                weight = p.strength(name) if p.backward_scaled else 1.0
                grad, energies = context.image_grad(name, images, t)
                image_grad, losses = image_grad + weight * grad, losses + weight * energies
            (gradient,) = vjp(images, z, image_grad[None])
            z.grad, before = context.require_finite(gradient, active, t), z.detach().clone()
            move.step()
            if p.backward_cutoff is not None:  # Adam's memory goes on all the same, as in the authors' code
                still = (losses < p.backward_cutoff).reshape(-1, *[1] * (z.ndim - 1))
                z.data.copy_(torch.where(still, before, z.detach()))
        return z.detach()
