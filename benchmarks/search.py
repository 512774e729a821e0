"""The search of `concord tune`: Optuna's Gaussian process after first points that every method of a suite shares.

The next point follows from the trials so far, the seed and its number alone: a search that was stopped goes on as if
it had not been.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from concord.benchmarks.tuned import Trial
from concord.methods.core.tunable import Interval, Value

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

SPREAD = 0.6  # share of the trials that are spread over the whole ranges; the Gaussian process chooses the others
SAMPLER = "middle of the ranges, Latin hypercube, then a Gaussian process's expected improvement (Optuna)"
Evaluate = Callable[[dict[str, Value]], Trial]


def search(
    ranges: Mapping[str, Interval],
    trials: int,
    seed: int,
    evaluate: Evaluate,
    done: Sequence[Trial] = (),
    keep: Callable[[list[Trial]], None] | None = None,
) -> list[Trial]:
    """Try `trials` settings, in the order tried, of which `done` were tried before.

    The first is the ranges' middle, then a Latin hypercube, then where a Gaussian process of the trials so far expects
    the most improvement. The same ranges and seed give the same first points, whatever is evaluated. keep: called with
    all trials after each.
    """
    found = list(done[:trials])
    first = first_points(ranges, trials, seed)
    while len(found) < trials:
        number = len(found)
        params = first[number] if number < len(first) else propose(ranges, found, seed)
        found.append(evaluate(params))
        if keep is not None:
            keep(found)
    return found


def first_points(ranges: Mapping[str, Interval], trials: int, seed: int) -> list[dict[str, Value]]:
    """The middle, and a Latin hypercube over the ranges."""
    from scipy.stats import qmc

    spread = max(1, math.ceil(SPREAD * trials))
    cube = qmc.LatinHypercube(len(ranges), rng=np.random.default_rng([seed, 0])).random(max(spread - 1, 0))
    places = [np.full(len(ranges), 0.5), *cube]
    return [
        {name: interval.at(float(at)) for (name, interval), at in zip(ranges.items(), place, strict=True)}
        for place in places
    ]


def propose(ranges: Mapping[str, Interval], found: Sequence[Trial], seed: int) -> dict[str, Value]:
    """Where a Gaussian process through these trials expects the most improvement."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # A seed for every number: the state of one sampler would not survive a stop.
    own = int(np.random.default_rng([seed, 1, len(found)]).integers(2**31))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.GPSampler(n_startup_trials=1, seed=own)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    spaces = {name: _distribution(interval) for name, interval in ranges.items()}
    study.add_trials(
        [
            optuna.trial.create_trial(params=dict(trial.params), distributions=spaces, value=trial.objective)
            for trial in found
        ]
    )
    asked = study.ask(spaces).params
    return {name: interval.rounded(asked[name]) for name, interval in ranges.items()}


def _distribution(interval: Interval) -> BaseDistribution:
    import optuna

    if interval.whole:
        return optuna.distributions.IntDistribution(
            round(interval.low), round(interval.high), log=interval.by_logarithm
        )
    return optuna.distributions.FloatDistribution(interval.low, interval.high, log=interval.by_logarithm)


def best(trials: Sequence[Trial]) -> Trial:
    """The trial with the highest objective; the earlier one of equals."""
    return max(trials, key=lambda trial: trial.objective)
