"""How fast the set metrics are, beside what the reference libraries compute: `python -m
concord.benchmarks.profiling.set_metric_speed [D]`.

All times in one run, so that their ratios mean something on any machine. Features are random, with the decaying
spectrum of real ones.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from concord.metrics.distribution.fid import FID, frechet_distance
from concord.metrics.distribution.kid import KID, cubic_kernel
from concord.metrics.distribution.moments import Moments

Result = TypeVar("Result")

SUBSETS, SUBSET = 100, 1000  # the references' KID


def make_features(n: int, dimensions: int, seed: int, shift: float = 0.0) -> np.ndarray:
    """float32 (n, D): Gaussian, rotated, its k-th standard deviation k^-0.7, mean `shift`."""
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(dimensions, dimensions)))[0]
    scales = np.arange(1, dimensions + 1) ** -0.7
    rows = np.random.default_rng(seed).normal(size=(n, dimensions)) * scales
    return np.asarray(rows @ turn + shift, dtype=np.float32)


def sqrtm_distance(generated: Moments, reference: Moments) -> float:
    """The references' route: the square root of the non-symmetric product."""
    from scipy import linalg  # half a second, and every command imports this folder

    first, second = generated.covariance, reference.covariance
    offset = generated.mean - reference.mean
    root = linalg.sqrtm(first @ second)
    return float(offset @ offset + np.trace(first) + np.trace(second) - 2 * np.trace(root).real)


def subset_kid(generated: np.ndarray, reference: np.ndarray, seed: int = 0) -> float:
    """The references' estimate: the mean of the U-statistic over random subsets without replacement."""
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(SUBSETS):
        x = generated[rng.choice(len(generated), SUBSET, replace=False)]
        y = reference[rng.choice(len(reference), SUBSET, replace=False)]
        own = cubic_kernel(x, x) + cubic_kernel(y, y)
        values.append((own.sum() - np.trace(own)) / (SUBSET * (SUBSET - 1)) - 2 * cubic_kernel(x, y).mean())
    return float(np.mean(values))


def timed(work: Callable[[], Result]) -> tuple[float, Result]:
    """(seconds, result)"""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def main(dimensions: int = 1024) -> None:
    """Print seconds of set metrics on 3 x `dimensions` features, by both ways of computing them."""
    n = 3 * dimensions
    generated, reference = make_features(n, dimensions, 1, 0.01), make_features(n, dimensions, 2)
    sums_seconds, sums = timed(lambda: (Moments.of(generated), Moments.of(reference)))
    first, second = sums
    ours, value = timed(lambda: frechet_distance(first, second))
    theirs, other = timed(lambda: sqrtm_distance(first, second))
    print(f"D = {dimensions}, {n} + {n} feature vectors")
    print(f"sums of both sets        {sums_seconds:8.2f} s")
    print(f"FID, Cholesky, eigvalsh   {ours:8.2f} s   {value:.9f}")
    print(f"FID, scipy sqrtm         {theirs:8.2f} s   {other:.9f}   {theirs / ours:.1f} times as long")
    few, groups = generated[:128], np.arange(128) % 32
    seconds, _ = timed(lambda: FID().leave_group_out(few, reference, groups))
    print(f"FID, 32 replicates, 128 generated images  {seconds:8.2f} s")
    ours, value = timed(lambda: KID().compute(generated, reference))
    seconds, _ = timed(lambda: KID().leave_group_out(generated, reference, np.arange(n) % 32))
    theirs, other = timed(lambda: subset_kid(generated, reference))
    print(f"KID, all pairs           {ours:8.2f} s   {value:.9f}")
    print(f"KID, with 32 replicates  {seconds:8.2f} s   {seconds / ours:.2f} times the value alone")
    print(f"KID, {SUBSETS} x {SUBSET} subsets   {theirs:8.2f} s   {other:.9f}   {theirs / ours:.1f} times as long")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:2]))
