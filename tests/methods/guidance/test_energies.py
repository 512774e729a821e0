"""How energies prepare the images that conditions bring, as the authors' codes do, and what they look through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from concord.data.errors import ConcordError
from concord.data.networks import Networks
from concord.data.request import Conditions, Request
from concord.methods.base import make_params
from concord.methods.freedom import FreeDoM
from concord.methods.guidance.energies import Guide, make_energies
from concord.methods.guidance.parameters import GuidedParams
from concord.methods.ugd import UniversalGuidance
from concord.methods.z_magic import ZMagic
from concord.metrics.networks.pretrained.ir_se50 import FixedCropIdentity

SIDE = 32


class Seeing(nn.Module):
    """A text-image network that keeps what it is shown; its features are means of the colours."""

    size = 24

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[Tensor] = []

    def guide_features(self, images: Tensor) -> Tensor:
        self.shown.append(images.detach())
        return images.mean(dim=(2, 3))

    def block_features(self, images: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        self.shown.append(images.detach())
        return [nn.functional.adaptive_avg_pool2d(images, 4)]

    def style_tokens(self, images: Tensor) -> Tensor:
        return images.flatten(2).mT

    def text_features(self, captions: Sequence[str]) -> Tensor:
        return torch.ones(len(captions), 3)

    def embed_texts(self, captions: Sequence[str]) -> Tensor:
        return nn.functional.normalize(self.text_features(captions), dim=1)


def params(kind: Any, **given: Any) -> GuidedParams:
    found = make_params(kind, given)
    assert isinstance(found, GuidedParams)
    return found


OFFICIAL = params(UniversalGuidance, preset="official")


def asked(*sizes: tuple[int, int], name: str = "style") -> list[Request]:
    rng = np.random.default_rng(0)
    made = [rng.integers(0, 256, (*size, 3)).astype(np.uint8) for size in sizes]
    return [Request.make("toy", str(k), 0, Conditions(**{name: image})) for k, image in enumerate(made)]


def guide_of(**networks: Any) -> Guide:
    return Guide(Networks.of({f"guide/{kind.replace('_', '-')}": network for kind, network in networks.items()}))


def as_tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image).movedim(-1, 0).float() / 255


@pytest.mark.parametrize("kind", [FreeDoM, ZMagic])
def test_official_style_references_go_by_pillow_from_their_own_size_to_the_encoders(kind: Any) -> None:
    """base_clip.py of both: resize((224, 224), Image.BILINEAR) of the file; preset paper goes by the sample's size."""
    requests, official, paper = asked((60, 40), (SIDE, SIDE)), Seeing(), Seeing()
    make_energies(["style"], requests, guide_of(text_image=official), params(kind, preset="official"), SIDE)
    make_energies(["style"], requests, guide_of(text_image=paper), params(kind), SIDE)
    (seen,) = official.shown
    for row, request in zip(seen, requests, strict=True):
        image = Image.fromarray(request.conditions["style"]).resize((24, 24), Image.Resampling.BILINEAR)
        assert torch.equal(row, as_tensor(np.array(image)))
    assert paper.shown[0].shape == (2, 3, SIDE, SIDE)


def test_universal_guidances_style_references_keep_their_own_size() -> None:
    """style_transfer.py: ToTensor of the file; its CLIP resizes it as it does every image."""
    requests, universal, other = asked((60, 40), (SIDE, SIDE)), Seeing(), Seeing()
    guide = guide_of(universal_style=universal, text_image=other)
    energy = make_energies(["style"], requests, guide, OFFICIAL, SIDE)["style"]
    assert [tuple(images.shape) for images in universal.shown] == [(1, 3, 60, 40), (1, 3, SIDE, SIDE)]
    for images, request in zip(universal.shown, requests, strict=True):
        assert torch.equal(images[0], as_tensor(request.conditions["style"]))
    assert not other.shown
    images = torch.rand(2, 3, SIDE, SIDE)
    unit = [nn.functional.normalize(x.mean(dim=(2, 3)), dim=1) for x in (images, *universal.shown[:2])]
    wanted = -100 * (unit[0] * torch.cat(unit[1:])).sum(dim=1)
    torch.testing.assert_close(energy(images), wanted)


def test_references_of_the_samples_size_are_looked_at_in_one_batch() -> None:
    universal = Seeing()
    guide = guide_of(universal_style=universal)
    make_energies(
        ["style"], asked((SIDE, SIDE), (SIDE, SIDE)), guide, params(UniversalGuidance, preset="official"), SIDE
    )
    assert [tuple(images.shape) for images in universal.shown] == [(2, 3, SIDE, SIDE)]


def test_each_encoder_is_a_role_of_its_own() -> None:
    official, paper = OFFICIAL, params(UniversalGuidance)
    names = ("text", "style", "mask", "identity")
    assert [official.guide_role(name) for name in names] == [
        "guide/universal-text", "guide/universal-style", "guide/parser", "guide/identity",
    ]  # fmt: skip  # a table
    assert [paper.guide_role(name) for name in names] == [
        "guide/text-image", "guide/text-image", "guide/parser", "guide/identity",
    ]  # fmt: skip  # a table
    relative = params(UniversalGuidance, preset="official", style_residual="relative")
    assert relative.guide_role("style") == "guide/features"


def test_a_profile_without_that_encoder_is_told_so() -> None:
    with pytest.raises(ConcordError, match="guide/universal-style"):
        make_energies(
            ["style"],
            asked((SIDE, SIDE)),
            guide_of(text_image=Seeing()),
            params(UniversalGuidance, preset="official"),
            9,
        )


class Cropped(nn.Module):
    """An identity network that keeps the crop that it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[Tensor] = []

    def forward(self, crop: Tensor) -> Tensor:
        self.shown.append(crop.detach())
        return nn.functional.normalize(crop.mean(dim=(2, 3)) + 2, dim=1)


@pytest.mark.parametrize(
    ("kind", "preset", "window"),
    [
        (FreeDoM, "official", (35, 223, 32, 220)),  # FreeDoM's arcface/model.py:36
        (ZMagic, "official", (25, 233, 22, 230)),  # its fork's
        (ZMagic, "paper", (35, 223, 32, 220)),
    ],
)
def test_faces_are_cropped_as_each_code_does(kind: Any, preset: str, window: tuple[int, int, int, int]) -> None:
    network = Cropped()
    requests = asked((256, 256), name="identity")
    guide = guide_of(identity=FixedCropIdentity(network))  # type: ignore[arg-type]
    make_energies(["identity"], requests, guide, params(kind, preset=preset), 256)
    top, bottom, left, right = window
    face = as_tensor(requests[0].conditions["identity"])[None, :, top:bottom, left:right]
    torch.testing.assert_close(network.shown[-1], nn.functional.adaptive_avg_pool2d(face, 112) * 2 - 1)
