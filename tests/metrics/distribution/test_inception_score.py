"""IS against closed forms and the definition word for word; its replicates against brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest

import concord.metrics.distribution.inception_score
from concord.data.errors import ConcordError
from concord.metrics.base import get_metric
from concord.metrics.distribution.inception_score import InceptionScore, split_scores
from concord.reports.statistics import jackknife_interval

rng = np.random.default_rng
NONE = np.zeros((0, 12), np.float32)


def direct(logits: np.ndarray) -> float:
    """exp of the mean Kullback-Leibler divergence, row by row, in Python floats."""
    rows = [[math.exp(v - max(map(float, row))) for v in map(float, row)] for row in logits]
    p = [[v / sum(row) for v in row] for row in rows]
    q = [sum(column) / len(p) for column in zip(*p, strict=True)]
    return math.exp(sum(a * math.log(a / b) for row in p for a, b in zip(row, q, strict=True) if a > 0) / len(p))


def some(n: int = 90, classes: int = 12, seed: int = 0, sharp: float = 2.0) -> np.ndarray:
    return (rng(seed).normal(size=(n, classes)) * sharp).astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("sharp", [0.1, 2.0, 40.0])
def test_is_the_definition(seed: int, sharp: float) -> None:
    logits = some(40, 7, seed, sharp)
    assert InceptionScore().compute(logits, NONE) == pytest.approx(direct(logits), rel=1e-12)


@pytest.mark.parametrize("classes", [2, 10, 1008])
def test_one_hot_classes_score_their_number_and_uniform_ones_1(classes: int) -> None:
    sure = np.tile(1000 * np.eye(classes, dtype=np.float32), (2, 1))
    assert InceptionScore().compute(sure, NONE) == pytest.approx(classes, rel=1e-12)
    assert InceptionScore().compute(np.full((50, classes), 3.5, np.float32), NONE) == pytest.approx(1, abs=1e-12)
    collapsed = np.tile(sure[:1], (50, 1))  # sure of one class alone
    assert InceptionScore().compute(collapsed, NONE) == 1


def test_order_blocks_and_a_constant_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = some()
    value = InceptionScore().compute(logits, NONE)
    assert 1 < value < 12
    assert InceptionScore().compute(logits[rng(1).permutation(90)], NONE) == pytest.approx(value, rel=1e-13)
    assert InceptionScore().compute(logits + 1024, NONE) == pytest.approx(value, rel=1e-4)  # float32 sums
    assert InceptionScore().compute(logits.astype(np.float64) + 1024, NONE) == pytest.approx(value, rel=1e-12)
    monkeypatch.setattr(concord.metrics.distribution.inception_score, "BLOCK", 7)
    assert InceptionScore().compute(logits, NONE) == pytest.approx(value, rel=1e-13)


def test_splits_see_fewer_images_and_score_less() -> None:
    logits = some(97)
    assert split_scores(logits, 1)[0] == InceptionScore().compute(logits, NONE)
    parts = split_scores(logits, 10)
    assert parts == pytest.approx([direct(logits[k * 97 // 10 : (k + 1) * 97 // 10]) for k in range(10)], rel=1e-12)
    assert parts.mean() < InceptionScore().compute(logits, NONE)
    with pytest.raises(ValueError, match="98 splits of 97 rows"):
        split_scores(logits, 98)


@pytest.mark.parametrize(("n", "groups"), [(90, 32), (20, 20), (9, 2)])
def test_leaving_a_group_out_is_computing_without_it(n: int, groups: int) -> None:
    logits, group = some(n), rng(3).permutation(np.arange(n) % groups)
    brute = [InceptionScore().compute(logits[group != g], NONE) for g in range(groups)]
    assert InceptionScore().leave_group_out(logits, NONE, group) == pytest.approx(brute, rel=1e-12)


def test_a_class_that_leaves_with_its_group_is_gone() -> None:
    logits = 1000 * np.eye(4, dtype=np.float32)[[0, 1, 2, 3] * 5]
    replicates = InceptionScore().leave_group_out(logits, NONE, np.array([0, 1, 2, 3] * 5))
    assert replicates == pytest.approx([3, 3, 3, 3], rel=1e-12)


def test_jackknife_interval_covers() -> None:
    """Of the expected IS at this n; 100 experiments know a coverage of 95 % to 2.2 points."""
    values, intervals = [], []
    for seed in range(100):
        logits = some(128, 12, seed + 10)
        values.append(InceptionScore().compute(logits, NONE))
        replicates = InceptionScore().leave_group_out(logits, NONE, np.arange(128) % 32)
        intervals.append(jackknife_interval(values[-1], replicates))
    covered = np.mean([i.low <= np.mean(values) <= i.high for i in intervals])
    assert 0.88 <= covered <= 1


def test_bad_logits_are_named_and_no_reference_is_needed() -> None:
    metric = get_metric("inception-score")
    assert isinstance(metric, InceptionScore)
    assert not metric.needs_reference
    logits = some()
    logits[13, 2] = np.inf
    with pytest.raises(ConcordError, match=r"'inception-score'.*image 13 are not finite"):
        metric.compute(logits, NONE)
    with pytest.raises(ConcordError, match=r"1 generated image\(s\)"):
        metric.compute(logits[:1], NONE)
    assert get_metric("inception-score-tf").features == "logits-tf"  # type: ignore[attr-defined]


def test_adms_evaluator_averages_parts_of_5000() -> None:
    """evaluations/evaluator.py, compute_inception_score: consecutive parts, the last one what is left."""
    logits = np.random.default_rng(1).normal(size=(11_000, 6)) * 3
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    scores = []
    for part in (p[:5000], p[5000:10_000], p[10_000:]):
        kl = part * (np.log(part) - np.log(part.mean(axis=0, keepdims=True)))
        scores.append(np.exp(kl.sum(axis=1).mean()))
    metric = get_metric("inception-score-adm")
    assert metric.compute(logits, NONE) == pytest.approx(np.mean(scores), rel=1e-12)  # type: ignore[attr-defined]
    whole = get_metric("inception-score").compute(logits, NONE)  # type: ignore[attr-defined]
    assert abs(metric.compute(logits, NONE) - whole) > 1e-3  # type: ignore[attr-defined]
    assert metric.compute(logits[:5000], NONE) == pytest.approx(scores[0], rel=1e-12)  # type: ignore[attr-defined]
    groups = np.arange(11_000) % 4
    left_out = metric.leave_group_out(logits, NONE, groups)  # type: ignore[attr-defined]
    kept = [p[i : i + 5000][groups[i : i + 5000] != 2] for i in range(0, 11_000, 5000)]
    by_part = [np.exp((q * (np.log(q) - np.log(q.mean(0)))).sum(1).mean()) for q in kept]
    assert left_out[2] == pytest.approx(np.mean(by_part), rel=1e-12)
