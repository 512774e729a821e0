"""Style and content: distances by their definitions, and the metrics around them. VGG19 and CLIP: tests/reference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from given_networks import seen_by
from torch import nn

from concord.data.errors import ConcordError
from concord.data.networks import Networks
from concord.data.request import Conditions
from concord.metrics.base import OK, Observation, Score
from concord.metrics.image.bilinear import pillow_bilinear
from concord.metrics.image.pairs import style_references
from concord.metrics.networks.embedded.perceptual import (
    STYLE_LAYERS,
    SynthFeatures,
    content_distance,
    content_loss,
    gram,
    style_distance,
    style_loss,
    token_gram_distance,
    trunk_activations,
)
from concord.metrics.networks.pretrained.vgg19 import VGG19
from concord.metrics.style.style import ContentDistance, ContentLoss, StyleDistance, StyleLoss
from concord.metrics.style.style_tokens import StyleTokens


def activations(seed: int, shapes: tuple[tuple[int, int, int], ...] = ((4, 5, 6), (7, 2, 3)), n: int = 3) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [torch.tensor(rng.normal(size=(n, *shape))) for shape in shapes]


def gram_by_hand(features: Any) -> list[list[float]]:
    """Of one image (C, H, W)."""
    c, h, w = features.shape
    entries = [
        [math.fsum(features[i, y, x] * features[j, y, x] for y in range(h) for x in range(w)) for j in range(c)]
        for i in range(c)
    ]
    return [[entry / (c * h * w) for entry in row] for row in entries]


# ------------------------------------------------------------------------------------------------------ the distances


def test_gram_is_its_definition_image_by_image() -> None:
    features = activations(0)[0]
    found = gram(features)
    assert found.shape == (3, 4, 4)
    for image in range(3):
        assert found[image].numpy() == pytest.approx(np.array(gram_by_hand(features[image].numpy())), rel=1e-12)
        assert torch.allclose(gram(features[image : image + 1])[0], found[image], rtol=1e-12)


def test_gram_forgets_where_things_are() -> None:
    features = activations(0)[0]
    shuffled = features.flatten(2)[:, :, torch.randperm(30, generator=torch.Generator().manual_seed(0))]
    assert torch.allclose(gram(shuffled.reshape(3, 4, 6, 5)), gram(features), rtol=1e-12)


def test_style_loss_is_the_sum_over_layers_of_mean_squares() -> None:
    first, second = activations(1), activations(2)
    found = style_loss(first, second)
    for image in range(3):
        total = 0.0
        for a, b in zip(first, second, strict=True):
            ga, gb = np.array(gram_by_hand(a[image].numpy())), np.array(gram_by_hand(b[image].numpy()))
            total += float(np.mean((ga - gb) ** 2))
        assert found[image].item() == pytest.approx(total, rel=1e-10)


def test_style_distance_is_relative() -> None:
    first, second = activations(1), activations(2)
    found = style_distance(first, second)
    for image in range(3):
        layers = []
        for a, b in zip(first, second, strict=True):
            ga, gb = np.array(gram_by_hand(a[image].numpy())), np.array(gram_by_hand(b[image].numpy()))
            size = np.sqrt((ga**2).sum()) + np.sqrt((gb**2).sum())
            layers.append(np.sqrt(((ga - gb) ** 2).sum()) / size)
        assert found[image].item() == pytest.approx(np.mean(layers), rel=1e-10)
    scaled = style_distance([100 * x for x in first], [100 * x for x in second])
    assert torch.allclose(scaled, found, rtol=1e-12)
    assert torch.equal(style_distance(second, first), found)
    assert style_distance(first, first).tolist() == [0, 0, 0]
    # Features that occur in one image alone are as far apart as can be; so are an image with and one without any.
    one = torch.zeros(1, 2, 3, 3)
    other = one.clone()
    one[:, 0], other[:, 1] = 1, 1
    assert style_distance([one], [other]).item() == pytest.approx(math.sqrt(0.5))
    assert style_distance([one], [0 * one]).item() == 1
    assert style_distance([0 * one], [0 * one]).item() == 0


def test_content_distance_is_relative() -> None:
    """By its definition with a loop over the numbers; 0 of an image to itself, 1 to its negative, of any scale."""
    first, second = activations(0), activations(1)
    found = content_distance(first, second)
    for image in range(3):
        layers = []
        for a, b in zip(first, second, strict=True):
            x, y = a[image].flatten().tolist(), b[image].flatten().tolist()
            norms = [math.sqrt(math.fsum(v * v for v in side)) for side in (x, y)]
            apart = math.sqrt(math.fsum((v - w) ** 2 for v, w in zip(x, y, strict=True)))
            layers.append(apart / sum(norms))
        assert float(found[image]) == pytest.approx(sum(layers) / len(layers), rel=1e-12)
    assert content_distance(first, first).tolist() == [0, 0, 0]
    assert content_distance(first, [-x for x in first]).numpy() == pytest.approx(1)
    scaled = content_distance([7 * x for x in first], [7 * x for x in second])
    assert scaled.numpy() == pytest.approx(found.numpy(), rel=1e-12)
    assert content_distance([torch.zeros(1, 2, 3, 3)], [torch.zeros(1, 2, 3, 3)]).tolist() == [0]


def test_content_loss_and_token_distance() -> None:
    a, b = activations(3)[0], activations(4)[0]
    assert content_loss(a, b).tolist() == pytest.approx(
        [float(((p - q) ** 2).mean()) for p, q in zip(a, b, strict=True)]
    )
    rng = np.random.default_rng(0)
    tokens, others = rng.normal(size=(2, 5, 3)), rng.normal(size=(2, 5, 3))
    found = token_gram_distance(torch.tensor(tokens), torch.tensor(others))
    for image in range(2):
        difference = np.zeros((3, 3))
        for t, o in zip(tokens[image], others[image], strict=True):
            difference += np.outer(t, t) - np.outer(o, o)
        assert found[image].item() == pytest.approx(math.sqrt((difference**2).sum()), rel=1e-12)
    longer = token_gram_distance(torch.tensor(np.tile(tokens, (1, 4, 1))), torch.tensor(np.tile(others, (1, 4, 1))))
    assert torch.allclose(longer, 4 * found)  # a sum over tokens, not a mean


# -------------------------------------------------------------------------------------------------------- the metrics


class Judges:
    """A VGG19 of five small random convolutions, and no other network."""

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layers = [nn.Conv2d(a, b, 3, padding=1) for a, b in ((3, 4), (4, 4), (4, 6), (6, 6), (6, 8))]
        parts = [
            layers[0],
            nn.ReLU(inplace=True),
            layers[1],
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            layers[2],
            nn.ReLU(inplace=True),
            layers[3],
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            layers[4],
        ]
        self.vgg = VGG19(nn.Sequential(*parts)).requires_grad_(False)
        self.seen: list[int] = []
        self.vgg.register_forward_pre_hook(lambda module, inputs: self.seen.append(len(inputs[0])))

    def networks(self) -> Networks:
        return seen_by(object(), vgg19=self.vgg)


@pytest.fixture
def judges() -> Judges:
    return Judges()


def picture(seed: int, height: int = 16, width: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def tensors(*pictures: np.ndarray) -> torch.Tensor:
    return torch.stack([torch.from_numpy(p.copy()).permute(2, 0, 1).float() / 255 for p in pictures])


def observe(images: torch.Tensor, styles: list[Any], judges: Judges | Networks, originals: Any = None) -> Observation:
    networks = judges.networks() if isinstance(judges, Judges) else judges
    return Observation(images, [Conditions(style=style) for style in styles], networks, originals)


def test_vgg19_keeps_the_convolutions_before_their_relu(judges: Judges) -> None:
    images = tensors(picture(0), picture(1))
    found = judges.vgg(images)
    assert [tuple(x.shape[1:]) for x in found] == [(4, 16, 16), (4, 16, 16), (6, 8, 8), (6, 8, 8), (8, 4, 4)]
    assert all(x.min() < 0 for x in found)
    first = judges.vgg.layers[0](
        (images - torch.tensor([0.485, 0.456, 0.406])[:, None, None])
        / torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    )
    assert torch.allclose(found[0], first, atol=1e-6)
    assert torch.allclose(found[1], judges.vgg.layers[2](torch.relu(first)), atol=1e-6)


def test_style_loss_of_each_image_to_its_own_reference(judges: Judges) -> None:
    styles = [picture(10), picture(11), picture(10)]
    scores = StyleLoss().score(observe(tensors(picture(0), picture(1), picture(10)), styles, judges))
    assert judges.seen == [2, 3]  # the reference that two images share is looked at once
    assert scores[2] == Score(0.0)
    for number in range(2):
        expected = style_loss(judges.vgg(tensors(picture(number))), judges.vgg(tensors(styles[number])))
        assert scores[number].value == pytest.approx(expected.item(), rel=1e-5)
        assert scores[number].value > 0
    alone = StyleLoss().score(observe(tensors(picture(1)), styles[1:2], judges))
    assert alone[0].value == pytest.approx(scores[1].value, rel=1e-5)


def test_content_loss_of_each_image_to_its_original(judges: Judges) -> None:
    images, originals = tensors(picture(0), picture(1)), tensors(picture(2), picture(1))
    scores = ContentLoss().score(observe(images, [None, None], judges, originals))
    expected = (judges.vgg(images[:1])[3] - judges.vgg(originals[:1])[3]).square().mean().item()
    assert scores == [Score(pytest.approx(expected, rel=1e-5)), Score(0.0)]
    with pytest.raises(ConcordError, match="compares with the original images"):
        ContentLoss().score(observe(images, [None, None], judges))


def test_a_reference_of_another_size_is_brought_to_the_images(judges: Judges) -> None:
    from PIL import Image

    large = picture(5, 48, 40)
    resized = np.asarray(Image.fromarray(large).resize((16, 16), Image.Resampling.BILINEAR))
    (score,) = StyleLoss().score(observe(tensors(picture(0)), [large], judges))
    (expected,) = StyleLoss().score(observe(tensors(picture(0)), [resized], judges))
    assert score == expected
    assert pillow_bilinear(large, 16, 20).shape == (3, 16, 20)
    assert torch.equal(pillow_bilinear(large, 48, 40), tensors(large)[0])


def test_references_that_are_no_pictures() -> None:
    for bad, what in ((picture(0)[..., 0], "shape"), (picture(0) / 255, "type float64"), (None, "missing")):
        with pytest.raises(ConcordError, match="condition 'style'") as error:
            style_references([Conditions(style=bad)], lambda p: torch.zeros(1))
        assert what in str(error.value)


def test_a_missing_style_is_said(judges: Judges) -> None:
    for metric in (StyleLoss(), StyleDistance(), StyleTokens()):
        with pytest.raises(
            ConcordError, match=f"metric '{metric.name}' scores against condition 'style', which image 1"
        ):
            metric.score(observe(tensors(picture(0), picture(1)), [picture(0), None], judges))


def test_profiles_that_lack_the_network_say_so() -> None:
    embedded = Networks("embedded")
    images, styles = tensors(picture(0, 64, 64)), [picture(1, 64, 64)]
    with pytest.raises(ConcordError, match="profile 'embedded': has no role 'judge/vgg19'; it has judge/parser"):
        StyleLoss().score(observe(images, styles, embedded))
    with pytest.raises(ConcordError, match=r"'style-token-distance'.*use 'style-distance', or profile 'paper'"):
        StyleTokens().score(observe(images, styles, embedded))
    with pytest.raises(ConcordError, match=r"'style-distance'.*use 'style-loss'"):
        StyleDistance().score(observe(images, styles, Judges()))


# ------------------------------------------------------------------------------------------- the embedded distance


@pytest.fixture(scope="module")
def embedded() -> Networks:
    """The committed feature network."""
    return Networks("embedded")


def texture(kind: int, shift: int) -> np.ndarray:
    """64 x 64: stripes of one of three kinds, moved by `shift` pixels."""
    y, x = np.mgrid[:64, :64]
    waves = [np.sin((x + shift) / 1.5), np.sin((y + shift) / 4.0), np.sin((x + y + shift) / 2.5)][kind]
    colour = np.array([(200, 60, 40), (40, 160, 90), (60, 70, 200)][kind])
    return np.clip(colour + 50 * waves[..., None], 0, 255).astype(np.uint8)


def test_style_distance_through_the_judge(embedded: Networks) -> None:
    images = tensors(*(texture(kind, 0) for kind in range(3)))
    same = StyleDistance().score(observe(images, [texture(kind, 9) for kind in range(3)], embedded))
    other = StyleDistance().score(observe(images, [texture((kind + 1) % 3, 9) for kind in range(3)], embedded))
    assert [score.status for score in same + other] == [OK] * 6
    assert max(score.value for score in same) < min(score.value for score in other) / 2
    assert StyleDistance().score(observe(images[:1], [texture(0, 0)], embedded)) == [Score(0.0)]
    alone = StyleDistance().score(observe(images[1:2], [texture(2, 9)], embedded))
    assert alone[0].value == pytest.approx(other[1].value, rel=1e-4)


def test_content_distance_through_the_judge(embedded: Networks) -> None:
    """Each image with its own original, by activations taken apart from the metric; far where the images differ."""
    images = torch.stack([pillow_bilinear(texture(kind, 1), 64, 64) for kind in range(3)])
    originals = images.roll(1, 0)
    originals[0] = images[0]
    found = ContentDistance().score(Observation(images, [Conditions()] * 3, embedded, originals))
    assert found[0] == Score(0.0)
    with torch.inference_mode():
        sides = [embedded.get("judge/features", SynthFeatures).style_features(x) for x in (images, originals)]
    for image in (1, 2):
        parts = [
            float((a[image] - b[image]).norm() / (a[image].norm() + b[image].norm()))
            for a, b in zip(*sides, strict=True)
        ]
        assert found[image].value == pytest.approx(sum(parts) / len(parts), rel=1e-4)
        assert found[image].value > 0.1
    with pytest.raises(ConcordError, match="compares with the original images"):
        ContentDistance().score(Observation(images, [Conditions()] * 3, embedded))


def test_style_features_are_early_activations(embedded: Networks) -> None:
    images = tensors(texture(0, 0), texture(1, 0))
    found = embedded.get("judge/features", SynthFeatures).style_features(images)
    assert [x.shape[2:] for x in found] == [(32, 32), (16, 16), (8, 8)]
    network = embedded.get("judge/features", SynthFeatures).network
    for a, b in zip(found, trunk_activations(network, images, STYLE_LAYERS), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_style_distance_guides(embedded: Networks) -> None:
    """A few steps against its gradient bring an image's style nearer to the reference's; the gradient is its slope."""
    features = embedded.get("judge/features", SynthFeatures).style_features
    wanted = features(tensors(texture(1, 0)))
    image = tensors(texture(0, 0))
    before = style_distance(features(image), wanted)
    for _ in range(5):
        image = image.detach().requires_grad_(True)
        distance = style_distance(features(image), wanted)
        (gradient,) = torch.autograd.grad(distance.sum(), image)
        image = (image - 0.05 * gradient / gradient.abs().max()).clamp(0, 1)
    after = style_distance(features(image.detach()), wanted)
    assert after.item() < 0.95 * before.item()
    same = tensors(texture(1, 0)).requires_grad_(True)
    (flat,) = torch.autograd.grad(style_distance(features(same), wanted).sum(), same)
    assert torch.isfinite(flat).all()  # at the minimum, where a norm has a corner
