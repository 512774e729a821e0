"""StyleAligned (Hertz et al., CVPR 2024): a text-driven model whose self-attention also looks at a reference's.

    Q^ = AdaIN(Q, Q_r),  K^ = AdaIN(K, K_r)
    Attention(Q^, [K_r; K^], [V_r; V])       in every self-attention layer

AdaIN(x, y) = sigma(y) (x - mu(x)) / sigma(x) + mu(y) over the tokens of one head's channel. The reference is an image:
its noisy versions at every timestep come from DDIM inversion, pass through the same network beside
the sample and are never changed by it. The text-driven model inverts the image under the empty caption, since a style
image comes without one.

Preset "official" is the authors' notebook for a style image (google/style-aligned at 2faf0af,
style_aligned_transfer_sdxl.ipynb), which differs by

    share_norms          group normalisation takes its statistics over sample and reference together
    score_shift          log 2 is added to the scores of the reference's keys (sa_handler.py, line 89)
    invert_scale         the image is inverted with guidance of 2 under the caption that it is given (inversion.py,
                         lines 90-117), and passes through the sampler under that caption (`reference_caption`, which
                         no request brings: it is empty unless a row says it, and then the scale changes nothing where
                         the unconditional model is the text-driven one under the empty caption)
    reference_offset     the reference starts at its sixth noisiest version, stays at the seventh for the next six steps
                         and only then goes on with the sample (inversion.py, `make_inversion_callback`)
    timesteps            980, 960, .., 0 and not 981, 961, .., 1 (diffusers' DDIM with its own spacing)
    text_scale           10

Its layer normalisations are shared in name only: each token is normalised by itself.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from concord.data.request import Conditions
from concord.methods.base import Batch, Method, Trace, register
from concord.methods.core.noise import draw_noise
from concord.methods.core.sampler import ddim_step
from concord.methods.core.tunable import TuneRange
from concord.methods.guidance.energies import reference_images
from concord.methods.networks.protocols import TrainedDenoiser


@register
class StyleAligned(Method["StyleAligned.Params"]):
    """Shared self-attention with an inverted style image."""

    name, title, paper = "style-aligned", "StyleAligned", "arXiv:2312.02133"
    citation = "Hertz, Voynov, Fruchter, Cohen-Or: Style Aligned Image Generation via Shared Attention. CVPR 2024"
    conditions = frozenset({"text", "style"})
    minimum_conditions = 2
    training_free = True

    class Params(Method.Params):
        steps: int = Field(50, ge=1, le=1000)  # DDIM, of the sample and of the inversion
        text_scale: Annotated[float, TuneRange(1, 10)] = Field(5.0, ge=0)
        # classifier-free guidance; 1 needs no unconditional model
        share: bool = True  # False: neither keys and values nor AdaIN, so that the text alone decides
        share_norms: bool = False  # group normalisation over sample and reference together
        score_shift: Annotated[float, TuneRange(0, 2)] = 0.0
        # added to the scores of the reference's keys in the sample's attention
        invert_scale: float = Field(1.0, ge=0)  # classifier-free guidance of the inversion; 1 has none
        reference_caption: str = ""  # of the style images, in the inversion and in sampling
        reference_offset: int = Field(0, ge=0)  # the noisiest versions of the reference that are skipped
        timesteps: Literal["latent-diffusion", "diffusers"] = "latent-diffusion"  # 981, .., 1 or 980, .., 0 (50 steps)

        @classmethod
        def official(cls) -> dict[str, Any]:
            return {
                "share_norms": True,
                "score_shift": math.log(2),
                "invert_scale": 2.0,
                "reference_offset": 5,
                "timesteps": "diffusers",
                "text_scale": 10.0,
            }

        @property
        def sampling(self) -> tuple[str, ...]:
            """The diffusion models that sample."""
            return ("text",) if self.text_scale == 1 else ("text", "unconditional")

        @property
        def inverting(self) -> tuple[str, ...]:
            """The diffusion models that invert the style images."""
            return ("text",) if self.invert_scale == 1 else ("text", "unconditional")

        @property
        def models(self) -> tuple[str, ...]:
            """All of them, each once."""
            return tuple(dict.fromkeys([*self.sampling, *self.inverting]))

    def denoisers(self) -> Mapping[str, nn.Module]:
        return {f"eps-{name}": self.networks.get(f"expert/{name}", nn.Module) for name in self.params.models}

    @classmethod
    def roles(cls, params: Params, conditions: Sequence[str]) -> tuple[str, ...]:
        return ("schedule", "space", *(f"expert/{name}" for name in params.models))

    @classmethod
    def evaluations(
        cls, params: Params, conditions: Sequence[str], timesteps: Sequence[int] | None = None
    ) -> Mapping[str, float]:
        """The reference passes beside the sample, and once before it, where it is inverted."""
        rows = {name: 2 * (name in params.sampling) + (name in params.inverting) for name in params.models}
        return {f"eps-{name}": count * params.steps for name, count in rows.items()}

    @torch.inference_mode()
    def sample(self, batch: Batch, trace: Trace) -> Tensor:
        p, schedule = self.params, self.schedule
        timesteps = self._timesteps()
        reference = self._invert(batch, timesteps)  # x_t of the style images, by timestep
        beside = dict(zip(timesteps, self._beside(timesteps), strict=True))
        told = [Conditions(text=p.reference_caption or None)] * len(batch)
        models = [self.networks.get(f"expert/{name}", TrainedDenoiser) for name in p.sampling]
        both = [model.bind([*told, *batch.conditions], schedule) for model in models]

        def denoise(x_t: Tensor, t: int) -> Tensor:
            pairs = torch.cat([reference[beside[t]], x_t])  # (2 B, C, h, w): references first
            eps = [expert(pairs, t)[len(x_t) :] for expert in both]
            return eps[0] if len(eps) == 1 else eps[1] + p.text_scale * (eps[0] - eps[1])

        x_t = draw_noise(batch.generators, self.space.latent_shape, self.device)
        with contextlib.ExitStack() as stack:
            shared = [self.networks.get(f"expert/{name}", nn.Module) for name in p.sampling] if p.share else []
            unets = [expert.get_submodule("unet") for expert in shared]
            for unet in {id(unet): unet for unet in unets}.values():  # Stable Diffusion has one for both
                stack.enter_context(shared_attention(unet, p.share_norms, p.score_shift))
            for t, t_previous in zip(timesteps, [*timesteps[1:], -1], strict=True):
                x_t = ddim_step(schedule, denoise(x_t, t), x_t, t, t_previous)
        return self.space.decode(x_t)

    def _timesteps(self) -> list[int]:
        """Descending; the authors' scheduler starts at 0 where latent diffusion starts at 1."""
        p, schedule = self.params, self.schedule
        if p.timesteps == "latent-diffusion":
            return schedule.ddim_timesteps(p.steps)
        stride = schedule.steps // p.steps
        return list(range(0, stride * p.steps, stride))[::-1]

    def _beside(self, timesteps: Sequence[int]) -> list[int]:
        """The timestep of the reference that passes beside the sample at each step; its own without an offset."""
        p = self.params
        last = len(timesteps) - 1
        places = [max(p.reference_offset + 1, i) if i else p.reference_offset for i in range(len(timesteps))]
        return [timesteps[min(place, last)] for place in places]

    def _invert(self, batch: Batch, timesteps: Sequence[int]) -> dict[int, Tensor]:
        """x_t (B, C, h, w) of the style images at every timestep: DDIM run backwards under the reference caption."""
        p, schedule = self.params, self.schedule
        told = [Conditions(text=p.reference_caption or None)] * len(batch)
        experts = [self.networks.get(f"expert/{name}", TrainedDenoiser).bind(told, schedule) for name in p.inverting]
        x_t = self.space.encode(reference_images(batch.requests, "style", self.space.image_size, self.device))
        found: dict[int, Tensor] = {}
        before = 0  # the image itself, as `ddim_step` ends at abar_0
        for t in sorted(timesteps):
            eps, *free = (expert(x_t, t) for expert in experts)  # at the timestep that it leads to
            eps = eps if not free else free[0] + p.invert_scale * (eps - free[0])
            x_0 = schedule.x0_from_eps(eps, x_t, before)
            abar = schedule.abar(t, x_t)
            x_t = abar.sqrt() * x_0 + (1 - abar).sqrt() * eps
            found[t], before = x_t, t
        return found


