"""Mask mIoU: how well each part that the mask asked for is met, every part weighing the same, image by image.

    100 * mean over classes c in the mask of  |mask = c and parse = c| / |mask = c or parse = c|
                                                                                           0 .. 100, higher is better

The mean runs over the classes that the condition's mask holds, the background among them. A part that was asked
for and is not there counts 0. A part that appears without having been asked for takes its pixels from the others and so
lowers their IoU, but is no term of its own: with one, a single stray pixel of an earring would cost as much as a
missing nose. Two other definitions are in use: torchmetrics' per-image MeanIoU also averages over classes that only the
parse has, and papers on segmentation take one mIoU of the whole set (`concord.metrics.segmentation.masks.set_miou`),
which has no value
per image to pair.
"""

from __future__ import annotations

import numpy as np

from concord.metrics.base import Observation, SampleMetric, Score, register
from concord.metrics.segmentation.masks import class_iou, confusion_matrix, mask_pairs


@register
class MaskMIoU(SampleMetric):
    """Mean IoU over the classes of the condition's mask, per image."""

    name = "mask-miou"
    label = "Mask mIoU (%)"
    unit = "%"
    higher_is_better = True
    bounds = (0.0, 100.0)
    needs = frozenset({"mask"})
    networks = ("parser",)

    def score(self, observation: Observation) -> list[Score]:
        self.require_conditions(observation)
        return [Score(image_miou(target, parsed)) for target, parsed in mask_pairs(observation)]


def image_miou(target: np.ndarray, parsed: np.ndarray) -> float:
    """Of one image, in %: int64 (H, W) target and parsed classes."""
    confusion = confusion_matrix(target, parsed)
    return float(100 * class_iou(confusion)[confusion.sum(axis=1) > 0].mean())
