"""Identity distances against closed forms, and what they do where a face is missing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from face_seer import NO_FACE, FaceSeer, as_bytes, observe, pictures
from given_networks import seen_by

from concord.data.errors import ConcordError
from concord.data.request import Conditions
from concord.metrics.base import OK, SampleMetric, Score
from concord.metrics.face.identity_distance import IdentityDistance
from concord.metrics.face.identity_l2 import IdentityL2, identity_l2

BOTH = [IdentityDistance(), IdentityL2()]


def people(images: torch.Tensor) -> list[Conditions]:
    return [Conditions(identity=as_bytes(image)) for image in images]


@pytest.mark.parametrize("metric", BOTH, ids=lambda m: m.name)
def test_the_same_picture_is_at_distance_zero(metric: SampleMetric) -> None:
    images = pictures(3)
    scores = metric.score(observe(images, people(images), FaceSeer()))
    assert [score.status for score in scores] == [OK] * 3
    assert [score.value for score in scores] == pytest.approx([0, 0, 0], abs=1e-6)


def test_distances_are_their_formulas() -> None:
    images, wanted = pictures(4), pictures(4, seed=1)
    first = [score.value for score in IdentityDistance().score(observe(images, people(wanted), FaceSeer()))]
    second = [score.value for score in IdentityL2().score(observe(images, people(wanted), FaceSeer()))]
    for a, b, one, other in zip(images, wanted, first, second, strict=True):
        u, v = (torch.nn.functional.adaptive_avg_pool2d(x[None], 4).flatten().numpy().astype(float) for x in (a, b))
        cosine = sum(u * v) / math.sqrt(sum(u * u) * sum(v * v))
        assert one == pytest.approx(1 - cosine, abs=1e-6)
        assert other == pytest.approx(math.sqrt(2 * (1 - cosine)), rel=1e-4)
    assert min(first) > 1e-4


def test_the_order_and_the_split_of_a_batch_change_nothing() -> None:
    images, wanted = pictures(4), pictures(4, seed=1)
    whole = IdentityDistance().score(observe(images, people(wanted), FaceSeer()))
    back = IdentityDistance().score(observe(images.flip(0), people(wanted.flip(0)), FaceSeer()))[::-1]
    parts = [
        IdentityDistance().score(observe(images[i : i + 1], people(wanted[i : i + 1]), FaceSeer()))[0] for i in range(4)
    ]
    for other in (back, parts):
        assert [score.value for score in other] == pytest.approx([score.value for score in whole], abs=1e-7)


@pytest.mark.parametrize("metric", BOTH, ids=lambda m: m.name)
def test_a_picture_without_a_face_is_a_counted_failure(metric: SampleMetric) -> None:
    images, wanted = pictures(3), pictures(3, seed=1)
    images[1] = 0
    wanted[2] = 0
    scores = metric.score(observe(images, people(wanted), FaceSeer()))
    assert scores[0].status == OK
    assert scores[1] == Score(2.0, NO_FACE)
    assert scores[2] == Score(2.0, f"{NO_FACE} in the condition")
    wanted[1] = 0  # both: the image's own failure is named
    assert metric.score(observe(images, people(wanted), FaceSeer()))[1] == Score(2.0, NO_FACE)


@pytest.mark.parametrize("metric", BOTH, ids=lambda m: m.name)
def test_nan_is_a_counted_failure(metric: SampleMetric) -> None:
    images = pictures(2)
    images[0, 0, 0, 0] = torch.nan
    scores = metric.score(observe(images, people(pictures(2, seed=1)), FaceSeer()))
    assert scores[0] == Score(2.0, "embedding not finite")
    assert scores[1].status == OK


def test_people_are_embedded_once_for_both_metrics_and_by_size() -> None:
    wanted = [*people(pictures(2, seed=1)), *people(pictures(1, seed=2, size=32))]
    seer = FaceSeer()
    observation = observe(pictures(3), wanted, seer)
    for metric in BOTH:
        metric.score(observation)
    assert sorted(seer.embedded) == [(1, 3, 32, 32), (2, 3, 64, 64), (3, 3, 64, 64)]


def test_a_vector_of_the_network_stands_for_a_picture() -> None:
    images = pictures(2)
    vectors, _ = FaceSeer().embed_faces(images.flip(0))
    by_vector = [Conditions(identity=7 * vector.numpy()) for vector in vectors]
    one = IdentityDistance().score(observe(images, by_vector, FaceSeer()))
    other = IdentityDistance().score(observe(images, people(images.flip(0)), FaceSeer()))
    assert [score.value for score in one] == pytest.approx([score.value for score in other], abs=1e-6)


@pytest.mark.parametrize(
    ("identity", "message"),
    [
        (None, "scores against condition 'identity', which image 1"),
        (np.zeros((8, 8), np.uint8), r"image 1 .* has shape \(8, 8\) and type uint8: expected an image uint8"),
        (np.zeros((8, 8, 3), np.float32), "type float32: expected an image uint8"),
        (np.zeros(5, np.float32), "is a vector of 5: expected 48 finite numbers"),
        (np.zeros(48, np.float32), "not all 0"),
        (np.full(48, np.nan, np.float32), "48 finite numbers"),
    ],
)
@pytest.mark.parametrize("metric", BOTH, ids=lambda m: m.name)
def test_an_unusable_identity_is_named(metric: SampleMetric, identity: Any, message: str) -> None:
    conditions = [*people(pictures(1)), Conditions(text="a face", identity=identity)]
    with pytest.raises(ConcordError, match=message) as caught:
        metric.score(observe(pictures(2), conditions, FaceSeer()))
    assert "\n" not in str(caught.value)


def test_freedoms_network_is_asked_where_the_profile_has_one() -> None:
    """identity-l2 looks through the guide of the papers, identity-distance through the judge."""

    class Turned(FaceSeer):
        def embed_faces(self, images: torch.Tensor) -> tuple[torch.Tensor, list[str]]:
            vectors, statuses = super().embed_faces(images)
            return torch.nn.functional.normalize(vectors - 0.2, dim=1), statuses

    two = seen_by(FaceSeer(), freedom=Turned())
    images, wanted = pictures(2), people(pictures(2, seed=1))
    alone = IdentityL2().score(observe(images, wanted, Turned()))
    assert IdentityL2().score(observe(images, wanted, two)) == alone
    assert alone != IdentityL2().score(observe(images, wanted, FaceSeer()))
    judged = IdentityDistance().score(observe(images, wanted, FaceSeer()))
    assert IdentityDistance().score(observe(images, wanted, two)) == judged


def test_the_distance_guides_each_sample_by_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(3, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    target = torch.nn.functional.normalize(torch.randn(3, 5, generator=generator, dtype=torch.float64), dim=1)

    def distance(x: torch.Tensor) -> torch.Tensor:
        return identity_l2(torch.nn.functional.normalize(x, dim=1), target)

    (together,) = torch.autograd.grad(distance(raw).sum(), raw)
    for row in range(3):
        (alone,) = torch.autograd.grad(distance(raw)[row], raw)
        assert torch.equal(alone[row], together[row])
        assert not alone[[i for i in range(3) if i != row]].any()
    assert torch.autograd.gradcheck(distance, (raw,))
    assert torch.autograd.gradgradcheck(distance, (raw,))
