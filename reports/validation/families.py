"""Family-wise error and power of a table's tests: `python -m concord.reports.validation.families`.

A table of seven rows over the same n requests, in columns that depend on each other as those of joint-generation do:
per request, each row's values in all columns share what makes the request hard and the row's own luck. In the *null*
table all rows are equally good; in the other one they differ by steps of `EFFECT` standard deviations of a paired
difference. Counted over many tables: how often a family holds a false verdict (it may, in 5 %), how often an
equivalence is told of rows that differ by exactly the margin, and what share of the true differences is found, by one
correction over all pairs (before) and by the families (after).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated

import numpy as np
from scipy import special

from concord.metrics.distribution.moments import Floats
from concord.reports import statistics as st
from concord.reports.families import ALPHA, equivalence_p, n_to_tell

ROWS, COLUMNS = 7, 5
EFFECT = 0.12
PAIRS = tuple(combinations(range(ROWS), 2))
CLAIMS = np.array([[0 in pair] * COLUMNS for pair in PAIRS]).ravel()  # row 0 against every other row


@dataclass(frozen=True)
class Rate:
    """A share of tables, or of tests, with its standard error."""

    name: str
    value: float
    trials: int

    @property
    def error(self) -> float:
        return float(np.sqrt(self.value * (1 - self.value) / self.trials))


def draw(rng: np.random.Generator, n: int, effect: float) -> Floats:
    """Values (ROWS, n, COLUMNS); row k is k steps better than the last but one, and the last two are equal."""
    hard, luck = rng.normal(size=(1, n, COLUMNS)), rng.normal(size=(ROWS, n, 1))
    own = rng.normal(size=(ROWS, n, COLUMNS))
    better = effect * np.sqrt(2) * np.maximum(0, ROWS - 2 - np.arange(ROWS))
    return np.asarray(hard + (luck + own) / np.sqrt(2) + better[:, None, None])


def tests(values: Floats) -> tuple[Floats, Floats, Floats]:
    """p, differences and standard errors of all pairs and columns (pairs x COLUMNS).

    By Student's t, exact for these normal values; that sign flips keep their level is measured in simulate.py.
    """
    differences = np.stack([values[a] - values[b] for a, b in PAIRS])  # (pairs, n, COLUMNS)
    n = differences.shape[1]
    mean, error = differences.mean(axis=1).ravel(), differences.std(axis=1, ddof=1).ravel() / np.sqrt(n)
    return np.asarray(2 * special.stdtr(n - 1, -np.abs(mean / error))), mean, error


def false_alarms(n: int, trials: int, seed: int = 0) -> list[Rate]:
    """How often each family of a table in which nothing differs holds a verdict."""
    rng = np.random.default_rng([seed, n])
    alarms = {"claims": 0, "orders": 0, "all pairs": 0}
    for _ in range(trials):
        p, _, _ = tests(draw(rng, n, 0.0))
        for name, members in (("claims", CLAIMS), ("orders", ~CLAIMS), ("all pairs", np.ones(len(p), bool))):
            alarms[name] += bool((st.holm(p[members]) < ALPHA).any())
    return [Rate(f"false alarm, family '{name}', n = {n}", count / trials, trials) for name, count in alarms.items()]


def false_equivalence(n: int, trials: int, seed: int = 0) -> Rate:
    """How often a family of pairs that differ by exactly the margin is told to hold an equivalent one."""
    rng = np.random.default_rng([seed, n, 1])
    margin = 5 / np.sqrt(n)  # wide enough that the test could tell
    told = 0
    for _ in range(trials):
        differences = rng.normal(size=(n, 10)) + rng.normal(size=(n, 1)) + margin
        errors = differences.std(axis=0, ddof=1) / np.sqrt(n)
        p = [equivalence_p(d, e, n - 1, margin) for d, e in zip(differences.mean(axis=0), errors, strict=True)]
        told += bool((st.holm(p) < ALPHA).any())
    return Rate(f"false equivalence, 10 pairs, n = {n}", told / trials, trials)


def power(n: int, trials: int, effect: float = EFFECT, seed: int = 0) -> list[Rate]:
    """The share of true differences that are found, before and after."""
    rng = np.random.default_rng([seed, n, 2])
    different = np.array([[max(0, ROWS - 2 - a) != max(0, ROWS - 2 - b)] * COLUMNS for a, b in PAIRS]).ravel()
    found = {f"{name}, {how}": 0.0 for name in ("claims", "orders") for how in ("one family", "a family of their own")}
    for _ in range(trials):
        p, _, _ = tests(draw(rng, n, effect))
        together = st.holm(p)
        for name, members in (("claims", CLAIMS), ("orders", ~CLAIMS)):
            corrected = np.ones(len(p))
            corrected[members] = st.holm(p[members])
            asked = members & different
            found[f"{name}, one family"] += float((together[asked] < ALPHA).mean())
            found[f"{name}, a family of their own"] += float((corrected[asked] < ALPHA).mean())
    return [Rate(f"power, {name}, n = {n}", share / trials, trials) for name, share in found.items()]


def promised_power(n: int, trials: int, seed: int = 0) -> Rate:
    """How often `n_to_tell` keeps its word: at the n that it names, 80 % of such differences are found."""
    rng = np.random.default_rng([seed, n, 3])
    effect, level = 0.15, ALPHA / 20
    wanted = n_to_tell(n, effect, 1 / np.sqrt(n), level)
    assert wanted is not None
    p = np.concatenate([st.sign_flip(rng.normal(effect, 1, (wanted, 50))) for _ in range(max(1, trials // 50))])
    return Rate(f"power at the n that would tell ({wanted})", float((p < level).mean()), len(p))


def rates(trials: int) -> Iterator[Rate]:
    """All of them."""
    for n in (50, 128, 400):
        yield from false_alarms(n, trials)
    yield false_equivalence(128, trials)
    for n in (50, 128, 400):
        yield from power(n, max(20, trials // 20))
    yield promised_power(50, trials)


def main(trials: Annotated[int, "tables a case"] = 1000) -> None:
    """Print the table."""
    for rate in rates(trials):
        print(f"{rate.name:48} {100 * rate.value:6.1f} % ± {100 * rate.error:.1f}", flush=True)


if __name__ == "__main__":
    import typer

    typer.run(main)
