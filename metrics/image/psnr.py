"""PSNR: the peak signal-to-noise ratio of an image and its original, in decibels; for restoration, where pixels count.

    -10 log10( mean over pixels and channels of (x - y)^2 ),   x and y in [0, 1]         0 .. 100, higher is better

Per image (torchmetrics); over RGB, as most papers do (some take the luminance alone, which gives more).
The same image has an infinite PSNR. It counts as 100 dB, and so does every error below 1e-10 (in an 8-bit image of
256 x 256 pixels, a single value off by one has 101 dB): tables stay finite, and no mean hides behind one image.
"""

from __future__ import annotations

from concord.metrics.base import Observation, SampleMetric, Score, register
from concord.metrics.image.pairs import paired

CAP = 100.0  # decibels


@register
class PSNR(SampleMetric):
    """Peak signal-to-noise ratio to the original, at most 100 dB."""

    name = "psnr"
    label = "PSNR (dB)"
    unit = "dB"
    higher_is_better = True
    bounds = (0.0, CAP)
    needs_originals = True

    def score(self, observation: Observation) -> list[Score]:
        from torchmetrics.functional.image import peak_signal_noise_ratio

        self.require_conditions(observation)
        images, originals = (x.double() for x in paired(observation, self.name))
        ratio = peak_signal_noise_ratio(images, originals, data_range=1.0, reduction="none", dim=(1, 2, 3))
        return self.scores(ratio.clamp(max=CAP).flatten().tolist(), "pixels not finite")
