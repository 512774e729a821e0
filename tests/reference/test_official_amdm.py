"""AMDM's preset "official" against the authors' loop, over all steps in float64.

AM = Hammour-steak/AMDM at dba837a: interactmigc.py (two models) and interactmigcip.py (three).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from compared import compared
from official_world import BATCH, Expert, Stream, Toys, off
from torch import Tensor
from toy_guidance import requests

from concord.data.datasets.layouts.layout import Layout
from concord.data.request import Conditions, Request
from concord.methods.amdm import Amdm, AmdmLayouts
from concord.methods.base import Batch, Trace, make_params


class Three(Amdm):
    conditions = frozenset({"text", "mask", "style"})


class Models(Toys):
    """Models that share latents, one for each condition; the decoder is the identity."""

    def __init__(self) -> None:
        super().__init__(pixels=False)
        self.experts = {name: Expert(2, seed, 0, self.betas) for seed, name in enumerate(("text", "mask", "style"))}
        self.autoencoder = self

    def decode(self, x: Tensor) -> Tensor:
        return x


def loop(
    toys: Models,
    names: tuple[str, ...],
    conditions: Any,
    weights: tuple[float, ...],
    p: tuple[float, ...],
    steps: int,
    end: int,
    eta: float = 0.0,
) -> Tensor:
    """AM interactmigc.py: compute_mu (13-46), optimize (63-85) and the denoising loop with optim_end = `end`.

    What the other models do after `end` reaches no picture of the first one, and is left out with its noise.
    """
    noise, alphas_cumprod = Stream(toys.latent_shape), toys.schedule.alphas_cumprod
    alphas = 1 - toys.betas
    timesteps = [t + 1 for t in range(0, 1000, 1000 // steps)][::-1]
    latents = [noise() for _ in names]  # prepare_latents of each pipeline, without a generator
    before: list[Tensor] = []
    for i, t in enumerate(timesteps):
        if i > end:
            names, latents = names[:1], latents[:1]
        eps = [toys.experts[name].eps(x, t, conditions) for name, x in zip(names, latents, strict=True)]
        a_t, a_prev = alphas_cumprod[t], alphas_cumprod[timesteps[i + 1]] if i + 1 < steps else alphas_cumprod[0]
        sigma = eta * ((1 - a_prev) / (1 - a_t) * (1 - a_t / a_prev)).sqrt()
        moved = [
            a_prev.sqrt() * (x - (1 - a_t).sqrt() * e) / a_t.sqrt() + (1 - a_prev - sigma**2).sqrt() * e
            for x, e in zip(latents, eps, strict=True)
        ]
        if eta:  # diffusers' DDIM: at every step, the last one too
            moved = [x + sigma * noise() for x in moved]
        if i > 0 and 1 <= i <= end:
            rest = [math.sqrt(1 - w**2) for w in weights]
            shares = [math.prod([*rest[:k], *weights[k:]]) for k in range(len(names))]
            mixed = sum(share * x for share, x in zip(shares, moved, strict=True))
            late = t + 1000 // steps  # prev_timestep: the step before, in a scheduler that counts down
            alpha, product = alphas[late], alphas_cumprod[late]
            mus = [
                x / alpha**0.5 - (1 - alpha) / ((1 - product) ** 0.5 * alpha**0.5) * e
                for x, e in zip(latents, before, strict=True)
            ]
            moved = [mixed - size * (mixed - mu) / torch.norm(mixed - mu) for size, mu in zip(p, mus, strict=True)]
        before, latents = eps, moved
    return latents[0]


def sampled(toys: Models, asked: list[Request], names: tuple[str, ...], **params: Any) -> Tensor:
    method = Three(make_params(Three, {"preset": "official", "order": names, **params}), toys.networks)
    with mock.patch("concord.methods.amdm.draw_noise", Stream(toys.latent_shape)):
        return method.sample(Batch(asked, [torch.Generator()] * BATCH, toys.device), Trace())


WEIGHTS = {2: (0.5,), 3: (0.47, 0.5)}
ORDERS = [("text", "mask"), ("text", "mask", "style"), ("style", "text", "mask")]
SIZES = {2: (0.9, 1.1), 3: (0.9, 0.8, 0.7)}  # of latents of 32 numbers; 45 and 55 are of 16,384


@pytest.mark.parametrize(("steps", "end", "eta"), [(50, 3, 0.0), (20, 7, 0.0), (100, 1, 0.5), (20, 19, 1.0)])
@pytest.mark.parametrize("names", ORDERS, ids="+".join)
@torch.inference_mode()
def test_it_is_the_authors_loop(names: tuple[str, ...], steps: int, end: int, eta: float) -> None:
    toys, asked, sizes = Models(), requests(BATCH, names), SIZES[len(names)]
    found = sampled(toys, asked, names, steps=steps, aggregation_steps=end, step_sizes=sizes, eta=eta)
    conditions = [request.conditions for request in asked]
    wanted = loop(toys, names, conditions, WEIGHTS[len(names)], sizes, steps, end, eta)
    drawn = f", eta {eta:g}" if eta else ""
    case = f"{' + '.join(names)}: {steps} steps{drawn}, aggregation in steps 1 to {end}, 2 images in a batch"
    code = "Hammour-steak/AMDM dba837a, interactmigc.py, interactmigcip.py"
    compared("amdm", "official", case, code, off(found, wanted))


# ------------------------------------------------------------------------------------------------------ of the layouts


class Guided:
    """A layout model's prediction under classifier-free guidance, with and without its condition."""

    def __init__(self, told: Expert, free: Expert) -> None:
        self.told, self.free = told, free

    def eps(self, x: Tensor, t: int, conditions: Any, guidance: float = 7.5) -> Tensor:
        """AM interactmigc.py: noise_pred_uncond + guidance_scale * (noise_pred_text - noise_pred_uncond)."""
        free = self.free.eps(x, t, conditions)
        return free + guidance * (self.told.eps(x, t, conditions) - free)

    def bind(self, conditions: Any, schedule: Any, guidance: float) -> Any:
        bound = partial(self.eps, conditions=conditions, guidance=guidance)
        bound.schedule = schedule  # type: ignore[attr-defined]
        return bound


