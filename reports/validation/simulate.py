"""Whether the statistics keep what they say, measured where the truth is known: `python -m
concord.reports.validation.simulate`.

Each case draws many experiments from a distribution whose true value is known (in closed form, or for a set metric as
the mean over many more experiments) and counts how often the 95 % interval holds it, or how often a paired test finds a
difference that is not there. A case with `within` has to stay in that range; one without shows where a method's safe
range ends, and is printed as it is.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from concord.metrics.base import SetMetric
from concord.reports import statistics as st

Floats = NDArray[np.float64]
Experiment = Callable[[np.random.Generator, int], "float | Iterable[bool]"]

COVERAGE = (0.93, 0.97)
ALARMS = (0.0, 0.055)
POWER = (0.76, 0.84)
GROUPS = 32
SETS = 5


@dataclass(frozen=True)
class Case:
    """One line of the table. `run(rng, trials)` gives the rate itself, or one outcome an experiment."""

    kind: str  # 'coverage', 'false alarms', 'power'
    name: str
    setting: str
    run: Experiment
    within: tuple[float, float] | None
    share: float = 1.0  # of the trials asked for: set metrics cost more, tests need more to tell 5 from 5.5 %


@dataclass(frozen=True)
class Result:
    """`rate`: the share counted. `error`: its standard error, 0 where it was computed exactly."""

    case: Case
    rate: float
    error: float
    trials: int

    @property
    def passed(self) -> bool | None:
        """Whether the rate lies where it should; None where nothing is said."""
        return None if self.case.within is None else self.case.within[0] <= self.rate <= self.case.within[1]


def simulate(trials: int = 2000, seed: int = 0, only: str = "") -> Iterator[Result]:
    """Every case whose kind or name holds `only`; each draws from its own seed, so that none depends on the others."""
    for case in CASES:
        if only not in case.kind and only not in case.name:
            continue
        rng = np.random.default_rng([seed, zlib.crc32(f"{case.kind} {case.name} {case.setting}".encode())])
        outcome = case.run(rng, max(1, round(trials * case.share)))
        if isinstance(outcome, float):
            yield Result(case, outcome, 0.0, 0)
        else:
            hits = np.fromiter(outcome, bool)
            rate = float(hits.mean())
            yield Result(case, rate, float(np.sqrt(rate * (1 - rate) / len(hits))), len(hits))


# --------------------------------------------------------------------------------------------------- values per image


def holds(interval: st.Interval, truth: float) -> bool:
    """Whether the truth lies in the interval, its ends included."""
    return bool(interval.low <= truth <= interval.high)


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Of standard deviation 5 around 70."""
    return rng.normal(70, 5, shape)  # mean 70


