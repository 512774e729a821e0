"""The networks of a profile that score, and the features that they give set metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from concord.data.networks import Networks
from concord.metrics.networks.protocols import Features

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def open_judges(profile: str, device: torch.device | str = "cpu") -> Networks:
    """The networks of a profile, for scoring; each is loaded when something is first measured through it."""
    return Networks(profile, device=device)


def set_features(networks: Networks, images: Tensor, kinds: Sequence[str]) -> dict[str, Tensor]:
    """Features for the set metrics by kind, float32 (B, D); one pass for all kinds of one network.

    images: float32 (B, 3, H, W) RGB in [0, 1].
    """
    together: dict[int, tuple[Features, list[str]]] = {}
    for kind in dict.fromkeys(kinds):
        network = networks.get(f"features/{kind}", Features)
        together.setdefault(id(network), (network, []))[1].append(kind)
    features: dict[str, Tensor] = {}
    for network, own in together.values():
        features |= network.features(images.to(networks.device), own)
    return {kind: features[kind] for kind in kinds}


def features_sha256(networks: Networks, kind: str) -> str:
    """SHA-256 of the weights that give a kind of features; they are loaded, so that it is known."""
    role = f"features/{kind}"
    networks.get(role, Features)
    return networks.role_sha256(role)


def judge_cards(networks: Networks) -> Mapping[str, Mapping[str, object]]:
    """What is known of the weights that scored so far, by kind: 'parser'; of FreeDoM's distances 'freedom-parser'."""
    return {
        role.removeprefix("judge/").replace("guide/", "freedom-").replace("freedom/", "freedom-"): card
        for role, card in networks.cards.items()
    }


def judge_sha256(networks: Networks) -> dict[str, str]:
    """SHA-256 of the weights that scored so far, by kind."""
    return {kind: str(card["sha256"]) for kind, card in judge_cards(networks).items()}
