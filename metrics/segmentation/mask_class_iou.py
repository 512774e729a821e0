"""Class IoU: the mean over classes of each class's intersection over union, its pixels pooled over the whole set.

    mean over c of  |mask = c and parse = c| / |mask = c or parse = c|                      0 .. 1, higher is better

The number that papers on segmentation and translation print (Long et al. 2015; pix2pix; MT-Diffusion's Table 4 as
"Class IOU"), as a share of 1 as there. A class that neither masks nor parses hold has no IoU and is left out of the
mean. It is one number a set; `mask-miou` is its sibling with one an image.
`concord.metrics.segmentation.masks.by_class` names each class's
own.
"""

from __future__ import annotations

import numpy as np

from concord.metrics.base import register
from concord.metrics.segmentation.masks import ConfusionMetric, class_iou


@register
class MaskClassIoU(ConfusionMetric):
    """Mean of the classes' IoU, from the summed confusion matrix."""

    name = "mask-class-iou"
    label = "Class IoU"
    paper_key = "class_iou"

    def of(self, confusion: np.ndarray) -> float:
        return float(np.nanmean(class_iou(confusion)))
