"""Precision and recall against loops over the images, in both definitions; their replicates against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import concord.metrics.distribution.precision_recall
from concord.data.errors import ConcordError
from concord.metrics.base import get_metric
from concord.metrics.distribution.precision_recall import (
    Manifold,
    Precision,
    PrecisionPRDC,
    Recall,
    RecallPRDC,
    neighbour_radii,
    squared_distances,
)

rng = np.random.default_rng
ALL = [Precision, Recall, PrecisionPRDC, RecallPRDC]


def loops(points: np.ndarray, centres: np.ndarray, k: int, closed: bool) -> float:
    """Share of points in a ball around a centre that reaches to the centre's k-th nearest other centre."""

    def squared(a: np.ndarray, b: np.ndarray) -> float:
        return sum((float(p) - float(q)) ** 2 for p, q in zip(a, b, strict=True))

    radii = [sorted(squared(a, b) for j, b in enumerate(centres) if j != i)[k - 1] for i, a in enumerate(centres)]
    inside = [
        any(squared(p, c) <= r if closed else squared(p, c) < r for c, r in zip(centres, radii, strict=True))
        for p in points
    ]
    return sum(inside) / len(inside)


def definition(metric: type[Manifold], generated: np.ndarray, reference: np.ndarray) -> float:
    sides = (generated, reference) if issubclass(metric, Precision) else (reference, generated)
    return loops(*sides, metric.k, metric.closed)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(6, 14), m=st.integers(6, 14), d=st.integers(1, 3), seed=st.integers(0, 10**6), ties=st.booleans())
def test_is_the_loops(n: int, m: int, d: int, seed: int, ties: bool) -> None:
    """With ties: whole numbers from a small range, so that copies and equal distances abound; there both are exact."""
    if ties:
        x, y = rng(seed).integers(0, 4, (n, d)), rng(seed + 1).integers(0, 4, (m, d))
    else:
        x, y = rng(seed).normal(size=(n, d)), rng(seed + 1).normal(0.5, 1, (m, d))
    for metric in ALL:
        assert metric().compute(x.astype(np.float32), y.astype(np.float32)) == pytest.approx(
            definition(metric, x.astype(np.float32), y.astype(np.float32)), abs=1e-12
        )


def test_the_border_is_what_tells_the_definitions_apart() -> None:
    """Points on a line at 0, 1, .., 9: the balls of k = 1 reach exactly 1, and 10 lies on the border of the last."""
    line = np.arange(10, dtype=np.float32)[:, None]

    class Closed(Precision):
        k = 1

    class Open(Precision):
        k, closed = 1, False

    beyond = np.array([[10.0], [-1.0], [4.5], [10.1]], dtype=np.float32)
    assert Closed().compute(beyond, line) == 0.75
    assert Open().compute(beyond, line) == 0.25


@pytest.mark.parametrize("metric", ALL)
def test_identical_sets_and_strangers(metric: type[Manifold]) -> None:
    x = rng(0).normal(size=(60, 8)).astype(np.float32)
    assert metric().compute(x, x) == 1
    assert metric().compute(x[::-1], x) == 1
    assert metric().compute(x + 1000, x) == 0


def test_mode_collapse_keeps_precision_and_loses_recall() -> None:
    generated, reference = 0.1 * rng(0).normal(size=(200, 16)), 3 * rng(1).normal(size=(200, 16))
    assert Precision().compute(generated, reference) > 0.8
    assert Recall().compute(generated, reference) < 0.3
    assert Recall().compute(reference, generated) > 0.8  # the sides are not to be confused
    assert Precision().compute(reference, generated) < 0.3


