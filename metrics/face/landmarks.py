"""What the landmark metrics share: 68 points in iBUG order, their checks, the eyes' distance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from concord.data.errors import ConcordError
from concord.metrics.base import Observation
from concord.metrics.networks.protocols import Landmarks

if TYPE_CHECKING:
    from torch import Tensor

POINTS = 68
OUTER_EYE_CORNERS = (36, 45)  # iBUG order: what 300-W calls the inter-ocular distance


def predicted_landmarks(observation: Observation) -> tuple[Tensor, list[str]]:
    """Landmarks of the images, float32 (B, 68, 2), x and y in pixels, and for each 'ok' or why it has none."""
    return find_landmarks(observation, observation.images)


def find_landmarks(observation: Observation, images: Tensor) -> tuple[Tensor, list[str]]:
    """The same of other images, by the same network."""
    import torch

    network = observation.networks.get("judge/landmarks", Landmarks)
    with torch.inference_mode():
        return network.landmarks(images.to(observation.networks.device))


def target_landmarks(observation: Observation) -> np.ndarray:
    """The conditions' landmarks, float64 (B, 68, 2), pixels; ConcordError naming the image whose are unusable."""
    targets = []
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
        targets.append(np.asarray(points, np.float64))
    return np.stack(targets)


def inter_ocular(points: np.ndarray) -> float:
    """Distance of the outer eye corners of landmarks (68, 2), in their unit."""
    first, second = OUTER_EYE_CORNERS
    return float(np.linalg.norm(np.asarray(points[first], np.float64) - np.asarray(points[second], np.float64)))
