"""Joint success: whether one image meets all of its conditions at once.

A method can lead every column by meeting the text on some images and the mask on others; this is the column that
sees it. Each metric's threshold is a low quantile of the ground-truth row (what real images that do meet the condition
reach, measured by the same networks), so that it needs no taste. Over independent metrics, the ground-truth row itself
succeeds on about (1 - q)^k of its images: read the others against that ceiling. Rates get a Wilson interval and
McNemar's test (reports/statistics.py).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

QUANTILE = 0.05

Failed = Mapping[str, ArrayLike]
"""Per metric, bool (n,): where the metric's status is not 'ok'; a metric left out has no failures."""


def joint_thresholds(
    truth: Mapping[str, ArrayLike],
    higher_is_better: Mapping[str, bool],
    quantile: float = QUANTILE,
    failed: Failed | None = None,
) -> dict[str, float]:
    """The value that all but the worst `quantile` of the ground-truth row's images reach, by metric.

    truth: per metric, the ground-truth row's values (n,). For a distance it is the (1 - quantile)-quantile. Between two
    images it is interpolated linearly. Failed measurements say nothing about the others and are left out.
    """
    if not 0 <= quantile <= 1:
        raise ValueError(f"quantile {quantile}: expected a number in 0..1")
    thresholds = {}
    for name, values in truth.items():
        known = np.asarray(values, dtype=np.float64)[~_failures(name, values, failed)]
        if not len(known) or not np.isfinite(known).all():
            raise ValueError(f"metric '{name}': the ground-truth row has no finite values to take a threshold from")
        thresholds[name] = float(np.quantile(known, quantile if higher_is_better[name] else 1 - quantile))
    return thresholds


def joint_success(
    values: Mapping[str, ArrayLike],
    thresholds: Mapping[str, float],
    higher_is_better: Mapping[str, bool],
    failed: Failed | None = None,
) -> np.ndarray:
    """int64 (n,): 1 where every metric of `thresholds` reaches its threshold (or is equal to it), else 0.

    values: per metric, one row's values (n,) in one order of requests. A failed measurement or a NaN is not met.
    """
    if not thresholds:
        raise ValueError("no thresholds: joint success needs the metrics that it joins")
    lengths = {name: len(np.asarray(values[name])) for name in thresholds}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"values of unequal lengths {lengths}: expected one value per request for each metric")
    met = np.ones(next(iter(lengths.values())), dtype=bool)
    for name, threshold in thresholds.items():
        measured = np.asarray(values[name], dtype=np.float64)
        met &= (measured >= threshold) if higher_is_better[name] else (measured <= threshold)
        met &= ~_failures(name, measured, failed)
    return met.astype(np.int64)


def _failures(name: str, values: ArrayLike, failed: Failed | None) -> np.ndarray:
    n = len(np.asarray(values))
    marked = np.zeros(n, dtype=bool) if failed is None or name not in failed else np.asarray(failed[name], dtype=bool)
    if len(marked) != n:
        raise ValueError(f"metric '{name}': {n} values but {len(marked)} failure marks")
    return marked


def worst_condition(
    values: Mapping[str, ArrayLike], floors: Mapping[str, float], ceilings: Mapping[str, float]
) -> np.ndarray:
    """How well each image meets the condition that it meets worst, float64 (n,).

    Every metric is put on one scale, 0 where images made for other conditions stand (`floors`: the mean of the
    row 'shuffled') and 1 where real images of these conditions do (`ceilings`: the mean of the row 'ground-truth'):

        s_k = (v_k - floor_k) / (ceiling_k - floor_k),          worst = min_k s_k

    whichever way the metric points. An image that ignores one of its conditions is near 0 however well it meets the
    others, so that a method cannot lead by dropping one. Thresholds at s = L, for L from 0 to 1, trace the share of
    images that meet all conditions to that degree; the area under that curve is the mean of `worst` cut to 0..1.
    ValueError where floor and ceiling are the same: the metric then tells nothing apart.
    """
    if not floors:
        raise ValueError("no metrics: the worst condition needs the metrics that it joins")
    scaled = []
    for name, floor in floors.items():
        reach = ceilings[name] - floor
        if not np.isfinite(reach) or reach == 0:
            raise ValueError(f"metric '{name}': the floor {floor:g} and the ceiling {ceilings[name]:g} span no scale")
        scaled.append((np.asarray(values[name], dtype=np.float64) - floor) / reach)
    return np.asarray(np.min(scaled, axis=0))


def satisfaction(worst: ArrayLike, levels: ArrayLike) -> np.ndarray:
    """Share of images that meet all conditions to each of the levels: float64 (len(levels),)."""
    flat = np.asarray(worst, dtype=np.float64)
    return np.asarray([(flat >= level).mean() for level in np.asarray(levels, dtype=np.float64)])


def area(worst: ArrayLike) -> float:
    """The area under `satisfaction` for levels from 0 to 1."""
    return float(np.clip(np.asarray(worst, dtype=np.float64), 0, 1).mean())
