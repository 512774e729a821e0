"""PSNR of the region that a masked image shows: whether a restoration leaves alone what it was given.

    -10 log10( mean over known pixels and channels of (x - y)^2 ),   x and y in [0, 1]      0 .. 100, higher is better

Per image, against the original (metrics/image/psnr.py has the whole image, and says why 100 dB is the most). An
image of
which nothing is known has nothing to keep: it is counted as failed.
"""

from __future__ import annotations

import math

import numpy as np

from concord.data.errors import ConcordError
from concord.metrics.base import Observation, SampleMetric, Score, register
from concord.metrics.image.pairs import paired
from concord.metrics.image.psnr import CAP


@register
class PSNRUnmasked(SampleMetric):
    """Peak signal-to-noise ratio to the original inside the known region, at most 100 dB."""

    name = "psnr-unmasked"
    label = "PSNR, unmasked (dB)"
    unit = "dB"
    higher_is_better = True
    bounds = (0.0, CAP)
    needs = frozenset({"masked_image"})
    needs_originals = True

    def score(self, observation: Observation) -> list[Score]:
        self.require_conditions(observation)
        images, originals = (x.double().cpu().numpy() for x in paired(observation, self.name))
        scores = []
        for image, original, condition in zip(images, originals, observation.conditions, strict=True):
            assert condition.masked_image is not None
            known = condition.masked_image[1]
            if known.shape != image.shape[1:]:
                raise ConcordError(
                    f"metric '{self.name}': what is known of a masked image has shape {known.shape}, "
                    f"its image {image.shape[1:]}; give both at one size"
                )
            if not known.any():
                scores.append(self.failure("nothing is known"))
                continue
            error = float(np.square(image - original)[:, known].mean())
            value = CAP if error <= 10 ** (-CAP / 10) else -10 * math.log10(error)
            scores += self.scores([value], "pixels not finite")
        return scores