class Layouts(Models):
    """The three layout models, which share latents; conditions reach them in no other way than by their number."""

    def __init__(self) -> None:
        super().__init__()
        free = Expert(2, 9, 0, self.betas)
        self.experts = {  # type: ignore[assignment]
            name: Guided(Expert(2, seed, 0, self.betas), free)
            for seed, name in enumerate(("interaction", "attribute", "style"))
        }


def layouts(style: bool) -> list[Request]:
    layout = Layout.of("a photo of two", [(0.1, 0.1, 0.4, 0.9), (0.6, 0.1, 0.9, 0.9)], ["a red car", "a blue car"], "1")
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    given = {"layout": layout, **({"style": image} if style else {})}
    return [Request.make("toy", str(i), 0, Conditions(**given)) for i in range(BATCH)]


@pytest.mark.parametrize("style", [False, True])
@torch.inference_mode()
def test_layouts_are_those_of_the_authors_loop(style: bool) -> None:
    toys, asked = Layouts(), layouts(style)
    names = ("interaction", "attribute", *(["style"] if style else []))
    sizes = SIZES[len(names)]
    params = make_params(AmdmLayouts, {"preset": "official", "order": names, "step_sizes": sizes})
    with mock.patch("concord.methods.amdm.draw_noise", Stream(toys.latent_shape)):
        batch = Batch(asked, [torch.Generator()] * BATCH, toys.device)
        found = AmdmLayouts(params, toys.networks).sample(batch, Trace())
    conditions = [request.conditions for request in asked]
    wanted = loop(toys, names, conditions, WEIGHTS[len(names)], sizes, 50, 3)
    case = f"{' + '.join(names)}: 50 steps, guidance 7.5, aggregation in steps 1 to 3, 2 images in a batch"
    code = "Hammour-steak/AMDM dba837a, interactmigc.py, interactmigcip.py, infer800.py"
    compared("amdm-layouts", "official", case, code, off(found, wanted))
