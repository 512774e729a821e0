"""SDEdit against the authors' loop, over all steps in float64.

SE = ermongroup/SDEdit at 66a5e44, runners/image_editing.py, its variance 'fixedsmall' and nothing of the picture held
(its mask all 0), as MT-Diffusion's baseline has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from compared import compared
from official_world import BATCH, SIDE, Stream, Toys, off
from torch import Tensor

from concord.data.conditions.masked_image import GREY
from concord.data.request import Conditions, Request
from concord.methods.base import Batch, Trace, make_params
from concord.methods.sdedit import SDEdit

CODE = "ermongroup/SDEdit 66a5e44, runners/image_editing.py"


def masked() -> list[Request]:
    rng = np.random.default_rng(0)
    values = [(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8), rng.random((SIDE, SIDE)) < 0.7)] * BATCH
    return [Request.make("toy", str(i), 0, Conditions(masked_image=value)) for i, value in enumerate(values)]


def edited(toys: Toys, asked: Sequence[Request], levels: int) -> Tensor:
    """SE:129-160 image_editing_sample and SE:34-58 image_editing_denoising_step_flexible_mask."""
    noise, betas = Stream(toys.latent_shape), toys.betas
    alphas = 1 - betas
    abar = alphas.cumprod(dim=0)  # SE:46
    before = torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])  # SE:79
    variance = betas * (1 - before) / (1 - abar)  # SE:80-81
    logvar = variance.clamp(min=1e-20).log()  # SE:86
    pictures = [
        torch.from_numpy(np.where(known[..., None], picture / 255, GREY))
        for picture, known in (request.conditions["masked_image"] for request in asked)
    ]
    x0 = (torch.stack(pictures).movedim(-1, 1).float().double() - 0.5) * 2  # SE:131
    x = x0 * abar[levels - 1].sqrt() + noise() * (1 - abar[levels - 1]).sqrt()  # SE:137
    conditions = [request.conditions for request in asked]
    for i in reversed(range(levels)):  # SE:142
        weighted = betas[i] / (1 - abar[i]).sqrt()  # SE:49
        mean = (x - weighted * toys.experts["unconditional"].eps(x, i, conditions)) / alphas[i].sqrt()  # SE:50
        x = mean if i == 0 else mean + (0.5 * logvar[i]).exp() * noise()  # SE:53-56: no noise where t == 0
    return toys.decode(x)


def sampled(toys: Toys, asked: Sequence[Request], **params: Any) -> Tensor:
    method = SDEdit(make_params(SDEdit, {"steps": 1000, **params}), toys.networks)
    stream = Stream(toys.latent_shape)
    with mock.patch("concord.methods.sdedit.draw_noise", stream):
        return method.sample(Batch(asked, [torch.Generator()] * len(asked), toys.device), Trace())


@pytest.mark.parametrize("levels", [1, 2, 300, 500, 1000])
def test_it_is_the_authors_loop(levels: int) -> None:
    """From t0 = levels / 1000; schedules of pixels have one more entry here, the clean picture."""
    toys, asked = Toys(pixels=True), masked()
    found = sampled(toys, asked, start=(levels + 0.5) / 1001)
    difference = off(found, edited(toys, asked, levels))
    compared("sdedit", "paper", f"t0 = {levels} of 1,000 steps, 2 images in a batch", CODE, difference)


def test_a_level_more_is_another_picture() -> None:
    toys, asked = Toys(pixels=True), masked()
    assert off(sampled(toys, asked, start=301.5 / 1001), edited(toys, asked, 300)) > 1e-6
