"""sFID: the Frechet distance of spatial features, which see where things are (Nash et al. 2021).

Pool features are averages over places; these are not. In profile 'paper' they are the first 7 channels of Inception's
Mixed_6d at 17 x 17 places, 2023 numbers flattened as (row, column, channel), which is what ADM's evaluator stores; in
profile 'embedded', 7 channels of the feature network's last map at 4 x 4 places, 112 numbers. The distance is
metrics/distribution/fid.py's. `sfid` reads the profile's default resize, `sfid-tf` ADM's own, for comparison with its
numbers.
"""

from __future__ import annotations

from concord.metrics.base import register
from concord.metrics.distribution.fid import FID


@register
class SFID(FID):
    """Frechet distance of spatial features; a squared distance in the features' unit, lower is better."""

    name = "sfid"
    label = "sFID"
    features = "spatial"
    paper_key = None


@register
class SFIDTensorFlow(SFID):
    """sFID by the protocol of TensorFlow 1 and ADM's evaluator."""

    name = "sfid-tf"
    label = "sFID (TF)"
    features = "spatial-tf"
