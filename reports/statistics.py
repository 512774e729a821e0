"""What a difference between two methods is worth: intervals, paired tests, and the correction for making many of them.

Every test here is paired: two methods answered the same requests with the same seeds, so request by request their
difference is free of how hard the request was. What is measured per image gets a sign-flip test, a rate gets McNemar's
test (which is the sign-flip test of 0/1 differences), and a set metric such as FID, which is no mean over images, gets
a t test on the differences of its replicates (linearised delete-one, halves, or delete-a-group: see
metrics/distribution/influence.py), or of disjoint seed sets where there are several. A naive bootstrap of FID is never
used: resampling with replacement raises FID itself, so that its interval can exclude the value it should surround.
`python -m concord.reports.validation.simulate` measures all of them where the truth is known,
`...validation.set_metrics` and `...validation.families` what tables are made of.

Images of one item under several seeds are not independent: `clusters` names each image's item, and every
function that takes it treats an item as the unit of sampling.

References: Good, "Permutation, Parametric and Bootstrap Tests of Hypotheses" (sign flips); Lugannani & Rice 1980,
Robinson 1982 (their tail); McNemar 1947; Wilson 1927; Efron & Stein 1981, Kott 2001 (jackknife); Holm 1979;
Efron 1979, Cameron, Gelbach & Miller 2008 (bootstrap-t over clusters).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

LEVEL = 0.95
DRAWS = 4_999  # of the cluster bootstrap
EXACT_UP_TO = 14  # items with a difference: 2^13 sign patterns
CONVOLVED_UP_TO = 256  # above, the saddlepoint is as good and costs nothing
APPROXIMATE_FROM = 50  # items, where very many comparisons ask for speed
DOMINATES = 0.5  # share of the norm of all differences beyond which one of them makes the saddlepoint wrong
COARSE = 1 << 11  # cells of the grid that is taken then: p is no small one
NEWTON = 60  # steps of the saddlepoints of many columns
CELLS = 1 << 14  # of the grid below the observed sum

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """A value with its confidence interval; both ends NaN where no interval can be given (one image)."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half of high - low, in the value's unit."""
        return (self.high - self.low) / 2


# ------------------------------------------------------------------------------------------- units of sampling


