"""The statistics hold what they say where the truth is known, and the simulation sees those that do not."""

import numpy as np
import pytest

from concord.reports import statistics as st
from concord.reports.validation import simulate as sim

QUICK = (
    "normal, n = 16",
    "10 % failures, n = 256",
    "skewed, n = 128",
    "normal, 16 items of 4 images",
    "rate 0.9, n = 128 (exact)",
    "rate 0.8, 64 items of 4, correlation 0.3",
    "n = 64, D = 16, shift 0.3",
    "5 x 32, D = 16, shift 0.3",
    "normal, 8 items of 4 images",
    "rate 0.7, n = 32",
    "sign flips, n = 16",
)


@pytest.mark.parametrize(
    "case", [c for c in sim.CASES if c.setting in QUICK and c.within], ids=lambda c: f"{c.kind}, {c.name}, {c.setting}"
)
def test_rate_is_in_its_range(case: sim.Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few hundred experiments know it to a point or two; the range is widened by two standard errors of theirs."""
    monkeypatch.setattr(sim, "CASES", (case,))
    (found,) = sim.simulate(trials=240, seed=5)
    assert case.within is not None
    assert case.within[0] - 2 * found.error <= found.rate <= case.within[1] + 2 * found.error, sim.line(found)


def test_every_kind_of_statistic_is_simulated() -> None:
    assert {c.kind for c in sim.CASES} == {"coverage", "false alarms", "power"}
    names = {c.name for c in sim.CASES}
    assert len(names) == 11
    assert len({(c.kind, c.name, c.setting) for c in sim.CASES}) == len(sim.CASES)  # each has a seed of its own


def outside(run: sim.Experiment, within: tuple[float, float], trials: int) -> bool:
    hits = np.fromiter(run(np.random.default_rng(3), trials), bool)  # type: ignore[arg-type]
    error = np.sqrt(hits.mean() * (1 - hits.mean()) / trials)
    return bool(hits.mean() < within[0] - 3 * error or hits.mean() > within[1] + 3 * error)


def test_ignoring_the_items_is_seen() -> None:
    run = sim.clustered_mean_covers(lambda values, clusters: st.mean_interval(values), sim.normal, 16, 4)
    assert outside(run, sim.COVERAGE, 300)


def test_an_unpaired_look_at_shared_difficulty_is_seen() -> None:
    """Leaving out the sign flips' pairing by item: images of an item taken as independent."""
    clusters = [str(i) for i in range(32)]
    run = sim.clustered_alarms(sim.normal, 8, 4)
    original = st.sign_flip
    try:
        st.sign_flip = lambda d, c, *rest: original(d, clusters, *rest)  # type: ignore[assignment]
        assert outside(run, sim.ALARMS, 500)
    finally:
        st.sign_flip = original


def test_the_naive_bootstrap_of_fid_is_seen() -> None:
    """Resampled images shrink the covariance: most percentile intervals miss the value that they should surround."""

    def run(rng: np.random.Generator, trials: int):
        fid, reference = sim.fid(), sim.reference_features()
        truth = np.mean([fid.compute(sim.generated_features(rng, 64, 0.05), reference) for _ in range(100)])
        for _ in range(trials):
            x = sim.generated_features(rng, 64, 0.05)
            values = [fid.compute(x[rng.integers(0, 64, 64)], reference) for _ in range(60)]
            low, high = np.quantile(values, [0.025, 0.975])
            yield bool(low <= truth <= high)

    assert outside(run, sim.COVERAGE, 60)


def test_table_is_the_same_for_the_same_seed_and_tells_what_is_outside() -> None:
    first, again = ([r.rate for r in sim.simulate(50, 1, "McNemar")] for _ in range(2))
    assert first == again
    case = sim.Case("coverage", "x", "y", lambda rng, trials: (False for _ in range(trials)), sim.COVERAGE)
    assert sim.line(sim.Result(case, 0.5, 0.1, 25)).endswith("OUTSIDE")
    assert sim.line(sim.Result(case, 0.95, 0.01, 25)).endswith("ok")
