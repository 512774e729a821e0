"""The headline of suites with several conditions: who ignores a condition is last, and the curve's area is its mean."""

from __future__ import annotations

import numpy as np
import pytest

from concord.metrics.joint import area, satisfaction, worst_condition

FLOORS, CEILINGS = {"text": 20.0, "distance": 10.0}, {"text": 30.0, "distance": 2.0}


def test_floor_is_0_and_ceiling_is_1_whichever_way_a_metric_points() -> None:
    values = {"text": [20.0, 30.0, 25.0, 35.0], "distance": [10.0, 2.0, 2.0, 6.0]}
    assert worst_condition(values, FLOORS, CEILINGS) == pytest.approx([0.0, 1.0, 0.5, 0.5])


def test_a_method_that_ignores_a_condition_does_not_lead() -> None:
    """One meets the text of some images perfectly and no distance; the other meets both by half."""
    rng = np.random.default_rng(0)
    ignoring = {"text": 30 + rng.normal(size=200), "distance": 10 + rng.normal(size=200)}
    fair = {"text": 26 + rng.normal(size=200), "distance": 5 + rng.normal(size=200)}
    worst = [worst_condition(one, FLOORS, CEILINGS) for one in (ignoring, fair)]
    assert worst[0].mean() < 0.1 < 0.5 < worst[1].mean()


def test_the_area_under_the_curve_is_the_mean_cut_to_0_and_1() -> None:
    worst = np.random.default_rng(1).normal(0.5, 0.6, 5000)
    levels = (np.arange(2000) + 0.5) / 2000
    assert satisfaction(worst, levels).mean() == pytest.approx(area(worst), abs=1e-3)
    assert satisfaction([0.2, 0.7], [0.0, 0.2, 0.5, 0.7, 1.0]) == pytest.approx([1, 1, 0.5, 0.5, 0])


def test_a_metric_that_tells_nothing_apart_is_refused() -> None:
    with pytest.raises(ValueError, match="span no scale"):
        worst_condition({"text": [1.0]}, {"text": 3.0}, {"text": 3.0})
    with pytest.raises(ValueError, match="no metrics"):
        worst_condition({}, {}, {})
