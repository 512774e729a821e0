"""Influence functions against numerical derivatives, and the replicates that intervals and paired tests are made of."""

from __future__ import annotations

import numpy as np
import pytest

from concord.metrics.base import get_metric
from concord.metrics.distribution.fid import FID, ReferenceGaussian
from concord.metrics.distribution.inception_score import InceptionScore
from concord.metrics.distribution.influence import half_replicates, influence_replicates
from concord.metrics.distribution.kid import KID
from concord.metrics.distribution.precision_recall import Precision, Recall
from concord.reports import statistics as st

STEP = 1e-5


def features(n: int, dimensions: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, dimensions)) * np.linspace(0.5, 2, dimensions) + 0.3).astype(np.float32)


def weighted_fid(x: np.ndarray, weights: np.ndarray, reference: ReferenceGaussian) -> float:
    """FID of a weighted sample, from its definition; the covariance's ddof = 1 is a constant factor."""
    mean = weights @ x
    covariance = (x - mean).T @ ((x - mean) * weights[:, None]) * len(x) / (len(x) - 1)
    values = np.linalg.eigvalsh(reference.root.T @ covariance @ reference.root)
    cross = np.sqrt(values[values > 1e-12 * values.max()]).sum()  # those of a singular covariance are rounding
    return float(np.square(mean - reference.mean).sum() + np.trace(covariance) + reference.trace - 2 * cross)


@pytest.mark.parametrize(("n", "dimensions"), [(40, 5), (40, 39), (12, 12), (9, 16)])
def test_fids_influence_is_the_derivative_in_the_direction_of_one_image(n: int, dimensions: int) -> None:
    x, reference = (
        features(n, dimensions).astype(np.float64),
        ReferenceGaussian.of_features(features(200, dimensions, 1)),
    )
    value, influence = reference.influence(x)
    assert value == pytest.approx(FID().compute(x, features(200, dimensions, 1)), rel=1e-6)
    assert abs(influence.sum()) < 1e-8 * np.abs(influence).sum()
    uniform = np.full(n, 1 / n)
    for i in (0, n // 2, n - 1):
        towards = np.eye(n)[i] - uniform
        ahead = weighted_fid(x, uniform + STEP * towards, reference)
        behind = weighted_fid(x, uniform - STEP * towards, reference)
        assert influence[i] == pytest.approx((ahead - behind) / (2 * STEP), rel=5e-3, abs=5e-3)


def test_the_inception_scores_influence_is_its_derivative() -> None:
    logits = np.random.default_rng(0).normal(size=(60, 12)) * 3
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    items = np.arange(60)

    def score(weights: np.ndarray) -> float:
        q = weights @ p
        return float(np.exp(-(q * np.log(q)).sum() + weights @ (p * np.log(p)).sum(axis=1)))

    uniform = np.full(60, 1 / 60)
    found = InceptionScore().replicates(logits, logits[:0], items)
    influence = (score(uniform) - found) * 59
    for i in (0, 17, 59):
        towards = np.eye(60)[i] - uniform
        slope = (score(uniform + STEP * towards) - score(uniform - STEP * towards)) / (2 * STEP)
        assert influence[i] == pytest.approx(slope, rel=1e-4, abs=1e-5)


def test_replicates_are_close_to_leaving_an_image_out() -> None:
    """To first order they are the delete-one jackknife, which costs n times the value."""
    x, y, items = features(400, 8), features(300, 8, 1), np.arange(400)
    for metric in (FID(), KID(), InceptionScore(), Precision()):
        reference = y if metric.needs_reference else y[:0]
        linear = st.jackknife_error(metric.replicates(x, reference, items))
        whole = st.jackknife_error(metric.leave_group_out(x, reference, items))
        assert linear == pytest.approx(whole, rel=0.04), metric.name


def test_images_of_one_item_are_one_unit() -> None:
    """Every image twice tells no more than once: the standard error stays, where 2 n units would shrink it."""
    x, y = features(100, 6), features(300, 6, 1)
    twice, items = np.concatenate([x, x]), np.concatenate([np.arange(100), np.arange(100)])
    for name in ("fid", "precision", "recall"):
        metric = get_metric(name)
        once = st.jackknife_error(metric.replicates(x, y, np.arange(100)))
        found = metric.replicates(twice, y, items)
        assert len(found) == (64 if name == "recall" else 100)
        if name != "recall":  # whose balls shrink to nothing around copies
            assert st.jackknife_error(found) == pytest.approx(once, rel=0.02)


def test_halves_give_the_standard_error_of_a_mean() -> None:
    values = np.random.default_rng(2).normal(size=200)
    found = half_replicates(float(values.mean()), lambda half: float(values[half].mean()), np.arange(200))
    assert st.jackknife_error(found) == pytest.approx(values.std(ddof=1) / np.sqrt(200), rel=0.25)  # 64 halves
    again = half_replicates(float(values.mean()), lambda half: float(values[half].mean()), np.arange(200))
    assert np.array_equal(found, again)  # rows are paired by the same halves


def test_single_images_left_out_overstate_recalls_error_and_halves_do_not() -> None:
    """Measured on 40 draws: halves within a quarter of the true standard error, leave-one-out far above it."""
    y, draws = features(400, 16, 1), [features(80, 16, 100 + k) for k in range(40)]
    metric, items = Recall(), np.arange(80)
    truth = np.std([metric.compute(x, y) for x in draws], ddof=1)
    halves = np.mean([st.jackknife_error(metric.replicates(x, y, items)) for x in draws[:12]])
    singles = np.mean([st.jackknife_error(metric.leave_group_out(x, y, items)) for x in draws[:4]])
    assert 0.75 < halves / truth < 1.35
    assert singles > 1.4 * truth


@pytest.mark.parametrize("items", [np.array([0, 2, 2]), np.array([-1, 0, 1]), np.zeros(4, int), np.zeros(3)])
def test_items_that_are_no_numbering_are_refused(items: np.ndarray) -> None:
    with pytest.raises(ValueError, match="items"):
        influence_replicates(1.0, np.zeros(3), items)
