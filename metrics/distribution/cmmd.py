"""CMMD: the squared maximum mean discrepancy of CLIP embeddings (Jayasumana et al. 2024, "Rethinking FID").

    k(x, y) = exp(-|x - y|^2 / (2 sigma^2)),  sigma = 10
    CMMD = 1000 (mean_ij k(x_i, x_j) + mean_ij k(y_i, y_j) - 2 mean_ij k(x_i, y_j))        0 .. inf, lower is better

Embeddings are unit vectors of CLIP ViT-L/14 at 336 pixels. This is the authors' V-statistic: its means take in every
image's kernel with itself, so that it is never negative, and it rises as the sets shrink (by a mean of 1 - k over n).

With sigma = 10 and unit vectors every kernel value lies in 0.98 .. 1, and the three means differ in their last digits
alone. So 1 - k is summed, by expm1, in float64: the ones cancel before they are added, not after.
"""

from __future__ import annotations

import math

import numpy as np

from concord.metrics.base import SetMetric, group_sizes, register
from concord.metrics.distribution.kid import cross_sums, pair_sums
from concord.metrics.distribution.moments import Floats
from concord.metrics.distribution.precision_recall import squared_distances

SIGMA = 10.0
SCALE = 1000.0


@register
class CMMD(SetMetric):
    """Squared MMD of unit CLIP embeddings under a Gaussian kernel, times 1000; biased (V-statistic), as published."""

    name = "cmmd"
    label = "CMMD"
    unit = ""
    higher_is_better = False
    bounds = (0.0, math.inf)
    minimum_n = 50
    features = "clip-l-336"
    networks = ("clip-l-336",)

    def compute(self, generated: np.ndarray, reference: np.ndarray) -> float:
        self.check_features(generated, reference)
        n, m = len(generated), len(reference)
        apart = cross_sums(generated, reference, one_minus_kernel).sum() / (n * m)
        own = pair_sums(generated, one_minus_kernel).sum() / n**2 + pair_sums(reference, one_minus_kernel).sum() / m**2
        return max(0.0, float(SCALE * (2 * apart - own)))

    def leave_group_out(self, generated: np.ndarray, reference: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """From row sums, as KID's: what group g took part in leaves, what it shared with itself was taken twice."""
        self.check_features(generated, reference)
        sizes = group_sizes(groups, len(generated))
        n, m = len(generated) - sizes, len(reference)  # (G,)
        row = pair_sums(generated, one_minus_kernel)  # (N,)
        inside = [pair_sums(generated[groups == g], one_minus_kernel).sum() for g in range(len(sizes))]
        within = (row.sum() - 2 * np.bincount(groups, row) + np.array(inside)) / n**2
        cross = cross_sums(generated, reference, one_minus_kernel)
        apart = (cross.sum() - np.bincount(groups, cross)) / (n * m)
        own = pair_sums(reference, one_minus_kernel).sum() / m**2
        return np.maximum(0.0, SCALE * (2 * apart - within - own))


def one_minus_kernel(x: np.ndarray, y: np.ndarray) -> Floats:
    """1 - exp(-|x - y|^2 / (2 sigma^2)) for each pair of rows: (n, D), (m, D) -> float64 (n, m)."""
    return np.asarray(-np.expm1(squared_distances(x, y) / (-2 * SIGMA**2)))
