"""MT-Diffusion's Algorithm 1 against the paper's equations, spelled out over all steps in float64; no code is public.

MT = Chen et al., ICLR 2024 (arXiv:2407.17571): Algorithm 1, equations 3 to 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from unittest import mock

import pytest
import torch
from compared import compared
from official_world import BATCH, Stream, double, off
from torch import Tensor, nn
from toy_guidance import seeded

from concord.methods.core.schedule import Schedule
from concord.methods.mt_diffusion import Aggregation, Weights, infer

SHAPE = (2, 4, 4)
PAPER = "MT-Diffusion (arXiv:2407.17571), Algorithm 1 and equations 3 to 5 (no code is public)"
NET = double(seeded(nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.SiLU(), nn.Conv2d(6, 4, 3, padding=1)), 0))
BETAS = torch.linspace(0.0015**0.5, 0.0195**0.5, 1000, dtype=torch.float64) ** 2
ABAR = torch.cumprod(1 - BETAS, dim=0)


def predict(z_t: Tensor, t: int) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Line 8: the noise, near that of standard normal data, and x~ of the modality that is not known."""
    plane = torch.full_like(z_t[:, :1], t / 1000)
    heads = NET(torch.cat([z_t.tanh(), plane], dim=1))
    return (1 - ABAR[t]).sqrt() * z_t + 0.2 * heads[:, :2], {"found": heads[:, 2:].tanh()}


def encode(name: str, x: Tensor) -> Tensor:
    """E_i(x_i)."""
    return x.sin() if name == "known" else 0.5 * x


def weight(kind: Weights, t: int) -> float:
    """w_t of the step that ends at t (1 .. 1000): t / (1000 - t), and T - 1 at T; or sqrt(abar_{t-1}) / T."""
    if kind == "paper":
        return min(t, 999) / (1000 - min(t, 999))
    return float(ABAR[t - 2].sqrt() if t > 1 else 1.0) / 1000


def algorithm(kind: Weights, known: Tensor, start: Tensor, z_0: Tensor | None) -> tuple[Tensor, Tensor]:
    noise, found = Stream(SHAPE), start
    z = noise()  # line 1
    drift = [0.0]
    for t in range(1, 1001):  # atilde_t = sqrt(alpha_t) (w_t + atilde_{t-1})
        drift.append(float((1 - BETAS[t - 1]).sqrt()) * (weight(kind, t) + drift[-1]))
    for t in reversed(range(1, 1001)):  # line 5; the paper's t = 1 is our 0
        alpha, abar = 1 - BETAS[t - 1], ABAR[t - 1]
        before = ABAR[t - 2] if t > 1 else torch.ones((), dtype=torch.float64)
        x = encode("known", known) + encode("found", found)  # line 7
        if z_0 is not None:  # equation 4
            z = abar.sqrt() * z_0 + (1 - abar).sqrt() * noise() + drift[t] * x
        eps, heads = predict(z, t - 1)  # line 8
        found = heads["found"]  # lines 9 to 11
        if z_0 is None:  # line 12, equation 5; betatilde is the posterior's variance, line 6 draws where t > 1
            z = (z - (1 - alpha) / (1 - abar).sqrt() * eps) / alpha.sqrt() - weight(kind, t) * x
            if t > 1:
                z = z + ((1 - alpha) * (1 - before) / (1 - abar)).sqrt() * noise()
    return (z if z_0 is None else z_0), found


def sampled(kind: Weights, known: Tensor, start: Tensor, z_0: Tensor | None = None, **changed: Any) -> Any:
    process = Aggregation.make(Schedule(ABAR), 2, kind, changed.get("scale", 1.0))
    with mock.patch("concord.methods.mt_diffusion.draw_noise", Stream(SHAPE)):
        return infer(
            predict,
            encode,
            process,
            {"known": known},
            {"found": start},
            [torch.Generator()] * BATCH,
            SHAPE,
            "cpu",
            changed.get("steps", 1000),
            changed.get("eta", 1.0),
            z_0,
        )


@pytest.mark.parametrize("image", ["found", "known"])
@pytest.mark.parametrize("kind", ["bounded", "paper"])
@torch.inference_mode()
def test_it_is_algorithm_1(kind: Weights, image: str) -> None:
    known, start, z_0 = Stream(SHAPE, 1)(), Stream(SHAPE, 2)(), Stream(SHAPE, 3)() if image == "known" else None
    found, data = sampled(kind, known, start, z_0)
    wanted, modality = algorithm(kind, known, start, z_0)
    assert torch.equal(data["known"], known)
    difference = max(off(found, wanted), off(data["found"], modality))
    case = f"image {image}, a modality known and one not: 1,000 steps, weights '{kind}', 2 images in a batch"
    compared("mt-diffusion-x", "paper", case, PAPER, difference)
