"""Landmark NME: how far the face's 68 points lie from the wanted ones, in units of the eyes' distance.

    100 * mean over 68 points of ||found - wanted||_2 / ||outer eye corners of wanted||_2   0 .. 100 %, lower is better

Normalised mean error over the inter-ocular distance (outer corners, as on 300-W), against the condition's landmarks;
through FAN (Bulat & Tzimiropoulos 2017) in the paper profile. Errors beyond 100 % count as 100 %, which is also what an
image without a face counts, apart.

Noise floor. FAN answers a cell of a 64 x 64 heatmap, a quarter of a cell towards the higher neighbour, in whole pixels:
even a network that is always right is not at 0. `noise_floor` measures what that costs on given landmarks; over 200
SynthFaces (indices 0..199), their landmarks scaled up, it is 1.58 % at 64 pixels, 0.84 % at 256 and 0.79 % at 512; with
heatmaps that carry no more than 40 x 40 cells, as FAN's author estimates, 1.83, 1.29 and 1.26 %. Two methods closer to
0 than that cannot be told apart.
"""

from __future__ import annotations

import numpy as np

from concord.metrics.base import Observation, SampleMetric, Score, register
from concord.metrics.face.landmarks import OUTER_EYE_CORNERS, predicted_landmarks, target_landmarks

CELLS = 64  # of FAN's heatmap, each way
BOX_SCALE, CROP_SCALE, UPWARDS = 195.0, 200.0, 0.12  # face-alignment's crop around a face box


@register
class LandmarkNME(SampleMetric):
    """Mean distance of 68 points over the inter-ocular distance, in %."""

    name = "landmark-nme"
    label = "Landmark NME (%)"
    unit = "%"
    higher_is_better = False
    bounds = (0.0, 100.0)
    needs = frozenset({"landmarks"})
    networks = ("landmarks",)

    def score(self, observation: Observation) -> list[Score]:
        self.require_conditions(observation)
        points, statuses = observation.memo(predicted_landmarks)
        values = 100 * nme(points.cpu().double().numpy(), target_landmarks(observation))
        return self.scores(values.tolist(), "landmarks not finite", statuses)


def nme(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Normalised mean error (B,), as a share: landmarks (B, 68, 2), twice, of one unit."""
    first, second = OUTER_EYE_CORNERS
    eyes = np.linalg.norm(target[:, first] - target[:, second], axis=-1)
    return np.asarray(np.linalg.norm(points - target, axis=-1).mean(axis=-1) / eyes)


def noise_floor(landmarks: np.ndarray, cells: int = CELLS) -> np.ndarray:
    """NME (B,), as a share, of answers as FAN would give them at best; landmarks (B, 68, 2) in pixels."""
    return nme(np.stack([quantised(points, cells) for points in np.asarray(landmarks, np.float64)]), landmarks)


def quantised(points: np.ndarray, cells: int = CELLS) -> np.ndarray:
    """Landmarks (68, 2) in pixels as FAN would answer them at best, cells and whole pixels; pixel centres at .5.

    The crop is the one that face-alignment makes around the points' tight box.
    """
    centre, side = crop_of(points)
    cell = side / cells
    place = (points - centre) / cell + cells / 2  # (68, 2) in cells, of which cell k reaches from k to k + 1
    highest = np.clip(np.floor(place), 0, cells - 1)
    towards = np.where((highest > 0) & (highest < cells - 1), 0.25 * np.sign(place - highest - 0.5), 0.0)
    inner = ((highest > 0) & (highest < cells - 1)).all(axis=1, keepdims=True)  # at an edge neither axis is moved
    answer = highest + 0.5 + np.where(inner, towards, 0.0)
    return np.asarray(np.trunc((answer - cells / 2) * cell + centre) + 0.5)


def crop_of(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre (2,) and side, in pixels, of face-alignment's crop around the tight box of points (68, 2)."""
    low, high = points.min(axis=0), points.max(axis=0)
    width, height = high - low
    centre = (low + high) / 2 - np.array([0.0, UPWARDS * height])
    return centre, float((width + height) / BOX_SCALE * CROP_SCALE)
