"""Text and mask metrics against plain loops, and what they do with images that cannot be scored."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from given_networks import seen_by
from hypothesis import given, settings
from hypothesis import strategies as st

from concord.data.errors import ConcordError
from concord.data.labels import CLASSES, celebamask_to_bisenet
from concord.data.request import Conditions
from concord.metrics.base import OK, Metric, Observation, SampleMetric, Score, all_metrics, get_metric
from concord.metrics.segmentation.drawn_mask import DrawnMetric
from concord.metrics.segmentation.mask_accuracy import MaskAccuracy
from concord.metrics.segmentation.mask_miou import MaskMIoU, image_miou
from concord.metrics.segmentation.masks import class_iou, confusion_matrix, set_miou
from concord.metrics.text.text_similarity import TextSimilarity

WORDS = ["a face", "a beard", "a long beard", "an old face"]


class Seer:
    """Stands in for the perception networks: sees what the test puts there."""

    def __init__(self, labels: Any = None, images: Any = None, texts: Any = None) -> None:
        self._labels, self._images, self._texts = labels, images, texts

    def labels(self, images: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self._labels)

    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self._images)

    def embed_texts(self, captions: list[str]) -> torch.Tensor:
        return torch.stack([torch.as_tensor(self._texts[WORDS.index(caption)]) for caption in captions])


def observe(conditions: list[Conditions], **seen: Any) -> Observation:
    return Observation(torch.zeros(len(conditions), 3, 2, 2), conditions, seen_by(Seer(**seen)))


def face_mask(size: int = 64) -> np.ndarray:
    """A mask with the proportions of a face: 8 classes, int64 (size, size)."""
    mask = np.zeros((size, size), dtype=np.int64)
    unit = size // 16
    boxes = {13: (1, 12, 2, 14), 1: (3, 13, 4, 12), 17: (13, 15, 6, 10), 18: (14, 16, 1, 15),
             4: (6, 7, 9, 11), 5: (6, 7, 5, 7), 2: (7, 10, 7, 9), 11: (11, 12, 6, 10)}  # fmt: skip  # a table
    for part, (top, bottom, left, right) in boxes.items():
        mask[top * unit : bottom * unit, left * unit : right * unit] = part
    return mask


# ---------------------------------------------------------------------------------------------------------------- text


def test_text_similarity_is_a_hundred_cosines() -> None:
    rng = np.random.default_rng(0)
    images, texts = rng.normal(size=(4, 6)), rng.normal(size=(4, 6))
    scores = TextSimilarity().score(observe([Conditions(text=w) for w in WORDS], images=images, texts=texts))
    for score, image, text in zip(scores, images, texts, strict=True):
        inner = sum(a * b for a, b in zip(image, text, strict=True))
        lengths = sum(a * a for a in image) ** 0.5 * sum(b * b for b in text) ** 0.5
        assert score == Score(pytest.approx(100 * inner / lengths, rel=1e-12), OK)


def test_text_similarity_ends_are_exact_and_half_precision_is_widened() -> None:
    axes = torch.eye(4, dtype=torch.float16)
    images = torch.stack([axes[0], -axes[1], axes[3], axes[3]])
    scores = TextSimilarity().score(observe([Conditions(text=w) for w in WORDS], images=images, texts=axes))
    assert [score.value for score in scores] == [100, -100, 0, 100]


def test_text_similarity_counts_what_has_no_value_as_the_worst() -> None:
    images = torch.eye(4)
    images[2, 0] = torch.nan
    scores = TextSimilarity().score(observe([Conditions(text=w) for w in WORDS], images=images, texts=torch.eye(4)))
    assert scores[2] == Score(-100, "embedding not finite")
    assert [score.status for score in scores].count(OK) == 3


@pytest.mark.parametrize("name", ["text-similarity", "mask-accuracy", "mask-miou"])
def test_a_missing_condition_is_named(name: str) -> None:
    metric = get_metric(name)
    assert isinstance(metric, SampleMetric)
    (need,) = metric.needs
    given_ = Conditions(text=WORDS[0], mask=np.zeros((4, 4), int))
    without = Conditions(mask=np.zeros((4, 4), int)) if need == "text" else Conditions(text=WORDS[0])
    observation = observe([given_, without], images=torch.eye(2), texts=torch.eye(2), labels=np.zeros((2, 4, 4), int))
    with pytest.raises(ConcordError, match=f"'{name}' scores against condition '{need}', which image 1"):
        metric.score(observation)


# --------------------------------------------------------------------------------------------------------------- masks

maps = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).choice(
        CLASSES, p=np.random.default_rng(seed).dirichlet(np.full(19, 0.2)), size=(2, 6, 5)
    )
)


@settings(max_examples=60, deadline=None)
@given(pair=maps)
def test_mask_metrics_are_the_loops(pair: np.ndarray) -> None:
    wanted, parsed = pair
    observation = observe([Conditions(mask=wanted)], labels=parsed[None])
    equal = [bool(wanted[y, x] == parsed[y, x]) for y in range(6) for x in range(5)]
    assert MaskAccuracy().score(observation)[0].value == pytest.approx(100 * sum(equal) / 30)
    terms = []
    for part in sorted(set(wanted.ravel().tolist())):
        a = {(y, x) for y in range(6) for x in range(5) if wanted[y, x] == part}
        b = {(y, x) for y in range(6) for x in range(5) if parsed[y, x] == part}
        terms.append(len(a & b) / len(a | b))
    assert MaskMIoU().score(observation)[0].value == pytest.approx(100 * sum(terms) / len(terms))


def test_mask_metrics_by_hand() -> None:
    wanted = np.array([[0, 0, 0, 0], [1, 1, 2, 2]])
    parsed = np.array([[0, 0, 0, 9], [1, 2, 2, 2]])  # an ear (9) out of nowhere, the skin half taken by the nose
    observation = observe([Conditions(mask=wanted)], labels=parsed[None])
    assert MaskAccuracy().score(observation)[0].value == pytest.approx(75)
    assert MaskMIoU().score(observation)[0].value == pytest.approx(100 * (3 / 4 + 1 / 2 + 2 / 3) / 3)
    assert set_miou(confusion_matrix(wanted, parsed)) == pytest.approx(100 * (3 / 4 + 1 / 2 + 2 / 3 + 0) / 4)


def test_a_missing_part_costs_its_whole_share() -> None:
    wanted = face_mask()
    parsed = np.where(wanted == 2, 1, wanted)  # no nose: 1.2 % of the pixels, one class of nine
    assert image_miou(wanted, wanted) == 100
    assert 100 * (wanted == parsed).mean() > 97
    assert image_miou(wanted, parsed) < 89


@pytest.mark.parametrize("metric", [MaskAccuracy(), MaskMIoU()])
def test_a_mask_in_bisenets_order_is_seen_to_be_wrong(metric: SampleMetric) -> None:
    """Both orders share background, skin and eyes: a swap looks plausible to the eye, and must not to the metric."""
    mask = face_mask()
    right = metric.score(observe([Conditions(mask=mask)], labels=mask[None]))[0].value
    wrong = metric.score(observe([Conditions(mask=mask)], labels=celebamask_to_bisenet(mask)[None]))[0].value
    assert right == 100
    assert wrong < 75


@pytest.mark.parametrize("metric", [MaskAccuracy(), MaskMIoU()])
def test_sizes_must_agree(metric: SampleMetric) -> None:
    observation = observe([Conditions(mask=np.zeros((8, 8), int))], labels=np.zeros((1, 4, 4), int))
    with pytest.raises(ConcordError, match="is 8x8 pixels, the parse of its image 4x4"):
        metric.score(observation)


def test_confusion_matrices_add_up() -> None:
    rng = np.random.default_rng(0)
    wanted, parsed = rng.integers(0, 5, (2, 3, 8, 8))
    parts = [confusion_matrix(a, b) for a, b in zip(wanted, parsed, strict=True)]
    whole = confusion_matrix(wanted, parsed)
    assert (sum(parts) == whole).all()
    assert whole.sum() == wanted.size
    assert whole[3, 1] == ((wanted == 3) & (parsed == 1)).sum()
    assert np.isnan(class_iou(whole)[5:]).all()
    assert np.isfinite(class_iou(whole)[:5]).all()


def test_bad_class_maps_are_errors() -> None:
    zero = np.zeros((2, 2), int)
    with pytest.raises(ConcordError, match="the parse holds class 19"):
        confusion_matrix(zero, zero + 19)
    with pytest.raises(ValueError, match="one shape"):
        confusion_matrix(zero, zero[:1])
    with pytest.raises(ValueError, match="no pixels"):
        set_miou(np.zeros((CLASSES, CLASSES), int))


# --------------------------------------------------------------------------------------------------------------- facts


@pytest.mark.parametrize("metric", all_metrics().values(), ids=all_metrics())
def test_facts_of_every_metric(metric: type[Metric]) -> None:
    assert metric.bounds[0] < metric.bounds[1]
    assert metric.label
    assert metric.minimum_n >= 1
    # No network looks where pixels are compared (PSNR, SSIM) or the colours of a drawn mask are read.
    assert metric.networks or metric.needs_originals or issubclass(metric, DrawnMetric)
    if issubclass(metric, SampleMetric):
        failed = metric().failure("nothing found")
        worst = min(metric.bounds) if metric.higher_is_better else max(metric.bounds)
        assert failed == Score(worst, "nothing found")
        assert failed.status != OK


def test_a_failure_needs_a_finite_worst_value() -> None:
    class Endless(MaskAccuracy):
        name = "endless"
        higher_is_better = False
        bounds = (0.0, float("inf"))

    with pytest.raises(ValueError, match="no finite worst value"):
        Endless().failure("no face")


def test_unknown_metric_lists_the_known() -> None:
    with pytest.raises(
        ConcordError, match=r"unknown metric 'fidd': expected one of .*fid, .*kid, .*mask-accuracy, .*mask-miou"
    ):
        get_metric("fidd")


# --------------------------------------------------------------------------------------------------------------- names


def test_names_of_papers_and_former_names_are_understood() -> None:
    assert get_metric("clip-score").name == "text-similarity"
    with pytest.warns(FutureWarning, match="'drawn-pixel-accuracy' is called 'pixel-accuracy' now"):
        assert get_metric("drawn-pixel-accuracy").name == "pixel-accuracy"
    known = all_metrics()
    others = [name for metric in known.values() for name in (*metric.aliases, *metric.former_names)]
    assert len(set(others)) == len(others)
    assert not set(others) & known.keys(), "a name that another metric has"


def test_every_metric_knows_its_family_and_condition() -> None:
    families = {name: get_metric(name).family for name in all_metrics()}
    assert families["fid"] == "distribution"
    assert families["mask-accuracy"] == "segmentation"
    assert get_metric("segmentation-distance").condition == "mask"
    assert get_metric("psnr").condition == "psnr"
