"""The judges at the papers' scale: which file serves what, and what is said when it is missing or wrong."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from concord import metrics
from concord.data.download.manifest import load_manifest, manifest_names
from concord.data.errors import ConcordError
from concord.metrics.base import all_metrics
from concord.metrics.networks.perception import Perception
from concord.metrics.networks.pretrained.freedom import FILES as GUIDES
from concord.metrics.networks.pretrained.freedom import FreeDoMNetworks
from concord.metrics.networks.pretrained.perception import FILES, PaperPerception, weights_sha256


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONCORD_CACHE", str(tmp_path))
    return tmp_path


IMAGES = torch.zeros(2, 3, 64, 64)


def test_every_network_has_a_manifest_and_no_judge_guides() -> None:
    known = set(manifest_names())
    assert set(FILES.values()) <= known
    assert set(GUIDES.values()) <= known
    assert not set(FILES.values()) & set(GUIDES.values())


def test_profiles_and_roles() -> None:
    assert isinstance(Perception.load("paper", "judge", "cpu"), PaperPerception)
    assert isinstance(Perception.load("paper", "guide", "cpu"), FreeDoMNetworks)
    assert Perception.load("embedded", "guide", "cpu").role == "guide"
    with pytest.raises(ConcordError, match="profile 'other': expected embedded or paper"):
        Perception.load("other")


@pytest.mark.parametrize("kind", [kind for kind in FILES if kind != "landmarks-detector"])
def test_a_missing_file_is_one_line_with_source_licence_and_command(cache: Path, kind: str) -> None:
    with pytest.raises(ConcordError) as error:
        PaperPerception().network(kind)
    message, manifest = str(error.value), load_manifest(FILES[kind])
    assert "\n" not in message
    assert manifest.command in message
    assert manifest.licence.name in message
    assert str(cache) in message


def test_wrong_weights_are_told_by_both_hashes(cache: Path) -> None:
    manifest = load_manifest(FILES["text-image"])
    path = manifest.folder() / manifest.files[0].name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"other weights")
    with pytest.raises(ConcordError) as error:
        metrics.evaluate(generated=IMAGES, conditions=["a", "b"], metrics="text-similarity", device="cpu")
    assert hashlib.sha256(b"other weights").hexdigest()[:12] in str(error.value)
    assert manifest.files[0].sha256[:12] in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_kinds_are_named(cache: Path) -> None:
    with pytest.raises(ConcordError, match="network 'nose': profile 'paper' has features, features-legacy"):
        PaperPerception().network("nose")
    with pytest.raises(ConcordError, match="features 'nose': profile 'paper' has pool, spatial, logits, pool-tf"):
        PaperPerception().features(IMAGES, ("nose",))


def test_every_metrics_features_have_a_network() -> None:
    from concord.metrics.base import SetMetric
    from concord.metrics.networks.pretrained.perception import _feature_network

    kinds = {m.features for m in all_metrics().values() if issubclass(m, SetMetric) and not m.counted}
    assert {_feature_network(kind) for kind in kinds} == {"features", "features-legacy", "dinov2", "clip-l-336"}


def test_what_a_metric_is_said_to_need_is_what_it_looks_through() -> None:
    """benchmarks/generators.py names files from the plan alone; they are those that these classes then open."""
    from concord.benchmarks.generators import JUDGES, metric_needs
    from concord.metrics.base import SetMetric
    from concord.metrics.networks.pretrained.perception import _feature_network

    assert {kind: files[0] for kind, files in JUDGES.items()} | {"landmarks-detector": "s3fd"} == FILES
    assert JUDGES["landmarks"] == (FILES["landmarks"], FILES["landmarks-detector"])
    for name, metric in all_metrics().items():
        assert set(metric.networks) - {"interactions"} <= set(JUDGES), name  # that one is of the drawn scenes alone
        if issubclass(metric, SetMetric) and not metric.counted:
            assert metric_needs([name]) == [FILES[_feature_network(metric.features)]], name
        if metric.through_guide:
            assert metric_needs([name]) == [GUIDES[kind] for kind in metric.networks], name


def test_kinds_of_one_network_share_its_pass() -> None:
    asked: list[tuple[str, tuple[str, ...]]] = []

    def network(name: str) -> object:
        def look(images: torch.Tensor, kinds: tuple[str, ...]) -> dict[str, torch.Tensor]:
            asked.append((name, kinds))
            return {kind: torch.zeros(len(images), 4) for kind in kinds}

        return look

    judges = PaperPerception()
    judges.networks = {name: network(name) for name in ("features", "features-legacy", "dinov2")}
    found = judges.features(IMAGES, ("pool", "dinov2", "spatial", "pool-legacy", "pool", "logits-tf"))
    assert list(found) == ["pool", "dinov2", "spatial", "pool-legacy", "logits-tf"]
    assert asked == [
        ("features", ("pool", "spatial", "logits-tf")),
        ("dinov2", ("dinov2",)),
        ("features-legacy", ("pool-legacy",)),
    ]


def test_hash_of_a_folder_follows_its_weights_alone(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"a")
    (tmp_path / "b.onnx").write_bytes(b"b")
    lines = "".join(f"{n}.onnx {hashlib.sha256(n.encode()).hexdigest()}\n" for n in "ab")
    assert weights_sha256(tmp_path) == hashlib.sha256(lines.encode()).hexdigest()
    before = weights_sha256(tmp_path)
    (tmp_path / "readme.txt").write_text("words")
    assert weights_sha256(tmp_path) == before
    (tmp_path / "b.onnx").write_bytes(b"c")
    assert weights_sha256(tmp_path) != before
    assert weights_sha256(tmp_path / "a.onnx") == hashlib.sha256(b"a").hexdigest()


def test_scores_carry_the_hashes_of_judges_and_guides_apart(tmp_path: Path) -> None:
    """A parser of either kind with random weights, in the published form."""
    from concord.metrics.networks.pretrained.parsenet import Parsenet

    torch.save(Parsenet().state_dict(), tmp_path / "model.pth")
    judges = PaperPerception(paths={"parser": tmp_path / "model.pth"})
    assert judges.sha256 == {}
    assert judges.labels(IMAGES).shape == (2, 64, 64)
    assert judges.sha256 == {"parser": weights_sha256(tmp_path / "model.pth")}
    assert judges.cards["parser"]["name"] == "parsenet"
    judges.freedom.cards["parser"] = {"name": "bisenet", "sha256": "f" * 64}
    assert judges.sha256 == {"parser": weights_sha256(tmp_path / "model.pth"), "freedom-parser": "f" * 64}
    assert np.isfinite(judges.parse(IMAGES).numpy()).all()
