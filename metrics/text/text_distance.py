"""Text distance: one minus the cosine between an image's and its caption's embedding.

    1 - cos(image encoder(image), text encoder(caption))                                    0 .. 2, lower is better

Most likely what Z-Magic's tables call "Text Distance": its values (0.75 with Collaborative Diffusion) are those of a
cosine near 0.24, which is what Collaborative Diffusion prints as 24 %; neither names its CLIP. So it is
`text-similarity` / 100 turned round, and not the unnormalised distance that FreeDoM is guided by
(`text-feature-distance`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from concord.metrics.base import Observation, SampleMetric, Score, register
from concord.metrics.text.embeddings import image_embeddings, text_embeddings

if TYPE_CHECKING:
    from torch import Tensor


@register
class TextDistance(SampleMetric):
    """1 - cosine of image and caption embedding."""

    name = "text-distance"
    label = "Text distance (1 − cosine)"
    unit = ""
    higher_is_better = False
    bounds = (0.0, 2.0)
    needs = frozenset({"text"})
    networks = ("text-image",)
    paper_key = "text_distance"

    def score(self, observation: Observation) -> list[Score]:
        self.require_conditions(observation)
        image, text = observation.memo(image_embeddings), observation.memo(text_embeddings)
        distance = cosine_distance(image.double(), text.double())
        return self.scores(distance.tolist(), "embedding not finite")


def cosine_distance(first: Tensor, second: Tensor) -> Tensor:
    """1 - cosine of each pair of rows: (B, E), (B, E) -> (B,) in [0, 2]; differentiable."""
    import torch

    # Rounding alone leaves the range, and there the gradient is left as it is: clamping would make it 0.
    distance = 1 - torch.nn.functional.cosine_similarity(first, second, dim=1)
    return distance + (distance.clamp(0, 2) - distance).detach()
