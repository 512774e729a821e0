"""Segmentation scores of an image that *is* a mask, in the colours of data/labels.py: what a labelling method makes.

Each pixel's class is that of the palette's nearest colour. The three numbers of MT-Diffusion's Table 4 (pix2pix's, Long
et al. 2015), as there; pixels are pooled over the set and no parser looks at anything.

    pixel accuracy   share of pixels with the right class, in percent as `mask-accuracy`
    class accuracy   mean over the masks' classes of the share of a class's pixels that got it
    class IoU        mean over classes of intersection over union
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from concord.data.errors import ConcordError
from concord.data.labels import PALETTE
from concord.metrics.base import Observation, register
from concord.metrics.segmentation.masks import (
    ConfusionMetric,
    class_accuracy,
    class_iou,
    confusion_rows,
    size_of,
    target_mask,
)


def drawn_pairs(observation: Observation) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(condition's mask, classes whose colours the image is drawn in), int64 (H, W) each, image by image.

    A pixel's class is that of the nearest colour of data/labels.py, in RGB: what was drawn in them comes back exactly.
    """
    colours = PALETTE.astype(np.float64)
    for number, (conditions, image) in enumerate(zip(observation.conditions, observation.images, strict=True)):
        target = target_mask(conditions, number)
        if target.shape != tuple(image.shape[1:]):
            raise ConcordError(
                f"condition 'mask' of image {number} of the batch is {size_of(target)} pixels, its image of classes "
                f"{image.shape[2]}x{image.shape[1]}: give both at one size"
            )
        pixels = image.permute(1, 2, 0).double().cpu().numpy() * 255
        yield target, np.square(pixels[:, :, None] - colours).sum(-1).argmin(-1)


def drawn_confusions(observation: Observation) -> np.ndarray:
    """Confusion matrix of each condition's mask (rows) and the classes of its image's colours, float32 (B, 361)."""
    return confusion_rows(drawn_pairs(observation))


class DrawnMetric(ConfusionMetric):
    """Of the confusion matrix of the masks and the drawn classes."""

    networks = ()
    features = "drawn-confusion"

    def observe(self, observation: Observation) -> np.ndarray:
        """Confusion matrix of each image, float32 (B, 361)."""
        return observation.memo(drawn_confusions)


@register
class DrawnPixelAccuracy(DrawnMetric):
    """Share of all pixels with the right class."""

    name = "pixel-accuracy"
    former_names = ("drawn-pixel-accuracy",)
    label = "Pixel accuracy, drawn (%)"
    unit = "%"
    bounds = (0.0, 100.0)

    def of(self, confusion: np.ndarray) -> float:
        return float(100 * np.trace(confusion) / confusion.sum())


@register
class DrawnClassAccuracy(DrawnMetric):
    """Mean of the classes' recall."""

    name = "drawn-class-accuracy"
    label = "Class accuracy (drawn)"

    def of(self, confusion: np.ndarray) -> float:
        return float(np.nanmean(class_accuracy(confusion)))


@register
class DrawnClassIoU(DrawnMetric):
    """Mean of the classes' IoU."""

    name = "drawn-class-iou"
    label = "Class IoU (drawn)"

    def of(self, confusion: np.ndarray) -> float:
        return float(np.nanmean(class_iou(confusion)))
