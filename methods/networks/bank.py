"""The generative networks of a profile behind the names that methods know them by."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from concord.data.networks import Networks, Pool
from concord.methods.core.schedule import Schedule
from concord.methods.guidance.energies import Guide
from concord.methods.networks.experts import IMAGE, LATENT
from concord.methods.networks.layout_experts import LayoutExpert
from concord.methods.networks.multi_task import MultiTaskUNet
from concord.methods.networks.space import LatentSpace
from concord.methods.networks.stylegan import StyleGenerator


class Bank:
    """What methods draw their networks from. `sha256` names the weight files loaded so far, guides included.

    generator: one of the profile's. paths: weight files by name, where they are not in their place.
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        profile: str = "embedded",
        generator: str | None = "faces",
        paths: Mapping[str, Path] | None = None,
    ) -> None:
        self.device, self._paths, self._pool = torch.device(device), paths, Pool()
        self.networks = Networks(profile, generator, device, paths, pool=self._pool)
        self._others: dict[str, Networks] = {}

    @classmethod
    def load(cls, profile: str = "embedded", device: torch.device | str = "cpu") -> Bank:
        return cls(device, profile)

    @property
    def sha256(self) -> dict[str, str]:
        return {k: v for networks in (self.networks, *self._others.values()) for k, v in networks.sha256.items()}

    @property
    def schedule(self) -> Schedule:
        return self.networks.get("schedule", Schedule)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return LATENT if self.networks.profile.name == "embedded" else self.autoencoder.latent_shape

    @property
    def image_size(self) -> int:
        return IMAGE if self.networks.profile.name == "embedded" else self.autoencoder.image_size

    @property
    def autoencoder(self) -> LatentSpace:
        """encode / decode between images (B, 3, H, W) in [0, 1] and the space that is sampled in."""
        return self.networks.get("space", LatentSpace)

    def expert(self, condition: str) -> Any:
        """The diffusion model of a condition; ConcordError where the generator has none."""
        return self.networks.get(f"expert/{condition}", nn.Module)

    def unconditional(self) -> Any:
        """The model without any condition, which guided methods steer."""
        return self.expert("unconditional")

    def _of(self, generator: str) -> Networks:
        if generator not in self._others:
            name = self.networks.profile.name
            self._others[generator] = Networks(name, generator, self.device, self._paths, pool=self._pool)
        return self._others[generator]

    @property
    def scenes_autoencoder(self) -> LatentSpace:
        """The first stage of the world of layouts."""
        return self._of("scenes").get("space", LatentSpace)

    def layout_expert(self, kind: str) -> LayoutExpert:
        """A model of the world of layouts: 'interaction', 'attribute' or 'style'."""
        return self._of("scenes").get(f"expert/{kind}", LayoutExpert)

    @property
    def guide(self) -> Guide:
        """The perception networks that methods may follow."""
        return Guide(self.networks, "guide")

    @property
    def judge(self) -> Guide:
        """The perception networks that score: no method looks through them unless its row says so."""
        return Guide(self.networks, "judge")

    def dynamic_diffuser(self, condition: str) -> Any:
        """The dynamic diffuser of a condition; ConcordError where the generator has none."""
        return self.networks.get(f"influence/{condition}", nn.Module)

    def multi_task(self, name: str = "mt-faces") -> MultiTaskUNet:
        """MT-Diffusion's network of all its modalities, or one of its single-task baselines."""
        return self.networks.get(f"multi-task/{name}", MultiTaskUNet)

    def stylegan(self) -> StyleGenerator:
        """TediGAN's generator."""
        return self.networks.get("stylegan", StyleGenerator)

    def style_encoder(self, condition: str) -> nn.Module:
        """TediGAN's encoder of a condition into W+: 'text' or 'mask'."""
        return self.networks.get(f"stylegan/{condition}", nn.Module)
