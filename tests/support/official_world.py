"""Toy networks in float64 and a noise that is known beforehand, for the references of tests/reference/test_official_*.

A reference spells one of the authors' samplers out, statement by statement with its file and line, on these functions:
`eps(x, i)` in the authors' count of timesteps, and `norm(name, x_0)`, torch.linalg.norm of the condition's residual
over the whole batch. It takes its noise from a `Stream` in the order in which the production code draws it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toy_guidance import SIDE, ToyAutoencoder, ToyGuide, ToyPair, requests, seeded
from toy_networks import toy_networks

from concord.data.networks import Networks
from concord.data.request import Conditions, Request
from concord.methods.base import Batch, Trace, make_params
from concord.methods.core.schedule import Schedule

BATCH = 2
PIXELS, LATENTS = (3, SIDE, SIDE), (2, 4, 4)


def double(module: nn.Module) -> nn.Module:
    """In float64, whatever it is shown."""
    module.double().register_forward_pre_hook(lambda _, args: tuple(_double(value) for value in args))
    return module


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


class Stream:
    """Standard normal tensors, the k-th call always the same one."""

    def __init__(self, shape: Sequence[int], seed: int = 0, batch: int = BATCH) -> None:
        self.shape, self.generator = (batch, *shape), torch.Generator().manual_seed(seed)

    def __call__(self, *_: Any) -> Tensor:
        return torch.randn(self.shape, generator=self.generator, dtype=torch.float64)


class Pair(ToyPair):
    """Embeddings are asked for before their normalisation, too."""

    def __init__(self, seed: int = 7) -> None:
        super().__init__()
        double(seeded(self.image, seed))

    def guide_features(self, images: Tensor) -> Tensor:
        return 2 * self.image(images)

    def text_features(self, captions: Sequence[str]) -> Tensor:
        rows = [[np.cos(len(text) * (k + 1)) for k in range(6)] for text in captions]
        return torch.tensor(rows, dtype=torch.float64)

    def embed_texts(self, captions: Sequence[str]) -> Tensor:
        return nn.functional.normalize(self.text_features(captions), dim=1)


class Guide(ToyGuide):
    def __init__(self) -> None:
        super().__init__()
        double(self.kinds["identity"].image)
        double(self.kinds["parser"])
        double(self.kinds["landmarks"])
        for kind, seed in (("text-image", 7), ("universal-style", 17), ("universal-text", 18)):
            self.kinds[kind] = Pair(seed)


class Expert:
    """eps(x, i) near that of standard normal data; t here is i plus `offset`. betas: (1000,)."""

    def __init__(self, channels: int, seed: int, offset: int, betas: Tensor, hears: bool = False) -> None:
        self.noise_level = (1 - torch.cumprod(1 - betas, dim=0)).sqrt()
        body = nn.Sequential(nn.Conv2d(channels + 1, 6, 3, padding=1), nn.SiLU(), nn.Conv2d(6, channels, 3, padding=1))
        self.net, self.offset, self.hears = double(seeded(body, seed)), offset, hears

    def eps(self, x: Tensor, i: int, conditions: Sequence[Conditions]) -> Tensor:
        told = [len(c.text or "") / 10 * self.hears + i / 1000 for c in conditions]
        plane = torch.tensor(told, dtype=x.dtype).reshape(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])
        return self.noise_level[i] * x + 0.2 * self.net(torch.cat([x, plane], dim=1))

    def bind(self, conditions: Sequence[Conditions], schedule: Schedule) -> Callable[[Tensor, int], Tensor]:
        return lambda x, t: self.eps(x, t - self.offset, conditions)


class Toys:
    """What methods draw from: pixels that end at abar = 1 (`pixels`), or latents that end at abar_0 < 1."""

    device, image_size = torch.device("cpu"), SIDE

    def __init__(self, pixels: bool) -> None:
        self.pixels, self.latent_shape = pixels, PIXELS if pixels else LATENTS
        offset = 1 if pixels else 0
        self.experts = {
            "unconditional": Expert(self.latent_shape[0], 0, offset, self.betas),
            "text": Expert(self.latent_shape[0], 0, offset, self.betas, hears=True),
        }
        self.guide = Guide()
        self.autoencoder: Any = self
        if not pixels:
            self.autoencoder = ToyAutoencoder()
            double(self.autoencoder.net)

    @property
    def betas(self) -> Tensor:
        if self.pixels:
            return torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
        return torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2

    @property
    def schedule(self) -> Schedule:
        """The authors' abar, for pixels behind one more entry: the clean image."""
        abar = torch.cumprod(1 - self.betas, dim=0)
        return Schedule(torch.cat([torch.ones(1, dtype=torch.float64), abar]) if self.pixels else abar)

    def decode(self, x: Tensor) -> Tensor:
        return (x + 1) / 2

    def encode(self, images: Tensor) -> Tensor:
        return 2 * images.double() - 1

    @property
    def networks(self) -> Networks:
        return toy_networks(self, self.guide.kinds)


