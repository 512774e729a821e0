"""The generative networks of a profile, loaded when first used, with the hash of every file that was."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from data.checkpoints import load_weights
from data.errors import ConcordError
from methods.core.schedule import Schedule
from methods.networks.autoencoder import Autoencoder
from methods.networks.dynamic_diffuser import DynamicDiffuser
from methods.networks.experts import LATENT, Expert


class Bank:
    """What methods draw their networks from. `sha256` names the weight files loaded so far."""

    latent_shape = LATENT

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.schedule = Schedule.scaled_linear()
        self.cards: dict[str, dict[str, Any]] = {}
        self._networks: dict[str, nn.Module] = {}

    @classmethod
    def load(cls, profile: str = "embedded", device: torch.device | str = "cpu") -> Bank:
        if profile != "embedded":
            raise ConcordError(f"profile '{profile}': only 'embedded' has its generators in this version")
        return cls(device)

    @property
    def sha256(self) -> dict[str, str]:
        return {name: card["sha256"] for name, card in self.cards.items()}

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

    def dynamic_diffuser(self, condition: str) -> DynamicDiffuser:
        """The dynamic diffuser of a condition: 'text' or 'mask'."""
        network = self._load(f"faces-dynamic-{condition}", DynamicDiffuser)
        assert isinstance(network, DynamicDiffuser)
        return network

    def _load(self, name: str, kind: type[nn.Module]) -> nn.Module:
        if name not in self._networks:
            state, card = load_weights(name)
            network = kind(**card["config"])
            network.load_state_dict(state)
            network = network.to(self.device).eval().requires_grad_(False)
            self._networks[name], self.cards[name] = network, card
        return self._networks[name]
