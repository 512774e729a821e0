"""Identity embedder and landmark regressor: their form, their smoothness, and what the trained ones reach."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from concord.data.checkpoints import card_path, weight_path
from concord.data.networks import Networks
from concord.data.synthetic import SPLITS, face
from concord.data.synthetic.faces.geometry import head_pose, landmarks_of, shape_of
from concord.data.synthetic.faces.world import describe
from concord.data.synthetic.styles import style_image
from concord.methods.training import all_tasks
from concord.methods.training.faces import auc
from concord.metrics.networks.embedded.identity import IdentityNetwork, SynthIdentity
from concord.metrics.networks.embedded.landmarks import LandmarkNetwork, SynthLandmarks
from concord.metrics.networks.embedded.parser import FACE_PARTS, SynthParser
from concord.metrics.networks.protocols import NO_FACE

HELD_OUT = range(SPLITS["validation"].start + 2000, SPLITS["validation"].start + 2024)
NAMES = [f"faces-{kind}-{role}" for kind in ("identity", "landmarks") for role in ("judge", "guide")]


def pictures(variant: int = 0) -> torch.Tensor:
    drawn = np.stack([face(i, variant=variant).image for i in HELD_OUT])
    return torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 255


@pytest.fixture(scope="module")
def faces() -> torch.Tensor:
    return pictures()


def test_embeddings_are_unit_vectors() -> None:
    found = IdentityNetwork(width=8, embedding=12).embed(torch.rand(3, 3, 64, 64))
    assert found.shape == (3, 12)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))


def test_an_untrained_regressor_says_the_mean_and_more_only_by_the_spread() -> None:
    network = LandmarkNetwork(width=8)
    network.mean.copy_(torch.arange(136.0).reshape(68, 2) / 64)
    images = torch.rand(2, 3, 64, 64)
    away = network(images) - network.mean
    network.spread.fill_(3.0)
    torch.testing.assert_close(network(images) - network.mean, 3 * away)
    network.spread.zero_()
    torch.testing.assert_close(network(images), network.mean.expand(2, 68, 2))


@pytest.mark.parametrize("network", [IdentityNetwork(width=8), LandmarkNetwork(width=8)])
def test_second_derivatives_agree_with_differences(network: torch.nn.Module) -> None:
    """Guides are differentiated twice: a kink would hide curvature from the exact product."""
    network = network.double()
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 3, 64, 64, generator=generator, dtype=torch.float64).requires_grad_(True)
    v = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    v /= v.norm()

    def slope(at: torch.Tensor) -> torch.Tensor:
        at = at.requires_grad_(True)
        return torch.autograd.grad(network(at).square().sum() + network(at).sum(), at, create_graph=True)[0]

    (exact,) = torch.autograd.grad((slope(x) * v).sum(), x)
    h = 1e-4
    difference = (slope(x.detach() + h * v) - slope(x.detach() - h * v)) / (2 * h)
    assert float(exact.norm()) > 1e-6
    torch.testing.assert_close(difference.detach(), exact, atol=1e-5 * float(exact.norm()), rtol=1e-4)


def test_auc_counts_pairs() -> None:
    rng = np.random.default_rng(0)
    positive, negative = rng.normal(1, 1, 40).round(1), rng.normal(0, 1, 60).round(1)  # rounded: some are equal
    brute = np.mean([(p > n) + 0.5 * (p == n) for p in positive for n in negative])
    assert auc(positive, negative) == pytest.approx(brute)


def test_judge_and_guide_are_two_trainings_of_two_sizes() -> None:
    tasks = all_tasks()
    for kind in ("identity", "landmarks"):
        judge, guide = (tasks[f"faces-{kind}-{role}"] for role in ("judge", "guide"))
        assert judge.seed != guide.seed
        assert judge.config["width"] != guide.config["width"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", NAMES)
def test_cards_hold_what_was_asked_for(name: str) -> None:
    held_out = json.loads(card_path(name).read_text())["held_out"]
    assert held_out["n"] >= 1000
    if "identity" in name:
        assert held_out["auc"] >= 0.98
    else:
        assert held_out["nme_percent"] <= 3
    assert weight_path(name).stat().st_size < 1.5e6


@pytest.mark.parametrize("role", ["judge", "guide"])
def test_landmarks_of_held_out_faces(faces: torch.Tensor, role: str) -> None:
    """Against the geometry, which no network has seen; the error is divided by the outer eye corners' distance."""
    found, status = Networks("embedded").get(f"{role}/landmarks", SynthLandmarks).landmarks(faces)
    assert status == ["ok"] * len(faces)
    truth = []
    for index in HELD_OUT:
        _, person, attributes, scene, _ = describe(index)
        shape = shape_of(person, attributes)
        truth.append(landmarks_of(shape, head_pose(scene, shape)))
    wanted = np.stack(truth)
    apart = np.linalg.norm(wanted[:, 36] - wanted[:, 45], axis=1)
    nme = np.linalg.norm(found.numpy() - wanted, axis=2).mean(1) / apart
    assert float(nme.mean()) < 0.02


@pytest.mark.parametrize("role", ["judge", "guide"])
def test_other_pictures_of_a_person_are_nearer_than_other_persons(faces: torch.Tensor, role: str) -> None:
    identity = Networks("embedded").get(f"{role}/identity", SynthIdentity)
    (first, _), (second, _) = identity.embed_faces(faces), identity.embed_faces(pictures(variant=3))
    cosine = (first @ second.T).numpy()
    same = np.eye(len(faces), dtype=bool)
    assert auc(cosine[same], cosine[~same]) > 0.97


@pytest.mark.parametrize("role", ["judge", "guide"])
def test_pictures_without_a_face_are_told(faces: torch.Tensor, role: str) -> None:
    networks = Networks("embedded")
    parser = networks.get(f"{role}/parser", SynthParser)
    assert bool(parser.has_face(faces).all())
    noise = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    styles = torch.from_numpy(np.stack([style_image(i) for i in range(12)])).permute(0, 3, 1, 2).float() / 255
    blank = torch.full((1, 3, 64, 64), 0.5)
    for pictures_ in (noise, styles, blank):
        assert parser.face_status(pictures_) == [NO_FACE] * len(pictures_)
        assert networks.get(f"{role}/identity", SynthIdentity).embed_faces(pictures_)[1] == [NO_FACE] * len(pictures_)
        assert networks.get(f"{role}/landmarks", SynthLandmarks).landmarks(pictures_)[1] == [NO_FACE] * len(pictures_)


def test_a_face_without_a_mouth_is_no_face(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.zeros(1, 19, 64, 64)
    logits[:, 0] = 9.0
    row = 4
    for kinds, least in FACE_PARTS.items():
        logits[:, kinds[0], row : row + -(-least // 64)] = 18.0
        row += 8
    monkeypatch.setattr(SynthParser, "parse", lambda self, images: logits)
    networks = Networks("embedded")
    judge, guide = (networks.get(f"{role}/parser", SynthParser) for role in ("judge", "guide"))
    image = torch.zeros(1, 3, 64, 64)
    assert judge.face_status(image) == ["ok"]
    logits[:, 10] = 0.0
    assert judge.face_status(image) == [NO_FACE]
    assert 0.5 < guide.confidence < judge.confidence < 1
