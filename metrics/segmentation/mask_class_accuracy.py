"""Class accuracy: the mean over classes of the share of its pixels that the parse gives to the class.

    mean over c of  |mask = c and parse = c| / |mask = c|,  pixels pooled over the set      0 .. 1, higher is better

"Per-class acc." of pix2pix and of MT-Diffusion's Table 4, as a share of 1 as there. Every class that the masks hold
weighs the same, so that a missing earring costs as much as missing hair. Pixels given to a class that no mask asked for
cost only the class that lost them; `mask-class-iou` counts them twice.
"""

from __future__ import annotations

import numpy as np

from concord.metrics.base import register
from concord.metrics.segmentation.masks import ConfusionMetric, class_accuracy


@register
class MaskClassAccuracy(ConfusionMetric):
    """Mean of the classes' recall, from the summed confusion matrix."""

    name = "mask-class-accuracy"
    label = "Class accuracy"
    paper_key = "class_accuracy"

    def of(self, confusion: np.ndarray) -> float:
        return float(np.nanmean(class_accuracy(confusion)))
