"""Perceptual distance: LPIPS's form over the embedded feature network, without learnt weights.

    mean over layers and pixels of  || f/|f| - g/|g| ||^2                                     0 .. 4, lower is better

f and g are the activations of the image and of its original in the network that FID and KID look through, each
pixel's channels scaled to length 1. It is not LPIPS: other network, other layers, no weights fitted to human judgement.
So it has a name of its own, and no number of one stands beside a number of the other.
"""

from __future__ import annotations

from concord.metrics.base import Observation, SampleMetric, Score, register
from concord.metrics.image.pairs import network_of, paired
from concord.metrics.networks.protocols import PerceptualFeatures


@register
class PerceptualDistance(SampleMetric):
    """Distance of unit activations to the original's."""

    name = "perceptual-distance"
    label = "Perceptual distance"
    unit = ""
    higher_is_better = False
    bounds = (0.0, 4.0)
    needs_originals = True
    networks = ("features",)

    def score(self, observation: Observation) -> list[Score]:
        import torch

        self.require_conditions(observation)
        images, originals = paired(observation, self.name)
        network = network_of(observation, "judge/features", PerceptualFeatures, self.name, "use 'lpips-alex'")
        with torch.inference_mode():
            distance = network.perceptual_distance(images, originals)
        return self.scores(distance.tolist(), "activations not finite")
