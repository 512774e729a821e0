"""How far one image moves a set metric: the replicates that its interval and its paired tests are made of.

A set metric is a functional T of the distribution of features. Its influence function (Hampel 1974) says how T moves
when a little weight is put on one image; over the images it sums to zero, and

    se(T)^2 = sum_i IF_i^2 / (n (n - 1))            the infinitesimal jackknife (Jaeckel 1972; Efron 1982, chapter 6)

Two rows over the same requests are paired: IF_i of the one less IF_i of the other, request by request. Images of one
item under several seeds are one unit: their influences are added up.

What is stored are delete-one replicates, T_(g) = T - sum_{i in g} IF_i / (n - n_g) for item g, so that the jackknife's
formula (reports/statistics.py) gives this very standard error, with G - 1 degrees of freedom in place of 31. Delete-one
replicates computed in full err on the wide side where n is near the number of dimensions D, as 32 groups do: for paired
differences of FID at D = 64 they came out 1.34 times the true standard error at n = 50 and 1.10 times at 128, the
influence function 1.09 and 1.01 times (`python -m concord.reports.validation.set_metrics`).

Shares of balls around k-th neighbours (recall) have no derivative, and leaving single images out is inconsistent for
them (twice the true standard error). For these: random halves of the items and their complements (the delete-d
jackknife of Shao & Wu 1989 with d = n/2), se^2 = the mean of ((T_half - T_complement) / 2)^2.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from concord.metrics.distribution.moments import Floats

SEED = 0
MANY = 1_000  # images: above, fewer halves, as each costs as much as the value


def check_items(items: np.ndarray, n: int) -> int:
    """The number of items G of the images (n,), whose numbers must be 0..G-1, each there; ValueError otherwise."""
    if items.shape != (n,) or not np.issubdtype(items.dtype, np.integer):
        raise ValueError(f"items {items.shape} of {items.dtype}: expected integers of shape ({n},)")
    if n and (items.min() < 0 or np.bincount(items).min() == 0):
        raise ValueError("items: expected numbers 0..G-1, none of them missing")
    return int(items.max(initial=-1)) + 1


def influence_replicates(value: float, influence: np.ndarray, items: np.ndarray) -> Floats:
    """Linearised delete-one replicates (G,) from each image's influence (n,)."""
    n = len(influence)
    count = check_items(items, n)
    if count < 2:
        return np.zeros(0)
    sizes = np.bincount(items)
    return np.asarray(value - np.bincount(items, influence) / (n - sizes))


def half_replicates(value: float, of_half: Callable[[np.ndarray], float], items: np.ndarray) -> Floats:
    """Replicates (P,) from P halves of the items and their complements, scaled so that the jackknife's formula holds.

    of_half: the value of the images that a mask (n,) picks. Rows of one table get the same halves.
    """
    count = check_items(items, len(items))
    if count < 4:
        return np.zeros(0)
    pairs = 64 if len(items) <= MANY else 32
    rng = np.random.default_rng([SEED, count])
    differences = np.empty(pairs)
    for pair in range(pairs):
        chosen = np.zeros(count, dtype=bool)
        chosen[rng.permutation(count)[: count // 2]] = True
        half = chosen[items]
        differences[pair] = (of_half(half) - of_half(~half)) / 2
    return np.asarray(value + differences * np.sqrt(pairs) / (pairs - 1))
