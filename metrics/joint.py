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
