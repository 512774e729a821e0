"""Feature network of FID and KID on SynthFaces: 64 features that know the attributes and the person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from concord.metrics.networks.embedded.blocks import Pyramid

FEATURES = 64
KINDS = ("pool", "logits", "spatial")
"""What the set metrics can ask for: see `FeatureNetwork.views`."""
CLASS_JUDGE = ("Young", "Male")
"""The heads whose classes, joined, are the Inception Score's: six ages of each sex, 12 classes."""


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

    def views(self, images: Tensor, kinds: Sequence[str] = KINDS) -> dict[str, Tensor]:
        """What the set metrics read, from one pass of the trunk.

        pool     (B, 64)   the features, for FID, KID, precision and recall.
        logits   (B, 12)   of the class judge, for the Inception Score: the heads of `CLASS_JUDGE` taken as independent,
                           so that the softmax of a pair's summed logits is the product of the heads' probabilities.
        spatial  (B, 112)  for sFID: as Inception's, the first 7 channels of a map whose places are about 1/16 of the
                           image apart (here the trunk's last, 4 x 4), flattened as (row, column, channel).
        """
        maps = self.trunk.maps(images)
        features: dict[str, Tensor] = {}
        if "spatial" in kinds:
            features["spatial"] = maps[:, :7].permute(0, 2, 3, 1).flatten(1)
        if "pool" in kinds or "logits" in kinds:
            features["pool"] = torch.nn.functional.silu(self.trunk.head(maps))
        if "logits" in kinds:
            first, second = (self.heads[name](features["pool"]) for name in CLASS_JUDGE)
            features["logits"] = (first[:, :, None] + second[:, None, :]).flatten(1)
        return {kind: features[kind] for kind in kinds}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits by head, with 'presence' (B, 19) and 'identity' (B, D)."""
        features = self.features(images)
        logits = {name: head(features) for name, head in self.heads.items()}
        return {**logits, "presence": self.presence(features), "identity": self.identity(features)}
