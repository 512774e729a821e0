"""Profile 'paper': which weights stand behind which role, and what is said when they are missing or wrong."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from concord import metrics
from concord.data.download.manifest import load_manifest
from concord.data.errors import ConcordError
from concord.data.networks import Networks
from concord.data.profile import load_profile
from concord.data.weight_names import folder_sha256
from concord.metrics.base import SetMetric, all_metrics
from concord.metrics.networks.judges import judge_cards, judge_sha256, set_features
from concord.metrics.networks.protocols import Parser, ParserLogits

PAPER = load_profile("paper")
JUDGES = [role for role in PAPER.roles if role.startswith("judge/")]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONCORD_CACHE", str(tmp_path))
    return tmp_path


IMAGES = torch.zeros(2, 3, 64, 64)


def weights(prefix: str) -> set[str]:
    roles = [role for role in PAPER.roles if role.startswith(prefix)]
    return {name for use in PAPER.uses(roles) for name in use.weights}


def test_no_judge_guides() -> None:
    assert weights("judge/")
    assert weights("guide/") - weights("guide/universal") == weights("freedom/")
    assert not weights("judge/") & weights("guide/")


@pytest.mark.parametrize("role", JUDGES)
def test_a_missing_file_is_one_line_with_source_licence_and_command(cache: Path, role: str) -> None:
    with pytest.raises(ConcordError) as error:
        Networks("paper").get(role, object)
    message, manifest = str(error.value), load_manifest(PAPER.uses([role])[0].weights[0])
    assert "\n" not in message
    assert manifest.command in message
    assert manifest.licence.name in message
    assert str(cache) in message
    assert f"profile 'paper', role '{role}'" in message


def test_wrong_weights_are_told_by_both_hashes(cache: Path) -> None:
    manifest = load_manifest("clip-vit-l-14")
    path = manifest.folder() / manifest.files[0].name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"other weights")
    with pytest.raises(ConcordError) as error:
        metrics.evaluate(generated=IMAGES, conditions=["a", "b"], metrics="text-similarity", device="cpu")
    assert hashlib.sha256(b"other weights").hexdigest()[:12] in str(error.value)
    assert manifest.files[0].sha256[:12] in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_kinds_are_named(cache: Path) -> None:
    with pytest.raises(ConcordError, match="profile 'paper': has no role 'judge/nose'; it has judge/features"):
        Networks("paper").get("judge/nose", object)
    with pytest.raises(ConcordError, match=r"has no role 'features/nose'; it has .*features/pool, features/spatial"):
        set_features(Networks("paper"), IMAGES, ("nose",))


def test_every_metric_finds_its_roles() -> None:
    """Of every metric of both profiles' suites; the judge of interactions is of the drawn scenes alone."""
    for name, metric in all_metrics().items():
        for role in metric.roles():
            if role not in ("judge/interactions", "judge/features"):
                assert PAPER.uses([role]), name
        if issubclass(metric, SetMetric) and not metric.counted:
            assert metric.roles() == (f"features/{metric.features}",)
            assert PAPER.entry(metric.roles()[0])[0] == f"judge/{metric.networks[0]}"
        elif metric.through_guide:
            assert weights(f"freedom/{metric.networks[0]}") == weights(f"guide/{metric.networks[0]}")
            assert metric.roles() == (f"freedom/{metric.networks[0]}",)


def test_kinds_of_one_network_share_its_pass() -> None:
    asked: list[tuple[str, tuple[str, ...]]] = []

    class Network:
        def __init__(self, name: str) -> None:
            self.name = name

        def features(self, images: torch.Tensor, kinds: tuple[str, ...]) -> dict[str, torch.Tensor]:
            asked.append((self.name, tuple(kinds)))
            return {kind: torch.zeros(len(images), 4) for kind in kinds}

    roles = {role: found for role, found in PAPER.roles.items() if role.startswith("features/")}
    judges = {f"judge/{name}": Network(name) for name in ("features", "features-legacy", "dinov2", "clip-l-336")}
    found = set_features(
        Networks.of({**roles, **judges}), IMAGES, ("pool", "dinov2", "spatial", "pool-legacy", "pool", "logits-tf")
    )
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
    assert folder_sha256(tmp_path) == hashlib.sha256(lines.encode()).hexdigest()
    before = folder_sha256(tmp_path)
    (tmp_path / "readme.txt").write_text("words")
    assert folder_sha256(tmp_path) == before
    (tmp_path / "b.onnx").write_bytes(b"c")
    assert folder_sha256(tmp_path) != before


def test_scores_carry_the_hashes_of_judges_and_guides_apart(tmp_path: Path) -> None:
    """A parser of either kind with random weights, in the published form."""
    from concord.metrics.networks.pretrained.bisenet import BiSeNet
    from concord.metrics.networks.pretrained.parsenet import Parsenet

    torch.save(Parsenet().state_dict(), tmp_path / "model.pth")
    guide = BiSeNet().state_dict()
    torch.save(guide, tmp_path / "79999_iter.pth")
    given = {"parsenet": tmp_path / "model.pth", "bisenet": tmp_path / "79999_iter.pth"}
    judges = Networks("paper", paths=given)
    assert judges.sha256 == {}
    assert judges.get("judge/parser", Parser).labels(IMAGES).shape == (2, 64, 64)
    digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in given.items()}
    assert judge_sha256(judges) == {"parser": digests["parsenet"]}
    assert judge_cards(judges)["parser"]["name"] == "parsenet"
    assert np.isfinite(judges.get("freedom/parser", ParserLogits).parse(IMAGES).numpy()).all()
    assert judge_sha256(judges) == {"parser": digests["parsenet"], "freedom-parser": digests["bisenet"]}
    assert judges.sha256 == digests
