"""FD-DINOv2: the Frechet distance of DINOv2 features (Stein et al. 2023, "Exposing flaws of generative model
evaluation metrics").

DINOv2 was trained without labels, on more than ImageNet's objects; that paper found this distance to follow human
judgement of realism where FID does not. The features are the class token of ViT-L/14 (1024 numbers) of the image at
224 x 224 (metrics/networks/pretrained/dinov2.py). The distance is metrics/distribution/fid.py's; its scale is not
FID's.
"""

from __future__ import annotations

from concord.metrics.base import register
from concord.metrics.distribution.fid import FID


@register
class FDDINOv2(FID):
    """Frechet distance of DINOv2 class tokens; a squared distance in the features' unit, lower is better."""

    name = "fd-dinov2"
    label = "FD-DINOv2"
    features = "dinov2"
    networks = ("dinov2",)
    paper_key = None