def cluster_sums(values: ArrayLike, clusters: Sequence[str] | None) -> tuple[Floats, Floats]:
    """Sums over the images of each item: values (n,) or (n, k) -> sums (G, k) and sizes (G,). No clusters: G = n."""
    table = np.asarray(values, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    if clusters is None:
        return table, np.ones(len(table))
    if len(clusters) != len(table):
        raise ValueError(f"{len(table)} values but {len(clusters)} cluster names")
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    sizes = np.bincount(index).astype(np.float64)
    sums = np.zeros((len(sizes), table.shape[1]))
    np.add.at(sums, index, table)
    return sums, sizes


def standard_error(values: ArrayLike, clusters: Sequence[str] | None = None) -> tuple[float, int]:
    """Standard error of the mean over independent items, and its degrees of freedom G - 1.

    With one image an item it is the usual s / sqrt(n). NaN for fewer than two items.
    """
    flat = np.asarray(values, dtype=np.float64)
    sums, sizes = cluster_sums(flat, clusters)
    units = len(sizes)
    if units < 2:
        return float("nan"), units - 1
    residual = sums[:, 0] - sizes * flat.mean()
    return float(np.sqrt(units / (units - 1) * np.square(residual).sum()) / len(flat)), units - 1


def t_quantile(df: int, level: float = LEVEL) -> float:
    """The two-sided critical value of Student's t."""
    return float(special.stdtrit(df, 0.5 + level / 2))


def t_p_value(t: float, df: int) -> float:
    """Two-sided p of Student's t."""
    return float(2 * special.stdtr(df, -abs(t)))


# ------------------------------------------------------------------------------------------- intervals


def mean_interval(
    values: ArrayLike,
    clusters: Sequence[str] | None = None,
    bounds: tuple[float, float] = (-np.inf, np.inf),
    level: float = LEVEL,
) -> Interval:
    """t interval of a mean of per-image values, cut to the metric's range.

    Where some images fail with a worst value far from the others, it holds 95 % from a few hundred images on (10 % of
    failures: about 92 % at n = 64); `cluster_bootstrap` holds it there too.
    """
    flat = np.asarray(values, dtype=np.float64)
    value = float(flat.mean())
    error, df = standard_error(flat, clusters)
    if df < 1:
        return Interval(value, float("nan"), float("nan"))
    reach = t_quantile(df, level) * error
    return Interval(value, max(value - reach, bounds[0]), min(value + reach, bounds[1]))


def mean_intervals(table: ArrayLike, clusters: Sequence[str] | None = None, level: float = LEVEL) -> list[Interval]:
    """`mean_interval` of every row of a table (k, n), all in one pass: what pairs of many rows take."""
    rows = np.ascontiguousarray(table, dtype=np.float64)
    means = rows.mean(axis=1)
    sums, sizes = cluster_sums(rows.T, clusters)
    units = len(sizes)
    if units < 2:
        return [Interval(float(mean), float("nan"), float("nan")) for mean in means]
    residual = np.ascontiguousarray((sums - sizes[:, None] * means).T)
    errors = np.sqrt(units / (units - 1) * np.square(residual).sum(axis=1)) / rows.shape[1]
    reach = t_quantile(units - 1, level) * errors
    return [
        Interval(*ends) for ends in zip(means.tolist(), (means - reach).tolist(), (means + reach).tolist(), strict=True)
    ]


def cluster_bootstrap(
    values: ArrayLike,
    clusters: Sequence[str] | None = None,
    bounds: tuple[float, float] = (-np.inf, np.inf),
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """Bootstrap-t interval of a mean of per-image values: whole items are drawn again, with all of their images.

    For skewed metrics (distances with a few far outliers), where the t interval of `mean_interval` misses on one side.
    Each draw is studentised by its own standard error, which the percentile bootstrap is not: that one is too narrow
    by about a factor sqrt((G - 1) / G) times Student's quantile over the normal's, which is much with few items.
    Wants 8 items or more (`python -m concord.reports.validation.simulate` prints its coverage); NaN ends below 2. All
    values equal: no
    width. `draws` resamples come from `seed` alone.
    """
    flat = np.asarray(values, dtype=np.float64)
    value = float(flat.mean())
    error, df = standard_error(flat, clusters)
    if df < 1:
        return Interval(value, float("nan"), float("nan"))
    sums, sizes = cluster_sums(flat, clusters)
    residual = sums[:, 0] - sizes * value  # of items: sums to 0
    units, rng = len(sizes), np.random.default_rng(seed)
    pivots: list[Floats] = []
    block = max(1, 4_000_000 // units)
    for start in range(0, draws, block):
        taken = rng.multinomial(units, np.full(units, 1 / units), size=min(block, draws - start)).astype(np.float64)
        total = taken @ sizes
        shift = taken @ residual / total  # the draw's mean, less the value
        # sum of w (r - size shift)^2, multiplied out
        spread = taken @ residual**2 - 2 * shift * (taken @ (residual * sizes)) + shift**2 * (taken @ sizes**2)
        errors = np.sqrt(units / (units - 1) * np.maximum(spread, 0)) / total
        with np.errstate(divide="ignore", invalid="ignore"):
            pivots.append(np.where(errors > 1e-9 * error, shift / errors, np.nan))
    pivot = np.concatenate(pivots)
    pivot = pivot[np.isfinite(pivot)]  # a draw of one item alone, many times over, has no spread to divide by
    if error == 0 or not len(pivot):
        return Interval(value, value, value)
    lowest, highest = np.quantile(pivot, [(1 - level) / 2, (1 + level) / 2])
    return Interval(
        value,
        min(max(value - float(highest) * error, bounds[0]), value),
        max(min(value - float(lowest) * error, bounds[1]), value),
    )


def rate_interval(success: ArrayLike, clusters: Sequence[str] | None = None, level: float = LEVEL) -> Interval:
    """Wilson interval of a rate in [0, 1]; with several images an item, n is divided by the design effect.

    The design effect is itself measured on G items, so that Student's t with G - 1 degrees of freedom takes the place
    of the normal quantile. Where all images succeed or all fail, nothing tells how much alike an item's images are,
    and each item then counts once. Coverage rises and falls with n and the rate, as that of every interval of a
    binomial does: from n = 50 on and for rates of 5 to 95 % it stays within 93 and 97 % up to 0.5 points; for rates
    of 1 or 2 % it goes down to 91 % at n = 100, and below n = 30 anywhere between 90 and 98 %.
    """
    flat = np.asarray(success, dtype=np.float64)
    rate, n = float(flat.mean()), float(len(flat))
    z = float(special.ndtri(0.5 + level / 2))
    if clusters is not None:
        error, df = standard_error(flat, clusters)
        if df >= 1:
            plain = rate * (1 - rate) / n
            effect = error**2 / plain if 0 < rate < 1 else n / (df + 1)
            n = n / max(1.0, effect)
            if len(flat) > df + 1:
                z = t_quantile(df, level)
    centre = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    # centre and reach cancel exactly at a rate of 0 or 1; rounding must not push the end past the rate
    return Interval(rate, min(max(0.0, float(centre - reach)), rate), max(min(1.0, float(centre + reach)), rate))


def jackknife_error(replicates: ArrayLike) -> float:
    """Standard error from delete-a-group replicates (G,): sqrt((G-1)/G * sum (theta_g - mean)^2); NaN for G < 2.

    A bias that depends on n alone (FID's 1/n) shifts all replicates alike and cancels.
    """
    flat = np.asarray(replicates, dtype=np.float64)
    groups = len(flat)
    if groups < 2:
        return float("nan")
    return float(np.sqrt((groups - 1) / groups * np.square(flat - flat.mean()).sum()))


def jackknife_interval(
    value: float,
    replicates: ArrayLike,
    bounds: tuple[float, float] = (-np.inf, np.inf),
    level: float = LEVEL,
) -> Interval:
    """t interval with G - 1 degrees of freedom around a set metric's value: where it lies at this n.

    Where n is not many times the number of feature dimensions (8 times will do), or where the two sets are all but
    alike, the replicates vary more than the metric does, and the interval is too wide, holding 97 to 98 % in
    simulation (never too narrow: Efron & Stein 1981); several seed sets and `seed_interval` then tell more.
    """
    flat = np.asarray(replicates, dtype=np.float64)
    error = jackknife_error(flat)
    if not np.isfinite(error):
        return Interval(value, float("nan"), float("nan"))
    reach = t_quantile(len(flat) - 1, level) * error
    return Interval(value, max(value - reach, bounds[0]), min(value + reach, bounds[1]))


def seed_interval(values: ArrayLike, bounds: tuple[float, float] = (-np.inf, np.inf), level: float = LEVEL) -> Interval:
    """t interval of a set metric at n images from its values (R,) on R disjoint seed sets of n images each.

    Right at any n and for any metric, since it looks at whole values alone; R of 5 or more keeps it from being wide.
    It says where the metric lies *at n*: FID's bias is in every value alike.
    """
    flat = np.asarray(values, dtype=np.float64)
    return mean_interval(flat, bounds=bounds, level=level)


# ------------------------------------------------------------------------------------------- paired tests


def sign_flip(differences: ArrayLike, clusters: Sequence[str] | None = None, approximate: bool = False) -> Floats:
    """Two-sided sign-flip permutation test that the mean paired difference is zero.

    differences: (n,) or (n, k), one column a comparison. Returns p (k,); nothing is drawn at random, and nothing bounds
    p from below but the 2^(1-G) of the test itself. Items that differ nowhere do not change the statistic and are left
    out. With the others' |d| sorted into a sum S, the statistic of a sign pattern reaches the observed one where the
    |d| that were turned against it sum to at most c = (S - |observed|) / 2, so that p = 2 P(X <= c) for the subset sum
    X of fair coins:

    - up to `EXACT_UP_TO` items all patterns are enumerated;
    - up to `CONVOLVED_UP_TO` items the distribution of X below c is computed coin by coin on a grid: the exact test of
      differences that are rounded to 1/`CELLS` of c (p moves by less than 1 %, at 1e-8 too); beyond, for shares and
      counts of few levels, whose ties the grid holds exactly;
    - above, Lugannani and Rice's saddlepoint approximation, whose relative error falls as 1/G (below 0.5 % from 50 on).

    approximate: the saddlepoint from `APPROXIMATE_FROM` items on, a hundred times faster: for very many comparisons.
    Where one difference is far larger than the others, as after a failure, a coarser grid takes its place.
    """
    sums, _ = cluster_sums(differences, clusters)
    if not np.isfinite(sums).all():
        raise ValueError("differences hold NaN or infinity: leave out what was refused before testing")
    if not approximate:
        return np.array([_sign_flip_p(column[column != 0]) for column in sums.T])
    found, pending = np.empty(sums.shape[1]), []
    for place, column in enumerate(sums.T):
        moved = column[column != 0]
        if len(moved) < APPROXIMATE_FROM or not _is_smooth(moved):
            found[place] = _sign_flip_p(moved)
        elif np.abs(moved).max() > DOMINATES * np.sqrt(np.square(moved).sum()):  # its sign alone decides much of p
            sizes = np.abs(moved)
            against = sizes[(moved < 0) == (moved.sum() > 0)]
            found[place] = _convolved_flips(sizes, against, float(against.sum()) / COARSE)
        else:
            pending.append(place)
    if pending:
        found[pending] = _saddlepoints(sums[:, pending])
    return found


def _is_smooth(moved: Floats) -> bool:
    """Whether differences point both ways and have no common unit, so that the saddlepoint is right for them."""
    against = np.abs(moved)[(moved < 0) == (moved.sum() > 0)]
    return bool(len(against)) and _common_unit(np.abs(moved), float(against.sum()) / CELLS) is None


def _saddlepoints(columns: Floats) -> Floats:
    """`_saddlepoint_flips` of every column (G, k), by Newton's steps from below; zeros do not change it."""
    norms = np.sqrt(np.square(columns).sum(axis=0))
    sizes = np.abs(columns) / norms
    observed = np.abs(columns.sum(axis=0)) / norms
    s, open_ = observed.copy(), np.flatnonzero(observed >= 1e-6)
    for _ in range(NEWTON):
        if not len(open_):
            break
        turned = np.tanh(s[open_] * sizes[:, open_])
        missing = observed[open_] - (sizes[:, open_] * turned).sum(axis=0)
        step = missing / (np.square(sizes[:, open_]) * (1 - np.square(turned))).sum(axis=0)
        s[open_] += step
        open_ = open_[np.abs(step) > 1e-12 * s[open_]]
    with np.errstate(divide="ignore", invalid="ignore"):
        p = _lugannani_rice(sizes, observed, s)
    for place in open_:  # nearly all of one sign: the scalar search brackets it
        p[place] = _saddlepoint_flips(columns[:, place][columns[:, place] != 0])
    return np.where(observed < 1e-6, 1.0, p)


def _sign_flip_p(moved: Floats) -> float:
    """p of the differences (G,), none of them 0."""
    units = len(moved)
    if units == 0:
        return 1.0
    if units <= EXACT_UP_TO:
        return _exact_flips(moved)
    sizes = np.abs(moved)
    against = sizes[(moved < 0) == (moved.sum() > 0)]  # their sum is c
    if not len(against):  # no item points the other way: only the two patterns of one sign reach the observed sum
        return float(2.0 ** max(1 - units, -1074))
    width = float(against.sum()) / CELLS
    unit = _common_unit(sizes, width)
    if unit is None and units > CONVOLVED_UP_TO:
        return _saddlepoint_flips(moved)
    return _convolved_flips(sizes, against, unit or width)


def _reaches(statistic: Floats, observed: Floats) -> NDArray[np.bool_]:
    """As extreme as observed, with room for the rounding of a sum taken in another order."""
    return np.abs(statistic) >= np.abs(observed) * (1 - 1e-9)


def _exact_flips(moved: Floats) -> float:
    """All sign patterns; the first sign is fixed, as turning all of them gives the same |sum|."""
    rest = len(moved) - 1
    patterns = (np.arange(2**rest)[:, None] >> np.arange(rest)) & 1
    statistic = moved[0] + (1 - 2 * patterns) @ moved[1:]
    return float(_reaches(statistic, moved.sum()).mean())


def _convolved_flips(sizes: Floats, against: Floats, unit: float) -> float:
    """Coin by coin on a grid of that unit; all terms are positive, so that the farthest tail keeps its digits."""
    observed = int(np.rint(against / unit).astype(np.int64).sum())
    below = np.zeros(observed + 1)  # P(X = cell), X up to the observed sum
    below[0] = 1.0
    for cell in np.rint(sizes / unit).astype(np.int64):
        turned = below[: max(len(below) - cell, 0)] / 2
        below /= 2
        below[len(below) - len(turned) :] += turned
    return min(1.0, 2 * float(below.sum()))


def _common_unit(sizes: Floats, width: float) -> float | None:
    """A unit of all differences, where they have one (shares, counts) that is no finer than a quarter of `width`."""
    smallest = float(sizes.min())
    for parts in range(1, 13):
        unit = smallest / parts
        if unit < width / 4:
            return None
        multiples = sizes / unit
        if np.abs(multiples - np.rint(multiples)).max() < 1e-6:
            return unit
    return None


def _saddlepoint_flips(moved: Floats) -> float:
    """Lugannani and Rice (1980) on K(s) = sum log cosh(s d), the cumulant function of the flipped sum."""
    sizes = np.abs(moved) / np.sqrt(np.square(moved).sum())  # variance 1
    observed = abs(float(moved.sum())) / np.sqrt(np.square(moved).sum())
    if observed < 1e-6:
        return 1.0
    s = float(optimize.brentq(lambda s: (sizes * np.tanh(s * sizes)).sum() - observed, 0.0, _beyond(sizes, observed)))
    return float(_lugannani_rice(sizes[:, None], np.array([observed]), np.array([s]))[0])


def _lugannani_rice(sizes: Floats, observed: Floats, s: Floats) -> Floats:
    """Two-sided p of each column of sizes (G, k), of variance 1, at its saddlepoint s (k,)."""
    steep = s * sizes
    cumulant = (steep + np.log1p(np.exp(-2 * steep)) - np.log(2)).sum(axis=0)
    w = np.sqrt(2 * (s * observed - cumulant))
    u = s * np.sqrt((np.square(sizes) / np.square(np.cosh(np.minimum(steep, 300)))).sum(axis=0))
    log_density = -w * w / 2 - np.log(2 * np.pi) / 2
    # ndtr(-w) and phi(w) (1/u - 1/w), with phi taken out: far out both vanish together
    mills = np.exp(special.log_ndtr(-w) - log_density)
    p = np.minimum(1.0, 2 * np.exp(log_density) * (mills + 1 / u - 1 / w))
    # both terms run off to infinity near 0 and cancel; the normal law is exact to 1e-4 there
    return np.where(w < 1e-3, 2 * special.ndtr(-observed), p)


def _beyond(sizes: Floats, observed: float) -> float:
    """A tilt that is larger than the saddlepoint."""
    s = max(1.0, 2 * observed)
    while (sizes * np.tanh(s * sizes)).sum() <= observed:
        s *= 2
    return s


def mcnemar(first: ArrayLike, second: ArrayLike) -> float:
    """Exact two-sided McNemar test on paired successes (n,): is each as often the only one of the two to succeed?"""
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    only_a, only_b = int((a & ~b).sum()), int((~a & b).sum())
    if only_a + only_b == 0:
        return 1.0
    tail = float(special.bdtr(min(only_a, only_b), only_a + only_b, 0.5))  # P(X <= k), X ~ Binomial(m, 1/2)
    return min(1.0, 2 * tail)


def paired_rate(first: ArrayLike, second: ArrayLike, clusters: Sequence[str] | None = None) -> float:
    """McNemar, or where items have several images, the sign-flip test over items that generalises it."""
    if clusters is None or len(set(clusters)) == len(clusters):
        return mcnemar(first, second)
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    return float(sign_flip(difference, clusters)[0])


class SetDifference(NamedTuple):
    """Difference of two set metrics with its interval and the two-sided p of no difference."""

    value: float
    low: float
    high: float
    p: float
    error: float
    df: int


def paired_jackknife(
    first: float, first_replicates: ArrayLike, second: float, second_replicates: ArrayLike, level: float = LEVEL
) -> SetDifference:
    """t test on the difference of two set metrics whose replicates (G,) left out the same groups of requests.

    No spread in the replicates' differences means that nothing can be said: p is 1.
    """
    a, b = np.asarray(first_replicates, dtype=np.float64), np.asarray(second_replicates, dtype=np.float64)
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} replicates: the two rows were not grouped alike")
    value, error, df = first - second, jackknife_error(a - b), len(a) - 1
    if not np.isfinite(error) or error == 0:
        return SetDifference(value, float("nan"), float("nan"), 1.0, error, df)
    reach = t_quantile(df, level) * error
    return SetDifference(value, value - reach, value + reach, t_p_value(value / error, df), error, df)


def paired_seeds(first: ArrayLike, second: ArrayLike, level: float = LEVEL) -> SetDifference:
    """t test on the differences of two rows' set metrics (R,) over the same R disjoint seed sets."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} values: expected one of each row for every seed set")
    value, low, high = mean_interval(a - b, level=level)
    error, df = standard_error(a - b)
    if not np.isfinite(error) or error == 0:
        return SetDifference(value, float("nan"), float("nan"), 1.0, error, df)
    return SetDifference(value, low, high, t_p_value(value / error, df), error, df)


def holm(p_values: ArrayLike) -> Floats:
    """Holm's step-down adjusted p values: rejecting those below alpha keeps the family-wise error at alpha.

    Holds under any dependence between the tests.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.minimum(1.0, np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p)))))
    result = np.empty_like(adjusted)
    result[order] = adjusted
    return result


def smallest_visible_effect(error: float, df: int, alpha: float = 1 - LEVEL, power: float = 0.8) -> float:
    """The true difference that a two-sided test at `alpha` with this standard error would find with `power`."""
    if df < 1 or not np.isfinite(error):
        return float("nan")
    return float((special.stdtrit(df, 1 - alpha / 2) + special.stdtrit(df, power)) * error)
