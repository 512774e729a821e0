"""TediGAN's preset "official" against the authors' demo, over all steps in float64.

TG = IIGROUP/TediGAN at 31982c1, ext/demo.py in its mode 'man': a code of the mask, then Adam for the text. Its
networks stand for themselves here: `generate`, `perceptual` and `clip` are those that the method is given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from compared import compared
from official_world import double, off, seldom
from torch import Tensor, nn

from concord.data.networks import Networks
from concord.data.request import Conditions, Request
from concord.methods.base import Batch, Trace, make_params
from concord.methods.networks.stylegan import MaskToCode, StyleGenerator, draw_layer_noise, to_plus
from concord.methods.tedigan import TediGAN

SIDE, LAYERS, WIDTH = 16, 6, 5
CODE = "IIGROUP/TediGAN 31982c1, ext/demo.py"


class Pair(nn.Module):
    """What stands for CLIP."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(48, 6)).double()

    def guide_features(self, images: Tensor) -> Tensor:
        return self.image(images)

    def embed_images(self, images: Tensor) -> Tensor:
        return nn.functional.normalize(self.image(images), dim=1)

    def block_features(self, images: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        return [images]

    def text_features(self, captions: Sequence[str]) -> Tensor:
        return torch.stack([torch.arange(1.0, 7, dtype=torch.float64) * len(c) for c in captions]).sin()

    def embed_texts(self, captions: Sequence[str]) -> Tensor:
        return nn.functional.normalize(self.text_features(captions), dim=1)


class Features:
    def perceptual_distance(self, images: Tensor, originals: Tensor) -> Tensor:
        return (images - originals).abs().mean((1, 2, 3))


class Toys:
    device = torch.device("cpu")

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network = StyleGenerator((8, 6, 4), WIDTH, 2)
            for layer in self.network.layers:
                layer.strength.data.fill_(0.2)  # type: ignore[operator]
            self.encoder = MaskToCode(LAYERS, WIDTH, 8, SIDE)
            for layer in self.encoder.modules():  # a trained encoder does not stay at the mean
                if isinstance(layer, nn.Linear):
                    nn.init.normal_(layer.weight, std=0.3)
            self.guides = {"guide/text-image": Pair(), "guide/features": Features()}
        self.network.measure(500)
        self.network.double().eval().requires_grad_(False)
        self.encoder.double().eval().requires_grad_(False)
        double(self.encoder.stem)  # it is shown one-hot masks in float32

    @property
    def pair(self) -> Pair:
        return self.networks.get("guide/text-image", Pair)

    @property
    def networks(self) -> Networks:
        """The demo's text has no code of its own."""
        return Networks.of({"stylegan": self.network, "stylegan/mask": self.encoder, **self.guides})


def asked(count: int = 2) -> list[Request]:
    masks = [np.random.default_rng(k).integers(0, 19, (SIDE, SIDE)) for k in range(count)]
    values = [Conditions(text="word " * (k + 1), mask=mask) for k, mask in enumerate(masks)]
    return [Request.make("toy", str(k), 0, value) for k, value in enumerate(values)]


def get_lr(t: float, initial_lr: float, rampdown: float = 0.25, rampup: float = 0.05) -> float:
    """TG:45-49."""
    lr_ramp = 0.5 - 0.5 * math.cos(min(1, (1 - t) / rampdown) * math.pi)
    return initial_lr * lr_ramp * min(1, t / rampup)


def demo(toys: Toys, request: Request, steps: int, lr: float = 0.1) -> Tensor:
    """TG:55-135 main, one picture: its pictures are in [-1, 1], our generator's in [0, 1]."""
    generator = torch.Generator().manual_seed(request.seed)
    torch.randn(WIDTH, generator=generator)  # a random code, which nothing takes here
    noise = draw_layer_noise([generator], toys.network.noise_sizes, toys.device)  # randomize_noise=False

    def g_ema(code: Tensor) -> Tensor:
        return 2 * toys.network(code, noise) - 1

    perceptual, pair = Features().perceptual_distance, toys.pair
    text_inputs = pair.embed_texts([request.conditions["text"]])
    with torch.no_grad():
        z_init = to_plus(toys.network, toys.encoder(torch.from_numpy(request.conditions["mask"])[None]))  # TG:74-75
        x = g_ema(z_init)  # TG:82
    z = toys.network.w_mean.detach().clone().repeat(1, LAYERS, 1)  # TG:85
    z.requires_grad = True
    optimizer = torch.optim.Adam([z], lr=lr)  # TG:91
    for i in range(steps):
        optimizer.param_groups[0]["lr"] = get_lr(i / steps, lr)  # TG:96-98
        x_rec = g_ema(z)  # TG:100
        loss = torch.mean((x - x_rec) ** 2) * 1.0  # TG:104-105
        loss = loss + 0.1 * perceptual((x_rec + 1) / 2, (x + 1) / 2)[0]  # TG:109-113, our network at our weight
        loss = loss + torch.mean((z_init - z) ** 2) * 2.0  # TG:118-120
        similarity = nn.functional.normalize(pair.guide_features((x_rec + 1) / 2), dim=1) @ text_inputs.T
        loss = loss + (1 - similarity)[0][0] * 1  # TG:125-126
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (x_rec.detach() + 1) / 2  # TG:136: the picture of the last loss


def sampled(toys: Toys, requests: Sequence[Request], **params: Any) -> Tensor:
    method = TediGAN(make_params(TediGAN, {"preset": "official", "split": 3, **params}), toys.networks)
    generators = [torch.Generator().manual_seed(request.seed) for request in requests]
    return method.sample(Batch(requests, generators, toys.device), Trace())


@pytest.mark.parametrize("steps", [1, 2, 20, *seldom(200)])
def test_it_is_the_authors_demo(steps: int) -> None:
    toys, requests = Toys(), asked()
    wanted = torch.cat([demo(toys, request, steps) for request in requests])
    difference = off(sampled(toys, requests, steps=steps), wanted)
    compared("tedigan", "official", f"text + mask: {steps} step(s) of Adam, 2 images in a batch", CODE, difference)


class OfText(nn.Module):
    """A code of the text's embedding (B, 6)."""

    def __init__(self) -> None:
        super().__init__()
        weight = torch.randn(6, LAYERS * WIDTH, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, text: Tensor) -> Tensor:
        return (text @ self.weight).reshape(len(text), LAYERS, WIDTH)


class Both(Toys):
    """Networks whose text has a code as well."""

    @property
    def networks(self) -> Networks:
        given = {"stylegan": self.network, "stylegan/mask": self.encoder, "stylegan/text": OfText()}
        return Networks.of({**given, **self.guides})


@pytest.mark.parametrize("split", [0, 3, 6])
@torch.no_grad()
def test_a_mixed_picture_is_that_of_both_codes(split: int) -> None:
    """Preset "paper": w = [w_m for the first layers, w_t for the others]; no code of the mixing is public."""
    toys, requests, rows = Both(), asked(), []
    for request in requests:
        generator = torch.Generator().manual_seed(request.seed)
        torch.randn(WIDTH, generator=generator)
        noise = draw_layer_noise([generator], toys.network.noise_sizes, toys.device)
        text = toys.pair.embed_texts([request.conditions["text"]])
        w_m = to_plus(toys.network, toys.encoder(torch.from_numpy(request.conditions["mask"])[None]))
        w_t = to_plus(toys.network, OfText()(text))
        w = torch.stack([(w_m if k < split else w_t)[:, k] for k in range(LAYERS)], dim=1)
        rows.append(toys.network(w, noise))
    difference = off(sampled(toys, requests, preset="paper", split=split), torch.cat(rows))
    case = f"text + mask mixed after layer {split} of 6, 2 images in a batch"
    compared("tedigan", "paper", case, "TediGAN, section 3.2 (style mixing; no code is public)", difference)
