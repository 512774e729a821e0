"""The committed weights are what their cards say: files, sizes, and figures measured again on test faces."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from concord.data.checkpoints import EMBEDDED, load_weights, weight_path
from concord.data.networks import Networks
from concord.data.request import Conditions
from concord.data.synthetic import SPLITS, FaceArrays, render_many
from concord.methods.core.schedule import Schedule
from concord.methods.networks.protocols import TrainedDenoiser
from concord.methods.networks.space import LatentSpace
from concord.methods.training import all_tasks
from concord.metrics.networks.embedded.perceptual import SynthFeatures
from concord.metrics.networks.protocols import Parser, TextImage

FILES = [file for name, kind in all_tasks().items() if kind.committed for file in (kind.output_names or (name,))]
N = 96


@cache
def faces() -> FaceArrays:
    return render_many(list(SPLITS["test"])[:N], workers=1)


def images() -> torch.Tensor:
    return torch.from_numpy(faces().images).movedim(-1, 1).float() / 255


@cache
def networks() -> Networks:
    return Networks("embedded")


def held_out(role: str) -> dict[str, Any]:
    """What the card of the weights behind a role says of held-out data; they have to be loaded."""
    found: Any = networks().cards[role]["held_out"]
    return found


@pytest.mark.parametrize("name", FILES)
def test_card_and_file_agree(name: str) -> None:
    state, card = load_weights(name)  # compares the SHA-256
    assert sum(value.numel() for value in state.values()) == card["parameters"]
    assert weight_path(name).stat().st_size <= 16 * 2**20
    assert {"data_seed", "recipe", "loss", "seconds", "device", "git_commit", "held_out", "config"} <= set(card)
    assert all(bool(torch.isfinite(value).all()) for value in state.values())


def test_all_weights_together_leave_room_for_the_later_ones() -> None:
    assert sum(path.stat().st_size for path in EMBEDDED.glob("*.safetensors")) <= 48 * 2**20
    assert {path.stem for path in EMBEDDED.glob("*.safetensors")} == set(FILES)


def test_reconstructions() -> None:
    autoencoder = Networks("embedded", "faces").get("space", LatentSpace)
    with torch.inference_mode():
        decoded, latents = autoencoder.decode(autoencoder.encode(images())).clamp(0, 1), autoencoder.encode(images())
    psnr = float((-10 * (decoded - images()).square().mean((1, 2, 3)).log10()).mean())
    assert psnr >= 28
    assert psnr == pytest.approx(load_weights("faces-autoencoder")[1]["held_out"]["psnr_db"], abs=0.5)
    assert 0.8 < float(latents.std()) < 1.25


@pytest.mark.parametrize("role", ["judge", "guide"])
def test_parser(role: str) -> None:
    found = networks().get(f"{role}/parser", Parser).labels(images()).cpu().numpy()
    accuracy = float((found == faces().masks).mean())
    assert accuracy == pytest.approx(held_out(f"{role}/parser")["pixel_accuracy"], abs=0.01)
    assert accuracy > 0.93


@pytest.mark.parametrize("role", ["judge", "guide"])
def test_attributes(role: str) -> None:
    names = ("Bangs", "Eyeglasses", "No_Beard", "Smiling", "Young")
    network = networks().get(f"{role}/features", SynthFeatures)
    logits, accuracy = network.attributes(images()), held_out(f"{role}/features")["accuracy"]
    for k, name in enumerate(names):
        right = float((logits[name].argmax(1).cpu().numpy() == faces().attributes[:, k]).mean())
        assert right >= accuracy[name] - 0.08, name
    assert network.features(images(), ["pool"])["pool"].shape == (N, 64)


@pytest.mark.parametrize("role", ["judge", "guide"])
def test_captions_find_their_images(role: str) -> None:
    captions = [c.overall for c in faces().captions]
    distinct = [captions.index(c) for c in dict.fromkeys(captions)][:64]
    pair = networks().get(f"{role}/text-image", TextImage)
    images_found, texts = pair.embed_images(images())[distinct], pair.embed_texts([captions[i] for i in distinct])
    top1 = float(((images_found @ texts.T).argmax(1).cpu().numpy() == np.arange(len(distinct))).mean())
    assert top1 >= held_out(f"{role}/text-image")["retrieval_top1_of_64"] - 0.12


def test_judge_and_guide_are_different_networks() -> None:
    for kind in ("parser", "features", "text-image"):
        judge, guide = (load_weights(f"faces-{kind}-{role}")[1] for role in ("judge", "guide"))
        for key in ("sha256", "seed", "config"):
            assert judge[key] != guide[key]


def test_diffusion_models_denoise_and_read_their_condition() -> None:
    """At t = 500, on held-out faces: each error is far below predicting nothing, and rises with a wrong condition."""
    networks = Networks("embedded", "faces")
    space, schedule = networks.get("space", LatentSpace), networks.get("schedule", Schedule)
    arrays = faces()
    x_0 = space.encode(images()).detach()
    noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0))
    x_t = schedule.diffuse(x_0, noise, 500)
    pairs = zip(arrays.captions, arrays.masks, strict=True)
    given = [Conditions(text=caption.beard_and_age, mask=mask.astype(np.int64)) for caption, mask in pairs]
    errors = {}
    with torch.inference_mode():
        for name in ("unconditional", "text", "mask"):
            expert = networks.get(f"expert/{name}", TrainedDenoiser)
            eps = expert.bind(given, schedule)(x_t, 500)
            wrong = expert.bind(given[1:] + given[:1], schedule)(x_t, 500)
            errors[name] = [float((e - noise).square().mean()) for e in (eps, wrong)]
    nothing = float((x_t - noise).square().mean())
    assert errors["unconditional"][0] < 0.5 * nothing
    assert errors["text"][0] < errors["text"][1]
    assert errors["mask"][0] < errors["mask"][1]
    assert errors["mask"][0] < errors["unconditional"][0]  # the mask says much about the image
