"""StyleAligned's preset "official" against the authors' notebook for a style image, over all steps in float64.

SA = google/style-aligned at 2faf0af: sa_handler.py, inversion.py and style_aligned_transfer_sdxl.ipynb. As there, one
request is a batch of two rows, reference and sample, and classifier-free guidance doubles it: empty captions first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from compared import compared
from official_world import LATENTS, Stream, off, seldom
from torch import Tensor, nn
from toy_guidance import ToyAutoencoder, requests
from toy_networks import toy_networks

from concord.data.networks import Networks
from concord.data.request import Conditions, Request
from concord.methods.base import Batch, Trace, make_params
from concord.methods.core.schedule import Schedule
from concord.methods.guidance.energies import reference_images
from concord.methods.style_aligned import StyleAligned

CLOSE, WIDTH, SIDE = 1e-9, 8, 8


class Network(nn.Module):
    """diffusers' conditional UNet at its smallest, in float64; a caption is one token that knows its length."""

    def __init__(self) -> None:
        super().__init__()
        from diffusers import UNet2DConditionModel

        self.unet = UNet2DConditionModel(
            sample_size=4, in_channels=LATENTS[0], out_channels=LATENTS[0], block_out_channels=(8, 16),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), layers_per_block=1, cross_attention_dim=WIDTH,
            attention_head_dim=2, norm_num_groups=4,
        )  # fmt: skip  # a table
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.ndim > 1:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5)
                else:
                    parameter.fill_(float(name.endswith("weight")))
        self.double().eval().requires_grad_(False)

    def eps(self, x: Tensor, t: int, captions: Sequence[str]) -> Tensor:
        tokens = torch.tensor([len(caption) / 3 for caption in captions], dtype=torch.float64).reshape(-1, 1, 1)
        return 0.5 * x + 0.1 * self.unet(x, t, tokens.expand(-1, 1, WIDTH), return_dict=False)[0]


class Expert(nn.Module):
    def __init__(self, network: Network, hears: bool) -> None:
        super().__init__()
        self.network, self.unet, self.hears = network, network.unet, hears

    def bind(self, conditions: Sequence[Conditions], schedule: Schedule) -> Any:
        captions = [(c.text or "") if self.hears else "" for c in conditions]
        return lambda x, t: self.network.eps(x, t, captions)


class Autoencoder(ToyAutoencoder):
    def __init__(self) -> None:
        super().__init__()
        self.net.double()

    def encode(self, images: Tensor) -> Tensor:
        return super().encode(images).double()


class Toys:
    device, image_size, latent_shape = torch.device("cpu"), SIDE, LATENTS

    def __init__(self) -> None:
        self.network = Network()
        self.experts = {"text": Expert(self.network, True), "unconditional": Expert(self.network, False)}
        self.autoencoder = Autoencoder()
        self.schedule = Schedule.scaled_linear(0.00085, 0.012)

    @property
    def networks(self) -> Networks:
        return toy_networks(self)


# ------------------------------------------------------------------------------------------------------- the authors'


def expand_first(feat: Tensor) -> Tensor:
    """SA sa_handler.py:38-47: the first row of either half stands for every row of it."""
    half = len(feat) // 2
    return torch.cat([feat[:1].expand(half, *feat.shape[1:]), feat[half : half + 1].expand(half, *feat.shape[1:])])


def adain(feat: Tensor) -> Tensor:
    """SA sa_handler.py:55-67."""
    mean, std = feat.mean(dim=-2, keepdim=True), (feat.var(dim=-2, keepdim=True) + 1e-5).sqrt()
    return (feat - mean) / std * expand_first(std) + expand_first(mean)


