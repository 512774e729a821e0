"""Bootstrap over items, rates of items, and seed sets: against loops, scipy and hand computations."""

import numpy as np
import pytest
from scipy import stats

from concord.reports import statistics as st


def test_bootstrap_t_of_singles_is_the_plain_definition() -> None:
    """Draw by draw in loops: resample, studentise, take the quantiles of the pivots."""
    values = np.random.default_rng(0).gamma(2, 1, 20)
    rng, n = np.random.default_rng(7), 20
    counts = rng.multinomial(n, np.full(n, 1 / n), size=400)
    pivots = []
    for row in counts:
        drawn = np.repeat(values, row)
        pivots.append((drawn.mean() - values.mean()) / stats.sem(drawn))
    low, high = np.quantile(pivots, [0.025, 0.975])
    ours = st.cluster_bootstrap(values, draws=400, seed=7)
    error = stats.sem(values)
    assert ours == pytest.approx((values.mean(), values.mean() - high * error, values.mean() - low * error))


def test_bootstrap_draws_whole_items() -> None:
    """An item's images all the same: as one observation an item; scipy's own bootstrap-t check is the loop above."""
    per_item = np.random.default_rng(1).normal(0, 1, 12)
    repeated, items = np.repeat(per_item, 5), list(np.repeat([f"i{k:02d}" for k in range(12)], 5))
    assert st.cluster_bootstrap(repeated, items) == pytest.approx(st.cluster_bootstrap(per_item), rel=1e-9)
    assert st.cluster_bootstrap(repeated).half_width < 0.6 * st.cluster_bootstrap(repeated, items).half_width


def test_bootstrap_leans_to_the_long_tail_and_stays_in_the_range() -> None:
    values = np.r_[np.zeros(45), np.full(5, 10.0)]  # mean 1
    found = st.cluster_bootstrap(values, bounds=(0, 10))
    assert found.high - found.value > 1.3 * (found.value - found.low)
    assert 0 <= found.low < found.high <= 10
    assert st.cluster_bootstrap(values, bounds=(0, 1.5)).high <= 1.5
    assert st.cluster_bootstrap(values, seed=1) != st.cluster_bootstrap(values, seed=2)


def test_bootstrap_of_no_spread_and_of_one_item() -> None:
    assert st.cluster_bootstrap(np.ones(9)) == (1, 1, 1)
    assert np.isnan(st.cluster_bootstrap([3.0]).low)
    assert np.isnan(st.cluster_bootstrap([1.0, 2.0, 3.0], ["a", "a", "a"]).low)


def test_rates_of_all_or_none_count_items_not_images() -> None:
    """Forty images of ten items, all successes: as ten observations, since their likeness cannot be measured."""
    items = [str(i) for i in np.repeat(np.arange(10), 4)]
    assert st.rate_interval(np.ones(40), items).low < st.rate_interval(np.ones(10)).low + 1e-12
    assert st.rate_interval(np.ones(40), items).low < st.rate_interval(np.ones(40)).low
    assert st.rate_interval(np.ones(40), items).high == 1.0
    single = [str(i) for i in range(40)]
    assert st.rate_interval(np.ones(40), single) == pytest.approx(st.rate_interval(np.ones(40)))


def test_seed_sets_are_students_t() -> None:
    values = np.array([31.2, 30.4, 33.0, 32.1, 30.9])
    low, high = stats.t.interval(0.95, 4, loc=values.mean(), scale=stats.sem(values))
    assert st.seed_interval(values) == pytest.approx((values.mean(), low, high))
    other = values + np.array([0.5, 0.1, 0.4, 0.6, 0.2])
    ours = st.paired_seeds(values, other)
    assert ours.p == pytest.approx(stats.ttest_rel(values, other).pvalue)
    assert (ours.value, ours.df) == (pytest.approx(-0.36), 4)
    assert ours.low < ours.value < ours.high < 0
    assert st.paired_seeds([1.0, 1.0], [0.0, 0.0]).p == 1.0
    with pytest.raises(ValueError, match="every seed set"):
        st.paired_seeds([1.0, 2.0], [1.0])
