"""LPIPS: how different an image looks from its original, by the activations of a classifier (Zhang et al., CVPR 2018).

    d(x, y) = sum over layers of  mean over pixels of  w_l . (f_l/|f_l| - g_l/|g_l|)^2          lower is better

Version 0.1 with the learnt w_l of the package `lpips`, over AlexNet (`lpips-alex`, what papers mean by LPIPS) or VGG16
(`lpips-vgg`); the two do not compare. Images enter at their own size: the distance changes with it, so one table holds
one size. 0 is the same image; no pair is further apart than 2 sum_l max w_l (unit vectors of activations that are
not negative), which is the upper bound here.

Needs the trunk's weight file (metrics/networks/pretrained/lpips.py); `perceptual-distance` is the embedded profile's.
"""

from __future__ import annotations

from concord.metrics.base import Observation, SampleMetric, Score, register
from concord.metrics.image.pairs import paired
from concord.metrics.networks.protocols import PairDistance


class LPIPS(SampleMetric):
    """Perceptual distance of an image and its original."""

    unit = ""
    higher_is_better = False
    needs_originals = True

    def score(self, observation: Observation) -> list[Score]:
        import torch

        self.require_conditions(observation)
        images, originals = paired(observation, self.name)
        network = observation.networks.get(f"judge/{self.networks[0]}", PairDistance)
        device = observation.networks.device
        with torch.inference_mode():
            distance = network(images.to(device), originals.to(device))
        return self.scores(distance.tolist(), "distance not finite")


@register
class LPIPSAlex(LPIPS):
    """LPIPS over AlexNet."""

    name = "lpips-alex"
    aliases = ("lpips",)
    label = "LPIPS (Alex)"
    bounds = (0.0, 8.0474)  # 2 (0.4922 + 1.0472 + 1.3236 + 0.7478 + 0.4131), rounded up
    networks = ("lpips-alex",)


@register
class LPIPSVgg(LPIPS):
    """LPIPS over VGG16."""

    name = "lpips-vgg"
    label = "LPIPS (VGG)"
    bounds = (0.0, 6.6216)  # 2 (1.2829 + 0.4757 + 0.5066 + 0.5873 + 0.4585), rounded up
    networks = ("lpips-vgg",)
