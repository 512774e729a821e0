"""Profile 'photos': real photographs scored by trained networks that come as packages, without any download."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from concord import metrics
from concord.data.errors import ConcordError
from concord.data.networks import Networks
from concord.data.profile import load_profile
from concord.data.request import Conditions
from concord.metrics.networks.protocols import Identity, Landmarks, Parser

pytest.importorskip("dlib")

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = Path(os.environ.get("CONCORD_REAL_SAMPLES", ROOT.parent / "shared" / "real_samples")) / "celebamask_hq"
pytestmark = [
    pytest.mark.own_files,
    pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"no real photographs at {SAMPLES}"),
]


@pytest.fixture(scope="module")
def networks() -> Networks:
    return Networks("photos")


def photo(number: int, size: int) -> np.ndarray:
    with Image.open(SAMPLES / "CelebA-HQ-img" / f"{number}.jpg") as image:
        return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.LANCZOS))


def tensor(*images: np.ndarray) -> torch.Tensor:
    return torch.stack([torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255 for image in images])


def folder(path: Path, size: int) -> Path:
    path.mkdir()
    for number in (0, 1):
        Image.fromarray(photo(number, size)).save(path / f"{number}.png")
    return path


def test_a_folder_of_photographs_is_scored(networks: Networks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small photographs against the same people and points at full size, and against each other's."""
    monkeypatch.setenv("CONCORD_OFFLINE", "1")
    monkeypatch.setenv("CONCORD_CACHE", str(tmp_path / "cache"))
    small = folder(tmp_path / "small", 128)
    found, _ = networks.get("judge/landmarks", Landmarks).landmarks(tensor(photo(0, 1024), photo(1, 1024)))
    people = [Conditions(identity=photo(k, 512), landmarks=found[k].numpy() / 8) for k in (0, 1)]
    told = "identity-distance,landmark-nme"
    own = metrics.evaluate(generated=small, conditions=people, metrics=told, profile="photos", device="cpu")
    other = metrics.evaluate(generated=small, conditions=people[::-1], metrics=told, profile="photos", device="cpu")
    assert own["identity-distance"].value < 0.02
    assert other["identity-distance"].value > 0.15
    assert own["landmark-nme"].value < 3 < other["landmark-nme"].value
    assert own["identity-distance"].failed == own["landmark-nme"].failed == 0
    assert own.profile == "photos"
    assert set(own.networks) == {"identity", "landmarks"}
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("size", [64, 256])
def test_points_lie_where_the_annotators_drew_the_parts(networks: Networks, size: int) -> None:
    """The middle of each eye's and of the lips' points, by the masks of CelebAMask-HQ, which no network has seen."""
    points, statuses = networks.get("judge/landmarks", Landmarks).landmarks(tensor(photo(0, size), photo(1, size)))
    assert statuses == ["ok", "ok"]
    for number in (0, 1):
        for part, own in (("r_eye", slice(36, 42)), ("l_eye", slice(42, 48)), ("nose", slice(27, 36))):
            files = list(SAMPLES.glob(f"CelebAMask-HQ-mask-anno/0/0000{number}_{part}.png"))
            if not files:
                continue
            with Image.open(files[0]) as image:
                mask = np.asarray(image.convert("L")) > 127
            middle = np.argwhere(mask).mean(axis=0)[::-1] / mask.shape[0]
            away = np.linalg.norm(points[number, own].mean(dim=0).numpy() / size - middle)
            assert away < 0.04, (number, part)


def test_the_same_face_is_near_at_every_size_and_nothing_is_no_face(networks: Networks) -> None:
    embed = networks.get("judge/identity", Identity).embed_faces
    full, _ = embed(tensor(photo(0, 1024), photo(1, 1024)))
    for size in (512, 64):
        vectors, statuses = embed(tensor(photo(0, size), photo(1, size)))
        assert statuses == ["ok", "ok"]
        cosine = vectors @ full.T
        assert float(cosine.diag().min()) > 0.98
        assert float(cosine[0, 1].abs()) < 0.9
    assert embed(torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0)))[1] == ["no face found"]


def test_what_the_profile_lacks_and_what_its_weights_allow_is_said(networks: Networks) -> None:
    with pytest.raises(ConcordError, match="profile 'photos': has no role 'judge/parser'; it has judge/face-detector"):
        networks.get("judge/parser", Parser)
    weights = load_profile("photos").weights
    assert "excludes commercial use" in weights["dlib-landmarks-68"].licence
    networks.get("judge/landmarks", Landmarks)
    assert networks.sha256["dlib-landmarks-68"] == weights["dlib-landmarks-68"].sha256
