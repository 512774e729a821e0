"""The committed network of MT-Diffusion on test faces: what each modality tells of the others, far from chance."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from concord.data.checkpoints import load_weights
from concord.data.conditions.masked_image import GREY_LEVEL, known_pixels
from concord.data.labels import PALETTE
from concord.data.networks import Networks
from concord.data.request import Conditions, Request
from concord.data.synthetic import SPLITS, FaceArrays, render_many
from concord.methods.base import Batch, make_method
from concord.methods.mt_diffusion import JointLabel
from concord.metrics.networks.judges import open_judges
from concord.metrics.networks.protocols import Parser

N, STEPS = 12, 8


@cache
def faces() -> FaceArrays:
    return render_many(list(SPLITS["test"])[:N], workers=1)


@cache
def networks() -> Networks:
    return Networks("embedded", "faces")


def real() -> torch.Tensor:
    return torch.from_numpy(faces().images).movedim(-1, 1).float() / 255


def requests(conditions: list[Conditions]) -> list[Request]:
    return [Request.make("weights", str(i), 0, given) for i, given in enumerate(conditions)]


@pytest.mark.parametrize("patches", [5, 20])
def test_pasted_restorations_keep_every_known_pixel(patches: int) -> None:
    known = np.stack([known_pixels(str(i), patches, 64) for i in range(4)])
    pictures = np.where(known[..., None], faces().images[:4], GREY_LEVEL).astype(np.uint8)
    asked = requests([Conditions(masked_image=pair) for pair in zip(pictures, known, strict=True)])
    images = make_method("mt-diffusion-x", {"steps": STEPS}, networks()).generate(asked)
    seen = torch.from_numpy(known)[:, None].expand_as(images)
    assert torch.equal(images[seen], real()[:4][seen])
    assert not torch.equal(images[~seen], torch.full_like(images[~seen], 0.5))


def test_an_image_follows_its_mask() -> None:
    masks = faces().masks.astype(np.int64)
    images = make_method("mt-diffusion-seg", {"steps": STEPS}, networks()).generate(
        requests([Conditions(mask=mask) for mask in masks])
    )
    parsed = open_judges("embedded").get("judge/parser", Parser).labels(images).cpu().numpy()
    own, other = (parsed == masks).mean(), (parsed == np.roll(masks, 1, axis=0)).mean()
    assert own > other + 0.1


def test_a_mask_follows_its_image() -> None:
    images = make_method("mt-diffusion-parse", {"steps": STEPS}, networks()).generate(
        requests([Conditions(source_image=picture) for picture in faces().images])
    )
    pixels = (images.movedim(1, -1)[..., None, :] * 255 - torch.from_numpy(PALETTE.copy()).float()).square().sum(-1)
    assert float((pixels.argmin(-1).numpy() == faces().masks).mean()) > 0.8


@pytest.mark.parametrize("name", ["mt-diffusion-m", "mt-diffusion-e"])
def test_labels_are_read_from_images(name: str) -> None:
    method = make_method(name, {"steps": STEPS}, networks())
    assert isinstance(method, JointLabel)
    asked = requests([Conditions()] * N)
    batch = Batch(asked, [torch.Generator().manual_seed(i) for i in range(N)], networks().device)
    found = method.classify(batch, real()).argmax(1).numpy()
    sex = np.array([sex == "male" for sex in faces().sex])
    assert (found % 2 == sex).mean() > 0.7
    assert np.abs(found // 2 - faces().attributes[:, 4]).mean() < 1.0  # ages apart, of six; a constant guess: 1.5


def test_the_card_says_how_little_it_was_trained() -> None:
    _, card = load_weights("mt-faces")
    assert card["config"]["weights"] == "bounded"
    assert card["recipe"]["steps"] + sum(part["recipe"]["steps"] for part in card.get("earlier", [])) >= 1000
    held_out = card["held_out"]
    assert held_out["mask"] < 0.6 < np.log(19)
    assert max(held_out["label_middle"], held_out["label_end"]) < 1.5 < np.log(12)
