"""A large reference as moments says what its images would say, and a damaged or foreign file is refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from concord.data.errors import ConcordError
from concord.data.profile import load_profile
from concord.metrics.base import get_metric
from concord.metrics.distribution.fid import FID
from concord.metrics.distribution.kid import KID, cross_sums
from concord.metrics.distribution.reference_moments import (
    ReferenceMoments,
    read_large_reference,
    write_large_reference,
)
from concord.metrics.evaluation import score_items


@pytest.fixture(scope="module")
def sides() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    skewed = rng.gamma(2.0, size=(500, 7)) + rng.normal(size=(500, 7))
    return rng.normal(size=(90, 7)).astype(np.float32) + 1, skewed.astype(np.float32)


def test_moments_say_what_the_images_say(sides: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = sides
    moments, items = ReferenceMoments.of(y), np.arange(len(x))
    assert moments.kernel_means(x) == pytest.approx(cross_sums(x, y) / len(y), rel=1e-10)
    for metric in (FID(), KID()):
        assert metric.compute(x, moments) == pytest.approx(metric.compute(x, y), rel=1e-9)
        assert metric.replicates(x, moments, items) == pytest.approx(metric.replicates(x, y, items), rel=1e-9)
        groups = items % 9
        assert metric.leave_group_out(x, moments, groups) == pytest.approx(
            metric.leave_group_out(x, y, groups), rel=1e-9
        )


def test_a_file_comes_back_as_it_was_and_belongs_to_one_network(
    sides: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    path, moments = tmp_path / "m.npz", ReferenceMoments.of(sides[1])
    write_large_reference(
        path, {"network": "a" * 64}, {"pool": moments, "spatial": ReferenceMoments.of(sides[1], False)}
    )
    found = read_large_reference(path)
    same = found.moments("pool", "a" * 64)
    assert same is not None
    assert found.moments("logits", "a" * 64) is None
    assert (same.count, same.own_kernel) == (moments.count, moments.own_kernel)
    assert np.array_equal(same.covariance, moments.covariance)
    assert np.array_equal(same.third, moments.third)
    with pytest.raises(ConcordError, match="large_reference"):
        found.moments("pool", "b" * 64)
    spatial = found.moments("spatial", "a" * 64)
    assert spatial is not None
    with pytest.raises(ConcordError, match="KID needs the third"):
        KID().compute(sides[0], spatial)


@pytest.mark.parametrize("damage", ["cut", "nan", "format", "text"])
def test_a_damaged_file_is_refused_in_one_line(
    damage: str, sides: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    path, moments = tmp_path / "m.npz", ReferenceMoments.of(sides[1])
    if damage == "nan":
        moments = ReferenceMoments(moments.count, moments.mean * np.nan, moments.covariance, moments.third)
    about = {"network": "a" * 64} | ({"format": 99} if damage == "format" else {})
    write_large_reference(path, about, {"pool": moments})
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:900])
    if damage == "text":
        path.write_text("no archive")
    with pytest.raises(ConcordError) as error:
        read_large_reference(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_neighbours_are_counted_among_images_alone(sides: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="not with moments"):
        score_items(get_metric("precision"), sides[0], ReferenceMoments.of(sides[1]), np.arange(90))


def test_the_committed_reference_is_of_20_000_faces_and_under_a_mebibyte() -> None:
    path = load_profile("embedded").datasets["faces"].moments_file
    assert path is not None
    assert path.stat().st_size < 1 << 20
    found = read_large_reference(path)
    assert {kind: (m.count, m.dimensions) for kind, m in found.kinds.items()} == {
        "pool": (20_000, 64),
        "spatial": (20_000, 112),
    }
    assert found.about["faces"] == [1_000_000, 1_020_000]
    assert [len(found.kinds[kind].third) for kind in ("pool", "spatial")] == [64 * 65 * 66 // 6, 0]
