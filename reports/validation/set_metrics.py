"""Intervals of set metrics, before and after: `python -m concord.reports.validation.set_metrics`.

Two rows answer the same n requests: their features are drawn together from a Gaussian over D + D dimensions, with the
correlation that shared seeds and conditions leave, plainly or with heavy tails (a gamma scale mixture). The true
standard error of the difference is its spread over all draws. Printed for each metric and n, for 32 jackknife groups
(before) and `SetMetric.replicates` (after): the share of 95 % intervals that hold the true difference, the mean
standard error over the true one, and the width of the interval over what it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from concord.metrics.base import GROUPS, SetMetric, get_metric
from concord.metrics.distribution.moments import Floats
from concord.reports import statistics as st

DIMENSIONS = 64
CLASSES = 12
SIZES = (50, 128, 400)
METRICS = ("fid", "kid", "inception-score", "precision", "recall")
BEFORE_TRIALS = 20  # the jackknife of groups costs thirty times as much


@dataclass(frozen=True)
class Outcome:
    """One metric at one n. coverage, ratio: of the intervals and standard errors after; *_before: of 32 groups."""

    metric: str
    n: int
    tails: str
    trials: int
    coverage: float
    ratio: float
    coverage_before: float
    ratio_before: float

    @property
    def width(self) -> float:
        """The interval's width over the one of before."""
        after = self.ratio * st.t_quantile(63 if self.metric == "recall" else self.n - 1)
        return after / (self.ratio_before * st.t_quantile(min(GROUPS, self.n) - 1))


class World:
    """Two generators and a reference in a feature space; `alike`: the correlation of a request's two images."""

    def __init__(self, heavy: bool, alike: float = 0.6, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.heavy, self.alike = heavy, alike
        self.scales = np.geomspace(4, 0.4, DIMENSIONS)
        self.turn = np.linalg.qr(rng.normal(size=(DIMENSIONS, DIMENSIONS)))[0]
        self.reference = (rng.normal(size=(1000, DIMENSIONS)) * self.scales @ self.turn).astype(np.float32)
        self.shifts = (0.15 * rng.normal(size=DIMENSIONS), 0.15 * rng.normal(size=DIMENSIONS))
        self.spreads = (0.92, 0.85)

    def draw(self, rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        shared = rng.normal(size=(n, DIMENSIONS))
        tail = np.sqrt(rng.gamma(3, 1 / 3, (n, 1))) if self.heavy else 1.0
        rows = []
        for shift, spread in zip(self.shifts, self.spreads, strict=True):
            own = rng.normal(size=(n, DIMENSIONS))
            noise = np.sqrt(self.alike) * shared + np.sqrt(1 - self.alike) * own
            rows.append(((noise * tail * spread + shift) * self.scales @ self.turn).astype(np.float32))
        return rows[0], rows[1]


def measure(name: str, n: int, heavy: bool, trials: int, seed: int = 0) -> Outcome:
    """Coverage and size of one metric's paired intervals."""
    metric, world, items = get_metric(name), World(heavy), np.arange(n)
    assert isinstance(metric, SetMetric)
    rng = np.random.default_rng([seed, n, heavy])
    reference = world.reference if metric.needs_reference else world.reference[:0, :CLASSES]
    after: list[tuple[float, float, int]] = []
    before: list[tuple[float, float, int]] = []
    for trial in range(trials):
        sides = world.draw(rng, n)
        if not metric.needs_reference:  # the first coordinates are a classifier's logits
            sides = sides[0][:, :CLASSES], sides[1][:, :CLASSES]
        values = [metric.compute(side, reference) for side in sides]
        after.append(_tested(values, [metric.replicates(side, reference, items) for side in sides]))
        if trial < BEFORE_TRIALS:
            groups = items % min(GROUPS, n)
            before.append(_tested(values, [metric.leave_group_out(side, reference, groups) for side in sides]))
    differences = np.array([one[0] for one in after])
    truth, spread = float(differences.mean()), float(differences.std(ddof=1))
    ratios = [float(np.mean([one[1] for one in found])) / spread for found in (after, before)]
    held = [np.mean([abs(d - truth) <= st.t_quantile(df) * e for d, e, df in found]) for found in (after, before)]
    return Outcome(
        name, n, "heavy" if heavy else "normal", trials, float(held[0]), ratios[0], float(held[1]), ratios[1]
    )


def _tested(values: Sequence[float], replicates: Sequence[Floats]) -> tuple[float, float, int]:
    found = st.paired_jackknife(values[0], replicates[0], values[1], replicates[1])
    return found.value, found.error, found.df


def outcomes(trials: int, metrics: Sequence[str] = METRICS, sizes: Sequence[int] = SIZES) -> Iterator[Outcome]:
    """Every metric at every n, with normal and with heavy tails."""
    for name in metrics:
        for n in sizes:
            for heavy in (False, True):
                yield measure(name, n, heavy, trials)


HEAD = "metric            n tails   coverage  SE / true   before: coverage  SE / true   width"


def line(one: Outcome) -> str:
    """One line of the table."""
    return (
        f"{one.metric:15} {one.n:4d} {one.tails:7} {100 * one.coverage:6.1f} % {one.ratio:10.2f}"
        f"{100 * one.coverage_before:19.1f} % {one.ratio_before:10.2f} {one.width:8.2f}"
    )


def main(trials: Annotated[int, "draws a case; its coverage is known to 100 sqrt(0.05 / trials) points"] = 400) -> None:
    """Print the table."""
    print(HEAD)
    for one in outcomes(trials):
        print(line(one), flush=True)


if __name__ == "__main__":
    import typer

    typer.run(main)
