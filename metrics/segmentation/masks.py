"""What the mask metrics share: pairing a condition's mask with the image's parse, and confusion matrices.

A confusion matrix holds pixel counts, int64 (19, 19), row = class of the condition's mask, column = class of the parse,
both in the CelebAMask-HQ order; those of several images add up.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import ClassVar

import numpy as np

from concord.data.errors import ConcordError
from concord.data.labels import CELEBAMASK_HQ, CLASSES, check_classes
from concord.data.request import Conditions
from concord.metrics.base import Observation, SetMetric
from concord.metrics.distribution.moments import Floats
from concord.metrics.networks.protocols import Parser

CONFUSION = "confusion"


def parsed_labels(observation: Observation) -> np.ndarray:
    """Parsed classes, int64 (B, H, W), CelebAMask-HQ order."""
    import torch

    with torch.inference_mode():
        return observation.networks.get("judge/parser", Parser).labels(observation.on_device).cpu().numpy()


def confusions(observation: Observation) -> np.ndarray:
    """Confusion matrix of each condition's mask (rows) and its image's parse, float32 (B, 19 * 19) pixel counts."""
    return confusion_rows(mask_pairs(observation))


def confusion_rows(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Confusion matrices of pairs of class maps, float32 (B, 19 * 19) pixel counts."""
    matrices = [confusion_matrix(target, classes).ravel() for target, classes in pairs]
    return np.stack(matrices).astype(np.float32)  # exact: an image has fewer than 2^24 pixels


def mask_pairs(observation: Observation) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(condition's mask, parsed classes), int64 (H, W) each, image by image.

    Sizes must be equal: resizing labels moves their borders, and with them the score, so it is never done silently.
    """
    parsed_images = observation.memo(parsed_labels)
    for number, (conditions, parsed) in enumerate(zip(observation.conditions, parsed_images, strict=True)):
        target = target_mask(conditions, number)
        if target.shape != parsed.shape:
            raise ConcordError(
                f"condition 'mask' of image {number} of the batch is {size_of(target)} pixels, the parse of its image "
                f"{size_of(parsed)}: read the masks at the image size (data/datasets/faces/dataset.py, nearest)"
            )
        yield target, parsed


def target_mask(conditions: Conditions, number: int) -> np.ndarray:
    """The mask of image `number` of a batch, int64 (H, W); ConcordError where it has none."""
    if conditions.mask is None:
        raise ConcordError(f"image {number} of the batch has no condition 'mask' to score against")
    return conditions.mask


def size_of(classes: np.ndarray) -> str:
    """'64x64' of a class map (64, 64)."""
    return "x".join(map(str, classes.shape))


def confusion_matrix(target: np.ndarray, parsed: np.ndarray) -> np.ndarray:
    """Pixel counts int64 (19, 19) of two class maps of one shape."""
    if target.shape != parsed.shape:
        raise ValueError(f"class maps of shapes {target.shape} and {parsed.shape}: expected one shape")
    check_classes(target, "condition 'mask'")
    check_classes(parsed, "the parse")
    pairs = target.astype(np.int64) * CLASSES + parsed
    return np.bincount(pairs.ravel(), minlength=CLASSES**2).reshape(CLASSES, CLASSES)


def class_iou(confusion: np.ndarray) -> np.ndarray:
    """Intersection over union of each class, float64 (19,) in [0, 1]; NaN for a class that neither side has."""
    both = np.diagonal(confusion).astype(np.float64)
    either = confusion.sum(axis=0) + confusion.sum(axis=1) - both
    return np.divide(both, either, out=np.full(len(both), np.nan), where=either > 0)


def set_miou(confusion: np.ndarray) -> float:
    """Mean IoU (%) of a whole set, from its summed confusion matrix, over every class that either side has.

    The usual definition of segmentation papers (Long et al. 2015): one number a set, in which a class's pixels are
    pooled over all images. `mask-miou` is its per-image sibling, which can be paired; the two differ.
    """
    iou = class_iou(confusion)
    if np.isnan(iou).all():
        raise ValueError("the confusion matrix is empty: no pixels were compared")
    return float(100 * np.nanmean(iou))


def class_accuracy(confusion: np.ndarray) -> np.ndarray:
    """Share of each class's target pixels that the parse gives to it, float64 (19,); NaN for a class without any."""
    pixels = confusion.sum(axis=1).astype(np.float64)
    right = np.diagonal(confusion).astype(np.float64)
    return np.divide(right, pixels, out=np.full(len(right), np.nan), where=pixels > 0)


def by_class(values: np.ndarray) -> dict[str, float]:
    """Values (19,), such as each class's IoU, under the classes' names; classes without a value are left out."""
    return {name: float(value) for name, value in zip(CELEBAMASK_HQ, values, strict=True) if not np.isnan(value)}


class ConfusionMetric(SetMetric):
    """A set metric of the summed confusion matrix of all images; the 'features' of an image are its own matrix."""

    unit = ""
    higher_is_better = True
    bounds = (0.0, 1.0)
    minimum_n = 2  # the jackknife leaves one out
    needs = frozenset({"mask"})
    networks: ClassVar[tuple[str, ...]] = ("parser",)
    features = CONFUSION
    counted = True
    needs_reference = False

    def observe(self, observation: Observation) -> np.ndarray:
        """Confusion matrix of each image, float32 (B, 361)."""
        return observation.memo(confusions)

    @abstractmethod
    def of(self, confusion: np.ndarray) -> float:
        """The value of a summed confusion matrix, float64 (19, 19), row = target class."""

    def compute(self, generated: np.ndarray, reference: np.ndarray) -> float:
        return self.of(_summed(generated))

    def replicates(self, generated: np.ndarray, reference: np.ndarray, items: np.ndarray) -> Floats:
        """Delete-one by item, exact: what is left of the sums is all that is needed."""
        return self.leave_group_out(generated, generated[:0], items) if items.max(initial=0) else np.zeros(0)

    def leave_group_out(self, generated: np.ndarray, reference: np.ndarray, groups: np.ndarray) -> np.ndarray:
        count = int(groups.max()) + 1
        if groups.shape != (len(generated),) or count < 2:
            raise ValueError(
                f"groups {groups.shape}, {count} of them: expected two or more over {len(generated)} images"
            )
        whole = _summed(generated)
        return np.array([self.of(whole - _summed(generated[groups == g])) for g in range(count)])


def _summed(confusions: np.ndarray) -> np.ndarray:
    """Rows (N, 361) of pixel counts -> float64 (19, 19); sums stay whole numbers far beyond any set's size."""
    if confusions.ndim != 2 or confusions.shape[1] != CLASSES**2:
        raise ValueError(f"confusion matrices of shape {confusions.shape}: expected (N, {CLASSES**2})")
    return confusions.sum(axis=0, dtype=np.float64).reshape(CLASSES, CLASSES)
