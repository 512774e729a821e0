"""Small smooth networks, a linear world and helpers that the tests of guided methods share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from toy_networks import toy_networks

from concord.data.networks import Networks
from concord.data.request import Conditions, Request
from concord.methods.base import make_params
from concord.methods.core.schedule import Schedule
from concord.methods.guidance.context import GuidanceContext
from concord.methods.guidance.energies import Energy, Guide
from concord.methods.guidance.parameters import GuidedParams

SHAPE = (2, 4, 4)
SIDE = 8
NAMES = ("text", "identity", "mask", "landmarks", "style")


def seeded(module: nn.Module, seed: int) -> nn.Module:
    """The module with weights of its own, whatever was drawn before."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / max(1, parameter[0].numel()) ** 0.5)
    return module.eval().requires_grad_(False)


class ToyUNet(nn.Module):
    """A smooth denoiser that knows the timestep and a number per row: near that of standard normal data."""

    def __init__(self, seed: int, hears: bool) -> None:
        super().__init__()
        self.hears = hears
        self.net = nn.Sequential(
            nn.Conv2d(SHAPE[0] + 1, 6, 3, padding=1), nn.SiLU(), nn.Conv2d(6, SHAPE[0], 3, padding=1)
        )
        seeded(self, seed)

    def forward(self, x_t: Tensor, t: int, told: Tensor) -> Tensor:
        plane = (told + t / 1000).reshape(-1, 1, 1, 1).expand(-1, 1, *SHAPE[1:]).to(x_t.dtype)
        return self.net(torch.cat([x_t, plane], dim=1))

    def bind(self, conditions: Sequence[Conditions], schedule: Schedule) -> Callable[[Tensor, int], Tensor]:
        told = torch.tensor([len(c.text or "") / 10 * self.hears for c in conditions])
        return lambda x_t, t: (1 - schedule.abar(t, x_t)).sqrt() * x_t + 0.3 * self(x_t, t, told)


class ToyPair(nn.Module):
    """Text-image pair: pooled pixels through a smooth layer; letters make a caption's vector."""

    def __init__(self) -> None:
        super().__init__()
        self.image = seeded(nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(48, 6), nn.Tanh()), 7)

    def embed_images(self, images: Tensor) -> Tensor:
        return nn.functional.normalize(self.image(images), dim=1)

    def embed_texts(self, captions: Sequence[str]) -> Tensor:
        rows = [[np.cos(len(text) * (k + 1)) for k in range(6)] for text in captions]
        return nn.functional.normalize(torch.tensor(rows, dtype=torch.float32), dim=1)

    def guide_features(self, images: Tensor) -> Tensor:
        return self.image(images)

    def text_features(self, captions: Sequence[str]) -> Tensor:
        return 2 * self.embed_texts(captions)

    def block_features(self, images: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        return [torch.tanh(nn.functional.avg_pool2d(images, 2))]


class ToyIdentity(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image = seeded(nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, 5), nn.Tanh()), 8)

    def embed(self, images: Tensor) -> Tensor:
        return nn.functional.normalize(self.image(images), dim=1)

    def embed_faces(self, images: Tensor) -> tuple[Tensor, list[str]]:
        """An image shows a face unless it is black."""
        faces = (images.flatten(1).mean(dim=1) > 0.01).tolist()
        return self.embed(images), ["ok" if face else "no face found" for face in faces]


class ToyParser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = seeded(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.SiLU(), nn.Conv2d(4, 19, 1)), 9)

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)


