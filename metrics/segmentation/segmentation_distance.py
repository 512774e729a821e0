"""Segmentation distance: the Euclidean distance of FreeDoM between the parse logits of an image and of its original.

    || logits(original) - logits(image) ||_2   over 19 classes and all pixels              0 .. , lower is better

The energy that FreeDoM (Yu et al., ICCV 2023) and Z-Magic are guided by, over BiSeNet at 512 x 512 before any softmax;
values of 1,500 to 2,300 are what Z-Magic's tables call "Seg. Distance" (its metric code is not public, but the scale
agrees, and its "MSE" would not). Logits grow with confidence: a parse that is right but less sure is far away. Read it
beside `mask-accuracy`, which compares classes with the true mask. The sum runs over pixels, so that values of two
parse sizes do not compare. In the paper profile BiSeNet is the guiding network, not an independent judge. FreeDoM
brings the original to 512 by Pillow's bilinear filter and the image by a bicubic one, and so does BiSeNet here: at
another size than its own an original has a distance from itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from concord.metrics.base import Observation, SampleMetric, Score, register
from concord.metrics.networks.protocols import ParserLogits, ReferenceLogits

if TYPE_CHECKING:
    from torch import Tensor


@register
class SegmentationDistance(SampleMetric):
    """L2 of parse logits, image against original."""

    name = "segmentation-distance"
    label = "Seg. distance (logit L2)"
    unit = ""
    higher_is_better = False
    bounds = (0.0, 100_000.0)  # no upper end of its own; logits of opposite parses at +-20 are near 45,000 apart at 512
    needs_originals = True
    networks = ("parser",)
    through_guide = True
    measures = "mask"
    paper_key = "seg_distance"

    def score(self, observation: Observation) -> list[Score]:
        import torch

        self.require_conditions(observation)
        assert observation.originals is not None
        parser, device = observation.networks.get("freedom/parser", ParserLogits), observation.networks.device
        parse_reference = parser.parse_reference if isinstance(parser, ReferenceLogits) else parser.parse
        with torch.inference_mode():
            logits, targets = parser.parse(observation.on_device), parse_reference(observation.originals.to(device))
        return self.scores(segmentation_distance(logits, targets).tolist(), "logits not finite")


def segmentation_distance(logits: Tensor, target: Tensor) -> Tensor:
    """L2 over classes and pixels: (B, 19, H, W), twice -> (B,); each sample by itself, differentiable."""
    import torch

    return torch.linalg.vector_norm((logits - target).flatten(1), dim=1)
