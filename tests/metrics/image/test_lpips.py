"""LPIPS's wiring and the embedded perceptual distance. That LPIPS's numbers are right: tests/reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from given_networks import seen_by
from torch import nn

from concord.data.errors import ConcordError
from concord.data.networks import Networks
from concord.data.request import Conditions
from concord.metrics.base import OK, Observation, Score
from concord.metrics.image.lpips import LPIPSAlex, LPIPSVgg
from concord.metrics.image.perceptual import PerceptualDistance
from concord.metrics.networks.embedded.features import FeatureNetwork
from concord.metrics.networks.embedded.perceptual import (
    PERCEPTUAL_LAYERS,
    SynthFeatures,
    perceptual_distance,
    trunk_activations,
)


class Difference(nn.Module):
    """Stands in for LPIPS: the mean absolute difference, times ten."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, images: torch.Tensor, originals: torch.Tensor) -> torch.Tensor:
        return (images - originals).abs().mean((1, 2, 3)) * self.scale


def toy() -> Networks:
    return seen_by(object(), lpips_alex=Difference(), lpips_vgg=Difference())


def observe(images: torch.Tensor, originals: torch.Tensor | None, networks: Networks) -> Observation:
    return Observation(images, [Conditions()] * len(images), networks, originals)


def pictures(n: int, seed: int = 0, size: int = 64) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("metric", [LPIPSAlex(), LPIPSVgg()])
def test_lpips_is_asked_for_image_and_original(metric: LPIPSAlex | LPIPSVgg) -> None:
    images = torch.stack([torch.zeros(3, 8, 8), torch.full((3, 8, 8), 0.5), torch.ones(3, 8, 8)])
    scores = metric.score(observe(images, torch.zeros_like(images), toy()))
    assert scores[:2] == [Score(0.0), Score(5.0)]
    assert scores[2] == Score(metric.bounds[1])  # 10 is more than LPIPS can be
    images[1, 0, 0, 0] = torch.nan
    assert metric.score(observe(images, torch.zeros_like(images), toy()))[1].status == "distance not finite"


@pytest.mark.parametrize("metric", [LPIPSAlex(), PerceptualDistance()])
def test_originals_are_needed_and_of_the_same_size(metric: LPIPSAlex | PerceptualDistance) -> None:
    with pytest.raises(ConcordError, match="compares with the original images"):
        metric.score(observe(pictures(2), None, toy()))
    with pytest.raises(ConcordError, match="images are 64x64 pixels, their originals 32x32"):
        metric.score(observe(pictures(2), pictures(2, size=32), toy()))


def test_the_embedded_profile_has_another_name_for_its_distance() -> None:
    with pytest.raises(ConcordError, match="profile 'embedded': has no role 'judge/lpips-alex'; it has judge/parser"):
        LPIPSAlex().score(observe(pictures(1), pictures(1), Networks("embedded")))
    with pytest.raises(ConcordError, match=r"'perceptual-distance'.*use 'lpips-alex'"):
        PerceptualDistance().score(observe(pictures(1), pictures(1), toy()))


def test_perceptual_distance_is_its_definition() -> None:
    """Against loops over images, layers and pixels, on two layers of random activations."""
    rng = np.random.default_rng(0)
    first, second = ([rng.normal(size=(3, 4, 5, 6)), rng.normal(size=(3, 7, 2, 3))] for _ in range(2))
    found = perceptual_distance([torch.tensor(x) for x in first], [torch.tensor(x) for x in second])
    for image in range(3):
        layers = []
        for a, b in zip(first, second, strict=True):
            pixels = []
            for y in range(a.shape[2]):
                for x in range(a.shape[3]):
                    u, v = a[image, :, y, x], b[image, :, y, x]
                    sides = zip(u / (u @ u) ** 0.5, v / (v @ v) ** 0.5, strict=True)
                    pixels.append(sum((p - q) ** 2 for p, q in sides))
            layers.append(sum(pixels) / len(pixels))
        assert found[image].item() == pytest.approx(sum(layers) / 2, rel=1e-9)


