"""Collaborative Diffusion's presets against the authors' sampler, over all steps in float64.

CD = ziqihuangg/Collaborative-Diffusion at b1ea7f8, ldm/models/diffusion: compose_modules.py and ddim_confidence.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest
import torch
from compared import compared
from official_world import BATCH, Stream, double, off
from torch import Tensor, nn
from toy_guidance import requests, seeded
from toy_networks import toy_networks

from concord.data.networks import Networks
from concord.data.request import Conditions, Request
from concord.methods.base import Batch, Trace, make_params
from concord.methods.collaborative import Collaborative
from concord.methods.core.schedule import Schedule

SHAPE = (3, 4, 4)


class Network(nn.Module):
    """A convolution that sees the timestep and a number of the condition."""

    def __init__(self, seed: int, channels: int) -> None:
        super().__init__()
        body = nn.Sequential(nn.Conv2d(4, 5, 3, padding=1), nn.SiLU(), nn.Conv2d(5, channels, 3, padding=1))
        self.net = double(seeded(body, seed))

    def forward(self, x: Tensor, t: int, told: Tensor) -> Tensor:
        plane = (told + t / 1000).reshape(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])
        return self.net(torch.cat([x, plane], dim=1))


@dataclass(frozen=True)
class Bound:
    network: Network
    encoded: Tensor

    def __call__(self, x: Tensor, t: int) -> Tensor:
        return self.network(x, t, self.encoded)


class Expert(Network):
    def __init__(self, seed: int, name: str) -> None:
        super().__init__(seed, SHAPE[0])
        self.name = name

    def forward(self, x: Tensor, t: int, told: Tensor) -> Tensor:
        """Near that of standard normal data, so that rounding errors do not grow from step to step."""
        return (1 - Toys.schedule.alphas_cumprod[t]).sqrt() * x + 0.3 * super().forward(x, t, told)

    def encode(self, conditions: Sequence[Conditions]) -> Tensor:
        told = [len(c.text or "") / 5 if self.name == "text" else float(c.mask.mean()) / 9 for c in conditions]
        return torch.tensor(told, dtype=torch.float64)

    def bind(self, conditions: Sequence[Conditions], schedule: Schedule) -> Bound:
        return Bound(self, self.encode(conditions))


class Toys:
    device, latent_shape, schedule = torch.device("cpu"), SHAPE, Schedule.scaled_linear()
    autoencoder: Any

    def __init__(self) -> None:
        self.experts = {"text": Expert(0, "text"), "mask": Expert(1, "mask")}
        self.diffusers = {"text": Network(2, 1), "mask": Network(3, 1)}
        self.autoencoder = self

    @property
    def networks(self) -> Networks:
        return toy_networks(self)

    def decode(self, x: Tensor) -> Tensor:
        return x


def sampler(
    toys: Toys, conditions: Sequence[Conditions], steps: int, eta: float, decays: bool, factor: float
) -> Tensor:
    """CD ddim_confidence.py p_sample_ddim over the steps; compose_modules.py:73-171, one call of the network."""
    noise, alphas = Stream(SHAPE), toys.schedule.alphas_cumprod
    timesteps = [t + 1 for t in range(0, 1000, 1000 // steps)][:steps]
    told = {name: expert.encode(conditions) for name, expert in toys.experts.items()}
    x = noise()
    for index in reversed(range(steps)):
        t = timesteps[index]
        a_t, a_prev = alphas[t], alphas[timesteps[index - 1]] if index else alphas[0]
        maps = torch.cat([toys.diffusers[name](x, t, told[name]) for name in ("mask", "text")], dim=1)
        mask, text = maps.softmax(dim=1).split(1, dim=1)  # first mask, then text
        if decays:
            mask = mask * (math.cos((1 - t / 1000) * math.pi) + 1) / 2  # set_seg_mask_schedule, 'cosine_decay'
            text = 1 - mask
            mask = mask * factor  # seg_mask_scale_factor
            mask, text = mask / (mask + text), text / (mask + text)
        e_t = text * toys.experts["text"](x, t, told["text"]) + mask * toys.experts["mask"](x, t, told["mask"])
        sigma = eta * ((1 - a_prev) / (1 - a_t) * (1 - a_t / a_prev)).sqrt()
        pred_x0 = (x - (1 - a_t).sqrt() * e_t) / a_t.sqrt()
        x = a_prev.sqrt() * pred_x0 + (1 - a_prev - sigma**2).sqrt() * e_t
        if eta:
            x = x + sigma * noise()  # at every step, the last one too
    return x


def sampled(toys: Toys, asked: Sequence[Request], **params: Any) -> Tensor:
    method = Collaborative(make_params(Collaborative, params), toys.networks)
    with mock.patch("concord.methods.core.sampler.draw_noise", Stream(SHAPE)):
        return method.sample(Batch(asked, [torch.Generator()] * BATCH, toys.device), Trace())


@pytest.mark.parametrize(
    ("preset", "steps", "given", "eta", "decays", "factor"),
    [
        ("official", 50, {}, 1.0, True, 2.0),
        ("official", 20, {"eta": 0.5, "mask_factor": 3.0}, 0.5, True, 3.0),
        ("official", 100, {"eta": 0.0}, 0.0, True, 2.0),
        ("paper", 50, {}, 0.0, False, 1.0),
        ("paper", 100, {}, 0.0, False, 1.0),
    ],
)
@torch.inference_mode()
def test_it_is_the_authors_sampler(
    preset: str, steps: int, given: dict[str, Any], eta: float, decays: bool, factor: float
) -> None:
    toys, asked = Toys(), requests(BATCH, ("text", "mask"))
    found = sampled(toys, asked, preset=preset, steps=steps, **given)
    wanted = sampler(toys, [request.conditions for request in asked], steps, eta, decays, factor)
    case = f"text + mask: {steps} steps, eta {eta:g}, mask influence {'rescaled over time' if decays else 'as trained'}"
    code = "ziqihuangg/Collaborative-Diffusion b1ea7f8, ldm/models/diffusion/compose_modules.py and ddim_confidence.py"
    compared("collaborative", preset, case, code, off(found, wanted))
