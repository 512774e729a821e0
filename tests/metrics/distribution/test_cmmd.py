"""CMMD against a double loop, closed forms and its replicates against brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest

import concord.metrics.distribution.kid
from concord.data.errors import ConcordError
from concord.metrics.base import get_metric
from concord.metrics.distribution.cmmd import CMMD
from concord.reports.statistics import jackknife_interval

rng = np.random.default_rng


def units(n: int, d: int = 16, seed: int = 0, towards: float = 0.0) -> np.ndarray:
    """Unit vectors, float32, drawn around the first axis where `towards` is large."""
    x = rng(seed).normal(size=(n, d))
    x[:, 0] += towards
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def loops(x: np.ndarray, y: np.ndarray) -> float:
    """The definition, pair by pair, in Python floats."""

    def mean(a: np.ndarray, b: np.ndarray) -> float:
        values = [
            math.exp(-sum((float(s) - float(t)) ** 2 for s, t in zip(p, q, strict=True)) / 200) for p in a for q in b
        ]
        return math.fsum(values) / len(values)

    return 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))


@pytest.mark.parametrize(("n", "m", "d"), [(2, 2, 1), (9, 5, 4), (20, 13, 16)])
def test_is_the_double_loop(n: int, m: int, d: int) -> None:
    x, y = units(n, d, 1, 0.5), units(m, d, 2)
    assert CMMD().compute(x, y) == pytest.approx(loops(x, y), rel=1e-9, abs=1e-10)


def test_two_points_have_a_closed_form() -> None:
    x, y = np.zeros((3, 2), np.float32), np.zeros((4, 2), np.float32)
    x[:, 0], y[:, 1] = 1, 1  # all of one set in one place: 2 - 2 exp(-2 / 200)
    assert CMMD().compute(x, y) == pytest.approx(2000 * (1 - math.exp(-0.01)), rel=1e-12)


def test_identical_sets_are_zero_and_order_and_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, groups = units(41, seed=1, towards=1), units(33, seed=2), np.arange(41) % 8
    value, replicates = CMMD().compute(x, y), CMMD().leave_group_out(x, y, groups)
    assert CMMD().compute(x, x) == pytest.approx(0, abs=1e-10)
    assert CMMD().compute(x, x[::-1]) == pytest.approx(0, abs=1e-10)
    assert CMMD().compute(y, x) == pytest.approx(value, rel=1e-12)
    assert CMMD().compute(x[rng(0).permutation(41)], y) == pytest.approx(value, rel=1e-11)
    monkeypatch.setattr(concord.metrics.distribution.kid, "TILE", 7)
    assert CMMD().compute(x, y) == pytest.approx(value, rel=1e-11)
    assert CMMD().leave_group_out(x, y, groups) == pytest.approx(replicates, rel=1e-10)


@pytest.mark.parametrize(("n", "groups"), [(96, 32), (21, 21), (12, 2)])
def test_leaving_a_group_out_is_computing_without_it(n: int, groups: int) -> None:
    x, y, group = units(n, seed=1, towards=1), units(40, seed=2), rng(4).permutation(np.arange(n) % groups)
    brute = [CMMD().compute(x[group != g], y) for g in range(groups)]
    assert CMMD().leave_group_out(x, y, group) == pytest.approx(brute, rel=1e-9)


def test_grows_with_the_difference_and_shrinks_with_n() -> None:
    reference = units(300)
    values = [CMMD().compute(units(300, seed=1, towards=t), reference) for t in (0, 0.5, 1, 2)]
    assert values == sorted(values)
    biased = [np.mean([CMMD().compute(units(n, seed=s), reference) for s in range(20)]) for n in (50, 100, 200)]
    assert biased == sorted(biased, reverse=True)  # a V-statistic: sets of unequal n do not compare


def test_jackknife_interval_covers() -> None:
    """Of the expected CMMD at this n; 150 experiments know a coverage of 95 % to 1.8 points."""
    reference, values, intervals = units(150), [], []
    for seed in range(150):
        x = units(CMMD.minimum_n, seed=seed + 2, towards=1)
        values.append(CMMD().compute(x, reference))
        replicates = CMMD().leave_group_out(x, reference, np.arange(len(x)) % 25)
        intervals.append(jackknife_interval(values[-1], replicates))
    covered = np.mean([i.low <= np.mean(values) <= i.high for i in intervals])
    assert 0.90 <= covered <= 1


def test_bad_features_are_named() -> None:
    x = units(60)
    x[7, 0] = np.nan
    with pytest.raises(ConcordError, match=r"'cmmd'.*generated image 7"):
        CMMD().compute(x, units(60))
    metric = get_metric("cmmd")
    assert isinstance(metric, CMMD)
    assert metric.features == "clip-l-336"
