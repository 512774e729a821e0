"""Streamed and merged sums against numpy's one pass."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concord.metrics.distribution.moments import Moments


def assert_same(moments: Moments, x: np.ndarray, tolerance: float = 1e-12) -> None:
    x = x.astype(np.float64)
    expected = np.cov(x, rowvar=False, ddof=0).reshape(x.shape[1], x.shape[1]) * len(x)
    scale = max(1.0, float(np.abs(x - x.mean(0)).max()) ** 2 * len(x))
    assert moments.count == len(x)
    assert np.allclose(moments.mean, x.mean(0), rtol=1e-13, atol=1e-13 * np.abs(x).max())
    assert np.abs(moments.scatter - expected).max() <= tolerance * scale


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(0, 12), min_size=1, max_size=6), d=st.integers(1, 5), seed=st.integers(0, 10**6))
def test_shards_merge_to_one_pass(sizes: list[int], d: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shards = [rng.normal(rng.normal(0, 5), 1, (size, d)) for size in [*sizes, 2]]
    assert_same(reduce(Moments.__add__, map(Moments.of, shards)), np.concatenate(shards))
    assert_same(reduce(Moments.__add__, map(Moments.of, shards[::-1])), np.concatenate(shards))


@settings(max_examples=50, deadline=None)
@given(kept=st.integers(1, 20), gone=st.integers(0, 20), d=st.integers(1, 5), seed=st.integers(0, 10**6))
def test_taking_away_is_never_having_had(kept: int, gone: int, d: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(1, 1, (kept, d)), rng.normal(-2, 3, (gone, d))
    assert_same(Moments.of(np.concatenate([a, b])) - Moments.of(b), a, tolerance=1e-9)


@pytest.mark.parametrize("block", [1, 7, 100, 1000])
def test_block_size_changes_nothing(block: int) -> None:
    x = np.random.default_rng(0).normal(size=(100, 6)).astype(np.float32)
    assert_same(Moments.of(x, block=block), x)


def test_a_large_mean_does_not_swallow_the_variance() -> None:
    """Sums of x and x x^T would leave nothing of a variance of 1 beside a mean of 1e9."""
    x = np.random.default_rng(0).normal(1e9, 1, (1000, 2))
    naive = (x.T @ x - len(x) * np.outer(x.mean(0), x.mean(0))) / (len(x) - 1)
    expected = np.cov(x - 1e9, rowvar=False)
    assert np.abs(naive - expected).max() > 0.1
    assert Moments.of(x, block=64).covariance == pytest.approx(expected, abs=1e-5)


def test_undefined_is_an_error() -> None:
    one = Moments.of(np.ones((1, 3)))
    with pytest.raises(ValueError, match="undefined"):
        _ = one.covariance
    with pytest.raises(ValueError, match="none are left"):
        _ = one - one


def test_stored_statistics_are_of_two_images_or_more_and_of_one_size() -> None:
    mean, covariance = np.array([1.0, 2.0]), np.array([[2.0, 1.0], [1.0, 3.0]])
    for count in (2, 3):
        moments = Moments.of_statistics(mean, covariance, count)
        assert moments.count == count
        np.testing.assert_array_equal(moments.covariance, covariance)
    assert Moments.of_statistics(mean, covariance).count == 2
    for wrong in ((mean, covariance, 1), (mean[:1], covariance, 2), (mean[None], covariance, 2)):
        with pytest.raises(ValueError, match=r"expected \(D,\), \(D, D\), 2\+"):
            Moments.of_statistics(*wrong)
