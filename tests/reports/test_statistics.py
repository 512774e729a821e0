"""Each test stands on an independent implementation, a hand computation or a simulation with a known truth."""

import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from concord.benchmarks.store.run import Run
from concord.reports import statistics as st
from concord.reports.published import published_table
from concord.reports.tables.comparisons import LISTED, Comparison, listed
from concord.reports.tables.measured import Measured
from concord.reports.tables.pairs import compare_rows
from concord.reports.tables.table import Cell, Column, Row

# --------------------------------------------------------------------------------------------- sign flips


@pytest.mark.parametrize("n", [2, 5, 9])
def test_exact_sign_flip_is_scipys_permutation_test(n: int) -> None:
    difference = np.random.default_rng(n).normal(0.4, 1, n)
    expected = stats.permutation_test(
        (difference,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    )
    assert st.sign_flip(difference)[0] == pytest.approx(expected.pvalue, abs=1e-12)


def all_patterns(difference: np.ndarray) -> float:
    """Every sign pattern of at most some 24 differences, summed one by one."""
    sums = np.zeros(1)
    for d in difference:
        sums = np.concatenate([sums + d, sums - d])
    return float((np.abs(sums) >= abs(difference.sum()) * (1 - 1e-9)).mean())


@pytest.mark.parametrize("effect", [0.1, 0.5, 1.0, 1.5, 2.0, 3.0])
def test_many_items_have_the_p_of_all_patterns_however_far_out(effect: float) -> None:
    difference = np.random.default_rng(3).normal(effect, 1, 22)
    assert st.sign_flip(difference)[0] == pytest.approx(all_patterns(difference), rel=2e-3)


@pytest.mark.parametrize("levels", [(-100.0, 100.0, 100.0), (-0.5, 0.25, 0.75), (-2 / 7, -1 / 7, 1 / 7, 3 / 7)])
def test_ties_of_shares_and_counts_are_counted(levels: tuple[float, ...]) -> None:
    difference = np.random.default_rng(0).choice(levels, 22)
    assert st.sign_flip(difference)[0] == pytest.approx(all_patterns(difference), rel=1e-9)


@pytest.mark.parametrize("n", [300, 1000])
@pytest.mark.parametrize("z", [0.5, 3.0, 5.7])
def test_the_saddlepoint_is_the_convolution_of_a_fine_grid(n: int, z: float, monkeypatch: pytest.MonkeyPatch) -> None:
    difference = np.random.default_rng(n).standard_t(5, n)
    difference += z * difference.std() / np.sqrt(n) - difference.mean()
    quick = st.sign_flip(difference)[0]
    monkeypatch.setattr(st, "CONVOLVED_UP_TO", 2000)
    monkeypatch.setattr(st, "CELLS", 1 << 19)
    assert quick == pytest.approx(st.sign_flip(difference)[0], rel=5e-3)


def test_p_has_no_floor_but_the_number_of_patterns() -> None:
    assert st.sign_flip(np.arange(1.0, 61.0))[0] == 2.0**-59  # nothing points the other way
    assert (
        1e-13 < st.sign_flip(np.r_[np.arange(1.0, 60.0), -60.0])[0] < 1e-11
    )  # subsets of 1 .. 60 that sum to 60 or less


def test_columns_are_tested_one_by_one() -> None:
    table = np.random.default_rng(0).normal([0, 0.3, 2], 1, (40, 3))
    together = st.sign_flip(table)
    assert (together == [st.sign_flip(table[:, k])[0] for k in range(3)]).all()
    assert together[0] > together[2]


def test_no_difference_at_all_is_p_one() -> None:
    assert st.sign_flip(np.zeros(50))[0] == 1.0


def test_nan_is_not_tested_silently() -> None:
    with pytest.raises(ValueError, match="NaN"):
        st.sign_flip([0.1, float("nan")])


def test_repetitions_of_an_item_are_one_observation() -> None:
    per_item = np.random.default_rng(1).normal(0.5, 1, 8)
    repeated, items = np.repeat(per_item, 5), np.repeat([f"item{i}" for i in range(8)], 5)
    assert st.sign_flip(repeated, list(items))[0] == pytest.approx(st.sign_flip(per_item)[0])
    assert st.sign_flip(repeated)[0] < st.sign_flip(per_item)[0]  # what ignoring the items would have claimed


def test_false_positives_under_the_null_are_five_percent() -> None:
    rng = np.random.default_rng(11)
    skewed = rng.exponential(1, (60, 800)) - rng.exponential(1, (60, 800))
    p = st.sign_flip(skewed)
    assert 0.03 <= (p < 0.05).mean() <= 0.07


# --------------------------------------------------------------------------------------------- rates


def test_mcnemar_is_the_binomial_test_of_the_discordant_pairs() -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        a, b = rng.random(30) < 0.7, rng.random(30) < 0.5
        only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
        expected = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
        assert st.mcnemar(a, b) == pytest.approx(expected)


def test_mcnemar_agrees_with_sign_flips_of_the_difference() -> None:
    rng = np.random.default_rng(6)
    a, b = rng.random(14) < 0.8, rng.random(14) < 0.4
    assert st.mcnemar(a, b) == pytest.approx(st.sign_flip(a.astype(float) - b)[0])


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (3, 10), (10, 10), (97, 128)])
def test_wilson_interval_is_scipys(successes: int, n: int) -> None:
    expected = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    ours = st.rate_interval([1] * successes + [0] * (n - successes))
    assert ours.low == pytest.approx(expected.low, abs=1e-12)
    assert ours.high == pytest.approx(expected.high, abs=1e-12)
    assert ours.low <= ours.value <= ours.high


