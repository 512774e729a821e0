"""KID: the squared maximum mean discrepancy of feature vectors under a cubic kernel (Binkowski et al. 2018, section 3).

    k(x, y) = (x.y / D + 1)^3
    KID = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)         lower is better

This is the full U-statistic over all pairs, in float64: unbiased at every n (under equal distributions it is negative
about half of the time, and never clipped: clipping would bias it), with the least variance that these images allow.
It is printed as it is; some papers print it times 1000.

The references (clean-fid, torch-fidelity, torchmetrics) average the same statistic over 100 random subsets of up to
1000 images: the same expectation with more noise, differing between libraries by their random streams (clean-fid's is
not even seeded), and the standard deviation over overlapping subsets that they print is no standard error. On one
subset that holds all images they agree with this file.

`kid` reads the profile's default features (clean-fid's resize in profile 'paper'), `kid-tf` those of torch-fidelity's.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from concord.metrics.base import MomentMetric, group_sizes, register
from concord.metrics.distribution.influence import influence_replicates
from concord.metrics.distribution.moments import Floats
from concord.metrics.distribution.reference_moments import ReferenceMoments

Kernel = Callable[[np.ndarray, np.ndarray], Floats]
"""(n, D), (m, D) -> float64 (n, m); symmetric, and the same for each pair wherever it stands."""

TILE = 1024
"""Kernel values are made in tiles of TILE x TILE: 8 MiB of them at a time, whatever the number of images."""


@register
class KID(MomentMetric):
    """Unbiased squared MMD with the kernel (x.y/D + 1)^3; its range has no lower end, as it may be negative."""

    name = "kid"
    label = "KID"
    unit = ""
    higher_is_better = False
    bounds = (-math.inf, math.inf)
    # Unbiased from n = 2 on, but the jackknife's interval needs about this many to hold what it says
    # (tests/metrics/distribution/test_kid.py measures its coverage here).
    minimum_n = 20
    networks = ("features",)

    version = 2  # 2: profile 'embedded' compares with the moments of 20,000 drawn images

    def compute(self, generated: np.ndarray, reference: np.ndarray | ReferenceMoments) -> float:
        self.check_features(generated, reference)
        n = len(generated)
        within = pair_sums(generated).sum() / (n * (n - 1))
        across, own = against(generated, reference)
        return float(within + own - 2 * across.mean())

    def replicates(self, generated: np.ndarray, reference: np.ndarray | ReferenceMoments, items: np.ndarray) -> Floats:
        """By the U-statistic's first projection, whose variance is its asymptotic one (Hoeffding 1948):

        IF_i = 2 (mean_j k(x_i, x_j) - mean_y k(x_i, y)), less its mean.
        """
        self.check_features(generated, reference)
        within = pair_sums(generated) / (len(generated) - 1)  # (N,)
        across, own = against(generated, reference)
        projection = 2 * (within - across)
        value = float(within.mean() + own - 2 * across.mean())
        return influence_replicates(value, projection - projection.mean(), items)

    def leave_group_out(
        self, generated: np.ndarray, reference: np.ndarray | ReferenceMoments, groups: np.ndarray
    ) -> np.ndarray:
        """From row sums: what group g took part in leaves the sum, what it shared with itself was taken twice."""
        self.check_features(generated, reference)
        sizes = group_sizes(groups, len(generated))
        n = len(generated) - sizes  # (G,)
        row = pair_sums(generated)  # (N,)
        inside = np.array([pair_sums(generated[groups == g]).sum() for g in range(len(sizes))])  # (G,)
        within = row.sum() - 2 * np.bincount(groups, row) + inside
        cross, own = against(generated, reference)
        across = cross.sum() - np.bincount(groups, cross)
        return np.asarray(within / (n * (n - 1)) + own - 2 * across / n)


@register
class KIDTensorFlow(KID):
    """KID by the protocol of TensorFlow 1 and torch-fidelity (see metrics/distribution/fid.py)."""

    name = "kid-tf"
    label = "KID (TF)"
    features = "pool-tf"


def against(generated: np.ndarray, reference: np.ndarray | ReferenceMoments) -> tuple[Floats, float]:
    """For each generated image the mean kernel with the reference (N,), and the reference's own over its pairs."""
    if not isinstance(reference, np.ndarray):
        return reference.kernel_means(generated), reference.own_kernel
    m = len(reference)
    return cross_sums(generated, reference) / m, float(pair_sums(reference).sum() / (m * (m - 1)))


def cubic_kernel(x: np.ndarray, y: np.ndarray) -> Floats:
    """(x.y / D + 1)^3 for each pair of rows: (n, D), (m, D) -> float64 (n, m)."""
    inner = x.astype(np.float64) @ y.astype(np.float64).T
    inner /= x.shape[1]
    inner += 1
    return np.asarray(inner * inner * inner)


def pair_sums(x: np.ndarray, kernel: Kernel = cubic_kernel) -> Floats:
    """For each row of (n, D), the sum of its kernel with every other row: float64 (n,). Each pair is computed once."""
    sums = np.zeros(len(x))
    for i in range(0, len(x), TILE):
        own = kernel(x[i : i + TILE], x[i : i + TILE])
        np.fill_diagonal(own, 0)
        sums[i : i + TILE] += own.sum(axis=1)
        for j in range(i + TILE, len(x), TILE):
            tile = kernel(x[i : i + TILE], x[j : j + TILE])
            sums[i : i + TILE] += tile.sum(axis=1)
            sums[j : j + TILE] += tile.sum(axis=0)
    return sums


def cross_sums(x: np.ndarray, y: np.ndarray, kernel: Kernel = cubic_kernel) -> Floats:
    """For each row of x (n, D), the sum of its kernel with every row of y (m, D): float64 (n,)."""
    sums = np.zeros(len(x))
    for i in range(0, len(x), TILE):
        for j in range(0, len(y), TILE):
            sums[i : i + TILE] += kernel(x[i : i + TILE], y[j : j + TILE]).sum(axis=1)
    return sums
