"""The committed generators of the world of layouts on test scenes: each does its own part, and not the other's."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from concord.data.checkpoints import load_weights
from concord.data.networks import Networks
from concord.data.request import Conditions, Request
from concord.data.synthetic.scenes.scene import SPLITS, Scene, reference, scene
from concord.methods.base import make_method
from concord.methods.networks.space import LatentSpace
from concord.metrics.base import Observation
from concord.metrics.layout.instances import observed_instances, observed_interactions
from concord.metrics.networks.judges import open_judges
from concord.metrics.style.ground_palette import GroundPalette

N = 16
STEPS = 20
TOGETHER: dict[str, Any] = {"aggregation_steps": 12, "aggregate": "slerp", "weights": (0.3,), "optimise": False}


@cache
def scenes() -> list[Scene]:
    return [scene(index) for index in SPLITS["test"][:N]]


@cache
def shares(name: str, **params: Any) -> dict[str, float]:
    """Of the instances, those in place and those in their colour too; of the interactions, those that are seen."""
    asked = [Request.make("weights", str(k), 0, Conditions(layout=one.layout)) for k, one in enumerate(scenes())]
    images = make_method(name, {"steps": STEPS, **params}, Networks("embedded", "scenes")).generate(asked)
    seen = Observation(images, [one.conditions for one in asked], open_judges("embedded"))
    found = [one for instances in seen.memo(observed_instances) for one in instances]
    related = [right for rights in seen.memo(observed_interactions) for right in rights]
    return {
        "placed": float(np.mean([one.located for one in found])),
        "coloured": float(np.mean([one.success for one in found])),
        "related": float(np.mean(related)),
    }


def test_reconstructions() -> None:
    autoencoder = Networks("embedded", "scenes").get("space", LatentSpace)
    images = torch.from_numpy(np.stack([one.image for one in scenes()])).movedim(-1, 1).float() / 255
    with torch.inference_mode():
        decoded, latents = autoencoder.decode(autoencoder.encode(images)).clamp(0, 1), autoencoder.encode(images)
    psnr = float((-10 * (decoded - images).square().mean((1, 2, 3)).log10()).mean())
    assert psnr == pytest.approx(load_weights("scenes-autoencoder")[1]["held_out"]["psnr_db"], abs=1.0)
    assert 0.8 < float(latents.std()) < 1.35


def test_the_attribute_model_knows_colours_and_no_interactions() -> None:
    found = shares("layout-attribute")
    assert found["placed"] > 0.7
    assert found["coloured"] > 0.65
    assert found["related"] < 0.25


def test_the_interaction_model_knows_interactions_and_no_colours() -> None:
    found = shares("layout-interaction")
    assert found["placed"] > 0.75
    assert found["related"] > 0.35
    assert found["coloured"] < 0.35


@cache
def styled(name: str, style: bool, **params: Any) -> torch.Tensor:
    """Images with or without the reference image of each scene."""
    asked = [
        Request.make(
            "weights",
            str(k),
            0,
            Conditions(
                layout=None if name == "layout-style" else one.layout, style=reference(one.index) if style else None
            ),
        )
        for k, one in enumerate(scenes())
    ]
    return make_method(name, {"steps": STEPS, **params}, Networks("embedded", "scenes")).generate(asked)


def ground(images: torch.Tensor) -> float:
    """Mean distance of the ground's colours from those of the scenes, whose ground the references show."""
    originals = torch.from_numpy(np.stack([one.image for one in scenes()])).movedim(-1, 1).float() / 255
    given = [Conditions(layout=one.layout, style=reference(one.index)) for one in scenes()]
    found = GroundPalette().score(Observation(images, given, open_judges("embedded"), originals=originals))
    return float(np.mean([score.value for score in found]))


def test_the_style_model_knows_the_ground_and_a_third_model_lends_it() -> None:
    alone = styled("layout-style", style=True)
    assert ground(alone) < 0.75 * ground(alone.roll(1, 0))
    three = styled("amdm-layouts", style=True, **{**TOGETHER, "weights": (0.3, 0.9)})
    assert ground(three) < 0.8 * ground(styled("amdm-layouts", style=False, **TOGETHER))


def test_together_they_know_both() -> None:
    """AMDM keeps what the interaction model knows and takes over much of what the attribute model knows."""
    found = shares("amdm-layouts", **TOGETHER)
    assert found["coloured"] > shares("layout-interaction")["coloured"] + 0.25
    assert found["related"] > shares("layout-attribute")["related"] + 0.2