class Processor:
    """SA sa_handler.py:84-146."""

    def __init__(self, shift: float) -> None:
        self.shift = shift

    def __call__(self, attn: Any, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        rows, size = len(hidden_states), attn.to_q(hidden_states).shape[-1] // attn.heads
        q, k, v = (
            p(hidden_states).view(rows, -1, attn.heads, size).transpose(1, 2) for p in (attn.to_q, attn.to_k, attn.to_v)
        )
        q, k = adain(q), adain(k)
        k, v = torch.cat([k, expand_first(k)], dim=-2), torch.cat([v, expand_first(v)], dim=-2)
        logits = torch.einsum("bhqd,bhkd->bhqk", q, k) * size**-0.5
        logits[..., q.shape[2] :] += self.shift  # sa_handler.py:89
        out = torch.einsum("bhqk,bhkd->bhqd", logits.softmax(-1), v)
        return attn.to_out[0](out.transpose(1, 2).reshape(rows, -1, attn.heads * size))


@contextmanager
def registered(unet: nn.Module, shift: float, norms: bool = True) -> Iterator[None]:
    """SA sa_handler.py:186-265: processors of self-attention, group norms over row and first row together."""
    names = [name for name, module in unet.named_modules() if name.endswith("attn1")]
    with ExitStack() as stack:
        for module in unet.modules():
            if norms and isinstance(module, nn.GroupNorm):
                plain = module.forward

                def shared(x: Tensor, plain: Any = plain) -> Tensor:
                    return plain(torch.cat([x, expand_first(x)], dim=-2))[..., : x.shape[-2], :]

                stack.enter_context(mock.patch.object(module, "forward", shared))
        kept = {name: unet.get_submodule(name).processor for name in names}
        for name in names:
            unet.get_submodule(name).set_processor(Processor(shift))
        yield
        for name, processor in kept.items():
            unet.get_submodule(name).set_processor(processor)


def guided(toys: Toys, x: Tensor, t: int, captions: Sequence[str], scale: float) -> Tensor:
    """SA inversion.py:84-91: empty captions first."""
    free, told = toys.network.eps(torch.cat([x, x]), t, [""] * len(x) + list(captions)).chunk(2)
    return free + scale * (told - free)


def notebook(
    toys: Toys, picture: Tensor, caption: str, prompt: str, x: Tensor, steps: int, offset: int, **changed: Any
) -> Tensor:
    """The notebook's cells for one style image latent (1, C, h, w) and one prompt from x (1, C, h, w).

    changed: what the paper alone would have: first timestep, scales, shift, norms.
    """
    first, inverted, scale = changed.get("first", 0), changed.get("invert_scale", 2.0), changed.get("scale", 10.0)
    alphas = toys.schedule.alphas_cumprod
    stride = 1000 // steps
    # diffusers' DDIMScheduler, 'leading', steps_offset 0
    timesteps = [t + first for t in range(0, stride * steps, stride)][::-1]
    zts, latent = [picture], picture
    for t in reversed(timesteps):  # inversion.py:94-105
        eps = guided(toys, latent, t, [caption], inverted)
        before = alphas[t - stride] if t >= stride else alphas[0]  # set_alpha_to_one=False
        clean = (latent - (1 - before).sqrt() * eps) / before.sqrt()
        latent = alphas[t].sqrt() * clean + (1 - alphas[t]).sqrt() * eps
        zts.append(latent)
    zts = zts[::-1]
    reference = zts[offset]  # inversion.py:108-115
    with registered(toys.network.unet, changed.get("shift", math.log(2)), changed.get("norms", True)):
        for i, t in enumerate(timesteps):
            eps = guided(toys, torch.cat([reference, x]), t, [caption, prompt], scale)[1:]
            before = alphas[t - stride] if t >= stride else alphas[0]
            clean = (x - (1 - alphas[t]).sqrt() * eps) / alphas[t].sqrt()
            x = before.sqrt() * clean + (1 - before).sqrt() * eps
            reference = zts[max(offset + 1, i + 1)]
    return x


def sampled(toys: Toys, asked: Sequence[Request], **params: Any) -> Tensor:
    method = StyleAligned(make_params(StyleAligned, {"preset": "official", **params}), toys.networks)
    with mock.patch("concord.methods.style_aligned.draw_noise", Stream(LATENTS)):
        return method.sample(Batch(asked, [torch.Generator()] * len(asked), toys.device), Trace())


def pictured(toys: Toys, asked: Sequence[Request], caption: str, steps: int, offset: int, **changed: Any) -> Tensor:
    """The notebook's images, one after another."""
    noise, rows = Stream(LATENTS)(), []
    encoded = toys.autoencoder.encode(reference_images(asked, "style", SIDE, toys.device))
    for row, request in enumerate(asked):
        one = slice(row, row + 1)
        ended = notebook(toys, encoded[one], caption, request.conditions["text"], noise[one], steps, offset, **changed)
        rows.append(toys.autoencoder.decode(ended))
    return torch.cat(rows)


@pytest.mark.parametrize(("steps", "offset"), [*seldom((50, 5)), (20, 0), (10, 5)])
@pytest.mark.parametrize("caption", ["", "a painting."])
@torch.inference_mode()
def test_it_is_the_authors_notebook(steps: int, offset: int, caption: str) -> None:
    toys, asked = Toys(), requests(2, ("text", "style"))
    found = sampled(toys, asked, steps=steps, reference_offset=offset, reference_caption=caption)
    wanted = pictured(toys, asked, caption, steps, offset)
    case = f"{steps} steps, offset {offset}, reference caption {caption!r}, 2 images in a batch"
    code = "google/style-aligned 2faf0af, sa_handler.py, inversion.py and style_aligned_transfer_sdxl.ipynb"
    compared("style-aligned", "official", case, code, off(found, wanted), CLOSE)


@pytest.mark.parametrize("steps", [10, *seldom(50)])
@torch.inference_mode()
def test_preset_paper_is_the_papers_equations(steps: int) -> None:
    """Equations 1 to 3 alone: AdaIN, keys and values of the reference; inverted under the empty caption."""
    toys, asked = Toys(), requests(2, ("text", "style"))
    found = sampled(toys, asked, preset="paper", steps=steps)
    alone = {"first": 1, "invert_scale": 1.0, "scale": 5.0, "shift": 0.0, "norms": False}
    wanted = pictured(toys, asked, "", steps, 0, **alone)
    code = "StyleAligned (arXiv:2312.02133), section 3.2 and DDIM inversion"
    compared("style-aligned", "paper", f"{steps} steps, 2 images in a batch", code, off(found, wanted), CLOSE)