def skewed(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Like a distance with a long tail: gamma of shape 2 (skewness 1.4) with mean 1."""
    return rng.gamma(2, 0.5, shape)


def with_failures(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """In 0..100, 10 % of the images failing with 0: the mean is 0.9 * 80 = 72."""
    return np.where(rng.random(shape) < 0.1, 0.0, 100 * rng.beta(8, 2, shape))


Draw = Callable[[np.random.Generator, tuple[int, ...]], Floats]
Cover = Callable[..., st.Interval]

TRUTH: dict[Draw, float] = {normal: 70.0, skewed: 1.0, with_failures: 72.0}
WORDS: dict[Draw, str] = {normal: "normal", skewed: "skewed", with_failures: "10 % failures"}


def mean_covers(method: Cover, draw: Draw, n: int) -> Experiment:
    """Whether the interval of a mean over n independent values holds it, trial by trial."""
    return lambda rng, trials: (holds(method(draw(rng, (n,))), TRUTH[draw]) for _ in range(trials))


def sizes_of(rng: np.random.Generator, items: int, images: int, unequal: bool) -> np.ndarray:
    """Images of each item, (items,): all `images`, or 1 .. 2 `images` - 1 where unequal."""
    return rng.integers(1, 2 * images, items) if unequal else np.full(items, images)


def clustered_mean_covers(method: Cover, draw: Draw, items: int, images: int, unequal: bool = False) -> Experiment:
    """Half of the variance lies between items, half within: truth as that of `draw`."""

    def one(rng: np.random.Generator) -> bool:
        index = np.repeat(np.arange(items), sizes_of(rng, items, images, unequal))
        truth = TRUTH[draw]
        between, within = draw(rng, (items,)) - truth, draw(rng, (len(index),)) - truth
        return holds(method(truth + (between[index] + within) / np.sqrt(2), list(map(str, index))), truth)

    return lambda rng, trials: (one(rng) for _ in range(trials))


def wilson_coverage(n: int, rate: float) -> Experiment:
    """No simulation: the sum of the binomial's probabilities over the counts whose interval holds the rate."""

    def exact(_: np.random.Generator, __: int) -> float:
        from scipy.stats import binom

        counts = np.arange(n + 1)
        inside = [holds(st.rate_interval(np.arange(n) < k), rate) for k in counts]
        return float(binom.pmf(counts, n, rate)[inside].sum())

    return exact


def clustered_rate_covers(items: int, images: int, rate: float, alike: float) -> Experiment:
    """Each item has a rate of its own, beta distributed: `alike` is the correlation of two of its images."""
    a, b = rate * (1 - alike) / alike, (1 - rate) * (1 - alike) / alike
    clusters = [str(i) for i in np.repeat(np.arange(items), images)]

    def one(rng: np.random.Generator) -> bool:
        own = np.repeat(rng.beta(a, b, items), images)
        return holds(st.rate_interval(rng.random(len(own)) < own, clusters), rate)

    return lambda rng, trials: (one(rng) for _ in range(trials))


# --------------------------------------------------------------------------------------------------------- set metrics

WIDE = 16  # feature dimensions of the simulated sets


def reference_features() -> Floats:
    """The same 300 features (300, WIDE) for every trial."""
    return np.random.default_rng(1).normal(size=(300, WIDE))


def generated_features(rng: np.random.Generator, n: int, shift: float) -> Floats:
    """Of another mean and spread than the reference: shift 0.3 is far, 0.05 is all but the same."""
    return rng.normal(shift, 1 + shift, (n, WIDE))


def jackknife_covers(metric: Callable[[], SetMetric], n: int, shift: float) -> Experiment:
    """Truth: the metric's mean at this n, over four times as many sets."""

    def run(rng: np.random.Generator, trials: int) -> Iterator[bool]:
        found, reference, groups = metric(), reference_features(), np.arange(n) % min(GROUPS, n)
        truth = np.mean([found.compute(generated_features(rng, n, shift), reference) for _ in range(4 * trials)])
        for _ in range(trials):
            x = generated_features(rng, n, shift)
            replicates = found.leave_group_out(x, reference, groups)
            yield holds(st.jackknife_interval(found.compute(x, reference), replicates), float(truth))

    return run


def seeds_cover(metric: Callable[[], SetMetric], n: int, shift: float) -> Experiment:
    """Whether the interval of `SETS` seed sets holds the mean over all trials, trial by trial."""

    def run(rng: np.random.Generator, trials: int) -> Iterator[bool]:
        found, reference = metric(), reference_features()
        values = np.array(
            [[found.compute(generated_features(rng, n, shift), reference) for _ in range(SETS)] for _ in range(trials)]
        )
        truth = float(values.mean())
        for row in values:
            yield holds(st.seed_interval(row), truth)

    return run


def fid() -> SetMetric:
    """The FID, imported when it is needed."""
    from concord.metrics.distribution.fid import FID

    return FID()


def kid() -> SetMetric:
    """The KID, imported when it is needed."""
    from concord.metrics.distribution.kid import KID

    return KID()


# -------------------------------------------------------------------------------------------------------- false alarms


def paired(rng: np.random.Generator, draw: Draw, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Two methods that are equally good on requests that are not equally hard."""
    hard = draw(rng, shape)
    return hard + draw(rng, shape), hard + draw(rng, shape)


def sign_flip_alarms(draw: Draw, n: int) -> Experiment:
    """Whether two equal methods are told apart over n requests, trial by trial."""

    def run(rng: np.random.Generator, trials: int) -> Iterator[bool]:
        for size in _blocks(trials, 500):
            first, second = paired(rng, draw, (n, size))
            yield from st.sign_flip(first - second) < 0.05

    return run


def clustered_alarms(draw: Draw, items: int, images: int) -> Experiment:
    """The same where an item has several images, which are alike."""
    clusters = [str(i) for i in np.repeat(np.arange(items), images)]

    def run(rng: np.random.Generator, trials: int) -> Iterator[bool]:
        for size in _blocks(trials, 500):
            first, second = paired(rng, draw, (items, size))
            own = rng.normal(0, 1, (items * images, size))
            difference = np.repeat(first - second, images, axis=0) + own
            yield from st.sign_flip(difference, clusters) < 0.05

    return run


def mcnemar_alarms(n: int) -> Experiment:
    """Two methods with one rate, 0.7, on requests of unequal difficulty."""

    def one(rng: np.random.Generator) -> bool:
        easy = rng.beta(2.1, 0.9, n)
        return st.mcnemar(rng.random(n) < easy, rng.random(n) < easy) < 0.05

    return lambda rng, trials: (one(rng) for _ in range(trials))


def set_alarms(metric: Callable[[], SetMetric], n: int, shift: float, seeds: int = 0) -> Experiment:
    """Two equally good methods, their features half shared request by request; `seeds` sets, or the jackknife at 0."""

    def pair(rng: np.random.Generator) -> tuple[Floats, Floats]:
        shared = generated_features(rng, n, shift)
        first, second = (generated_features(rng, n, shift) for _ in range(2))
        centre = np.full(WIDE, shift)
        return tuple(centre + (shared + own - 2 * centre) / np.sqrt(2) for own in (first, second))

    def run(rng: np.random.Generator, trials: int) -> Iterator[bool]:
        found, reference, groups = metric(), reference_features(), np.arange(n) % min(GROUPS, n)
        for _ in range(trials):
            if seeds:
                values = [[found.compute(x, reference) for x in pair(rng)] for _ in range(seeds)]
                yield st.paired_seeds(*np.array(values).T).p < 0.05
            else:
                sides = [(found.compute(x, reference), found.leave_group_out(x, reference, groups)) for x in pair(rng)]
                yield st.paired_jackknife(*sides[0], *sides[1]).p < 0.05

    return run


def holm_alarms(n: int, comparisons: int) -> Experiment:
    """Of a whole table in which nothing differs: at least one 'better' among its comparisons."""

    def run(rng: np.random.Generator, trials: int) -> Iterator[bool]:
        for size in _blocks(trials, 100):
            first, second = paired(rng, normal, (n, size * comparisons))
            p = st.sign_flip(first - second).reshape(size, comparisons)
            yield from (bool((st.holm(row) < 0.05).any()) for row in p)

    return run


def power(n: int) -> Experiment:
    """How often the test finds exactly what `smallest_visible_effect` promises at 80 %."""

    def run(rng: np.random.Generator, trials: int) -> Iterator[bool]:
        effect = st.smallest_visible_effect(1 / np.sqrt(n), n - 1)
        for size in _blocks(trials, 500):
            p = st.sign_flip(rng.normal(effect, 1, (n, size)))
            yield from (p < 0.05).tolist()

    return run


def _blocks(total: int, size: int) -> Iterator[int]:
    for start in range(0, total, size):
        yield min(size, total - start)


# ----------------------------------------------------------------------------------------------------------- the cases


def _cases() -> Iterator[Case]:
    def coverage(name: str, setting: str, run: Experiment, share: float = 1.0, checked: bool = True) -> Case:
        return Case("coverage", name, setting, run, COVERAGE if checked else None, share)

    def alarms(name: str, setting: str, run: Experiment, share: float = 5.0) -> Case:
        return Case("false alarms", name, setting, run, ALARMS, share)

    for draw, n in (
        (normal, 16),
        (normal, 128),
        (skewed, 32),
        (skewed, 128),
        (with_failures, 64),
        (with_failures, 256),
    ):
        name, run = f"{WORDS[draw]}, n = {n}", mean_covers(st.mean_interval, draw, n)
        yield coverage("mean (t)", name, run, checked=(draw, n) != (with_failures, 64))
    for draw, n in ((normal, 16), (with_failures, 64), (skewed, 32), (skewed, 128)):
        yield coverage("bootstrap", f"{WORDS[draw]}, n = {n}", mean_covers(_quick_bootstrap, draw, n), 0.5)
    for name, method, share in (("mean (t)", st.mean_interval, 1.0), ("bootstrap", _quick_bootstrap, 0.5)):
        for draw, items, unequal in ((normal, 16, False), (normal, 32, True), (skewed, 64, False)):
            yield coverage(
                name,
                f"{WORDS[draw]}, {items} items of {'1 to 7' if unequal else '4'} images",
                clustered_mean_covers(method, draw, items, 4, unequal),
                share,
            )
    for n, rate in ((50, 0.2), (128, 0.05), (128, 0.5), (128, 0.9), (512, 0.95), (3000, 0.01)):
        yield coverage("rate (Wilson)", f"rate {rate:g}, n = {n} (exact)", wilson_coverage(n, rate))
    for n, rate in ((10, 0.01), (100, 0.01)):
        yield coverage("rate (Wilson)", f"rate {rate:g}, n = {n} (exact)", wilson_coverage(n, rate), checked=False)
    for items, rate, alike in ((16, 0.8, 0.3), (64, 0.8, 0.3), (64, 0.95, 0.1), (128, 0.5, 0.3)):
        yield coverage(
            "rate, clustered",
            f"rate {rate:g}, {items} items of 4, correlation {alike:g}",
            clustered_rate_covers(items, 4, rate, alike),
        )
    for n, shift in ((20, 0.3), (64, 0.3), (256, 0.3), (256, 0.05)):
        name, run = f"n = {n}, D = {WIDE}, shift {shift:g}", jackknife_covers(kid, n, shift)
        yield coverage("KID, jackknife", name, run, 0.5, shift > 0.1)
    for n, shift, safe in ((32, 0.3, False), (64, 0.3, False), (128, 0.05, False), (128, 0.3, True), (512, 0.3, True)):
        yield coverage(
            "FID, jackknife", f"n = {n}, D = {WIDE}, shift {shift:g}", jackknife_covers(fid, n, shift), 0.5, safe
        )
    for n, shift in ((32, 0.3), (128, 0.05)):
        yield coverage("FID, seed sets", f"{SETS} x {n}, D = {WIDE}, shift {shift:g}", seeds_cover(fid, n, shift))
    for draw, n in ((normal, 8), (normal, 64), (skewed, 32), (with_failures, 64)):
        yield alarms("sign flips", f"{WORDS[draw]}, n = {n}", sign_flip_alarms(draw, n))
    for draw, items in ((normal, 8), (skewed, 32)):
        yield alarms("sign flips", f"{WORDS[draw]}, {items} items of 4 images", clustered_alarms(draw, items, 4))
    for n in (32, 256):
        yield alarms("McNemar", f"rate 0.7, n = {n}", mcnemar_alarms(n))
    yield alarms("Holm, 12 tests", "any of a table, n = 32", holm_alarms(32, 12), 1.0)
    for n, shift in ((64, 0.3), (128, 0.05)):
        yield alarms("FID, jackknife", f"n = {n}, D = {WIDE}, shift {shift:g}", set_alarms(fid, n, shift), 0.5)
        yield alarms("KID, jackknife", f"n = {n}, D = {WIDE}, shift {shift:g}", set_alarms(kid, n, shift), 0.5)
    yield alarms("FID, seed sets", f"{SETS} x 64, D = {WIDE}, shift 0.3", set_alarms(fid, 64, 0.3, SETS), 1.0)
    for n in (16, 128):
        yield Case("power", "smallest effect", f"sign flips, n = {n}", power(n), POWER, 1.0)


def _quick_bootstrap(values: Floats, clusters: list[str] | None = None) -> st.Interval:
    return st.cluster_bootstrap(values, clusters, draws=999)


CASES = tuple(_cases())


def line(result: Result) -> str:
    """One line of the table."""
    wanted = result.case.within
    state = "as measured" if wanted is None else "ok" if result.passed else "OUTSIDE"
    limits = "" if wanted is None else f"{100 * wanted[0]:.3g}..{100 * wanted[1]:.3g}"
    error = f"± {100 * result.error:.1f}" if result.trials else "exact"
    return (
        f"{result.case.kind:13} {result.case.name:16} {result.case.setting:44} "
        f"{100 * result.rate:5.1f} % {error:7} {limits:9} {state}"
    )


def main(
    trials: Annotated[int, "experiments a case, more or fewer by its cost"] = 2000, seed: int = 0, only: str = ""
) -> None:
    """Print the table; exit code 1 where a case is outside its range."""
    outside = 0
    for result in simulate(trials, seed, only):
        print(line(result), flush=True)
        outside += result.passed is False
    print(f"{outside} outside their range" if outside else "all within their range")
    raise SystemExit(bool(outside))


if __name__ == "__main__":
    import typer

    typer.run(main)
