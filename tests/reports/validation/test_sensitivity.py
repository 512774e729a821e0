"""Known failures, and whether metrics find them (`make sensitivity`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fake_store import make_suite

from concord.methods.base import get_method, make_params
from concord.metrics.base import get_metric
from concord.reports.tables.sensitivity import sensitivity_notes
from concord.reports.validation.sensitivity import (
    BLUR,
    SWAP,
    Scored,
    Sensitivity,
    SuiteSensitivity,
    blur,
    fewer_steps,
    found_shares,
    quantise,
    read_sensitivity,
    swap,
    unguided,
    write_sensitivity,
)


def test_four_bits_leave_fifteen_values() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Linear(8, 8))
    before = [parameter.clone() for parameter in network.parameters()]
    quantise(network)
    for old, new in zip(before, network.parameters(), strict=True):
        if old.ndim == 1:
            assert torch.equal(old, new)
            continue
        assert 3 < len(new.unique()) <= 15
        assert (old - new).abs().max() <= old.abs().max() / 7 / 2 + 1e-7
        assert torch.equal(new.abs().max(), old.abs().max())


def test_a_blur_keeps_the_mean_and_loses_detail() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    found = blur(images)
    assert found.dtype == np.uint8
    assert found.mean() == pytest.approx(images.mean(), abs=1)
    assert found.std() < 0.5 * images.std()
    flat = np.full((1, 8, 8, 3), 77, np.uint8)
    assert np.array_equal(blur(flat), flat)


def test_a_tenth_is_swapped_and_none_of_it_stays() -> None:
    images = np.arange(50)
    found = swap(images)
    assert np.count_nonzero(found != images) == 5
    assert sorted(found) == sorted(images)


def test_what_guidance_off_and_fewer_steps_mean() -> None:
    def changes(name: str, **values: object) -> dict[str, object]:
        return unguided(make_params(get_method(name), values))

    assert changes("composable") == changes("collaborative") == {}
    assert changes("composable", combine="conjunction") == {"weight": 0.0}
    assert changes("amdm-layouts") == {"guidance": 1.0}
    assert set(changes("freedom")["strengths"].values()) == {0.0}  # type: ignore[attr-defined]
    assert fewer_steps(make_params(get_method("text-only"))) == {"steps": 10}
    assert fewer_steps(make_params(get_method("clean-masked"))) == {}


def scored(shift: float, seed: int = 0) -> Scored:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(60, 8)).astype(np.float32)
    return Scored({"text-similarity": rng.normal(size=60) - shift}, {"pool": features + np.float32(shift)})


def test_a_large_failure_is_found_always_and_none_never() -> None:
    metrics = [get_metric("fid"), get_metric("text-similarity")]
    reference = {"pool": np.random.default_rng(9).normal(size=(300, 8)).astype(np.float32)}
    plain = scored(0.0)
    assert found_shares(metrics, plain, scored(3.0), reference, 50, 20) == {"fid": 1.0, "text-similarity": 1.0}
    assert found_shares(metrics, plain, plain, reference, 50, 20) == {"fid": 0.0, "text-similarity": 0.0}
    better = Scored({"text-similarity": plain.values["text-similarity"] + 3}, plain.features)
    assert found_shares(metrics, plain, better, reference, 50, 20)["text-similarity"] == 0.0  # a gain is no failure
    chance = found_shares(metrics[1:], plain, scored(0.0, seed=1), reference, 50, 200)
    assert chance["text-similarity"] < 0.6  # one fixed pair of noises, not a failure


def kept() -> SuiteSensitivity:
    found = {
        BLUR: {"fid": 1.0, "mask-accuracy": 0.2, "text-similarity": 0.1},
        SWAP: {"fid": 0.0, "mask-accuracy": 0.9, "text-similarity": 0.3},
    }
    return SuiteSensitivity(row="toy", n=50, pool=64, trials=100, found=found, commit="c" * 40)


def test_a_metric_that_finds_none_of_its_own_failures_is_marked(tmp_path: Path) -> None:
    sees = {"mask-accuracy": True, "text-similarity": True}
    assert kept().blind(sees) == ["text-similarity"]
    assert kept().blind({}) == ["mask-accuracy", "text-similarity"]  # what sees no conditions is not asked about them
    path, suite = tmp_path / "sensitivity.yaml", make_suite(name="toys")
    assert sensitivity_notes(suite, "embedded", path) == []
    table = Sensitivity(profile="embedded", suites={"toys": kept()})
    write_sensitivity(table, path)
    assert read_sensitivity(path) == table
    notes = "\n".join(sensitivity_notes(suite, "embedded", path))
    assert "row toy" in notes
    assert "n = 50" in notes
    assert notes.endswith(
        f"Find none of their own failures in 50 % of the seed sets: {get_metric('text-similarity').label}."
    )
    assert sensitivity_notes(suite, "paper", path) == []


def test_the_kept_table_is_of_suites_that_there_are() -> None:
    from concord.benchmarks.suite import read_suite

    table = read_sensitivity()
    for name, one in (table.suites if table is not None else {}).items():
        assert one.row in {row.name for row in read_suite(name).rows}
        assert one.command
        assert one.commit
