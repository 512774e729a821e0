"""FID-infinity: what FID would be with infinitely many generated images (Chong & Forsyth 2020).

FID of N images lies about c/N above its limit, with a c that depends on the model: of two models the worse can have the
lower FID at one N. So FID is computed for subsets of several sizes, a line is fitted to (1/N, FID), and its value at
1/N = 0 is reported. It scatters around the limit and may be negative; it is never clipped.

    sizes      15, evenly from n/2 to n. That paper starts at 5000 images, dgm-eval at n/10; for 256 images of simulated
               64-d features with a limit of 0.164, the fit came out 0.030 too low from n/10, 0.005 too low from n/2.
    subsets    drawn without replacement, one a size: each image gets a key per size from a seeded generator, and a
               subset is the images with the smallest keys. Keys are dealt out in the order of a fixed random projection
               of the features, so that neither the order of the images nor how they were batched changes the value.
    reference  all of it, every time: what is extrapolated is the number of generated images alone. The bias of a
               finite reference stays, and is much the same for every method compared with it.

A jackknife replicate leaves a group out of every subset, the keys staying with their images. With D = 2048 each of the
15 distances costs about what a FID costs, and an interval of 32 groups 32 times as much.
"""

from __future__ import annotations

import math

import numpy as np

from concord.data.errors import ConcordError
from concord.metrics.base import SetMetric, group_sizes, register
from concord.metrics.distribution.fid import ReferenceGaussian, fewer_than_dimensions
from concord.metrics.distribution.moments import Floats, Moments

POINTS = 15
SMALLEST = 0.5  # share of the images in the smallest subset
SEED = 0


@register
class FIDInfinity(SetMetric):
    """FID extrapolated to infinitely many generated images; in the features' unit squared, may be negative."""

    name = "fid-infinity"
    label = "FID (n → ∞)"
    unit = ""
    higher_is_better = False
    bounds = (-math.inf, math.inf)
    # The subsets of half the images must still show the line: on 64-d features the error of the fit falls from 14 % of
    # the value at n = 128 to 3 % at 256 (bias, mean of 60 draws).
    minimum_n = 256
    networks = ("features",)

    def compute(self, generated: np.ndarray, reference: np.ndarray) -> float:
        self.check_features(generated, reference)
        return extrapolate(generated, ReferenceGaussian.of_features(reference), draw_keys(generated))

    def leave_group_out(self, generated: np.ndarray, reference: np.ndarray, groups: np.ndarray) -> np.ndarray:
        self.check_features(generated, reference)
        count = len(group_sizes(groups, len(generated)))
        gaussian, keys = ReferenceGaussian.of_features(reference), draw_keys(generated)
        inside = [groups != g for g in range(count)]
        return np.array([extrapolate(generated[rest], gaussian, keys[rest]) for rest in inside])


def draw_keys(features: np.ndarray, seed: int = SEED) -> Floats:
    """Keys in (0, 1), float64 (N, POINTS), one permutation a size; an image's keys depend on the set, not its order."""
    rng = np.random.default_rng(seed)
    n, dimensions = features.shape
    direction = rng.normal(size=dimensions)
    order = np.argsort(features.astype(np.float64) @ direction, kind="stable")
    keys = np.empty((n, POINTS))
    keys[order] = np.stack([rng.permutation(n) for _ in range(POINTS)], axis=1)
    return (keys + 0.5) / n


def extrapolate(features: np.ndarray, gaussian: ReferenceGaussian, keys: Floats) -> float:
    """The fitted FID at 1/N = 0; the subset of size k is the rows whose k-th key is below that size's share."""
    inverse, values = np.empty(POINTS), np.empty(POINTS)
    for k, share in enumerate(np.linspace(SMALLEST, 1, POINTS)):
        subset = features[keys[:, k] < share]
        if len(subset) < 2:
            raise ConcordError(
                f"metric 'fid-infinity': {len(features)} images cannot be halved into sets with a spread"
            )
        inverse[k] = 1 / len(subset)
        if fewer_than_dimensions(subset):
            values[k] = gaussian.distance_low_rank(subset.astype(np.float64))
        else:
            values[k] = gaussian.distance(Moments.of(subset))
    offsets = inverse - inverse.mean()
    slope = (offsets @ values) / (offsets @ offsets)
    return float(values.mean() - slope * inverse.mean())
