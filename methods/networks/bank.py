"""The generative networks of a profile, loaded when first used, with the hash of every file that was."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from concord.data.checkpoints import load_weights
from concord.data.errors import ConcordError
from concord.methods.core.schedule import Schedule
from concord.methods.networks.autoencoder import Autoencoder
from concord.methods.networks.dynamic_diffuser import DynamicDiffuser
from concord.methods.networks.experts import IMAGE, LATENT, Expert
from concord.methods.networks.layout_experts import LayoutExpert
from concord.methods.networks.multi_task import MultiTaskUNet
from concord.methods.networks.stylegan import MaskToCode, StyleGenerator, TextToCode
from concord.metrics.networks.perception import Perception, Role


class Bank:
    """What methods draw their networks from. `sha256` names the weight files loaded so far, guides included."""

    latent_shape = LATENT
    image_size = IMAGE

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.schedule = Schedule.scaled_linear()
        self.cards: dict[str, dict[str, Any]] = {}
        self._networks: dict[str, nn.Module] = {}
        self._perceptions: dict[Role, Perception] = {}

    @classmethod
    def load(cls, profile: str = "embedded", device: torch.device | str = "cpu") -> Bank:
        if profile != "embedded":
            raise ConcordError(f"profile '{profile}': only 'embedded' has its generators in this version")
        return cls(device)

    @property
    def sha256(self) -> dict[str, str]:
        guides = [card for perception in self._perceptions.values() for card in perception.cards.values()]
        return {card["name"]: card["sha256"] for card in [*self.cards.values(), *guides]}

    @property
    def autoencoder(self) -> Autoencoder:
        network = self._load("faces-autoencoder", Autoencoder)
        assert isinstance(network, Autoencoder)
        return network

    def expert(self, condition: str) -> Expert:
        """The uni-modal diffusion model of a condition: 'text', 'mask' or 'unconditional'."""
        network = self._load(f"faces-{condition}", Expert)
        assert isinstance(network, Expert)
        return network

    def unconditional(self) -> Expert:
        """The model of faces without any condition, which guided methods steer."""
        return self.expert("unconditional")

    @property
    def scenes_autoencoder(self) -> Autoencoder:
        """The first stage of the world of layouts."""
        network = self._load("scenes-autoencoder", Autoencoder)
        assert isinstance(network, Autoencoder)
        return network

    def layout_expert(self, kind: str) -> LayoutExpert:
        """A model of the world of layouts: 'interaction', 'attribute' or 'style'."""
        network = self._load(f"scenes-{kind}", LayoutExpert)
        assert isinstance(network, LayoutExpert)
        return network

    @property
    def guide(self) -> Perception:
        """The perception networks that methods may follow."""
        return self._perception("guide")

    @property
    def judge(self) -> Perception:
        """The perception networks that score: no method looks through them unless its row says so."""
        return self._perception("judge")

    def _perception(self, role: Role) -> Perception:
        if role not in self._perceptions:
            self._perceptions[role] = Perception.load("embedded", role, self.device)
        return self._perceptions[role]

    def dynamic_diffuser(self, condition: str) -> DynamicDiffuser:
        """The dynamic diffuser of a condition: 'text' or 'mask'."""
        network = self._load(f"faces-dynamic-{condition}", DynamicDiffuser)
        assert isinstance(network, DynamicDiffuser)
        return network

    def multi_task(self, name: str = "mt-faces") -> MultiTaskUNet:
        """MT-Diffusion's network of all its modalities, or one of its single-task baselines."""
        network = self._load(name, MultiTaskUNet)
        assert isinstance(network, MultiTaskUNet)
        return network

    def stylegan(self) -> StyleGenerator:
        """TediGAN's generator."""
        network = self._load("faces-stylegan", StyleGenerator)
        assert isinstance(network, StyleGenerator)
        return network

    def style_encoder(self, condition: str) -> nn.Module:
        """TediGAN's encoder of a condition into W+: 'text' or 'mask'."""
        return self._load(f"faces-stylegan-{condition}", {"mask": MaskToCode, "text": TextToCode}[condition])

    def _load(self, name: str, kind: type[nn.Module]) -> nn.Module:
        if name not in self._networks:
            with torch.inference_mode(False):  # weights born in inference mode can never be part of a graph
                state, card = load_weights(name)
                network = kind(**card["config"])
                network.load_state_dict(state)
                network = network.to(self.device).eval().requires_grad_(False)
            self._networks[name], self.cards[name] = network, card
        return self._networks[name]
