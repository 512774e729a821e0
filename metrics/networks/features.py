"""Feature network of FID and KID on SynthFaces: 64 features that know the attributes and the person."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from metrics.networks.blocks import Pyramid

FEATURES = 64


class FeatureNetwork(nn.Module):
    """Images (B, 3, 64, 64) in [0, 1] -> features (B, 64), and from them every head's logits.

    heads: classes per attribute, such as {"Young": 6}.
    presence: how many of the 19 mask classes are told present or absent (hat, earrings, ...).
    identity: length of the identity vector that is regressed, so that features tell persons apart too.
    """

    def __init__(self, heads: Mapping[str, int], identity: int, width: int = 24, presence: int = 19) -> None:
        super().__init__()
        self.trunk = Pyramid(width, FEATURES)
        self.heads = nn.ModuleDict({name: nn.Linear(FEATURES, classes) for name, classes in heads.items()})
        self.presence = nn.Linear(FEATURES, presence)
        self.identity = nn.Linear(FEATURES, identity)

    def features(self, images: Tensor) -> Tensor:
        """The features (B, 64), after the last smooth activation."""
        return torch.nn.functional.silu(self.trunk(images))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits by head, with 'presence' (B, 19) and 'identity' (B, D)."""
        features = self.features(images)
        logits = {name: head(features) for name, head in self.heads.items()}
        return {**logits, "presence": self.presence(features), "identity": self.identity(features)}
