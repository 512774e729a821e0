"""Text feature distance: FreeDoM's Euclidean distance of the *unnormalised* CLIP features of image and caption.

    || text encoder(caption) - image encoder(image) ||_2                                    0 .. , lower is better

The energy that FreeDoM (Yu et al., ICCV 2023) and Z-Magic are guided by in their code, over ViT-B/16. CLIP was trained
on cosines: the length of a feature says nothing about the agreement, but counts here. For a score that means agreement
see `text-distance`. In the paper profile these are the guiding networks, not independent judges.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from concord.metrics.base import Observation, SampleMetric, Score, register
from concord.metrics.networks.protocols import TextImageFeatures

if TYPE_CHECKING:
    from torch import Tensor


@register
class TextFeatureDistance(SampleMetric):
    """L2 of unnormalised image and text features."""

    name = "text-feature-distance"
    label = "Text (feature L2)"
    unit = ""
    higher_is_better = False
    bounds = (0.0, 1000.0)  # no upper end of its own; CLIP's features have lengths near 10, and beyond 1000 all is lost
    needs = frozenset({"text"})
    networks = ("text-image",)
    through_guide = True

    def score(self, observation: Observation) -> list[Score]:
        self.require_conditions(observation)
        import torch

        network = observation.networks.get("freedom/text-image", TextImageFeatures)
        with torch.inference_mode():
            image = network.image_features(observation.on_device)
            text = network.text_features([conditions.text or "" for conditions in observation.conditions])
        return self.scores(feature_distance(image.double(), text.double()).tolist(), "features not finite")


def feature_distance(first: Tensor, second: Tensor) -> Tensor:
    """Euclidean distance of each pair of rows: (B, E), (B, E) -> (B,); each sample by itself, differentiable."""
    import torch

    return torch.linalg.vector_norm(first - second, dim=1)
