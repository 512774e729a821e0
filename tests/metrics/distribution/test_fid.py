"""FID against closed forms, scipy's matrix square root, and brute force; its interval against simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg

from concord.data.errors import ConcordError
from concord.metrics.base import get_metric
from concord.metrics.distribution.fid import FID, ReferenceGaussian, frechet_distance, square_root
from concord.metrics.distribution.moments import Moments
from concord.reports.statistics import jackknife_interval

rng = np.random.default_rng


def direct(x: np.ndarray, y: np.ndarray) -> float:
    """The definition, word for word: np.mean, np.cov and scipy's square root of the product."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    first, second = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = linalg.sqrtm(first @ second)
    return float(np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(first) + np.trace(second) - 2 * np.trace(root).real)


def nuclear(x: np.ndarray, y: np.ndarray) -> float:
    """Without any covariance: tr (S1 S2)^(1/2) is the nuclear norm of the centred sets' product. Good for any rank."""
    a, b = x - x.mean(0), y - y.mean(0)
    singular = np.linalg.svd(a @ b.T, compute_uv=False) / np.sqrt((len(a) - 1) * (len(b) - 1))
    spread = (a**2).sum() / (len(a) - 1) + (b**2).sum() / (len(b) - 1)
    return float(np.sum((x.mean(0) - y.mean(0)) ** 2) + spread - 2 * singular.sum())


def exact_moments(mean: np.ndarray, covariance: np.ndarray) -> Moments:
    return Moments(1001, np.asarray(mean, dtype=np.float64), np.asarray(covariance, dtype=np.float64) * 1000)


def decaying(n: int, d: int, seed: int, shift: float = 0.0) -> np.ndarray:
    """float32 (n, d), correlated, standard deviations k^-1: as ill-conditioned as real features."""
    turn = np.linalg.qr(rng(99).normal(size=(d, d)))[0]
    return ((rng(seed).normal(size=(n, d)) / np.arange(1, d + 1)) @ turn + shift).astype(np.float32)


# ------------------------------------------------------------------------------------------------------ closed forms


@pytest.mark.parametrize("d", [1, 3, 64])
def test_equal_covariance_leaves_the_squared_distance_of_means(d: int) -> None:
    spread = rng(d).normal(size=(d, 2 * d))
    covariance = spread @ spread.T
    first, second = rng(1).normal(size=d), rng(2).normal(size=d)
    value = frechet_distance(exact_moments(first, covariance), exact_moments(second, covariance))
    assert value == pytest.approx(((first - second) ** 2).sum(), rel=1e-10)


def test_diagonal_covariances() -> None:
    a, b = rng(3).uniform(0.01, 5, 40), rng(4).uniform(0.01, 5, 40)
    value = frechet_distance(exact_moments(np.zeros(40), np.diag(a)), exact_moments(np.ones(40), np.diag(b)))
    assert value == pytest.approx(40 + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum(), rel=1e-12)


def test_equal_covariances_up_to_a_factor() -> None:
    """S2 = k^2 S1: the distance is (k - 1)^2 tr S1, whatever the eigenvectors."""
    spread = rng(5).normal(size=(30, 50))
    covariance = spread @ spread.T
    value = frechet_distance(exact_moments(np.zeros(30), 9 * covariance), exact_moments(np.zeros(30), covariance))
    assert value == pytest.approx(4 * np.trace(covariance), rel=1e-10)


@pytest.mark.parametrize(("n", "d"), [(500, 64), (40, 64), (64, 64), (65, 64)])
def test_identical_sets_are_at_distance_zero(n: int, d: int) -> None:
    x = decaying(n, d, 1, shift=3)
    assert abs(FID().compute(x, x.copy())) < 1e-6


# -------------------------------------------------------------------------------------------------- against references


