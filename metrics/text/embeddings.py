"""What the text metrics share: embeddings of the images and of their captions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from concord.metrics.base import Observation

if TYPE_CHECKING:
    from torch import Tensor


def image_embeddings(observation: Observation) -> Tensor:
    """Unit vectors (B, E) of the image encoder."""
    return observation.perception.embed_images(observation.images)


def text_embeddings(observation: Observation) -> Tensor:
    """Unit vectors (B, E) of each condition's caption."""
    return observation.perception.embed_texts([conditions.text or "" for conditions in observation.conditions])
