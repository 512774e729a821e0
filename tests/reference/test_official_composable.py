"""Composable Diffusion's preset "official" against the authors' pipeline, over all steps in float64.

CP = energy-based-model/Compositional-Visual-Generation-with-Composable-Diffusion-Models-PyTorch at 1b70f92,
composable_diffusion/composable_stable_diffusion/pipeline_composable_stable_diffusion.py, with the scheduler of
scripts/image_sample_compose_stable_diffusion.py: DDIM, whose offset of 1 is Stable Diffusion's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unittest import mock

import pytest
import torch
from compared import compared
from official_world import BATCH, Expert, Stream, Toys, off
from reference.test_official_amdm import Layouts, layouts
from torch import Tensor
from toy_guidance import requests

from concord.data.request import Request
from concord.methods.base import Batch, Trace, make_params
from concord.methods.composable import Composable, ComposableLayouts

CODE = "energy-based-model/Compositional-Visual-Generation-...-PyTorch 1b70f92, pipeline_composable_stable_diffusion.py"
THREE = ("text", "mask", "style")


class Any3(Composable):
    conditions = frozenset(THREE)


class Experts(Toys):
    """One model for every condition and one for none; the decoder is the identity."""

    def __init__(self) -> None:
        super().__init__(pixels=False)
        names = ("unconditional", *THREE)
        self.experts = {name: Expert(2, seed, 0, self.betas) for seed, name in enumerate(names)}
        self.autoencoder = self

    def decode(self, x: Tensor) -> Tensor:
        return x


def pipeline(
    toys: Experts, asked: Sequence[Request], names: Sequence[str], steps: int, eta: float, weights: Sequence[float]
) -> Tensor:
    """CP __call__: weights of every prompt (7.5 each where none are given), and diffusers' DDIM step."""
    noise, abar = Stream(toys.latent_shape), toys.schedule.alphas_cumprod
    conditions = [request.conditions for request in asked]
    timesteps = [t + 1 for t in range(0, 1000, 1000 // steps)][:steps][::-1]
    latents = noise()
    for t in timesteps:
        uncond = toys.experts["unconditional"].eps(latents, t, conditions)
        noise_pred = uncond  # CP: noise_pred_uncond + (weights * (noise_pred_text - noise_pred_uncond)).sum(dim=0)
        for w, name in zip(weights, names, strict=True):
            noise_pred = noise_pred + w * (toys.experts[name].eps(latents, t, conditions) - uncond)
        before = t - 1000 // steps
        a_prev = abar[before] if before >= 0 else abar[0]  # set_alpha_to_one is False
        sigma = eta * ((1 - a_prev) / (1 - abar[t]) * (1 - abar[t] / a_prev)).sqrt()
        clean = (latents - (1 - abar[t]).sqrt() * noise_pred) / abar[t].sqrt()
        latents = a_prev.sqrt() * clean + (1 - a_prev - sigma**2).sqrt() * noise_pred
        if eta:  # at every step, the last one too
            latents = latents + sigma * noise()
    return latents


def sampled(toys: Experts, asked: Sequence[Request], **params: Any) -> Tensor:
    method = Any3(make_params(Any3, {"preset": "official", **params}), toys.networks)
    stream = Stream(toys.latent_shape)
    with mock.patch("concord.methods.core.sampler.draw_noise", stream):
        return method.sample(Batch(asked, [torch.Generator()] * BATCH, toys.device), Trace())


@pytest.mark.parametrize(("steps", "eta"), [(50, 0.0), (20, 0.0), (100, 0.5), (20, 1.0)])
@pytest.mark.parametrize("names", [("text", "mask"), THREE], ids="+".join)
def test_it_is_the_authors_pipeline(names: Sequence[str], steps: int, eta: float) -> None:
    toys, asked = Experts(), requests(BATCH, names)
    wanted = pipeline(toys, asked, names, steps, eta, [7.5] * len(names))
    case = f"{' + '.join(names)}: {steps} steps, eta {eta:g}, 2 images in a batch"
    compared("composable", "official", case, CODE, off(sampled(toys, asked, steps=steps, eta=eta), wanted))


@torch.inference_mode()
def test_the_average_is_a_pipeline_whose_weights_sum_to_one() -> None:
    """Collaborative Diffusion's reading: 1/M each leave nothing of the unconditional prediction."""
    toys, asked = Experts(), requests(BATCH, ("text", "mask"))
    wanted = pipeline(toys, asked, ("text", "mask"), 50, 0.0, [0.5, 0.5])
    difference = off(sampled(toys, asked, preset="paper"), wanted)
    compared("composable", "paper", "text + mask: 50 steps, weights of 1/2, 2 images in a batch", CODE, difference)


@pytest.mark.parametrize("style", [False, True])
@torch.inference_mode()
def test_layouts_are_weighed_as_the_authors_prompts(style: bool) -> None:
    """Each model has a null of its own here: the mean of theirs stands for the unconditional prediction."""
    toys, asked = Layouts(), layouts(style)
    kinds = ("interaction", "attribute", *(["style"] if style else []))
    params = make_params(ComposableLayouts, {"preset": "official", "steps": 20, "eta": 0.5})
    with mock.patch("concord.methods.core.sampler.draw_noise", Stream(toys.latent_shape)):
        batch = Batch(asked, [torch.Generator()] * BATCH, toys.device)
        found = ComposableLayouts(params, toys.networks).sample(batch, Trace())
    prompts: Any = Experts()
    prompts.experts = {kind: toys.experts[kind].told for kind in kinds} | {"unconditional": toys.experts[kinds[0]].free}
    wanted = pipeline(prompts, asked, kinds, 20, 0.5, [7.5] * len(kinds))
    case = f"{' + '.join(kinds)}: 20 steps, eta 0.5, one null for all, 2 images in a batch"
    compared("composable-layouts", "official", case, CODE, off(found, wanted))