@pytest.mark.parametrize(("n", "m", "d"), [(300, 400, 8), (200, 1000, 64), (66, 66, 64)])
def test_is_scipys_square_root(n: int, m: int, d: int) -> None:
    x, y = decaying(n, d, 1, shift=0.05), decaying(m, d, 2)
    assert FID().compute(x, y) == pytest.approx(direct(x, y), rel=1e-6)


@pytest.mark.parametrize(
    ("n", "m", "d"),
    [(2, 300, 32), (20, 300, 32), (300, 20, 32), (20, 12, 32), (12, 20, 32), (32, 33, 32), (33, 32, 32)],
)
def test_fewer_images_than_dimensions(n: int, m: int, d: int) -> None:
    x, y = decaying(n, d, 1, shift=0.05).astype(np.float64), decaying(m, d, 2).astype(np.float64)
    value = FID().compute(x, y)
    assert value == pytest.approx(nuclear(x, y), rel=1e-7)
    assert frechet_distance(Moments.of(x), Moments.of(y)) == pytest.approx(value, rel=1e-5)  # from the sums alone


def test_dead_and_repeated_dimensions() -> None:
    """Features that are always 0, or copies of others: covariances without full rank on both sides, though n > D."""
    x, y = decaying(200, 30, 1), decaying(300, 30, 2)
    x, y = (np.hstack([z, np.zeros((len(z), 5)), z[:, :7] * 2]).astype(np.float64) for z in (x, y))
    assert FID().compute(x, y) == pytest.approx(nuclear(x, y), rel=1e-7)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(2, 40),
    m=st.integers(2, 40),
    d=st.integers(1, 24),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    seed=st.integers(0, 10**6),
)
def test_any_shape_agrees_with_the_nuclear_norm(n: int, m: int, d: int, scale: float, seed: int) -> None:
    x, y = rng(seed).normal(size=(n, d)) * scale, rng(seed + 1).normal(0.3, 1.7, size=(m, d)) * scale
    expected = nuclear(x, y)
    assert FID().compute(x, y) == pytest.approx(expected, rel=1e-6, abs=1e-9 * scale**2)
    assert FID().compute(y, x) == pytest.approx(expected, rel=1e-6, abs=1e-9 * scale**2)  # symmetric


def test_is_untouched_by_rotation_order_and_a_common_shift() -> None:
    x, y = decaying(150, 20, 1, shift=0.1).astype(np.float64), decaying(250, 20, 2).astype(np.float64)
    turn = np.linalg.qr(rng(7).normal(size=(20, 20)))[0]
    value = FID().compute(x, y)
    assert FID().compute(x @ turn + 100, y @ turn + 100) == pytest.approx(value, rel=1e-9)
    assert FID().compute(x[::-1], y[rng(0).permutation(250)]) == pytest.approx(value, rel=1e-12)


def test_square_root_multiplies_back() -> None:
    for covariance in (Moments.of(decaying(99, 40, 1)).covariance, Moments.of(decaying(9, 40, 1)).covariance):
        root = square_root(covariance)
        assert np.allclose(root @ root.T, covariance, rtol=0, atol=1e-14 * covariance.max() * 40)
    assert root.shape == (40, 8)  # nine images span eight dimensions
    with pytest.raises(ConcordError, match="below zero"):
        square_root(np.diag([1.0, -0.1]))


# --------------------------------------------------------------------------------------------------------- replicates


@pytest.mark.parametrize(("n", "d", "groups"), [(200, 16, 32), (200, 16, 2), (40, 16, 40), (20, 64, 20), (20, 16, 5)])
def test_leaving_a_group_out_is_computing_without_it(n: int, d: int, groups: int) -> None:
    x, y = decaying(n, d, 1, shift=0.2), decaying(150, d, 2)
    group = rng(3).permutation(np.arange(n) % groups)
    replicates = FID().leave_group_out(x, y, group)
    brute = [nuclear(x[group != g].astype(np.float64), y.astype(np.float64)) for g in range(groups)]
    assert replicates.shape == (groups,)
    assert replicates == pytest.approx(brute, rel=1e-7)


