"""Class IoU and accuracy of a set, the logit distance, and the two class orders."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from face_seer import FaceSeer, observe, pictures
from given_networks import seen_by

from concord.data.errors import ConcordError
from concord.data.labels import BISENET, CELEBAMASK_HQ, CLASSES, celebamask_to_bisenet
from concord.data.request import Conditions
from concord.metrics.base import OK, Observation, Score
from concord.metrics.segmentation.mask_accuracy import MaskAccuracy
from concord.metrics.segmentation.mask_class_accuracy import MaskClassAccuracy
from concord.metrics.segmentation.mask_class_iou import MaskClassIoU
from concord.metrics.segmentation.mask_miou import MaskMIoU
from concord.metrics.segmentation.masks import (
    ConfusionMetric,
    by_class,
    class_accuracy,
    class_iou,
    confusion_matrix,
    confusions,
    set_miou,
)
from concord.metrics.segmentation.segmentation_distance import SegmentationDistance, segmentation_distance

SETS: list[ConfusionMetric] = [MaskClassIoU(), MaskClassAccuracy()]
NOTHING = np.zeros((0, CLASSES**2), np.float32)


class Parser:
    def __init__(self, parsed: np.ndarray) -> None:
        self.parsed = parsed

    def labels(self, images: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.parsed)

    def features(self, images: torch.Tensor, kinds: list[str]) -> dict[str, torch.Tensor]:
        assert set(kinds) <= {"pool"}, "a count of pixels is no network's"
        return {kind: images.flatten(1) for kind in kinds}


def maps(n: int = 6, size: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    wanted = rng.integers(0, 7, (n, size, size))
    return wanted, np.where(rng.random(wanted.shape) < 0.6, wanted, rng.integers(0, 9, wanted.shape))


def seen(wanted: np.ndarray, parsed: np.ndarray) -> Observation:
    images = torch.zeros(len(wanted), 3, *wanted.shape[1:])
    conditions = [Conditions(mask=mask) for mask in wanted]
    return Observation(images, conditions, seen_by(Parser(parsed)), kinds=("pool",))


# ----------------------------------------------------------------------------------------------------- sums over a set


def test_set_metrics_are_plain_loops_over_all_pixels() -> None:
    wanted, parsed = maps()
    counts = seen(wanted, parsed).memo(confusions)
    iou, accuracy = [], []
    for c in range(CLASSES):
        both = sum(int(w == c and p == c) for w, p in zip(wanted.ravel(), parsed.ravel(), strict=True))
        either = sum(int(w == c or p == c) for w, p in zip(wanted.ravel(), parsed.ravel(), strict=True))
        asked = sum(int(w == c) for w in wanted.ravel())
        if either:
            iou.append(both / either)
        if asked:
            accuracy.append(both / asked)
    assert (len(iou), len(accuracy)) == (9, 7)
    assert MaskClassIoU().compute(counts, NOTHING) == pytest.approx(np.mean(iou), rel=1e-12)
    assert MaskClassAccuracy().compute(counts, NOTHING) == pytest.approx(np.mean(accuracy), rel=1e-12)
    whole = confusion_matrix(wanted, parsed)
    assert 100 * MaskClassIoU().compute(counts, NOTHING) == pytest.approx(set_miou(whole), rel=1e-12)


@pytest.mark.parametrize("metric", SETS, ids=lambda m: m.name)
def test_right_is_one_and_wrong_is_zero(metric: ConfusionMetric) -> None:
    wanted, _ = maps()
    assert metric.compute(seen(wanted, wanted).memo(confusions), NOTHING) == 1
    assert metric.compute(seen(wanted, (wanted + 7) % CLASSES).memo(confusions), NOTHING) == 0


@pytest.mark.parametrize("metric", SETS, ids=lambda m: m.name)
def test_order_and_batches_change_nothing_and_replicates_leave_groups_out(metric: ConfusionMetric) -> None:
    wanted, parsed = maps()
    counts = seen(wanted, parsed).memo(confusions)
    split = np.concatenate([seen(wanted[i : i + 2], parsed[i : i + 2]).memo(confusions) for i in (0, 2, 4)])
    assert (split == counts).all()
    value = metric.compute(counts, NOTHING)
    assert metric.compute(counts[::-1], NOTHING) == value
    groups = np.array([0, 1, 2, 0, 1, 2])
    expected = [metric.compute(counts[groups != g], NOTHING) for g in range(3)]
    assert metric.leave_group_out(counts, NOTHING, groups).tolist() == expected
    assert len(set(expected)) == 3
    with pytest.raises(ValueError, match="expected two or more"):
        metric.leave_group_out(counts, NOTHING, np.zeros(6, int))


def test_counts_are_exact_at_any_picture_size() -> None:
    mask = np.zeros((1, 1024, 1024), int)
    mask[0, 0, 0] = 3
    counts = seen(mask, mask).memo(confusions)
    assert counts.dtype == np.float32
    assert (counts[0, 0], counts[0, 3 * CLASSES + 3]) == (1024 * 1024 - 1, 1)


def test_other_kinds_still_come_from_the_networks() -> None:
    wanted, parsed = maps()
    observation = seen(wanted, parsed)
    assert observation.features("pool").shape == (6, 3 * 64)
    assert observation.memo(confusions).shape == (6, CLASSES**2)


def test_classes_are_told_by_name() -> None:
    wanted = np.array([[1, 1, 13, 13]])
    parsed = np.array([[1, 13, 13, 13]])
    confusion = confusion_matrix(wanted, parsed)
    assert by_class(class_iou(confusion)) == {"skin": 1 / 2, "hair": 2 / 3}
    assert by_class(class_accuracy(confusion)) == {"skin": 1 / 2, "hair": 1}


@pytest.mark.parametrize("metric", SETS, ids=lambda m: m.name)
def test_a_missing_mask_or_one_of_another_size_is_named(metric: ConfusionMetric) -> None:
    conditions = [Conditions(mask=np.zeros((4, 4), int)), Conditions(text="a face")]
    without = Observation(torch.zeros(2, 3, 4, 4), conditions, seen_by(Parser(np.zeros((2, 4, 4), int))))
    with pytest.raises(ConcordError, match="image 1 of the batch has no condition 'mask'"):
        metric.observe(without)
    wanted, parsed = maps()
    with pytest.raises(ConcordError, match="is 8x8 pixels, the parse of its image 4x4"):
        metric.observe(seen(wanted, parsed[:, :4, :4]))


# ------------------------------------------------------------------------------------------------------- class orders


def test_a_mask_in_the_wrong_order_does_not_score() -> None:
    """The same image, its classes told in BiSeNet's numbers: every metric of masks sees that something is wrong."""
    rng = np.random.default_rng(5)
    right = rng.integers(0, CLASSES, (3, 16, 16))
    wrong = celebamask_to_bisenet(right)
    same = [number for number, name in enumerate(CELEBAMASK_HQ) if BISENET[number] == name]
    share = np.isin(right, same).mean(axis=(1, 2))
    assert [score.value for score in MaskAccuracy().score(seen(right, wrong))] == pytest.approx(100 * share)
    assert all(score.value < 30 for score in MaskMIoU().score(seen(right, wrong)))
    for metric in SETS:
        assert metric.compute(seen(right, right).memo(confusions), NOTHING) == 1
        assert metric.compute(seen(right, wrong).memo(confusions), NOTHING) == pytest.approx(len(same) / CLASSES)


