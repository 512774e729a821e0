"""Small samples of the simulations behind the methodology page; the full ones are `long`."""

from __future__ import annotations

import pytest

from concord.reports.validation import families, set_metrics
from concord.reports.validation.results import read_table


def test_families_hold_a_false_verdict_in_at_most_one_table_of_twenty() -> None:
    for rate in families.false_alarms(50, 150):
        assert rate.value - 2 * rate.error <= 0.05, rate
    told = families.false_equivalence(60, 150)
    assert told.value - 2 * told.error <= 0.05


def test_claims_are_found_more_often_in_a_family_of_their_own() -> None:
    before, claims, orders_before, orders = (rate.value for rate in families.power(128, 20))
    assert claims > before
    assert orders >= orders_before > 0


def test_the_n_that_would_tell_tells_four_times_in_five() -> None:
    rate = families.promised_power(50, 200)
    assert 0.7 < rate.value < 0.9


@pytest.mark.parametrize("name", ["fid", "precision"])
def test_intervals_of_set_metrics_hold_the_difference(name: str) -> None:
    one = set_metrics.measure(name, 50, False, 60)
    assert one.coverage >= 0.88  # 95 % within 2.5 standard errors of 60 draws
    assert 0.8 < one.ratio < 1.3
    assert one.width < 1.05


@pytest.mark.long
@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("name", set_metrics.METRICS)
def test_coverage_of_every_set_metric(name: str, heavy: bool) -> None:
    one = set_metrics.measure(name, 128, heavy, 800, seed=1)
    assert 0.92 <= one.coverage <= 0.985, one


@pytest.mark.long
def test_family_wise_error_of_every_family() -> None:
    for n in (50, 128, 400):
        for rate in families.false_alarms(n, 2000):
            assert rate.value - 2 * rate.error <= 0.05, rate


def test_the_kept_tables_are_those_of_the_page() -> None:
    """Each family at most 5 % by its own simulation, as the page prints it."""
    alarms = [line for line in read_table("families") if line["what"].startswith("false")]
    assert len(alarms) == 10
    for line in alarms:
        assert float(line["percent"]) - 2 * float(line["standard_error"]) <= 5.0, line
    kept = read_table("set_metrics")
    assert {line["metric"] for line in kept} <= set(set_metrics.METRICS)
    assert kept
    for line in kept:
        assert 90 <= float(line["coverage_percent"]) <= 100, line
