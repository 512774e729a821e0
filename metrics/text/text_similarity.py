"""Text similarity: the cosine between an image's and its caption's embedding, times 100.

    100 * cos(image encoder(image), text encoder(caption))                          -100 .. 100, higher is better

What Collaborative Diffusion's Table 1 calls "Text (%)" (there with CLIP; in profile 'embedded' with the image-text pair
trained on SynthFaces, whose cosines do not compare with CLIP's). Per image, not of the mean, and neither clamped at 0
(torchmetrics clamps the mean) nor rescaled by 2.5 (Hessel et al. 2021, CLIPScore).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from concord.metrics.base import Observation, SampleMetric, Score, register
from concord.metrics.text.embeddings import image_embeddings, text_embeddings


@register
class TextSimilarity(SampleMetric):
    """Cosine of image and caption embedding x 100."""

    name = "text-similarity"
    aliases = ("clip-score",)
    label = "Text (cosine × 100)"
    profile_labels: ClassVar[Mapping[str, str]] = {"paper": "CLIP score (cosine × 100)"}
    unit = ""
    higher_is_better = True
    bounds = (-100.0, 100.0)
    needs = frozenset({"text"})
    networks = ("text-image",)
    paper_key = "text_percent"

    def score(self, observation: Observation) -> list[Score]:
        import torch

        self.require_conditions(observation)
        image, text = observation.memo(image_embeddings), observation.memo(text_embeddings)  # (B, E) each
        cosine = torch.nn.functional.cosine_similarity(image.double(), text.double(), dim=1)
        return self.scores((100 * cosine.clamp(-1, 1)).tolist(), "embedding not finite")  # clamp: rounding only
