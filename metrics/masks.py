"""What the mask metrics share: pairing a condition's mask with the image's parse, and confusion matrices.

A confusion matrix holds pixel counts, int64 (19, 19), row = class of the condition's mask, column = class of the parse,
both in the CelebAMask-HQ order; those of several images add up.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from data.errors import ConcordError
from data.labels import CLASSES, check_classes
from metrics.base import Observation


def mask_pairs(observation: Observation) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(condition's mask, parsed classes), int64 (H, W) each, image by image.

    Sizes must be equal: resizing labels moves their borders, and with them the score, so it is never done silently.
    """
    for number, (conditions, parsed) in enumerate(zip(observation.conditions, observation.labels, strict=True)):
        wanted = conditions.mask
        if wanted is None:
            raise ConcordError(f"image {number} of the batch has no condition 'mask' to score against")
        if wanted.shape != parsed.shape:
            raise ConcordError(
                f"condition 'mask' of image {number} of the batch is {_size(wanted)} pixels, the parse of its image "
                f"{_size(parsed)}: read the masks at the image size (data/faces.py, nearest)"
            )
        yield wanted, parsed


def _size(classes: np.ndarray) -> str:
    return "x".join(map(str, classes.shape))


def confusion_matrix(wanted: np.ndarray, parsed: np.ndarray) -> np.ndarray:
    """Pixel counts int64 (19, 19) of two class maps of one shape."""
    if wanted.shape != parsed.shape:
        raise ValueError(f"class maps of shapes {wanted.shape} and {parsed.shape}: expected one shape")
    check_classes(wanted, "condition 'mask'")
    check_classes(parsed, "the parse")
    pairs = wanted.astype(np.int64) * CLASSES + parsed
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
