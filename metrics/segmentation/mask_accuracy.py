"""Mask accuracy: the share of an image's pixels whose parsed class is the one that the mask asked for.

    100 * (pixels with parse = mask) / (H W)                                               0 .. 100, higher is better

What Collaborative Diffusion's Table 1 calls "Mask (%)": by its authors' word, pixel accuracy of a CelebAMask-HQ parser
against the true mask (Collaborative-Diffusion#29; no script was released, and #31 got another number). All 19 classes
count, the background with them: hair and background alone make most of it, so read it beside `mask-miou`. Compared at
the mask's own size.
"""

from __future__ import annotations

from concord.metrics.base import Observation, SampleMetric, Score, register
from concord.metrics.segmentation.masks import mask_pairs


@register
class MaskAccuracy(SampleMetric):
    """Pixel accuracy of the parsed image against the condition's mask, per image."""

    name = "mask-accuracy"
    label = "Mask (%)"
    unit = "%"
    higher_is_better = True
    bounds = (0.0, 100.0)
    needs = frozenset({"mask"})
    networks = ("parser",)
    paper_key = "mask_percent"

    def score(self, observation: Observation) -> list[Score]:
        self.require_conditions(observation)
        return [Score(100 * float((target == parsed).mean())) for target, parsed in mask_pairs(observation)]
