"""FID-infinity: nearer to the limit than FID, free of the images' order; its replicates against brute force."""

from __future__ import annotations

import numpy as np
import pytest

from concord.data.errors import ConcordError
from concord.metrics.base import get_metric
from concord.metrics.distribution.fid import FID, ReferenceGaussian
from concord.metrics.distribution.fid_infinity import POINTS, FIDInfinity, draw_keys, extrapolate
from concord.metrics.distribution.moments import Moments
from concord.reports.statistics import jackknife_interval

rng = np.random.default_rng
D = 16
SCALES = np.arange(1, D + 1) ** -0.7


def drawn(n: int, seed: int, shift: float = 0.1, wide: float = 1.2) -> np.ndarray:
    return (rng(seed).normal(size=(n, D)) * SCALES * wide + shift).astype(np.float32)


def gaussian(mean: float, wide: float, count: int = 10**6) -> Moments:
    return Moments.of_statistics(np.full(D, mean), np.diag((SCALES * wide) ** 2), count)


@pytest.fixture(scope="module")
def reference() -> np.ndarray:
    """2000 rows moved and stretched to have exactly mean 0 and covariance SCALES^2: the limit is then known."""
    x = rng(0).normal(size=(2000, D))
    x -= x.mean(0)
    return np.asarray(x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T * SCALES)


LIMIT = D * 0.1**2 + float(np.square(SCALES * 0.2).sum())
"""FID of N(0.1, (1.2 SCALES)^2) and N(0, SCALES^2): |mean|^2 + the sum of squared differences of deviations."""


def test_finds_the_limit_that_fid_is_above(reference: np.ndarray) -> None:
    values = np.array(
        [
            (FIDInfinity().compute(x, reference), FID().compute(x, reference))
            for x in (drawn(256, s) for s in range(1, 61))
        ]
    )
    error = values.std(axis=0, ddof=1) / np.sqrt(60)
    bias = values.mean(axis=0) - LIMIT
    assert ReferenceGaussian.of(Moments.of(reference)).distance(gaussian(0.1, 1.2)) == pytest.approx(LIMIT, rel=1e-9)
    assert bias[1] > 5 * error[1]  # FID of 256 images is above its limit, beyond doubt
    assert abs(bias[0]) < 0.15 * bias[1]
    assert abs(bias[0]) < 3.5 * error[0]


def test_may_be_negative_and_is_not_clipped(reference: np.ndarray) -> None:
    values = [FIDInfinity().compute(drawn(300, s, shift=0, wide=1), reference) for s in range(1, 31)]
    assert 0.1 < np.mean(np.array(values) < 0) < 0.9


def test_neither_order_nor_rounding_of_the_features_matters(reference: np.ndarray) -> None:
    x = drawn(256, 1)
    value = FIDInfinity().compute(x, reference)
    assert FIDInfinity().compute(x, reference) == value
    assert FIDInfinity().compute(x[rng(2).permutation(256)], reference) == pytest.approx(value, rel=1e-10)
    nudged = x * (1 + 1e-7 * rng(3).normal(size=x.shape)).astype(np.float32)  # as another batch size may leave them
    assert FIDInfinity().compute(nudged, reference) == pytest.approx(value, rel=1e-4)


def test_subsets_have_their_sizes_and_are_drawn_apart() -> None:
    keys = draw_keys(drawn(300, 1))
    assert keys.shape == (300, POINTS)
    for k, share in enumerate(np.linspace(0.5, 1, POINTS)):
        assert abs((keys[:, k] < share).sum() - 300 * share) <= 1
    assert (keys[:, -1] < 1).all()  # the last holds all
    assert abs(np.corrcoef(keys[:, 0], keys[:, 1])[0, 1]) < 0.2


def test_is_the_intercept_of_a_line(reference: np.ndarray) -> None:
    """By hand: np.polyfit through FIDs of the subsets as the metric FID computes them."""
    x = drawn(256, 5)
    keys = draw_keys(x)
    subsets = [x[keys[:, k] < share] for k, share in enumerate(np.linspace(0.5, 1, POINTS))]
    line = np.polyfit([1 / len(s) for s in subsets], [FID().compute(s, reference) for s in subsets], 1)
    assert FIDInfinity().compute(x, reference) == pytest.approx(line[1], rel=1e-9)


@pytest.mark.parametrize(("n", "groups"), [(256, 32), (40, 40)])
def test_leaving_a_group_out_is_leaving_it_out_of_every_subset(n: int, groups: int, reference: np.ndarray) -> None:
    x, group = drawn(n, 1), rng(3).permutation(np.arange(n) % groups)
    keys = draw_keys(x)
    brute = []
    for g in range(groups):
        rest, kept = x[group != g], keys[group != g]
        subsets = [rest[kept[:, k] < share] for k, share in enumerate(np.linspace(0.5, 1, POINTS))]
        line = np.polyfit([1 / len(s) for s in subsets], [FID().compute(s, reference) for s in subsets], 1)
        brute.append(line[1])
    assert FIDInfinity().leave_group_out(x, reference, group) == pytest.approx(brute, rel=1e-8)


def test_jackknife_interval_covers_the_limit(reference: np.ndarray) -> None:
    """40 experiments know a coverage of 95 % to 3.4 points."""
    covered = []
    for seed in range(40):
        x = drawn(256, seed + 10)
        replicates = FIDInfinity().leave_group_out(x, reference, np.arange(256) % 16)
        interval = jackknife_interval(FIDInfinity().compute(x, reference), replicates)
        covered.append(interval.low <= LIMIT <= interval.high)
    assert np.mean(covered) >= 0.85


def test_too_few_images_are_named(reference: np.ndarray) -> None:
    with pytest.raises(ConcordError, match="2 images cannot be halved"):
        FIDInfinity().compute(drawn(2, 1), reference)
    target = ReferenceGaussian.of(Moments.of(reference))
    assert np.isfinite(extrapolate(drawn(20, 1), target, draw_keys(drawn(20, 1))))
    assert get_metric("fid-infinity").minimum_n == 256