def test_an_outlier_in_one_group_does_not_spoil_the_others() -> None:
    """All of the spread is in one image: without it the rest has none, and the sums must not fall below zero for it."""
    x, y = np.ones((40, 6), dtype=np.float32), decaying(100, 6, 2)
    x[3] = 1000
    replicates = FID().leave_group_out(x, y, np.arange(40) % 8)
    assert np.isfinite(replicates).all()
    rest = np.sum((1 - y.astype(np.float64).mean(0)) ** 2) + np.trace(np.cov(y, rowvar=False))
    assert replicates[3] == pytest.approx(rest, rel=1e-4)


@pytest.mark.parametrize(("n", "d", "least", "most"), [(256, 8, 0.92, 0.99), (128, 64, 0.94, 1.0)])
def test_jackknife_interval_covers(n: int, d: int, least: float, most: float) -> None:
    """The interval is to hold the expected FID at this n in 95 % of the experiments; near n = D it is too wide.

    200 experiments know a coverage of 95 % to 1.5 points. Why not a bootstrap: see the next test.
    """
    reference = decaying(1000, d, 0)
    values, intervals = [], []
    for seed in range(200):
        x = decaying(n, d, 10 + seed, shift=0.1)
        values.append(FID().compute(x, reference))
        intervals.append(jackknife_interval(values[-1], FID().leave_group_out(x, reference, np.arange(n) % 32)))
    expected = np.mean(values)
    covered = np.mean([i.low <= expected <= i.high for i in intervals])
    assert least <= covered <= most
    spread = np.median([i.half_width for i in intervals]) / (2.04 * np.std(values, ddof=1))
    assert 0.85 < spread < 1.5  # the interval is about as wide as the spread of the value itself: no wider than needed


def test_a_naive_bootstrap_would_exclude_its_own_value() -> None:
    """Why the interval is a jackknife's: this is the trap, measured."""
    reference, x = decaying(1000, 64, 0), decaying(128, 64, 1)
    draws = [FID().compute(x[rng(seed).integers(0, 128, 128)], reference) for seed in range(100)]
    value = FID().compute(x, reference)
    assert value < np.quantile(draws, 0.025)
    replicates = FID().leave_group_out(x, reference, np.arange(128) % 32)
    interval = jackknife_interval(value, replicates)
    assert interval.low < value < interval.high


# ---------------------------------------------------------------------------------------------------------- bad input


def test_bad_features_are_named() -> None:
    good, bad = decaying(60, 8, 1), decaying(60, 8, 1)
    bad[17, 3] = np.nan
    with pytest.raises(ConcordError, match="generated image 17 are not finite"):
        FID().compute(bad, good)
    with pytest.raises(ConcordError, match="reference image 17 are not finite"):
        FID().compute(good, bad)
    with pytest.raises(ConcordError, match=r"1 generated image\(s\)"):
        FID().compute(good[:1], good)
    with pytest.raises(ValueError, match="one feature network"):
        FID().compute(good, good[:, :4])


def test_bad_groups_are_refused() -> None:
    x = decaying(6, 3, 1)
    for groups in (np.zeros(6, int), np.array([0, 0, 0, 2, 2, 2]), np.arange(5), np.arange(6.0), np.arange(6) - 1):
        with pytest.raises(ValueError, match="groups"):
            FID().leave_group_out(x, x, groups)
    with pytest.raises(ConcordError, match="2 images in 2 groups"):
        FID().leave_group_out(x[:2], x, np.array([0, 1]))


def test_facts() -> None:
    metric = get_metric("fid")
    assert isinstance(metric, FID)
    assert metric.minimum_n == 50
    assert not metric.higher_is_better
    assert (
        ReferenceGaussian.of(Moments.of(decaying(60, 8, 1))).distance(Moments.of(decaying(60, 8, 2)))
        >= metric.bounds[0]
    )
