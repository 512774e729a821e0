"""What the landmark metrics share: 68 points in iBUG order, their checks, the eyes' distance, the square around."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from concord.data.errors import ConcordError
from concord.metrics.base import Observation

POINTS = 68
OUTER_EYE_CORNERS = (36, 45)  # iBUG order: what 300-W calls the inter-ocular distance
MARGIN = 1.2  # FreeDoM's square, in units of the face box's shorter side


class Square(NamedTuple):
    """Part of a picture, in whole pixels: columns left .. left + side - 1, rows top .. top + side - 1."""

    left: int
    top: int
    side: int


def wanted_landmarks(observation: Observation) -> np.ndarray:
    """The conditions' landmarks, float64 (B, 68, 2), pixels; ConcordError naming the image whose are unusable."""
    wanted = []
    for number, conditions in enumerate(observation.conditions):
        points = conditions.landmarks
        what = f"condition 'landmarks' of image {number} of the batch"
        if points is None:
            raise ConcordError(f"image {number} of the batch has no condition 'landmarks' to score against")
        if np.shape(points) != (POINTS, 2):
            raise ConcordError(f"{what} has shape {np.shape(points)}: expected (68, 2), x and y in pixels, iBUG order")
        if not np.isfinite(points).all():
            raise ConcordError(f"{what} holds NaN or infinity: expected x and y in pixels; leave the item out")
        if inter_ocular(points) < 1:
            raise ConcordError(f"{what} has outer eye corners less than a pixel apart: expected a face in iBUG order")
        wanted.append(np.asarray(points, np.float64))
    return np.stack(wanted)


def inter_ocular(points: np.ndarray) -> float:
    """Distance of the outer eye corners of landmarks (68, 2), in their unit."""
    first, second = OUTER_EYE_CORNERS
    return float(np.linalg.norm(np.asarray(points[first], np.float64) - np.asarray(points[second], np.float64)))


def square_of(box: tuple[float, float, float, float]) -> Square:
    """FreeDoM's square from a face box (x1, y1, x2, y2), pixels: 1.2 times its shorter side, around its centre."""
    x1, y1, x2, y2 = box
    width, height = x2 - x1 + 1, y2 - y1 + 1
    side = int(min(width, height) * MARGIN)
    return Square(int(x1 + width // 2 - side // 2), int(y1 + height // 2 - side // 2), side)


def face_square(points: np.ndarray) -> Square:
    """The square of a face's landmarks (68, 2), their tight box standing in for a detector's."""
    low, high = np.asarray(points).min(axis=0), np.asarray(points).max(axis=0)
    return square_of((float(low[0]), float(low[1]), float(high[0]), float(high[1])))
