"""Text similarity: the cosine between an image's and its caption's embedding, times 100.

    100 * cos(image encoder(image), text encoder(caption))                          -100 .. 100, higher is better

What Collaborative Diffusion's Table 1 calls "Text (%)" (there with CLIP; in profile 'embedded' with the image-text pair
trained on SynthFaces, whose cosines do not compare with CLIP's). Per image, not of the mean, and neither clamped at 0
(torchmetrics clamps the mean) nor rescaled by 2.5 (Hessel et al. 2021, CLIPScore).
"""

from __future__ import annotations

from concord.metrics.base import Observation, SampleMetric, Score, register


@register
class TextSimilarity(SampleMetric):
    """Cosine of image and caption embedding x 100."""

    name = "text-similarity"
    label = "Text (cosine × 100)"
    unit = ""
    higher_is_better = True
    bounds = (-100.0, 100.0)
    needs = frozenset({"text"})
    networks = ("text-image",)
    paper_key = "text_percent"

    def score(self, observation: Observation) -> list[Score]:
        import torch

        self.require_conditions(observation)
        image, text = observation.image_embedding.double(), observation.text_embedding.double()  # (B, E) each
        cosine = torch.nn.functional.cosine_similarity(image, text, dim=1).clamp(-1, 1)  # clamp: rounding only
        found = torch.isfinite(cosine).tolist()
        return [
            Score(100 * value) if ok else self.failure("embedding not finite")
            for value, ok in zip(cosine.tolist(), found, strict=True)
        ]