@pytest.mark.parametrize("metric", ALL)
def test_order_and_tiles_change_nothing(metric: type[Manifold], monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = rng(0).normal(0.8, 1, (41, 6)), rng(1).normal(size=(37, 6))
    groups = np.arange(41) % 8
    value, replicates = metric().compute(x, y), metric().leave_group_out(x, y, groups)
    assert 0 < value < 1
    order = rng(2).permutation(41)
    assert metric().compute(x[order], y[::-1]) == value
    assert metric().leave_group_out(x[order], y, groups[order]) == pytest.approx(replicates, abs=1e-12)
    for tile in (1, 3, 37, 1000):
        monkeypatch.setattr(concord.metrics.distribution.precision_recall, "TILE", tile)
        assert metric().compute(x, y) == value
        assert metric().leave_group_out(x, y, groups) == pytest.approx(replicates, abs=1e-12)


@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize(("n", "groups"), [(96, 32), (24, 24), (30, 3), (20, 2)])
def test_leaving_a_group_out_is_computing_without_it(metric: type[Manifold], n: int, groups: int) -> None:
    for d, seed in ((2, 0), (8, 1)):
        x, y = (
            rng(seed).normal(0.7, 1, (n, d)).astype(np.float32),
            rng(seed + 5).normal(size=(50, d)).astype(np.float32),
        )
        x[n // 2] = x[0]  # a copy
        group = rng(3).permutation(np.arange(n) % groups)
        brute = [metric().compute(x[group != g], y) for g in range(groups)]
        assert metric().leave_group_out(x, y, group) == pytest.approx(brute, abs=1e-12)


def test_groups_of_neighbours_leave_together() -> None:
    """Whole clusters as groups: every ball's nearest neighbours leave with it, and other groups' balls stay."""
    centres = 100 * rng(0).normal(size=(5, 3)).repeat(8, axis=0)
    x, y = centres + rng(1).normal(size=(40, 3)), centres + rng(2).normal(size=(40, 3))
    group = np.arange(40) // 8
    for metric in ALL:
        brute = [metric().compute(x[group != g], y) for g in range(5)]
        assert metric().leave_group_out(x, y, group) == pytest.approx(brute, abs=1e-12)


def test_distances_of_copies_are_zero_and_others_exact() -> None:
    x = (1000 + rng(0).normal(size=(50, 200))).astype(np.float32)
    distances = squared_distances(x, x)
    exact = np.square(x[:, None].astype(np.float64) - x.astype(np.float64)).sum(axis=2)
    assert (np.diagonal(distances) == 0).all()
    off = ~np.eye(50, dtype=bool)
    assert distances[off] == pytest.approx(exact[off], rel=1e-6)
    assert (neighbour_radii(np.repeat(x, 4, axis=0), 3) == 0).all()  # four copies of each


def test_too_few_images_and_bad_features_are_named() -> None:
    x = rng(0).normal(size=(30, 4))
    with pytest.raises(ConcordError, match=r"'precision': 3 reference image\(s\), .* number 3 needs 4"):
        Precision().compute(x, x[:3])
    with pytest.raises(ConcordError, match=r"'recall-prdc': 5 generated image\(s\), .* number 5 needs 6"):
        RecallPRDC().compute(x[:5], x)
    with pytest.raises(ConcordError, match="without one of the groups"):
        Recall().leave_group_out(x[:6], x, np.arange(6) % 2)
    x[4, 1] = np.nan
    with pytest.raises(ConcordError, match="image 4 are not finite"):
        Precision().leave_group_out(x, x[5:], np.arange(30) % 5)
    names = ("precision", "recall", "precision-tf", "recall-tf", "precision-prdc", "recall-prdc")
    facts = [get_metric(name) for name in names]
    assert [(m.k, m.closed, m.features) for m in facts] == [  # type: ignore[attr-defined]
        (3, True, "pool"),
        (3, True, "pool"),
        (3, True, "pool-tf"),
        (3, True, "pool-tf"),
        (5, False, "pool"),
        (5, False, "pool"),
    ]


def adm_distances(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """ADM's _batch_pairwise_distances in float16, one pair of rows after another; float32 where one is not finite."""
    found = np.zeros((len(u), len(v)), dtype=np.float16)
    with np.errstate(over="ignore", invalid="ignore"):
        for i, a in enumerate(u.astype(np.float16)):
            for j, b in enumerate(v.astype(np.float16)):
                norms = [np.float16(np.float32(z * z).sum()) for z in (a, b)]
                product = np.float16((np.float32(a) * np.float32(b)).sum())
                found[i, j] = max(np.float16(norms[0] - np.float16(2) * product) + norms[1], np.float16(0))
    if np.isfinite(found).all():
        return found.astype(np.float32)
    return np.maximum(np.square(u[:, None] - v).sum(axis=2), 0).astype(np.float32)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_adms_evaluator_takes_distances_in_float16_first(scale: float) -> None:
    """evaluator.py: the radius is the fourth smallest distance of a row, its own among them; balls are closed."""
    x = (scale * rng(3).normal(1, 1, size=(60, 24))).astype(np.float32)
    y = (scale * rng(4).normal(1, 1.3, size=(70, 24))).astype(np.float32)
    radii = {name: np.sort(adm_distances(z, z), axis=1)[:, 3] for name, z in (("x", x), ("y", y))}
    between = adm_distances(x, y)
    precision, recall = (between <= radii["y"]).any(axis=1).mean(), (between <= radii["x"][:, None]).any(axis=0).mean()
    assert np.isfinite(between).all()
    assert (between > 65_504).any() == (scale == 100.0)  # float32 was needed
    found = get_metric("precision-adm"), get_metric("recall-adm")
    assert found[0].compute(x, y) == precision  # type: ignore[attr-defined]
    assert found[1].compute(x, y) == recall  # type: ignore[attr-defined]
    group = np.arange(60) % 5
    brute = [found[1].compute(x[group != g], y) for g in range(5)]  # type: ignore[attr-defined]
    assert found[1].leave_group_out(x, y, group) == pytest.approx(brute, abs=1e-12)  # type: ignore[attr-defined]


def test_float16_changes_which_images_count() -> None:
    """Far from zero the squares hide small distances: what float16 sees differs from the exact answer."""
    x, y = (rng(seed).normal(4, 0.5, size=(200, 48)).astype(np.float32) for seed in (5, 6))
    assert get_metric("precision-adm").compute(x, y) != get_metric("precision").compute(x, y)  # type: ignore[attr-defined]