# ------------------------------------------------------------------------------------------------------ logit distance


def test_segmentation_distance_is_its_formula() -> None:
    images, originals = pictures(3, size=8), pictures(3, seed=1, size=8)
    scores = SegmentationDistance().score(observe(images, [Conditions(text="a")] * 3, FaceSeer(), originals))
    for score, a, b in zip(scores, FaceSeer().parse(images), FaceSeer().parse(originals), strict=True):
        total = sum(float(x - y) ** 2 for x, y in zip(a.flatten(), b.flatten(), strict=True))
        assert score == Score(pytest.approx(total**0.5, rel=1e-5), OK)


def test_segmentation_distance_of_the_original_is_zero_and_nan_is_a_failure() -> None:
    images = pictures(2, size=8)
    assert (
        SegmentationDistance().score(observe(images, [Conditions(text="a")] * 2, FaceSeer(), images))
        == [Score(0.0, OK)] * 2
    )
    broken = images.clone()
    broken[1, 0, 0, 0] = torch.nan
    scores = SegmentationDistance().score(observe(broken, [Conditions(text="a")] * 2, FaceSeer(), images))
    assert scores == [Score(0.0, OK), Score(100_000.0, "logits not finite")]


def test_segmentation_distance_needs_the_originals() -> None:
    with pytest.raises(ConcordError, match="'segmentation-distance' compares with the original images"):
        SegmentationDistance().score(observe(pictures(1), [Conditions(text="a")], FaceSeer()))


def test_segmentation_distance_guides_each_sample_by_itself() -> None:
    """Never over the whole batch: one sample's gradient does not depend on how far the others are."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 19, 3, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    target = torch.randn(2, 19, 3, 3, generator=generator, dtype=torch.float64)
    (together,) = torch.autograd.grad(segmentation_distance(logits, target).sum(), logits)
    far = torch.cat([logits[:1], 100 * logits[1:].detach()])
    (beside,) = torch.autograd.grad(segmentation_distance(far, target).sum(), logits)
    assert torch.equal(beside[0], together[0])
    difference = (logits - target)[0]
    assert torch.allclose(together[0], difference / difference.norm(), rtol=1e-12)
    assert torch.autograd.gradcheck(lambda x: segmentation_distance(x, target), (logits,))