def test_wilson_interval_widens_when_images_share_an_item() -> None:
    success = np.repeat([1, 0, 1, 1, 0, 1, 1, 1], 4)
    items = [str(i) for i in np.repeat(np.arange(8), 4)]
    shared = st.rate_interval(success, items)
    assert shared.half_width > 1.5 * st.rate_interval(success).half_width
    # The variance of 8 items' rates, ddof 1, is that of 7 images, and 7 degrees of freedom measured it.
    rate, n, z = 0.75, 7, stats.t.ppf(0.975, 7)
    expected = z / (1 + z**2 / n) * np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    assert shared.half_width == pytest.approx(expected)


# --------------------------------------------------------------------------------------------- means and sets


def test_mean_interval_is_students_t() -> None:
    values = np.random.default_rng(2).normal(70, 5, 25)
    low, high = stats.t.interval(0.95, 24, loc=values.mean(), scale=stats.sem(values))
    assert st.mean_interval(values) == pytest.approx((values.mean(), low, high))
    assert st.mean_interval([99.0, 50.0], bounds=(0, 100))[1:] == (0, 100)
    assert np.isnan(st.mean_interval([3.0]).low)


def test_jackknife_of_a_mean_is_the_standard_error() -> None:
    """Leaving out one value at a time, the jackknife of the mean equals s / sqrt(n) exactly."""
    values = np.random.default_rng(4).normal(0, 1, 32)
    replicates = (values.sum() - values) / 31
    assert st.jackknife_error(replicates) == pytest.approx(stats.sem(values))
    interval = st.jackknife_interval(float(values.mean()), replicates)
    assert interval == pytest.approx(st.mean_interval(values))


def test_paired_jackknife_of_means_is_the_paired_t_test() -> None:
    rng = np.random.default_rng(8)
    a = rng.normal(0, 1, 24)
    b = a + rng.normal(0.2, 0.4, 24)
    ours = st.paired_jackknife(a.mean(), (a.sum() - a) / 23, b.mean(), (b.sum() - b) / 23)
    assert ours.p == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert ours.p < st.t_p_value(stats.ttest_ind(a, b).statistic, 46)  # pairing is what finds it


def test_paired_jackknife_refuses_other_groups_and_claims_nothing_without_spread() -> None:
    with pytest.raises(ValueError, match="grouped alike"):
        st.paired_jackknife(1.0, np.ones(4), 1.0, np.ones(5))
    assert st.paired_jackknife(1.0, np.ones(4), 0.0, np.zeros(4)).p == 1.0


def test_paired_jackknife_false_positives_under_the_null() -> None:
    """A nonlinear set statistic (log of the variance), two exchangeable sets, 32 groups of 4: about 5 % below 0.05."""
    rng = np.random.default_rng(12)
    trials, groups, size = 600, 32, 4

    def statistics(sample: np.ndarray) -> tuple[float, np.ndarray]:
        keep = ~np.eye(groups, dtype=bool).repeat(size, axis=1)
        return float(np.log(sample.var())), np.array([np.log(sample[k].var()) for k in keep])

    p = []
    for _ in range(trials):
        (value_a, left_a), (value_b, left_b) = statistics(rng.normal(size=128)), statistics(rng.normal(size=128))
        p.append(st.paired_jackknife(value_a, left_a, value_b, left_b).p)
    assert 0.03 <= (np.array(p) < 0.05).mean() <= 0.075


