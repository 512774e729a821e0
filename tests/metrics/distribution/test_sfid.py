"""sFID sees where things are; the kinds of features that the embedded judges give, in one pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from given_networks import seen_by
from torch.nn.functional import silu

from concord.data.errors import ConcordError
from concord.data.networks import Networks
from concord.metrics.base import Observation, SetMetric, all_metrics, get_metric
from concord.metrics.distribution.fd_dinov2 import FDDINOv2
from concord.metrics.distribution.fid import FID, FIDLegacy, FIDTensorFlow
from concord.metrics.distribution.sfid import SFID, SFIDTensorFlow
from concord.metrics.networks.embedded.features import FeatureNetwork
from concord.metrics.networks.embedded.perceptual import SynthFeatures
from concord.metrics.networks.judges import set_features


def network() -> FeatureNetwork:
    torch.manual_seed(0)
    made = FeatureNetwork({"Young": 6, "Bangs": 6, "Male": 2}, identity=8, width=8)
    for parameter in made.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    return made.eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_views_are_of_one_pass_and_pool_is_as_before(images: torch.Tensor) -> None:
    made, calls = network(), []
    made.trunk.register_forward_hook(lambda *_: calls.append("head and maps"))
    made.trunk.body.register_forward_hook(lambda *_: calls.append("maps"))
    with torch.inference_mode():
        views = made.views(images)
        assert calls == ["maps"]
        assert torch.equal(views["pool"], made.features(images))
        assert torch.equal(views["pool"], silu(made.trunk(images)))
        logits = made(images)
        joint = torch.einsum("ba,bs->bas", logits["Young"].softmax(1), logits["Male"].softmax(1))
        body = made.trunk.body(torch.nn.functional.pixel_unshuffle(images * 2 - 1, 2))
    assert views["logits"].shape == (5, 12)
    torch.testing.assert_close(views["logits"].softmax(1), joint.flatten(1))
    assert views["spatial"].shape == (5, 4 * 4 * 7)
    assert views["spatial"][2, (1 * 4 + 3) * 7 + 5] == body[2, 5, 1, 3]  # (row, column, channel)


def test_the_embedded_judges_give_them(images: torch.Tensor) -> None:
    made = network().requires_grad_(False)
    networks = seen_by(SynthFeatures(made))
    found = set_features(networks, images, ("logits", "pool", "spatial"))
    assert list(found) == ["logits", "pool", "spatial"]
    nhwc = images.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        assert torch.equal(found["pool"], made.features(nhwc))
    for kind in ("pool-tf", "dinov2", "clip-l-336"):
        with pytest.raises(ConcordError, match=f"has no role 'features/{kind}'; it has .*features/spatial"):
            set_features(Networks("embedded"), images, ("pool", kind))
        with pytest.raises(ConcordError, match=f"features '{kind}': the feature network of SynthFaces gives pool, log"):
            set_features(networks, images, ("pool", kind))
    observation = Observation(images, [None] * 5, networks, kinds=("pool", "spatial"))  # type: ignore[list-item]
    assert observation.features("pool").shape == (5, 64)
    assert observation.features("spatial").shape == (5, 112)


def test_sees_what_moved_where_pooled_features_do_not() -> None:
    """Features at 3 x 3 places of one channel. Moving every image by a place leaves each pooled mean as it was."""
    rng = np.random.default_rng(0)
    pictures = rng.normal(size=(300, 3, 3)) + np.arange(9).reshape(3, 3)
    moved = np.roll(rng.normal(size=(300, 3, 3)) + np.arange(9).reshape(3, 3), 1, axis=2)
    pooled = [p.reshape(300, 9).mean(axis=1, keepdims=True) for p in (moved, pictures)]
    spatial = [p.reshape(300, 9) for p in (moved, pictures)]
    assert FID().compute(*pooled) < 0.05
    assert SFID().compute(*spatial) > 10
    assert SFID().compute(*spatial) == FID().compute(*spatial)


def test_each_protocol_has_its_name_and_its_features() -> None:
    kinds = {m.name: m.features for m in (FID, FIDLegacy, FIDTensorFlow, SFID, SFIDTensorFlow, FDDINOv2)}
    assert kinds == {
        "fid": "pool",
        "fid-legacy": "pool-legacy",
        "fid-tf": "pool-tf",
        "sfid": "spatial",
        "sfid-tf": "spatial-tf",
        "fd-dinov2": "dinov2",
    }
    assert [get_metric(name).label for name in kinds] == [
        "FID",
        "FID (pytorch-fid)",
        "FID (TF)",
        "sFID",
        "sFID (TF)",
        "FD-DINOv2",
    ]
    columns = [metric.paper_key for metric in all_metrics().values() if metric.paper_key]
    assert len(columns) == len(set(columns))  # no paper's column is answered by two protocols
    sets = [metric for metric in all_metrics().values() if issubclass(metric, SetMetric)]
    for metric in sets:
        assert metric.name.endswith(("-tf", "-adm")) == metric.features.endswith("-tf"), metric.name
