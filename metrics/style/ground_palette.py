"""Ground palette: whether a layout's things stand on the ground that a style reference shows.

    ( sum over L*, a*, b* of W_1(x, o)^2 )^(1/2)        0 .. 300, lower is better

W_1 is the Wasserstein distance between the values of one channel of CIELAB in the ground's pixels of image and
original, so that a ground of one colour gets CIE 1976's colour difference (2.3 is said to be just noticeable), and
stripes have to have both of their colours and may lie anywhere. The ground is what no box of the layout covers; where
boxes cover all (their things do not), the whole image stands for it. No network looks. Ours: AMDM, which joins a
style model to its layout models, shows the outcome in images alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from concord.metrics.base import Observation, SampleMetric, Score, register
from concord.metrics.image.pairs import paired

if TYPE_CHECKING:
    from concord.data.datasets.layouts.layout import Layout

WORST = 300.0  # above the diagonal of the RGB cube's hull in CIELAB


@register
class GroundPalette(SampleMetric):
    """Distance of the ground's colours from those of the original's ground."""

    name = "ground-palette"
    label = "Ground palette (Lab)"
    unit = ""
    higher_is_better = False
    bounds = (0.0, WORST)
    needs = frozenset({"layout", "style"})
    needs_originals = True

    def score(self, observation: Observation) -> list[Score]:
        self.require_conditions(observation)
        images, originals = (x.movedim(1, -1).float().cpu().numpy() for x in paired(observation, self.name))
        scores = []
        for image, original, condition in zip(images, originals, observation.conditions, strict=True):
            assert condition.layout is not None
            ground = ground_of(condition.layout, *image.shape[:2])
            scores += self.scores([palette_distance(image[ground], original[ground])], "pixels not finite")
        return scores


def ground_of(layout: Layout, height: int, width: int) -> np.ndarray:
    """Which pixels no box of the layout touches, bool (height, width); all of them where every one is touched."""
    ground = np.ones((height, width), dtype=bool)
    for x1, y1, x2, y2 in layout.boxes * (width, height, width, height):
        ground[int(np.floor(y1)) : int(np.ceil(y2)), int(np.floor(x1)) : int(np.ceil(x2))] = False
    return ground if ground.any() else ~ground


def palette_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Distance of two sets of colours, float (N, 3) and (M, 3) RGB in [0, 1]; NaN where a value is none."""
    import cv2
    from scipy.stats import wasserstein_distance

    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return float("nan")
    # OpenCV takes float32 RGB in [0, 1] as sRGB and gives L* in 0 .. 100, a* and b* about -127 .. 127.
    lab = [cv2.cvtColor(np.ascontiguousarray(x[None], dtype=np.float32), cv2.COLOR_RGB2LAB)[0] for x in (one, other)]
    return float(np.sqrt(sum(wasserstein_distance(lab[0][:, k], lab[1][:, k]) ** 2 for k in range(3))))
