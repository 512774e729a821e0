"""Mean and scatter of feature vectors, in float64: streamed, merged over shards, and taken apart again.

Sums of x and x x^T alone would lose the variance to rounding where the mean is large; kept are the mean and the sum of
outer products of deviations from it, merged by the pairwise update of Chan, Golub & LeVeque (1983). Memory is D x D,
whatever the number of images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BLOCK = 4096  # rows that are widened to float64 at a time


@dataclass(frozen=True)
class Moments:
    """count: n. mean: float64 (D,). scatter: float64 (D, D), the sum over images of (x - mean)(x - mean)^T."""

    count: int
    mean: Floats
    scatter: Floats

    @classmethod
    def of(cls, features: np.ndarray, block: int = BLOCK) -> Moments:
        """Of features (N, D) of any float type, read in blocks of rows; N may be 0."""
        dimensions = features.shape[1]
        total = cls(0, np.zeros(dimensions), np.zeros((dimensions, dimensions)))
        for start in range(0, len(features), block):
            rows = features[start : start + block].astype(np.float64)
            mean = rows.mean(axis=0)
            rows -= mean
            total += cls(len(rows), mean, rows.T @ rows)
        return total

    @classmethod
    def of_statistics(cls, mean: np.ndarray, covariance: np.ndarray, count: int = 2) -> Moments:
        """From a stored mean (D,) and unbiased covariance (D, D), as the libraries' .npz files have them (mu, sigma).

        Those files do not say of how many images: `count` matters where such statistics are merged, not for a distance.
        """
        mean, covariance = np.asarray(mean, dtype=np.float64), np.asarray(covariance, dtype=np.float64)
        if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)) or count < 2:
            raise ValueError(
                f"mean {mean.shape}, covariance {covariance.shape}, {count} images: expected (D,), (D, D), 2+"
            )
        return cls(count, mean, covariance * (count - 1))

    def __add__(self, other: Moments) -> Moments:
        """Of both sets of images together."""
        count = self.count + other.count
        if count == 0:
            return self
        step = other.mean - self.mean
        mean = self.mean + step * (other.count / count)
        between = np.outer(step, step * (self.count * other.count / count))
        return Moments(count, mean, self.scatter + other.scatter + between)

    def __sub__(self, part: Moments) -> Moments:
        """Of the images that are left without `part`, which must be among them: the update run backwards.

        Rounding is relative to the whole's scatter: harmless for a share of the images, as the jackknife removes.
        """
        count = self.count - part.count
        if count < 1:
            raise ValueError(f"{part.count} of {self.count} images taken away: none are left")
        mean = self.mean + (self.mean - part.mean) * (part.count / count)
        step = part.mean - mean
        between = np.outer(step, step * (count * part.count / self.count))
        return Moments(count, mean, self.scatter - part.scatter - between)

    @property
    def covariance(self) -> Floats:
        """Unbiased covariance (D, D), ddof = 1 as `np.cov`; needs two images."""
        if self.count < 2:
            raise ValueError(f"the covariance of {self.count} image(s) is undefined")
        return self.scatter / (self.count - 1)