def test_perceptual_distance_ends_are_exact() -> None:
    ones = torch.ones(2, 3, 4, 4)
    assert perceptual_distance([ones], [7 * ones]).tolist() == pytest.approx([0, 0], abs=1e-12)  # length counts nothing
    assert perceptual_distance([ones], [-ones]).tolist() == pytest.approx([4, 4], abs=1e-6)
    assert perceptual_distance([ones], [0 * ones]).tolist() == pytest.approx([1, 1], abs=1e-6)  # no activation at all


@pytest.fixture(scope="module")
def judges() -> Networks:
    """The committed feature network."""
    return Networks("embedded")


def test_perceptual_distance_through_the_judge(judges: Networks) -> None:
    images, originals = pictures(4), pictures(4, 1)
    originals[3] = images[3]
    scores = PerceptualDistance().score(observe(images, originals, judges))
    assert [score.status for score in scores] == [OK] * 4
    assert scores[3].value == 0
    assert all(0.001 < score.value < 4 for score in scores[:3])
    back = PerceptualDistance().score(observe(originals, images, judges))
    assert [s.value for s in back] == pytest.approx([s.value for s in scores], rel=1e-5)
    alone = PerceptualDistance().score(observe(images[1:2], originals[1:2], judges))
    assert alone[0].value == pytest.approx(scores[1].value, rel=1e-5)


def test_perceptual_distance_grows_with_the_noise(judges: Networks) -> None:
    original = pictures(1, 2).repeat(4, 1, 1, 1)
    noise = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    images = (original + torch.tensor([0.0, 0.02, 0.08, 0.3])[:, None, None, None] * noise).clamp(0, 1)
    values = [score.value for score in PerceptualDistance().score(observe(images, original, judges))]
    assert values == sorted(values)
    assert values[0] == 0 < values[1]


def test_trunk_activations_are_the_networks_own() -> None:
    network = FeatureNetwork({"Young": 6}, identity=4, width=8).eval()
    images = pictures(2)
    kept: dict[int, torch.Tensor] = {}
    for number in PERCEPTUAL_LAYERS:
        network.trunk.body[number].register_forward_hook(lambda m, i, out, n=number: kept.__setitem__(n, out))
    network.features(images)
    found = trunk_activations(network, images, PERCEPTUAL_LAYERS)
    assert [tuple(x.shape[1:]) for x in found] == [(8, 32, 32), (16, 16, 16), (24, 8, 8), (32, 4, 4)]
    for layer, activation in zip(PERCEPTUAL_LAYERS, found, strict=True):
        assert torch.equal(activation, kept[layer])


def test_perceptual_distance_guides(judges: Networks) -> None:
    """Steps against its gradient bring an image nearer to the original, also after scoring with the same networks."""
    PerceptualDistance().score(observe(pictures(1), pictures(1), judges))
    original, image = pictures(1, 4), pictures(1, 5).requires_grad_(True)
    distance = judges.get("judge/features", SynthFeatures).perceptual_distance(image, original)
    (gradient,) = torch.autograd.grad(distance.sum(), image)
    assert torch.isfinite(gradient).all()
    nearer = image.detach() - 0.5 * gradient / gradient.abs().max()
    assert (
        judges.get("judge/features", SynthFeatures).perceptual_distance(nearer.clamp(0, 1), original).item()
        < distance.item()
    )


def test_a_missing_trunk_file_is_one_line(tmp_path: Path) -> None:
    from concord.metrics.networks.pretrained.lpips import load_lpips

    with pytest.raises(ConcordError, match=r"no such weight file.*concord weights fetch lpips-alexnet") as error:
        load_lpips("alex", tmp_path / "alexnet.pth")
    assert "\n" not in str(error.value)
