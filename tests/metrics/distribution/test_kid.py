"""KID against a double loop over the images, its unbiasedness and its interval against simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import concord.metrics.distribution.kid
from concord.data.errors import ConcordError
from concord.metrics.base import get_metric
from concord.metrics.distribution.kid import KID
from concord.reports.statistics import jackknife_interval

rng = np.random.default_rng


def loops(x: np.ndarray, y: np.ndarray) -> float:
    """The definition, pair by pair, in Python floats."""

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return (sum(float(p) * float(q) for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    n, m = len(x), len(y)
    xx = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    xy = sum(kernel(a, b) for a in x for b in y) / (n * m)
    return xx + yy - 2 * xy


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 9), m=st.integers(2, 9), d=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_is_the_double_loop(n: int, m: int, d: int, seed: int) -> None:
    x, y = rng(seed).normal(0.5, 1, (n, d)).astype(np.float32), rng(seed + 1).normal(size=(m, d)).astype(np.float32)
    assert KID().compute(x, y) == pytest.approx(loops(x, y), rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("tile", [1, 3, 16, 17, 1000])
def test_tiles_change_nothing(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, groups = rng(0).normal(size=(17, 5)), rng(1).normal(0.3, 1, (11, 5)), np.arange(17) % 4
    value, replicates = KID().compute(x, y), KID().leave_group_out(x, y, groups)
    monkeypatch.setattr(concord.metrics.distribution.kid, "TILE", tile)
    assert KID().compute(x, y) == pytest.approx(value, rel=1e-12)
    assert KID().leave_group_out(x, y, groups) == pytest.approx(replicates, rel=1e-12)
    assert value == pytest.approx(loops(x, y), rel=1e-11)


@pytest.mark.parametrize(("n", "groups"), [(100, 32), (21, 21), (12, 2)])
def test_leaving_a_group_out_is_computing_without_it(n: int, groups: int) -> None:
    x, y = rng(2).normal(0.2, 1, (n, 16)).astype(np.float32), rng(3).normal(size=(60, 16)).astype(np.float32)
    group = rng(4).permutation(np.arange(n) % groups)
    brute = [KID().compute(x[group != g], y) for g in range(groups)]
    assert KID().leave_group_out(x, y, group) == pytest.approx(brute, rel=1e-10)


def test_is_zero_on_average_under_the_null_and_never_clipped() -> None:
    values = np.array(
        [KID().compute(rng(s).normal(size=(30, 8)), rng(s + 10**6).normal(size=(40, 8))) for s in range(1500)]
    )
    error = values.std(ddof=1) / np.sqrt(len(values))
    assert abs(values.mean()) < 3.5 * error
    assert 0.35 < (values < 0).mean() < 0.75
    with_diagonal = values.mean() + 8 / 30  # a V-statistic would be off by more than that: the check can see a bias
    assert with_diagonal > 20 * error


def test_grows_with_the_difference() -> None:
    y = rng(0).normal(size=(300, 8))
    values = [KID().compute(rng(1).normal(shift, 1, (300, 8)), y) for shift in (0, 0.3, 0.6, 0.9)]
    assert values == sorted(values)
    assert values[-1] > 10 * abs(values[0])


@pytest.mark.parametrize("n", [KID.minimum_n, 128])
def test_jackknife_interval_covers(n: int) -> None:
    """Of the expected value, which is the same at every n; 200 experiments know a coverage of 95 % to 1.5 points."""
    reference = rng(0).normal(size=(150, 16))
    truth = KID().compute(rng(1).normal(0.3, 1.2, (4000, 16)), reference)
    covered = []
    for seed in range(200):
        x = rng(seed + 2).normal(0.3, 1.2, (n, 16))
        interval = jackknife_interval(
            KID().compute(x, reference), KID().leave_group_out(x, reference, np.arange(n) % min(32, n))
        )
        covered.append(interval.low <= truth <= interval.high)
    assert 0.90 <= np.mean(covered) <= 0.99


def test_bad_features_are_named() -> None:
    x = rng(0).normal(size=(20, 4))
    x[5, 1] = np.inf
    with pytest.raises(ConcordError, match=r"'kid'.*generated image 5"):
        KID().compute(x, x)
    with pytest.raises(ConcordError, match=r"1 reference image\(s\)"):
        KID().compute(x[:3], x[:1])
    assert isinstance(get_metric("kid"), KID)