class ToyLandmarks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        points = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, 136), nn.Unflatten(1, (68, 2)))
        self.net = seeded(points, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def landmark_residual(self, images: Tensor, points: Tensor, squares: object) -> Tensor:
        return (self(images) - points.to(images.dtype)) / images.shape[-1]


class ToyFeatures:
    def style_features(self, images: Tensor) -> list[Tensor]:
        return [torch.sin(3 * images), nn.functional.avg_pool2d(images, 4)]


class ToyGuide(Guide):
    """Guide networks without training, by kind in `kinds`; tests put others in their place."""

    def __init__(self, side: Literal["guide", "judge"] = "guide") -> None:
        super().__init__(Networks.of({}), side)
        kinds = {
            "text-image": ToyPair(),
            "identity": ToyIdentity(),
            "parser": ToyParser(),
            "landmarks": ToyLandmarks(),
            "features": ToyFeatures(),
        }
        for condition in ("text", "style"):
            kinds[f"universal-{condition}"] = kinds["text-image"]
        object.__setattr__(self, "kinds", kinds)

    kinds: dict[str, Any]

    def get(self, kind: str, expected: type[Any] = object) -> Any:
        return self.kinds[kind]

    def has(self, kind: str) -> bool:
        return kind in self.kinds


class ToyAutoencoder:
    """Latents (B, 2, 4, 4) to images (B, 3, 8, 8) in (0, 1), and something like the way back."""

    def __init__(self) -> None:
        self.net = seeded(nn.ConvTranspose2d(SHAPE[0], 3, 2, stride=2), 11)

    def decode(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.net(x))

    def encode(self, images: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(images, 2)[:, : SHAPE[0]] - 0.5


class ToyWorld:
    """An unconditional and a text-driven denoiser, a nonlinear decoder, guides."""

    device = torch.device("cpu")
    schedule = Schedule.scaled_linear()
    latent_shape, image_size = SHAPE, SIDE

    def __init__(self) -> None:
        self.experts = {"unconditional": ToyUNet(0, False), "text": ToyUNet(1, True)}
        self.autoencoder = ToyAutoencoder()
        self.guide = ToyGuide()
        self.judge = ToyGuide("judge")

    def expert(self, name: str) -> ToyUNet:
        return self.experts[name]

    @property
    def networks(self) -> Networks:
        return toy_networks(self, self.guide.kinds)


def requests(count: int = 3, names: Sequence[str] = ("text", "mask")) -> list[Request]:
    """Requests with the named conditions, each with its own values."""
    found = []
    for i in range(count):
        rng = np.random.default_rng(i)
        values = {
            "text": "a" * (i + 1),
            "mask": rng.integers(0, 19, (SIDE, SIDE)),
            "identity": rng.integers(20, 256, (SIDE, SIDE, 3)).astype(np.uint8),
            "landmarks": rng.uniform(0, SIDE, (68, 2)).astype(np.float32),
            "style": rng.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8),
        }
        found.append(Request.make("toy", str(i), 0, Conditions(**{name: values[name] for name in names})))  # type: ignore[arg-type]
    return found


def make(kind: Any, **params: Any) -> Any:
    return kind(make_params(kind, params), ToyWorld().networks)


# ------------------------------------------------------------------------------------------------------- a linear world


class Quadratic(Energy):
    """E = sum_k (a . image - y)_k^2 / (2 v): the negative logarithm of a linear-Gaussian likelihood."""

    def __init__(self, name: str, a: Tensor, y: Tensor, v: float) -> None:
        self.condition, self.a, self.target, self.v = name, a, y, v  # type: ignore[misc]

    def residual(self, images: Tensor, target: Tensor) -> Tensor:
        return images.flatten(1) @ self.a.T - target

    def measure(self, residual: Tensor) -> Tensor:
        return residual.square().sum(dim=1) / (2 * self.v)


class Linear(Quadratic):
    """E = a . image: no curvature."""

    def measure(self, residual: Tensor) -> Tensor:
        return residual.sum(dim=1)


def make_context(
    model: Callable[[Tensor, int], Tensor],
    energies: Sequence[Energy],
    p: GuidedParams,
    rows: int,
    decode: Callable[[Tensor], Tensor] = lambda x: x,
    method: str = "toy",
    text_conditioned: bool = False,
) -> GuidanceContext:
    """A context of given functions; the 'image' is what `decode` makes of the clean prediction."""
    named = {energy.condition: energy for energy in energies}
    ids = [f"r{i}" for i in range(rows)]
    return GuidanceContext(
        lambda x, t: (model(x, t), None), ToyWorld.schedule, decode, named, p, ids, method, None, text_conditioned
    )