class World:
    """A method and what a reference of it sees: the same networks, requests and noise."""

    def __init__(self, kind: Any, names: Sequence[str], pixels: bool = True, batch: int = BATCH, **params: Any) -> None:
        self.toys, self.names, self.batch = Toys(pixels), tuple(names), batch
        self.method = kind(make_params(kind, params), self.toys.networks)
        self.requests: list[Request] = requests(batch, names)
        self.conditions = [request.conditions for request in self.requests]

    def sample(self) -> Tensor:
        """What the production code ends with, as images."""
        batch = Batch(self.requests, [torch.Generator() for _ in self.requests], self.toys.device)
        with known_noise(self.toys.latent_shape, self.batch):
            return self.method.sample(batch, Trace())

    def images(self, x_0: Tensor) -> Tensor:
        return self.toys.autoencoder.decode(x_0)

    def stream(self) -> Stream:
        return Stream(self.toys.latent_shape, batch=self.batch)

    def eps(self, x: Tensor, i: int, expert: str = "unconditional") -> Tensor:
        return self.toys.experts[expert].eps(x, i, self.conditions)

    def residual(self, name: str, x_0: Tensor) -> Tensor:
        """What the authors' tools return for a condition: (B, ...)."""
        images, guide = self.images(x_0), self.toys.guide
        if name == "text":
            pair = guide.get("text-image")
            return pair.guide_features(images) - pair.text_features([c.text for c in self.conditions])
        if name == "mask":
            wanted = torch.from_numpy(np.stack([c.mask for c in self.conditions]))
            return guide.get("parser")(images).softmax(dim=1) - nn.functional.one_hot(wanted, 19).movedim(-1, 1)
        if name == "identity":
            embed = guide.get("identity").embed
            return embed(images) - embed(pictures_of([c.identity for c in self.conditions]))
        if name == "landmarks":
            wanted = torch.from_numpy(np.stack([c.landmarks for c in self.conditions]))
            return (guide.get("landmarks")(images) - wanted) / SIDE
        grams = []
        for shown in (images, pictures_of([c.style for c in self.conditions])):
            (features,) = (f.flatten(2) for f in guide.get("text-image").block_features(shown, (3,)))
            grams.append(features @ features.mT / features.shape[2])
        return grams[0] - grams[1]

    def norm(self, name: str, x_0: Tensor) -> Tensor:
        return torch.linalg.norm(self.residual(name, x_0))


def pictures_of(values: Sequence[Any]) -> Tensor:
    return (torch.from_numpy(np.stack(values)).movedim(-1, 1).float() / 255).double()


@contextmanager
def known_noise(shape: Sequence[int], batch: int = BATCH) -> Iterator[None]:
    """While it lasts, samplers draw from a fresh `Stream`."""
    stream = Stream(shape, batch=batch)
    with mock.patch("concord.methods.core.sampler.draw_noise", stream):
        yield


def seldom(*values: Any) -> list[Any]:
    """Cases that `make test` leaves to `make test-long`."""
    return [
        pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.long) for value in values
    ]


def off(found: Tensor, reference: Tensor) -> float:
    """Largest absolute difference over largest absolute value of the reference."""
    return float((found - reference).abs().max() / reference.abs().max())