# --------------------------------------------------------------------------------------------- many comparisons


def test_holm_by_hand() -> None:
    # sorted: .01*4=.04, .015*3=.045, .03*2=.06, .2*1=.2; each at least its predecessor; order kept
    assert st.holm([0.03, 0.2, 0.01, 0.015]) == pytest.approx([0.06, 0.2, 0.04, 0.045])
    # .02*3=.06, then .021*2=.042 is raised to .06
    assert st.holm([0.021, 0.02, 0.9]) == pytest.approx([0.06, 0.06, 0.9])
    assert st.holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert len(st.holm([])) == 0


def test_smallest_visible_effect_is_found_at_the_stated_power() -> None:
    n, rng = 64, np.random.default_rng(13)
    effect = st.smallest_visible_effect(1 / np.sqrt(n), n - 1)
    p = st.sign_flip(rng.normal(effect, 1, (n, 500)))
    assert 0.74 <= (p < 0.05).mean() <= 0.86


# --------------------------------------------------------------------------------------------- memory


def peak_of(work: Callable[[], object]) -> int:
    """Bytes that were allocated at once while it ran."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_memory_of_a_table_grows_with_its_numbers_not_with_its_draws() -> None:
    """64 rows are 2,016 pairs: all sign flips of them at once took 230 MB, now a block at a time."""
    rng, requests = np.random.default_rng(0), [f"{k}-0" for k in range(24)]
    names = [f"row-{k}" for k in range(64)]
    measured = {name: Measured(Run(Path()), requests, {"m": rng.normal(size=24)}) for name in names}
    rows = [Row(name, name, "method", {"m": Cell(float(measured[name].values["m"].mean()))}) for name in names]
    declared = published_table("collaborative-diffusion", "table-1")
    found: list[Sequence[Comparison]] = []
    peak = peak_of(lambda: found.append(compare_rows(rows, [Column("m", "M", True)], measured, declared)))
    assert len(found[0]) == 2_016
    assert peak < 60e6
    shown, others = listed(found[0])
    assert len(shown) == LISTED
    assert "16 of the 2,016 pairs are not listed" in others


def test_intervals_of_many_rows_are_those_of_each() -> None:
    rng = np.random.default_rng(3)
    table = rng.normal(size=(40, 60)) * rng.uniform(0.1, 100, (40, 1))
    for clusters in (None, [str(i // 3) for i in range(60)]):
        one_by_one = [st.mean_interval(row, clusters) for row in table]
        assert st.mean_intervals(table, clusters) == one_by_one
    assert np.isnan(st.mean_intervals(table[:, :1])[0].low)


def test_fast_sign_flips_are_the_exact_ones_within_half_a_percent() -> None:
    rng = np.random.default_rng(5)
    moved = rng.normal(size=(64, 60)) + rng.uniform(0, 1.2, 60)
    moved[rng.random(moved.shape) < 0.05] = 0  # items that differ nowhere
    exact, fast = st.sign_flip(moved), st.sign_flip(moved, approximate=True)
    assert exact.min() < 1e-9
    assert exact.max() > 0.1
    np.testing.assert_allclose(fast, exact, rtol=0.012)  # half a percent, and the grid's own percent
    # what the saddlepoint is not right for keeps the exact test: one sign, few levels, few items
    special = np.stack([np.abs(moved[:, 0]), np.sign(moved[:, 1] + 0.1), np.r_[moved[:20, 2], np.zeros(44)]], axis=1)
    assert (st.sign_flip(special, approximate=True) == st.sign_flip(special)).all()


def test_fast_sign_flips_of_nearly_one_sign() -> None:
    moved = np.r_[np.linspace(1, 2, 63), -1e-3][:, None] + np.random.default_rng(1).normal(size=(64, 1)) * 1e-5
    fast, exact = st.sign_flip(moved, approximate=True)[0], st.sign_flip(moved)[0]
    assert max(fast, exact) < 1e-15  # two patterns of 2^64: no approximation counts them, and none needs to
