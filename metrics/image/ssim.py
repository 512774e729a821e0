"""SSIM: structural similarity of an image and its original (Wang et al. 2004); for restoration, where pixels count.

    mean over pixels and channels of  (2 mu_x mu_y + C1) (2 s_xy + C2) / ((mu_x^2 + mu_y^2 + C1) (s_x^2 + s_y^2 + C2))

                                                                                        -1 .. 1, higher is better

Local means, variances and covariance by a Gaussian window of 11 x 11 pixels (standard deviation 1.5), C1 = 0.01^2 and
C2 = 0.03^2 for pixels in [0, 1]. Per image, in float64, on each of R, G and B (Wang's own code takes the luminance).

The mean is over the pixels whose window lies inside the image, as in Wang's code and scikit-image. The maps come from
torchmetrics, whose own mean also takes the edge, where windows see the image reflected: on small images that differs in
the second digit (0.962 and 0.965 on 24 x 30 pixels with light noise), so the two do not compare.
"""

from __future__ import annotations

from concord.data.errors import ConcordError
from concord.metrics.base import Observation, SampleMetric, Score, register
from concord.metrics.image.pairs import paired

WINDOW = 11  # pixels


@register
class SSIM(SampleMetric):
    """Structural similarity to the original."""

    name = "ssim"
    label = "SSIM"
    unit = ""
    higher_is_better = True
    bounds = (-1.0, 1.0)
    needs_originals = True

    def score(self, observation: Observation) -> list[Score]:
        from torchmetrics.functional.image import structural_similarity_index_measure

        self.require_conditions(observation)
        images, originals = (x.double() for x in paired(observation, self.name))
        if min(images.shape[2:]) < WINDOW:
            raise ConcordError(
                f"metric '{self.name}': images of {images.shape[3]}x{images.shape[2]} pixels; "
                f"its window needs at least {WINDOW} a side"
            )
        _, maps = structural_similarity_index_measure(
            images, originals, data_range=1.0, reduction="none", return_full_image=True
        )
        edge = WINDOW // 2  # torchmetrics' own mean includes the edge, where its windows see the image reflected
        similarity = maps[..., edge:-edge, edge:-edge].mean((1, 2, 3))
        return self.scores(similarity.tolist(), "pixels not finite")
