"""The papers' networks behind the names of the embedded bank (methods/networks/bank.py): one code path, other files.

A row draws from one *generator*, a family of published models that share a space:

    collaborative-256, -512   text- and mask-driven latent diffusion with dynamic diffusers (Huang et al. 2023); it has
                              no unconditional model
    celeba-hq-ddpm            SDEdit's unconditional DDPM of 256x256 pixels, which FreeDoM and Z-Magic guide
    stable-diffusion-v1-4     text-driven at 512x512; 'unconditional' is the same UNet under the empty caption

Guides are FreeDoM's (CLIP ViT-B/16, BiSeNet, IR-SE50, MobileFaceNet); judges are other networks. Weights are read when
they are first used: a row needs the files of what it looks through, and no others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from concord.data.errors import ConcordError
from concord.data.request import Conditions
from concord.methods.core.schedule import Schedule
from concord.metrics.networks.pretrained.clip import Clip
from concord.metrics.networks.pretrained.freedom import FreeDoMNetworks
from concord.metrics.networks.pretrained.perception import PaperPerception


@dataclass(frozen=True)
class Generator:
    """What a generator is: the names of its weights, its pictures' side, and which experts it has."""

    files: tuple[str, ...]
    image_size: int
    experts: tuple[str, ...]


def _collaborative(size: int) -> Generator:
    return Generator((f"collab-{size}-codiff-mask-text", "bert-base-uncased"), size, ("text", "mask"))


GENERATORS: dict[str, Generator] = {
    "collaborative-256": _collaborative(256),
    "collaborative-512": _collaborative(512),
    "celeba-hq-ddpm": Generator(("celeba-hq-ddpm",), 256, ("unconditional",)),
    "stable-diffusion-v1-4": Generator(("stable-diffusion-v1-4",), 512, ("text", "unconditional")),
    "stable-diffusion-v1-5": Generator(("stable-diffusion-v1-5",), 512, ("text", "unconditional")),
}
Paths = Mapping[str, Any]
"""Manifest name (or, for Collaborative Diffusion, the name that its loader has) -> file, where it is not fetched."""


class PaperBank:
    """What methods draw their networks from. `sha256` names the weight files loaded so far, guides included.

    paths: weight files by name, where they are not those that `concord weights fetch` has put in place.
    options: further arguments of the generator's loader (tests give a small architecture).
    """

    def __init__(
        self,
        generator: str,
        device: torch.device | str = "cpu",
        paths: Paths | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if generator not in GENERATORS:
            raise ConcordError(f"generator '{generator}': expected one of {', '.join(GENERATORS)}")
        self.name, self.device = generator, torch.device(device)
        self.paths, self.options = dict(paths or {}), dict(options or {})

    # ------------------------------------------------------------------------------------------------------- generators

    @cached_property
    def models(self) -> Models:
        """The generator, loaded when first used."""
        family = next(prefix for prefix in _FAMILIES if self.name.startswith(prefix))
        with torch.inference_mode(False):  # weights born in inference mode can never be part of a graph
            return _FAMILIES[family](self.name, self.device, self.paths, self.options)

    @property
    def schedule(self) -> Schedule:
        return self.models.schedule

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return self.models.latent_shape

    @property
    def image_size(self) -> int:
        return self.models.image_size

    @property
    def autoencoder(self) -> Any:
        """encode / decode between images (B, 3, H, W) in [0, 1] and the space that is sampled in."""
        return self.models.autoencoder

    def expert(self, condition: str) -> Any:
        """The diffusion model of a condition; ConcordError where the generator has none."""
        if condition not in self.models.experts:
            raise ConcordError(
                f"generator '{self.name}': has no '{condition}' model; it has {', '.join(self.models.experts)}"
            )
        return self.models.experts[condition]

    def unconditional(self) -> Any:
        return self.expert("unconditional")

    def dynamic_diffuser(self, condition: str) -> Any:
        """The dynamic diffuser of a condition; ConcordError where the generator has none."""
        if condition not in self.models.dynamic_diffusers:
            raise ConcordError(f"generator '{self.name}': has no dynamic diffuser of '{condition}'")
        return self.models.dynamic_diffusers[condition]

    # ------------------------------------------------------------------------------------------------ guides and judges

    @cached_property
    def guide(self) -> Guides:
        """The perception networks that methods may follow."""
        return Guides(self.device, {kind: self.paths[name] for kind, name in _guide_files() if name in self.paths})

    @cached_property
    def judge(self) -> PaperPerception:
        """The perception networks that score: no method looks through them unless its row says so."""
        return PaperPerception(self.device)

    @property
    def sha256(self) -> dict[str, str]:
        found: dict[str, str] = {}
        if "models" in self.__dict__:
            found |= self.models.sha256
        for seen in ("guide", "judge"):
            if seen in self.__dict__:
                found |= {card["name"]: card["sha256"] for card in getattr(self, seen).cards.values()}
        return found


@dataclass(frozen=True)
class Models:
    """A generator that is loaded."""

    experts: Mapping[str, Any]
    autoencoder: Any
    schedule: Schedule
    latent_shape: tuple[int, ...]
    image_size: int
    sha256: Mapping[str, str]
    dynamic_diffusers: Mapping[str, Any]


# ----------------------------------------------------------------------------------------------------- the pixels' DDPM


class Pixels(nn.Module):
    """The space of a model of pixels: no network, [0, 1] to [-1, 1] and back."""

    def encode(self, images: Tensor) -> Tensor:
        return images * 2 - 1

    def decode(self, x: Tensor) -> Tensor:
        """Not clamped: a guide's gradient survives."""
        return (x + 1) / 2


def pixel_schedule(start: float, end: float, steps: int) -> Schedule:
    """DDPM's linear betas behind one more entry, abar_0 = 1: timestep t here is t - 1 in DDPM's count.

    Samplers then end at abar = 1, the clean picture, as FreeDoM's code does, and its range(0, 1000, 10) are the
    timesteps 1, 11, .., 991. Latent diffusion ends at its own abar_0 and needs no such entry.
    """
    betas = torch.linspace(start, end, steps, dtype=torch.float64)
    return Schedule(torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - betas, dim=0)]))


