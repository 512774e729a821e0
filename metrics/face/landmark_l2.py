"""Landmark L2: the Euclidean distance between the 136 numbers of an image's and its original's landmarks.

    || v(image) - v(original) ||_2,  v = x and y of 68 points as shares of one square       0 .. , lower is better

The energy that FreeDoM (Yu et al., ICCV 2023) and Z-Magic are guided by, over MobileFaceNet, and most likely what
Z-Magic's tables call "Landmark Distance": the paper names no network, and MobileFaceNet guides in its code. Both images
are looked at through the *same* square, around the wanted face, so that a face elsewhere is far away and the original
itself at 0. The square is 1.2 times the shorter side of the wanted landmarks'
tight box; FreeDoM's is that of a detector's box (RetinaFace's), which reaches higher. In the paper profile
MobileFaceNet is the guiding network, not an independent judge: `landmark-nme` is. In the embedded profile its landmark
network stands in, which sees the whole image, its points brought to the square.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from concord.data.errors import ConcordError
from concord.metrics.base import Observation, SampleMetric, Score, merge_statuses, register
from concord.metrics.face.landmarks import find_landmarks, predicted_landmarks, target_landmarks
from concord.metrics.face.square import Square, face_square, landmark_vector
from concord.metrics.networks.protocols import LandmarkVectors
from concord.metrics.text.text_feature_distance import feature_distance

if TYPE_CHECKING:
    from torch import Tensor


@register
class LandmarkL2(SampleMetric):
    """L2 of landmark vectors in the square of the target face, image against original."""

    name = "landmark-l2"
    label = "Landmark distance (L2)"
    unit = ""
    higher_is_better = False
    bounds = (0.0, 12.0)  # no upper end of its own; sqrt(136) = 11.7 is every number wrong by a whole square
    needs = frozenset({"landmarks"})
    needs_originals = True
    networks = ("landmarks",)
    through_guide = True
    paper_key = "landmark_distance"

    def score(self, observation: Observation) -> list[Score]:
        self.require_conditions(observation)
        assert observation.originals is not None
        squares = [face_square(points) for points in target_landmarks(observation)]
        for number, square in enumerate(squares):
            check_square(square, observation.images.shape[3], observation.images.shape[2], number)
        vectors, statuses = _vectors(observation, observation.images, squares)
        targets, target_statuses = _vectors(observation, observation.originals, squares)
        distance = landmark_l2(vectors.cpu().double(), targets.cpu().double()).tolist()
        return self.scores(distance, "landmarks not finite", merge_statuses(statuses, target_statuses, "original"))


def landmark_l2(first: Tensor, second: Tensor) -> Tensor:
    """(B, 136), (B, 136) shares of a square -> (B,); each sample by itself, differentiable."""
    return feature_distance(first, second)


def check_square(square: Square, width: int, height: int, number: int) -> None:
    """Raise ConcordError where the target face does not lie in the image."""
    inside = min(width, square.left + square.side) > max(0, square.left) and min(
        height, square.top + square.side
    ) > max(0, square.top)
    if square.side < 2 or not inside:
        raise ConcordError(
            f"condition 'landmarks' of image {number} of the batch spans the square {tuple(square)} (left, top, side), "
            f"outside of an image of {width}x{height}: expected pixels of the generated size"
        )


def _vectors(observation: Observation, images: Tensor, squares: list[Square]) -> tuple[Tensor, list[str]]:
    import torch

    networks = observation.networks
    if networks.resolve("freedom/landmarks") == networks.resolve("judge/landmarks"):  # a network of whole images
        own = images is observation.images
        points, statuses = observation.memo(predicted_landmarks) if own else find_landmarks(observation, images)
        return landmark_vector(points, squares), [*statuses]
    with torch.inference_mode():
        return networks.get("freedom/landmarks", LandmarkVectors).landmark_vectors(images.to(networks.device), squares)
