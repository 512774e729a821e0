"""AMDM's preset "official" against the authors' loop, over all steps in float64.

AM = Hammour-steak/AMDM at dba837a: interactmigc.py (two models) and interactmigcip.py (three).
"""

from __future__ import annotations

import math
from typing import Any
from unittest import mock

import pytest
import torch
from compared import compared
from official_world import BATCH, Bank, Expert, Stream, off
from torch import Tensor
from toy_guidance import requests

from concord.methods.amdm import Amdm
from concord.methods.base import Batch, Trace, make_params


class Three(Amdm):
    conditions = frozenset({"text", "mask", "style"})


class Models(Bank):
    """Models that share latents, one for each condition; the decoder is the identity."""

    def __init__(self) -> None:
        super().__init__(pixels=False)
        self.experts = {name: Expert(2, seed, 0, self.betas) for seed, name in enumerate(("text", "mask", "style"))}
        self.autoencoder = self

    def decode(self, x: Tensor) -> Tensor:
        return x


def loop(
    bank: Models,
    names: tuple[str, ...],
    conditions: Any,
    weights: tuple[float, ...],
    p: tuple[float, ...],
    steps: int,
    end: int,
) -> Tensor:
    """AM interactmigc.py: compute_mu (13-46), optimize (63-85) and the denoising loop with optim_end = `end`."""
    noise, alphas_cumprod = Stream(bank.latent_shape), bank.schedule.alphas_cumprod
    alphas = 1 - bank.betas
    timesteps = [t + 1 for t in range(0, 1000, 1000 // steps)][::-1]
    latents = [noise() for _ in names]  # prepare_latents of each pipeline, without a generator
    before: list[Tensor] = []
    for i, t in enumerate(timesteps):
        eps = [bank.experts[name].eps(x, t, conditions) for name, x in zip(names, latents, strict=True)]
        a_t, a_prev = alphas_cumprod[t], alphas_cumprod[timesteps[i + 1]] if i + 1 < steps else alphas_cumprod[0]
        moved = [
            a_prev.sqrt() * (x - (1 - a_t).sqrt() * e) / a_t.sqrt() + (1 - a_prev).sqrt() * e
            for x, e in zip(latents, eps, strict=True)
        ]
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


@pytest.mark.parametrize(("steps", "end"), [(50, 3), (20, 7)])
@pytest.mark.parametrize(
    ("names", "weights", "sizes"),
    [(("text", "mask"), (0.5,), (0.9, 1.1)), (("text", "mask", "style"), (0.47, 0.5), (0.9, 0.8, 0.7))],
    ids=["two", "three"],
)
@torch.inference_mode()
def test_it_is_the_authors_loop(
    names: tuple[str, ...], weights: tuple[float, ...], sizes: tuple[float, ...], steps: int, end: int
) -> None:
    bank, asked = Models(), requests(BATCH, names)
    given = {"preset": "official", "steps": steps, "aggregation_steps": end, "order": names, "step_sizes": sizes}
    method = Three(make_params(Three, given), bank)  # type: ignore[arg-type]
    stream = Stream(bank.latent_shape)
    with mock.patch("concord.methods.amdm.draw_noise", stream):
        found = method.sample(Batch(asked, [torch.Generator()] * BATCH, bank.device), Trace())
    wanted = loop(bank, names, [request.conditions for request in asked], weights, sizes, steps, end)
    case = f"{len(names)} models: {steps} steps, aggregation in steps 1 to {end}, 2 images in a batch"
    code = "Hammour-steak/AMDM dba837a, interactmigc.py, interactmigcip.py"
    compared("amdm", "official", case, code, off(found, wanted))
