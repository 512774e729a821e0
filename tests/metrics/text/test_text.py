"""Text distances against closed forms, as scores and as guides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from given_networks import seen_by

from concord.data.errors import ConcordError
from concord.data.request import Conditions
from concord.metrics.base import OK, Observation, SampleMetric, Score
from concord.metrics.text.text_distance import TextDistance, cosine_distance
from concord.metrics.text.text_feature_distance import TextFeatureDistance, feature_distance
from concord.metrics.text.text_similarity import TextSimilarity

WORDS = ["a face", "a beard", "a long beard", "an old face"]
BOTH = [TextDistance(), TextFeatureDistance()]


class Reader:
    """Stands in for the text-image pair: features are what the test puts there, embeddings their directions."""

    def __init__(self, images: Any, texts: Any) -> None:
        self.images, self.texts = torch.as_tensor(images), torch.as_tensor(texts)

    def image_features(self, images: torch.Tensor) -> torch.Tensor:
        return self.images

    def text_features(self, captions: list[str]) -> torch.Tensor:
        return torch.stack([self.texts[WORDS.index(caption)] for caption in captions])

    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(self.images, dim=1)

    def embed_texts(self, captions: list[str]) -> torch.Tensor:
        return torch.nn.functional.normalize(self.text_features(captions), dim=1)


def observe(images: Any, texts: Any) -> Observation:
    conditions = [Conditions(text=word) for word in WORDS[: len(images)]]
    return Observation(torch.zeros(len(images), 3, 2, 2), conditions, seen_by(Reader(images, texts)))


def features(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(0, 3, (4, 6)), rng.normal(1, 2, (4, 6))


def test_text_distance_is_one_minus_cosine() -> None:
    images, texts = features()
    for score, a, b in zip(TextDistance().score(observe(images, texts)), images, texts, strict=True):
        cosine = sum(x * y for x, y in zip(a, b, strict=True)) / (sum(a * a) * sum(b * b)) ** 0.5
        assert score == Score(pytest.approx(1 - cosine, rel=1e-12), OK)


def test_text_distance_is_text_similarity_turned_round() -> None:
    images, texts = features(1)
    similar = TextSimilarity().score(observe(images, texts))
    distant = TextDistance().score(observe(images, texts))
    for one, other in zip(similar, distant, strict=True):
        assert other.value == pytest.approx(1 - one.value / 100, abs=1e-12)


def test_feature_distance_keeps_the_lengths() -> None:
    """Three times as long in the same direction: at cosine distance 0, and at feature distance twice the length."""
    images, texts = features(2)
    scores = TextFeatureDistance().score(observe(images, texts))
    for score, a, b in zip(scores, images, texts, strict=True):
        assert score.value == pytest.approx(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) ** 0.5, rel=1e-12)
    longer = observe(3 * texts, texts)
    assert [score.value for score in TextDistance().score(longer)] == pytest.approx([0] * 4, abs=1e-12)
    lengths = np.sqrt((texts**2).sum(axis=1))
    assert [score.value for score in TextFeatureDistance().score(longer)] == pytest.approx((2 * lengths).tolist())


def test_ends_are_exact() -> None:
    axes = torch.eye(4, dtype=torch.float16)
    images = torch.stack([axes[0], -axes[1], axes[3], axes[3]])
    assert [score.value for score in TextDistance().score(observe(images, axes))] == [0, 2, 1, 0]


@pytest.mark.parametrize("metric", BOTH, ids=lambda m: m.name)
def test_nan_is_a_counted_failure(metric: SampleMetric) -> None:
    images, texts = features()
    images[2, 1] = np.nan
    scores = metric.score(observe(images, texts))
    assert scores[2].value == metric.worst
    assert scores[2].status.endswith("not finite")
    assert [score.status for score in scores].count(OK) == 3


def test_beyond_the_bound_counts_as_the_worst() -> None:
    images, texts = features()
    assert TextFeatureDistance().score(observe(1e6 * images, texts))[0] == Score(1000.0, OK)


@pytest.mark.parametrize("metric", BOTH, ids=lambda m: m.name)
def test_a_missing_caption_is_named(metric: SampleMetric) -> None:
    images, texts = features()
    conditions = [Conditions(text=WORDS[0]), Conditions(mask=np.zeros((2, 2), int))]
    observation = Observation(torch.zeros(2, 3, 2, 2), conditions, seen_by(Reader(images, texts)))
    with pytest.raises(ConcordError, match="condition 'text', which image 1 of the batch does not have"):
        metric.score(observation)


@pytest.mark.parametrize("distance", [cosine_distance, feature_distance])
def test_distances_guide_each_sample_by_itself(distance: Any) -> None:
    first, second = (torch.tensor(side) for side in features(3))
    first.requires_grad_()
    (together,) = torch.autograd.grad(distance(first, second).sum(), first)
    (alone,) = torch.autograd.grad(distance(first, second)[1], first)
    assert torch.equal(alone[1], together[1])
    assert not alone[[0, 2, 3]].any()
    assert torch.autograd.gradcheck(lambda x: distance(x, second), (first,))
    assert torch.autograd.gradgradcheck(lambda x: distance(x, second), (first,))


def test_cosine_distance_leaves_the_gradient_at_the_end_of_its_range() -> None:
    """Rounding past 0 is cut from the value, never from the gradient."""
    first = torch.tensor([[1.0, 1e-4]], requires_grad=True)
    distance = cosine_distance(first, torch.tensor([[3.0, 0.0]]))
    assert 0 <= distance.item() < 1e-6
    (slope,) = torch.autograd.grad(distance.sum(), first)
    assert float(slope[0, 1]) == pytest.approx(1e-4, rel=0.01)
