"""The methods' mathematics on toy experts, against loops that spell the papers' equations out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toy_networks import toy_networks

from concord.data.errors import ConcordError
from concord.data.networks import Networks
from concord.data.request import Conditions, Request, request_seed
from concord.methods.base import Trace, make_method, make_params
from concord.methods.collaborative import Collaborative
from concord.methods.composable import Composable
from concord.methods.core.sampler import ddim
from concord.methods.core.schedule import Schedule

SHAPE = (3, 4, 4)
NAMES = ("text", "mask", "style")


@dataclass(frozen=True)
class ToyBound:
    rate: float
    encoded: Tensor  # (B,)

    def __call__(self, x_t: Tensor, t: int) -> Tensor:
        return torch.sin(self.rate * x_t + self.encoded[:, None, None, None]) * (0.5 + t / 1000)


class ToyExpert(nn.Module):
    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def encode(self, conditions: Sequence[Conditions]) -> Tensor:
        return torch.tensor([len(c.text or "") / 10 for c in conditions])

    def bind(self, conditions: Sequence[Conditions], schedule: Schedule) -> ToyBound:
        return ToyBound(self.rate, self.encode(conditions))


class ToyDiffuser(nn.Module):
    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x_t: Tensor, t: int, encoded: Tensor) -> Tensor:
        return self.rate * x_t[:, :1] * (1 + t / 300) + encoded[:, None, None, None]


class ToyWorld:
    """Three modalities, an identity decoder."""

    device = torch.device("cpu")
    schedule = Schedule.scaled_linear()
    latent_shape = SHAPE
    autoencoder = SimpleNamespace(decode=lambda x: x.sigmoid())

    def __init__(self) -> None:
        self.experts = {n: ToyExpert(1.0 + k) for k, n in enumerate((*NAMES, "unconditional"))}
        self.diffusers = {n: ToyDiffuser(0.5 - 0.7 * k) for k, n in enumerate(NAMES)}

    def expert(self, name: str) -> ToyExpert:
        return self.experts[name]

    def dynamic_diffuser(self, name: str) -> ToyDiffuser:
        return self.diffusers[name]

    @property
    def networks(self) -> Networks:
        return toy_networks(self)


def requests(count: int = 3, style: bool = False) -> list[Request]:
    picture = np.zeros((8, 8, 3), np.uint8) if style else None
    return [
        Request.make("toy", str(i), 0, Conditions(text="a" * (i + 1), mask=np.zeros((64, 64), np.int64), style=picture))
        for i in range(count)
    ]


def make(kind: type, **params: Any) -> Any:
    return kind(make_params(kind, params), ToyWorld().networks)


def retell(combine: Any, asked: Sequence[Request], steps: int, eta: float = 0.0) -> Tensor:
    """Each request sampled alone by `combine(request)(x_t, t)`, decoded and stacked."""
    toys = ToyWorld()
    images = []
    for request in asked:
        own = [torch.Generator().manual_seed(request.seed)]
        images.append(ddim(combine(toys, request), toys.schedule, own, SHAPE, "cpu", steps, eta).sigmoid())
    return torch.cat(images)


def bound(toys: ToyWorld, request: Request, name: str) -> ToyBound:
    return toys.expert(name).bind([request.conditions], toys.schedule)


def test_composable_is_the_average() -> None:
    def combine(toys: ToyWorld, request: Request) -> Any:
        text, mask = bound(toys, request, "text"), bound(toys, request, "mask")
        return lambda x, t: (text(x, t) + mask(x, t)) / 2

    found = make(Composable, steps=10).generate(requests())
    torch.testing.assert_close(found, retell(combine, requests(), 10))


def test_composable_official_is_equation_11() -> None:
    def combine(toys: ToyWorld, request: Request) -> Any:
        text, mask, free = (bound(toys, request, n) for n in ("text", "mask", "unconditional"))
        return lambda x, t: free(x, t) + 1.5 * (text(x, t) - free(x, t)) + 1.5 * (mask(x, t) - free(x, t))

    method = make(Composable, steps=10, preset="official", weight=1.5)
    assert method.params.combine == "conjunction"
    torch.testing.assert_close(method.generate(requests()), retell(combine, requests(), 10), rtol=1e-3, atol=1e-4)


def influence_by_hand(toys: ToyWorld, request: Request, names: Sequence[str], x: Tensor, t: int) -> Tensor:
    """Equation 6, pixel by pixel: (M, 1, 1, h, w)."""
    logits = [toys.dynamic_diffuser(n)(x, t, bound(toys, request, n).encoded) for n in names]
    weight = torch.zeros(len(names), 1, 1, *SHAPE[1:])
    for row in range(SHAPE[1]):
        for column in range(SHAPE[2]):
            powers = [math.exp(float(value[0, 0, row, column])) for value in logits]
            for m, power in enumerate(powers):
                weight[m, 0, 0, row, column] = power / sum(powers)
    return weight


@pytest.mark.parametrize("style", [False, True], ids=["two modalities", "three modalities"])
def test_collaborative_is_algorithm_2(style: bool) -> None:
    class Open(Collaborative):
        conditions = frozenset(NAMES)

    names = NAMES if style else NAMES[:2]

    def combine(toys: ToyWorld, request: Request) -> Any:
        experts = [bound(toys, request, n) for n in names]

        def denoise(x: Tensor, t: int) -> Tensor:
            weight = influence_by_hand(toys, request, names, x, t)
            return sum((weight[m] * expert(x, t) for m, expert in enumerate(experts)), start=torch.zeros_like(x))

        return denoise

    found = make(Open, steps=6).generate(requests(style=style))
    torch.testing.assert_close(found, retell(combine, requests(style=style), 6))


def test_without_spatial_variation_the_influence_is_its_mean_over_the_pixels() -> None:
    trace = Trace("influence")
    make(Collaborative, steps=6, vary_in_space=False).generate(requests(), trace)
    _, weight = trace.stacked("influence")  # (B, S, M, h, w)
    assert float(weight.std(dim=(-2, -1)).max()) < 1e-6
    assert float(weight.std(dim=1).max()) > 1e-3

    def combine(toys: ToyWorld, request: Request) -> Any:
        text, mask = bound(toys, request, "text"), bound(toys, request, "mask")

        def denoise(x: Tensor, t: int) -> Tensor:
            weight = influence_by_hand(toys, request, ("text", "mask"), x, t).mean(dim=(-2, -1), keepdim=True)
            return weight[0] * text(x, t) + weight[1] * mask(x, t)

        return denoise

    found = make(Collaborative, steps=6, vary_in_space=False).generate(requests())
    torch.testing.assert_close(found, retell(combine, requests(), 6))


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_without_temporal_variation_the_influence_is_the_mean_of_a_first_run(eta: float) -> None:
    free, held = Trace("influence"), Trace("influence")
    make(Collaborative, steps=6, eta=eta).generate(requests(), free)
    make(Collaborative, steps=6, eta=eta, vary_in_time=False).generate(requests(), held)
    steps, weight = held.stacked("influence")
    assert len(steps) == 6  # the first run is not told of
    assert float((weight - weight[:, :1]).abs().max()) == 0
    torch.testing.assert_close(weight[:, 0], free.stacked("influence")[1].mean(dim=1))
    assert float(weight.std(dim=(-2, -1)).min()) > 1e-3


def test_official_mask_schedule_is_the_coded_one() -> None:
    trace = Trace("influence")
    make(Collaborative, steps=5, preset="official").generate(requests(1), trace)
    plain = Trace("influence")
    make(Collaborative, steps=5, eta=1.0).generate(requests(1), plain)
    steps, scaled = trace.stacked("influence")
    first = plain.stacked("influence")[1][0, 0]  # the first step sees the same x_T in both
    mask = first[0] * (math.cos((1 - steps[0] / 1000) * math.pi) + 1) / 2
    text = 1 - mask
    mask = 2 * mask
    torch.testing.assert_close(scaled[0, 0, 0], mask / (mask + text))
    torch.testing.assert_close(scaled[0, 0, 1], text / (mask + text))
    assert float(scaled[0, -1, 0].max()) < 0.05  # the mask's influence fades out: t = 1 is the last step


@pytest.mark.parametrize("kind", [Composable, Collaborative])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_an_image_depends_on_its_request_alone(kind: type, eta: float) -> None:
    method, asked = make(kind, steps=5, eta=eta), requests(4)
    together = method.generate(asked)
    torch.manual_seed(123)
    torch.testing.assert_close(method.generate(asked[2:3]), together[2:3])
    torch.testing.assert_close(method.generate(asked[::-1]).flip(0), together)
    assert float((together[0] - together[1]).abs().max()) > 0.01


def test_wrong_requests_and_parameters_are_named() -> None:
    method = make(Composable, steps=2)
    with pytest.raises(ConcordError, match="does not take condition 'style'; it takes mask, text"):
        method.generate(requests(1, style=True))
    with pytest.raises(ConcordError, match="needs at least 2 of mask, text; got text"):
        method.generate([Request("a-0", 1, Conditions(text="a"))])
    with pytest.raises(ConcordError, match="no requests"):
        method.generate([])
    with pytest.raises(ConcordError, match="unknown method 'nope': expected one of"):
        make_method("nope", {}, lambda: pytest.fail("the networks must not be loaded"))  # type: ignore[arg-type]
    with pytest.raises(ConcordError, match="unknown parameter 'stepz'; expected one of preset, steps"):
        make_method("composable", {"stepz": 1}, lambda: pytest.fail("the networks must not be loaded"))  # type: ignore[arg-type]
    with pytest.raises(ConcordError, match=r"parameter 'steps': .*; got 'many'"):
        make_method("composable", {"steps": "many"}, lambda: pytest.fail("the networks must not be loaded"))  # type: ignore[arg-type]


def test_nan_is_never_an_image() -> None:
    toys = ToyWorld()
    toys.autoencoder = SimpleNamespace(decode=lambda x: x * float("nan"))
    method = Composable(make_params(Composable, {"steps": 2}), toys.networks)
    with pytest.raises(ConcordError, match="request 0-0: NaN or infinity in the image"):
        method.generate(requests(1))


def test_request_seeds_are_pinned() -> None:
    """A changed seed rule would silently make all earlier results another benchmark."""
    assert request_seed("face-generation", "27000", 0) == 6494334535712096002
    assert len({request_seed("a", str(i), r) for i in range(100) for r in range(3)}) == 300
    assert request_seed("a", "1", 11) != request_seed("a", "11", 1)
