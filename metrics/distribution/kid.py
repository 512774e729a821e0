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

from concord.metrics.base import SetMetric, group_sizes, register
from concord.metrics.distribution.moments import Floats

Kernel = Callable[[np.ndarray, np.ndarray], Floats]
"""(n, D), (m, D) -> float64 (n, m); symmetric, and the same for each pair wherever it stands."""

TILE = 1024
"""Kernel values are made in tiles of TILE x TILE: 8 MiB of them at a time, whatever the number of images."""


@register
class KID(SetMetric):
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

    def compute(self, generated: np.ndarray, reference: np.ndarray) -> float:
        self.check_features(generated, reference)
        n, m = len(generated), len(reference)
        within = pair_sums(generated).sum() / (n * (n - 1))
        within_reference = pair_sums(reference).sum() / (m * (m - 1))
        return float(within + within_reference - 2 * cross_sums(generated, reference).sum() / (n * m))

    def leave_group_out(self, generated: np.ndarray, reference: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """From row sums: what group g took part in leaves the sum, what it shared with itself was taken twice."""
        self.check_features(generated, reference)
        sizes = group_sizes(groups, len(generated))
        n, m = len(generated) - sizes, len(reference)  # (G,)
        row = pair_sums(generated)  # (N,)
        inside = np.array([pair_sums(generated[groups == g]).sum() for g in range(len(sizes))])  # (G,)
        within = row.sum() - 2 * np.bincount(groups, row) + inside
        cross = cross_sums(generated, reference)
        across = cross.sum() - np.bincount(groups, cross)
        within_reference = pair_sums(reference).sum() / (m * (m - 1))
        return np.asarray(within / (n * (n - 1)) + within_reference - 2 * across / (n * m))


@register
class KIDTensorFlow(KID):
    """KID by the protocol of TensorFlow 1 and torch-fidelity (see metrics/distribution/fid.py)."""

    name = "kid-tf"
    label = "KID (TF)"
    features = "pool-tf"


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