class PixelExpert(nn.Module):
    """The unconditional DDPM as an expert: eps of x_t (B, 3, H, W) in [-1, 1] at the timesteps of `pixel_schedule`."""

    condition = "unconditional"

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_t: Tensor, t: Tensor | int) -> Tensor:
        return self.network(x_t, t - 1)

    def bind(self, conditions: Sequence[Conditions], schedule: Schedule) -> Callable[[Tensor, int], Tensor]:
        """It asks for no condition."""
        return self


def _pixels(name: str, device: torch.device, paths: Paths, options: Mapping[str, Any]) -> Models:
    from concord.methods.networks.checkpoints.celeba_ddpm import BETAS, load_celeba_ddpm

    network = load_celeba_ddpm(paths.get(name), device, **options)
    size = network.image_size
    return Models(
        {"unconditional": PixelExpert(network)},
        Pixels(),
        pixel_schedule(*BETAS),
        (3, size, size),
        size,
        {network.card["name"]: network.card["sha256"]},
        {},
    )


# ----------------------------------------------------------------------------------------------------- latent diffusion


def _latent(name: str, device: torch.device, paths: Paths, options: Mapping[str, Any]) -> Models:
    from concord.methods.networks.checkpoints.collaborative_diffusion import load_collaborative

    size = int(name.rpartition("-")[2])
    given = paths.get(GENERATORS[name].files[0])
    if given is not None and not isinstance(given, Mapping):
        given = {"codiff": given}
    found = load_collaborative(size=size, paths=given, device=device, **options)
    return Models(
        dict(found.experts),
        found.autoencoder,
        found.schedule,
        tuple(found.latent_shape),
        found.image_size,
        {str(card.get("name", file)): card["sha256"] for file, card in found.cards.items()},
        dict(found.dynamic_diffusers),
    )


def _stable(name: str, device: torch.device, paths: Paths, options: Mapping[str, Any]) -> Models:
    from concord.methods.networks.checkpoints.stable_diffusion import load_stable_diffusion

    found = load_stable_diffusion(
        path=paths.get(name), version=name.removeprefix("stable-diffusion-"), device=device, **options
    )
    experts = {condition: found.expert(condition) for condition in GENERATORS[name].experts}
    hashes = _hashes(found.card, name)
    shape = tuple(found.latent_shape)
    return Models(experts, found.autoencoder, found.schedule, shape, found.image_size, hashes, {})


def _hashes(card: Mapping[str, Any], name: str) -> dict[str, str]:
    """SHA-256 by file name: a folder in diffusers' form has several weight files."""
    several = card.get("files")
    if isinstance(several, Mapping):
        return {
            f"{name}/{file}": str(one["sha256"] if isinstance(one, Mapping) else one) for file, one in several.items()
        }
    return {str(card.get("name", name)): str(card["sha256"])}


_FAMILIES: dict[str, Callable[[str, torch.device, Paths, Mapping[str, Any]], Models]] = {
    "collaborative-": _latent,
    "celeba-hq-ddpm": _pixels,
    "stable-diffusion-": _stable,
}


# --------------------------------------------------------------------------------------------------------------- guides


class GuideClip(Clip):
    """CLIP whose picture side lets gradients through, by FreeDoM's preparation of the picture."""

    def image_features(self, images: Tensor) -> Tensor:
        return self.guide_features(images)

    def image(self, images: Tensor) -> Tensor:
        """Unnormalised (B, E)."""
        return self.guide_features(images)

    def embed_images(self, images: Tensor) -> Tensor:
        return normalize(self.guide_features(images), dim=-1)


class Guides(FreeDoMNetworks):
    """FreeDoM's networks as `concord.methods.guidance.energies` asks for them."""

    role = "guide"

    def network(self, kind: str) -> Any:
        new = kind not in self.networks
        found = super().network(kind)
        if new and kind == "text-image":
            with torch.inference_mode(False):
                seeing = GuideClip(found.model, found.architecture).to(self.device).eval().requires_grad_(False)
            self.networks[kind] = found = seeing
        return found

    def style_features(self, images: Tensor) -> list[Tensor]:
        raise ConcordError(
            "style_residual 'relative' looks through the embedded profile's feature network; in profile 'paper' "
            "choose style_residual: gram or embedding"
        )


def _guide_files() -> list[tuple[str, str]]:
    from concord.metrics.networks.pretrained.freedom import FILES

    return list(FILES.items())
