"""Landmark distances against closed forms, FAN's noise floor by brute force, and landmarks that cannot be used."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from face_seer import FACE, NO_FACE, FaceSeer, observe, pictures
from given_networks import seen_by

from concord.data.errors import ConcordError
from concord.data.request import Conditions
from concord.metrics.base import OK, SampleMetric, Score
from concord.metrics.face.landmark_l2 import LandmarkL2, landmark_l2, landmark_vector
from concord.metrics.face.landmark_nme import LandmarkNME, crop_of, nme, noise_floor, quantised
from concord.metrics.face.landmarks import inter_ocular
from concord.metrics.face.square import Square, face_square, square_of

BOTH = [LandmarkNME(), LandmarkL2()]


def wanted(n: int, points: Any = FACE) -> list[Conditions]:
    return [Conditions(landmarks=np.asarray(points, np.float32)) for _ in range(n)]


# ----------------------------------------------------------------------------------------------------------------- NME


def test_nme_of_a_shift_is_its_length_over_the_eyes() -> None:
    shifts = np.array([(0.0, 0.0), (3.0, 4.0), (-1.0, 0.0)])
    seer = FaceSeer(FACE[None] + shifts[:, None])
    scores = LandmarkNME().score(observe(pictures(3), wanted(3), seer))
    assert [score.value for score in scores] == pytest.approx([0, 100 * 5 / 20, 100 * 1 / 20], abs=1e-4)
    assert [score.status for score in scores] == [OK] * 3


def test_nme_is_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    found, true = rng.normal(32, 9, (2, 4, 68, 2))
    for value, a, b in zip(nme(found, true), found, true, strict=True):
        eyes = ((b[36][0] - b[45][0]) ** 2 + (b[36][1] - b[45][1]) ** 2) ** 0.5
        total = sum(((p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2) ** 0.5 for p, q in zip(a, b, strict=True))
        assert value == pytest.approx(total / 68 / eyes, rel=1e-12)


def test_nme_does_not_depend_on_the_picture_size() -> None:
    rng = np.random.default_rng(1)
    found, true = rng.normal(32, 9, (2, 3, 68, 2))
    assert nme(8 * found, 8 * true) == pytest.approx(nme(found, true), rel=1e-12)
    assert nme(found[::-1], true[::-1])[::-1] == pytest.approx(nme(found, true), rel=1e-12)


def test_an_error_beyond_the_eyes_distance_counts_as_the_worst() -> None:
    scores = LandmarkNME().score(observe(pictures(1), wanted(1), FaceSeer(FACE[None] + 50)))
    assert scores == [Score(100.0, OK)]


# ---------------------------------------------------------------------------------------------------------- FreeDoM's


def test_squares_are_freedoms_rule() -> None:
    """By hand: w = 101, h = 121; side int(121.2); centre 10 + 50 and 20 + 60."""
    assert square_of((10, 20, 110, 140)) == Square(left=10 + 50 - 60, top=20 + 60 - 60, side=121)
    assert square_of((0.0, 0.0, 9.0, 99.0)) == Square(left=5 - 6, top=50 - 6, side=12)
    low, high = FACE.min(axis=0), FACE.max(axis=0)
    assert face_square(FACE) == square_of((low[0], low[1], high[0], high[1]))


def test_landmark_l2_is_its_formula_in_the_wanted_square() -> None:
    """Each side sees its own points; both are read in the square of the wanted face."""
    rng = np.random.default_rng(2)
    images, originals = pictures(2), pictures(2, seed=1)
    own, other = FACE + rng.normal(0, 2, (2, 68, 2)), FACE + rng.normal(0, 2, (2, 68, 2))

    class Two(FaceSeer):
        def landmarks(self, given: torch.Tensor) -> tuple[torch.Tensor, list[str]]:
            return torch.tensor(own if given is images else other), [OK] * 2

    scores = LandmarkL2().score(observe(images, wanted(2), Two(), originals))
    side = face_square(FACE.astype(np.float32)).side
    for score, a, b in zip(scores, own, other, strict=True):
        assert score.value == pytest.approx(np.sqrt(((a - b) ** 2).sum()) / side, rel=1e-6)


def test_the_original_is_at_distance_zero() -> None:
    images = pictures(2)
    assert LandmarkL2().score(observe(images, wanted(2), FaceSeer(), images)) == [Score(0.0, OK)] * 2


def test_landmark_vectors_are_shares_of_the_square() -> None:
    points = torch.tensor([[[10.0, 30.0], [20.0, 40.0]]])
    assert landmark_vector(points, [Square(10, 20, 20)]).tolist() == [[0.0, 0.5, 0.5, 1.0]]


def test_the_distance_guides_each_sample_by_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(2, 68, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    target = torch.randn(2, 136, generator=generator, dtype=torch.float64)

    def distance(x: torch.Tensor) -> torch.Tensor:
        return landmark_l2(landmark_vector(x, [Square(1, 2, 30), Square(3, 4, 50)]), target)

    (together,) = torch.autograd.grad(distance(points).sum(), points)
    (alone,) = torch.autograd.grad(distance(points)[0], points)
    assert torch.equal(alone[0], together[0])
    assert not alone[1].any()
    assert torch.autograd.gradcheck(distance, (points,))


def test_a_network_of_its_own_gets_the_squares() -> None:
    class Guide:
        def landmark_vectors(self, images: torch.Tensor, squares: list[Square]) -> tuple[torch.Tensor, list[str]]:
            means = images.mean(dim=(1, 2, 3))[:, None].expand(-1, 136)
            return means * torch.tensor([[square.side] for square in squares]), [OK] * len(images)

    two = seen_by(FaceSeer(), freedom=Guide())
    images, originals = pictures(1), pictures(1, seed=1) * 0.5
    (score,) = LandmarkL2().score(observe(images, wanted(1), two, originals))
    gap = float(abs(images.mean() - originals.mean())) * face_square(FACE.astype(np.float32)).side
    assert score.value == pytest.approx(min(12.0, gap * 136**0.5), rel=1e-5)


# ---------------------------------------------------------------------------------------------------------- noise floor


def test_noise_floor_by_brute_force() -> None:
    """Every cell is tried; the answer is the cell under the point, a quarter towards it, in whole pixels."""
    centre, side = crop_of(FACE)
    cell = side / 64
    for point, answer in zip(FACE, quantised(FACE), strict=True):
        for axis in range(2):
            middles = [(k + 0.5) * cell + centre[axis] - side / 2 for k in range(64)]
            k = min(range(64), key=lambda i: abs(middles[i] - point[axis]))
            assert 0 < k < 63
            moved = middles[k] + (cell / 4 if point[axis] > middles[k] else -cell / 4)
            assert answer[axis] == np.trunc(moved) + 0.5
    error = np.linalg.norm(quantised(FACE) - FACE, axis=1).mean() / 20
    assert noise_floor(FACE[None]) == pytest.approx([error], rel=1e-12)


def test_noise_floor_tends_to_the_mean_distance_in_a_quarter_cell() -> None:
    """Whole pixels of large images cost nothing: E |u|, u uniform in a square of half side 1/4, is 0.7652 / 4."""
    rng = np.random.default_rng(3)
    faces = rng.uniform(0, 1, (200, 68, 2)) * 1e5
    faces[:, 36], faces[:, 45] = (3e4, 5e4), (7e4, 5e4)
    cells = np.array([crop_of(points)[1] / 64 for points in faces])
    errors = noise_floor(faces) * 4e4 / cells
    assert errors.mean() == pytest.approx(0.7652 / 4, rel=0.01)


def test_coarser_heatmaps_cost_more() -> None:
    rng = np.random.default_rng(4)
    faces = FACE * 4 + rng.normal(0, 4, (20, 68, 2))
    assert (noise_floor(faces, 64) < noise_floor(faces, 40)).all()
    assert (noise_floor(faces, 40) < noise_floor(faces, 16)).all()


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize("metric", BOTH, ids=lambda m: m.name)
def test_a_picture_without_a_face_is_a_counted_failure(metric: SampleMetric) -> None:
    images = pictures(2)
    images[1] = 0
    scores = metric.score(observe(images, wanted(2), FaceSeer(), pictures(2)))
    assert scores == [Score(0.0, OK), Score(metric.worst, NO_FACE)]


def test_an_original_without_a_face_is_told_apart() -> None:
    originals = pictures(2)
    originals[1] = 0
    scores = LandmarkL2().score(observe(pictures(2), wanted(2), FaceSeer(), originals))
    assert scores[1] == Score(12.0, f"{NO_FACE} in the original")


@pytest.mark.parametrize("metric", BOTH, ids=lambda m: m.name)
def test_landmarks_that_are_not_finite_are_a_counted_failure(metric: SampleMetric) -> None:
    points = np.stack([FACE, FACE])
    points[1, 5] = np.nan
    scores = metric.score(observe(pictures(2), wanted(2), FaceSeer(points), pictures(2)))
    assert scores[1] == Score(metric.worst, "landmarks not finite")


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (None, "scores against condition 'landmarks', which image 1"),
        (np.zeros((5, 2)), r"has shape \(5, 2\): expected \(68, 2\)"),
        (np.where(np.arange(68)[:, None] == 7, np.nan, FACE), "image 1 of the batch holds NaN or infinity"),
        (np.zeros((68, 2)), "outer eye corners less than a pixel apart"),
    ],
)
@pytest.mark.parametrize("metric", BOTH, ids=lambda m: m.name)
def test_unusable_landmarks_are_named(metric: SampleMetric, points: Any, message: str) -> None:
    conditions = [*wanted(1), Conditions(text="a face", landmarks=points)]
    with pytest.raises(ConcordError, match=message):
        metric.score(observe(pictures(2), conditions, FaceSeer(), pictures(2)))


def test_a_face_outside_of_the_picture_is_named() -> None:
    with pytest.raises(ConcordError, match="outside of an image of 64x64: expected pixels of the generated size"):
        LandmarkL2().score(observe(pictures(1), wanted(1, FACE + 500), FaceSeer(), pictures(1)))


def test_originals_are_required_by_landmark_l2_alone() -> None:
    with pytest.raises(ConcordError, match="'landmark-l2' compares with the original images"):
        LandmarkL2().score(observe(pictures(1), wanted(1), FaceSeer()))
    assert LandmarkNME().score(observe(pictures(1), wanted(1), FaceSeer()))[0].status == OK


def test_inter_ocular_is_between_the_outer_corners() -> None:
    assert inter_ocular(FACE) == pytest.approx(20)
