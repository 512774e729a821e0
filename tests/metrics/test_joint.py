"""Joint success against a loop over the images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concord.metrics.joint import joint_success, joint_thresholds

UP = {"text": True, "mask": True, "identity": False}


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 40), m=st.integers(1, 40), quantile=st.sampled_from([0.0, 0.05, 0.5]), seed=st.integers(0, 10**6)
)
def test_is_the_loop(n: int, m: int, quantile: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = {name: rng.integers(0, 8, n) / 4 for name in UP}  # coarse, so that ties with the threshold occur
    values = {name: rng.integers(0, 8, m) / 4 for name in UP}
    failed = {"mask": rng.random(m) < 0.2}
    thresholds = joint_thresholds(truth, UP, quantile)
    for name, threshold in thresholds.items():
        ordered = np.sort(truth[name]) if UP[name] else np.sort(truth[name])[::-1]  # from worst to best
        place = quantile * (n - 1)
        below, above = ordered[int(np.floor(place))], ordered[int(np.ceil(place))]
        assert threshold == pytest.approx(below + (above - below) * (place - np.floor(place)), abs=1e-12)
    success = joint_success(values, thresholds, UP, failed)
    assert success.tolist() == [
        int(
            all(values[name][i] >= thresholds[name] if UP[name] else values[name][i] <= thresholds[name] for name in UP)
            and not failed["mask"][i]
        )
        for i in range(m)
    ]


def test_most_of_the_ground_truth_succeeds() -> None:
    rng = np.random.default_rng(0)
    truth = {name: rng.normal(size=2000) for name in UP}
    success = joint_success(truth, joint_thresholds(truth, UP), UP)
    assert success.mean() == pytest.approx(0.95**3, abs=0.02)


def test_single_conditions_can_be_met_without_any_joint_success() -> None:
    """The point of the metric: each column looks half good, and no image is right."""
    truth = {"text": np.full(20, 30.0), "mask": np.full(20, 90.0)}
    values = {"text": np.array([30.0, 10.0] * 10), "mask": np.array([40.0, 95.0] * 10)}
    assert joint_success(values, joint_thresholds(truth, UP), UP).sum() == 0


def test_failures_and_nan_are_not_met_even_at_the_worst_threshold() -> None:
    values = {"text": np.array([-100.0, -100.0, np.nan])}
    thresholds = {"text": -100.0}
    assert joint_success(values, thresholds, UP).tolist() == [1, 1, 0]
    assert joint_success(values, thresholds, UP, {"text": [False, True, False]}).tolist() == [1, 0, 0]


def test_failed_ground_truth_does_not_lower_the_bar() -> None:
    truth = {"text": np.array([-100.0] * 5 + [20.0] * 15)}
    assert joint_thresholds(truth, UP)["text"] == -100
    assert joint_thresholds(truth, UP, failed={"text": np.arange(20) < 5})["text"] == 20


def test_bad_input_is_an_error() -> None:
    with pytest.raises(ValueError, match="quantile 5"):
        joint_thresholds({"text": [1.0]}, UP, 5)
    with pytest.raises(ValueError, match="'text': the ground-truth row has no finite values"):
        joint_thresholds({"text": [np.nan]}, UP)
    with pytest.raises(ValueError, match="unequal lengths"):
        joint_success({"text": [1.0], "mask": [1.0, 2.0]}, {"text": 0.0, "mask": 0.0}, UP)
    with pytest.raises(ValueError, match="no thresholds"):
        joint_success({"text": [1.0]}, {}, UP)
    with pytest.raises(ValueError, match="2 values but 1 failure marks"):
        joint_success({"text": [1.0, 2.0]}, {"text": 0.0}, UP, {"text": [True]})
