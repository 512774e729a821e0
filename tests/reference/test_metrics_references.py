"""The metrics against the libraries that the field uses, on the same features and the same masks.

Each library is imported for a pure function of arrays alone: no network, no weights.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from given_networks import seen_by

from concord.metrics.distribution.fid import FID, frechet_distance
from concord.metrics.distribution.kid import KID
from concord.metrics.distribution.moments import Moments
from concord.metrics.segmentation.mask_accuracy import MaskAccuracy
from concord.metrics.segmentation.masks import class_iou, confusion_matrix, set_miou

N, M, D = 400, 300, 64


@pytest.fixture(scope="module")
def features() -> tuple[np.ndarray, np.ndarray]:
    """Generated (N, D) and reference (M, D), float32: not negative, correlated, skewed, as pooled activations are."""
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(D, D)) / np.sqrt(np.arange(1, D + 1))
    return tuple(  # type: ignore[return-value]
        np.maximum(rng.normal(shift, 1, (n, D)) @ mix, 0).astype(np.float32) for n, shift in ((N, 0.15), (M, 0.0))
    )


def statistics(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x = x.astype(np.float64)
    return x.mean(axis=0), np.cov(x, rowvar=False)


def test_fid_is_clean_fids(features: tuple[np.ndarray, np.ndarray]) -> None:
    fid = pytest.importorskip("cleanfid.fid")
    expected = fid.frechet_distance(*statistics(features[0]), *statistics(features[1]))
    assert expected > 1
    assert FID().compute(*features) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(*map(Moments.of, features)) == pytest.approx(expected, rel=1e-9)


def test_fid_is_torch_fidelitys(features: tuple[np.ndarray, np.ndarray]) -> None:
    reference = pytest.importorskip("torch_fidelity.metric_fid")
    sides = [dict(zip(("mu", "sigma"), statistics(x), strict=True)) for x in features]
    expected = reference.fid_statistics_to_metric(*sides, verbose=False)["frechet_inception_distance"]
    assert FID().compute(*features) == pytest.approx(expected, rel=1e-9)


def test_fid_is_torchmetrics(features: tuple[np.ndarray, np.ndarray]) -> None:
    reference = pytest.importorskip("torchmetrics.image.fid")
    first, second = ([torch.from_numpy(part) for part in statistics(x)] for x in features)
    expected = float(reference._compute_fid(*first, *second))
    assert FID().compute(*features) == pytest.approx(expected, rel=1e-9)


def test_fid_of_fewer_images_than_dimensions_is_torch_fidelitys(features: tuple[np.ndarray, np.ndarray]) -> None:
    """Its complex eigenvalues carry the rounding of 24 zeros here: hence the wider tolerance."""
    reference = pytest.importorskip("torch_fidelity.metric_fid")
    few = features[0][:40]
    sides = [dict(zip(("mu", "sigma"), statistics(x), strict=True)) for x in (few, features[1])]
    expected = reference.fid_statistics_to_metric(*sides, verbose=False)["frechet_inception_distance"]
    assert FID().compute(few, features[1]) == pytest.approx(expected, rel=1e-6)


def test_kid_on_one_full_subset_is_everyones(features: tuple[np.ndarray, np.ndarray]) -> None:
    """The references draw subsets of equal size; where the one subset is everything, nothing is left to chance."""
    clean, fidelity = pytest.importorskip("cleanfid.fid"), pytest.importorskip("torch_fidelity.metric_kid")
    torchmetrics = pytest.importorskip("torchmetrics.image.kid")
    x, y = features[0][:M].astype(np.float64), features[1].astype(np.float64)
    ours = KID().compute(x, y)
    assert clean.kernel_distance(x, y, num_subsets=1, max_subset_size=M) == pytest.approx(ours, rel=1e-9)
    assert float(torchmetrics.poly_mmd(torch.from_numpy(x), torch.from_numpy(y))) == pytest.approx(ours, rel=1e-9)
    theirs = fidelity.kid_features_to_metric(
        torch.from_numpy(x), torch.from_numpy(y), kid_subsets=1, kid_subset_size=M, verbose=False
    )
    assert theirs["kernel_inception_distance_mean"] == pytest.approx(ours, rel=1e-9)


def test_kid_of_subsets_scatters_around_the_full_statistic(features: tuple[np.ndarray, np.ndarray]) -> None:
    """Same expectation, other noise: the mean of 100 subsets of 100 lies within its own standard error of ours."""
    fidelity = pytest.importorskip("torch_fidelity.metric_kid")
    x, y = (torch.from_numpy(side.astype(np.float64)) for side in features)
    theirs = fidelity.kid_features_to_metric(x, y, kid_subsets=100, kid_subset_size=100, verbose=False)
    error = theirs["kernel_inception_distance_std"] / np.sqrt(100)
    assert theirs["kernel_inception_distance_mean"] == pytest.approx(KID().compute(*features), abs=4 * error)


def test_iou_of_each_class_is_torchmetrics() -> None:
    segmentation = pytest.importorskip("torchmetrics.functional.segmentation")
    classification = pytest.importorskip("torchmetrics.functional.classification")
    rng = np.random.default_rng(1)
    wanted = rng.choice(19, p=rng.dirichlet(np.full(19, 0.3)), size=(6, 16, 16))
    parsed = np.where(rng.random((6, 16, 16)) < 0.7, wanted, rng.integers(0, 15, (6, 16, 16)))
    tensors = torch.from_numpy(parsed), torch.from_numpy(wanted)
    per_image = segmentation.mean_iou(*tensors, num_classes=19, per_class=True, input_format="index").numpy()
    for a, b, expected in zip(wanted, parsed, per_image, strict=True):
        ours = class_iou(confusion_matrix(a, b))
        assert (np.isnan(ours) == (expected < 0)).all()  # torchmetrics writes -1 for a class that neither has
        assert np.nan_to_num(ours, nan=-1) == pytest.approx(expected, abs=1e-6)
    whole = confusion_matrix(wanted, parsed)
    expected_set = classification.multiclass_jaccard_index(*tensors, num_classes=19, average="none").numpy()
    present = ~np.isnan(class_iou(whole))
    assert class_iou(whole)[present] == pytest.approx(expected_set[present], abs=1e-6)
    assert set_miou(whole) == pytest.approx(100 * expected_set[present].mean(), abs=1e-4)


def test_pixel_accuracy_is_torchmetrics() -> None:
    classification = pytest.importorskip("torchmetrics.functional.classification")
    rng = np.random.default_rng(2)
    wanted, parsed = rng.integers(0, 19, (2, 5, 8, 8))
    expected = classification.multiclass_accuracy(
        torch.from_numpy(parsed),
        torch.from_numpy(wanted),
        num_classes=19,
        average="micro",
        multidim_average="samplewise",
    )
    from concord.data.request import Conditions
    from concord.metrics.base import Observation

    class Parser:
        def labels(self, images: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(parsed)

    observation = Observation(torch.zeros(5, 3, 8, 8), [Conditions(mask=mask) for mask in wanted], seen_by(Parser()))
    ours = [score.value for score in MaskAccuracy().score(observation)]
    assert ours == pytest.approx((100 * expected).tolist(), rel=1e-6)
