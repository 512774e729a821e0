"""What the text metrics share: embeddings of the images and of their captions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from concord.metrics.base import Observation
from concord.metrics.networks.protocols import TextImage

if TYPE_CHECKING:
    from torch import Tensor


def image_embeddings(observation: Observation) -> Tensor:
    """Unit vectors (B, E) of the image encoder."""
    import torch

    with torch.inference_mode():
        return observation.networks.get("judge/text-image", TextImage).embed_images(observation.on_device)


def text_embeddings(observation: Observation) -> Tensor:
    """Unit vectors (B, E) of each condition's caption."""
    import torch

    captions = [conditions.text or "" for conditions in observation.conditions]
    with torch.inference_mode():
        return observation.networks.get("judge/text-image", TextImage).embed_texts(captions)
