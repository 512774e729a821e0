"""Segmentation scores of a picture that *is* a mask, in the colours of data/labels.py: what a labelling method makes.

Each pixel's class is that of the palette's nearest colour. The three numbers of MT-Diffusion's Table 4 (pix2pix's, Long
et al. 2015), as there; pixels are pooled over the set and no parser looks at anything.

    pixel accuracy   share of pixels with the right class, in percent as `mask-accuracy`
    class accuracy   mean over the masks' classes of the share of a class's pixels that got it
    class IoU        mean over classes of intersection over union
"""

from __future__ import annotations

import numpy as np

from concord.metrics.base import DRAWN_CONFUSION, register
from concord.metrics.segmentation.masks import ConfusionMetric, class_accuracy, class_iou


class DrawnMetric(ConfusionMetric):
    """Of the confusion matrix of the masks and the drawn classes."""

    networks = ()
    features = DRAWN_CONFUSION


@register
class DrawnPixelAccuracy(DrawnMetric):
    """Share of all pixels with the right class."""

    name = "drawn-pixel-accuracy"
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
