"""Boxes as arrays: how much two of them overlap."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def box_iou(box: np.ndarray, boxes: np.ndarray) -> Floats:
    """Intersection over union of one box (4,) with each of (N, 4): float64 (N,), in [0, 1].

    Boxes are x1, y1, x2, y2 in any one unit, continuous: x2 - x1 is the width, with no "+ 1" for a last pixel.
    """
    one, many = np.asarray(box, dtype=np.float64), np.asarray(boxes, dtype=np.float64)
    if one.shape != (4,) or many.ndim != 2 or many.shape[1] != 4:
        raise ValueError(f"boxes of shapes {one.shape} and {many.shape}: expected (4,) and (N, 4)")
    overlap = np.minimum(one[2:], many[:, 2:]) - np.maximum(one[:2], many[:, :2])
    shared = np.maximum(overlap, 0).prod(axis=1)
    either = (many[:, 2:] - many[:, :2]).prod(axis=1) + (one[2:] - one[:2]).prod() - shared
    return np.asarray(np.divide(shared, either, out=np.zeros(len(many)), where=either > 0))