# ----------------------------------------------------------------------------------------------------- shared attention


@contextlib.contextmanager
def shared_attention(unet: nn.Module, norms: bool = False, shift: float = 0.0) -> Iterator[None]:
    """While it lasts, the second half of a batch attends to the first half, row by row, in self-attention layers.

    shift: added to the scores of the first half's keys there.
    """
    attentions = [module for name, module in unet.named_modules() if name.rsplit(".", 1)[-1] == "attn1"]
    kept = [module.processor for module in attentions]
    with contextlib.ExitStack() as stack:
        if norms:
            for module in unet.modules():
                if isinstance(module, nn.GroupNorm):
                    stack.enter_context(_shared_norm(module))
        for module in attentions:
            module.set_processor(SharedAttention(shift))
        try:
            yield
        finally:
            for module, processor in zip(attentions, kept, strict=True):
                module.set_processor(processor)


class SharedAttention:
    """A diffusers attention processor: rows B.. of a batch of 2 B attend to their own tokens and to row i - B's."""

    def __init__(self, shift: float = 0.0) -> None:
        self.shift = shift

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        if encoder_hidden_states is not None or attention_mask is not None or hidden_states.ndim != 3:
            raise ValueError("shared attention: expected self-attention over tokens (B, N, C) without a mask")
        q, k, v = (
            project(hidden_states).unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # (2 B, heads, N, C / heads)
            for project in (attn.to_q, attn.to_k, attn.to_v)
        )
        (q_r, q_t), (k_r, k_t), (v_r, v_t) = q.chunk(2), k.chunk(2), v.chunk(2)
        q_t, k_t = adain(q_t, q_r), adain(k_t, k_r)
        reference = scaled_dot_product_attention(q_r, k_r, v_r)
        sample = scaled_dot_product_attention(
            q_t, torch.cat([k_r, k_t], dim=2), torch.cat([v_r, v_t], dim=2), self._shifts(k_r, k_t)
        )
        out = torch.cat([reference, sample]).transpose(1, 2).flatten(2)
        out = attn.to_out[1](attn.to_out[0](out))  # linear, dropout
        return (out + hidden_states if attn.residual_connection else out) / attn.rescale_output_factor

    def _shifts(self, k_r: Tensor, k_t: Tensor) -> Tensor | None:
        """What is added to the scores (1, 1, 1, N_r + N), the reference's keys first; None for nothing."""
        if self.shift == 0:
            return None
        return torch.cat([k_r.new_full((k_r.shape[2],), self.shift), k_t.new_zeros(k_t.shape[2])])[None, None, None]


def adain(x: Tensor, y: Tensor, floor: float = 1e-5) -> Tensor:
    """x with the mean and deviation of y over the tokens (dimension -2)."""
    mean_x, mean_y = x.mean(dim=-2, keepdim=True), y.mean(dim=-2, keepdim=True)
    spread_x = (x.var(dim=-2, keepdim=True) + floor).sqrt()
    spread_y = (y.var(dim=-2, keepdim=True) + floor).sqrt()
    return (x - mean_x) / spread_x * spread_y + mean_y


@contextlib.contextmanager
def _shared_norm(module: nn.GroupNorm) -> Iterator[None]:
    """Statistics over every row and its reference together, by laying the reference beside it."""
    plain = module.forward

    def forward(x: Tensor) -> Tensor:  # (2 B, C, ...)
        reference = x[: len(x) // 2]
        both = torch.cat([x, torch.cat([reference, reference])], dim=-1)
        return plain(both)[..., : x.shape[-1]]

    module.forward = forward  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del module.forward
