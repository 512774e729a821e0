"""What scores and guides look through: parser, features and text-image pair of one role, loaded when first used."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from data.checkpoints import load_weights
from data.errors import ConcordError
from metrics.networks.features import FeatureNetwork
from metrics.networks.parser import FaceParser
from metrics.networks.text_image import TextImagePair

Role = Literal["judge", "guide"]
CLASSES: dict[str, type[nn.Module]] = {"parser": FaceParser, "features": FeatureNetwork, "text-image": TextImagePair}


class Perception:
    """The perception networks of one role.

    'judge' scores and is never used by a method; 'guide' is another training (seed, width) that methods may use.
    Images are float32 (B, 3, 64, 64) RGB in [0, 1]. Judges are evaluated without gradients; the networks themselves
    (`network`) are open to guidance.
    """

    def __init__(self, role: Role = "judge", device: torch.device | str = "cpu") -> None:
        self.role, self.device = role, torch.device(device)
        self.networks: dict[str, nn.Module] = {}
        self.cards: dict[str, dict[str, Any]] = {}

    @classmethod
    def load(cls, profile: str = "embedded", role: Role = "judge", device: torch.device | str = "cpu") -> Perception:
        if profile != "embedded":
            raise ConcordError(f"profile '{profile}': only 'embedded' has its scoring networks in this version")
        return cls(role, device)

    def network(self, kind: str) -> nn.Module:
        """The network itself, in evaluation mode, its parameters frozen."""
        if kind not in self.networks:
            name = f"faces-{kind}-{self.role}"
            state, card = load_weights(name)
            network = CLASSES[kind](**card["config"])
            network.load_state_dict(state)
            network = network.to(self.device).eval().requires_grad_(False)
            self.networks[kind], self.cards[kind] = network.to(memory_format=torch.channels_last), card
        return self.networks[kind]

    @property
    def sha256(self) -> dict[str, str]:
        """SHA-256 of the weight files loaded so far, by network."""
        return {kind: card["sha256"] for kind, card in self.cards.items()}

    def _images(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1:] != (3, 64, 64):
            raise ConcordError(f"images of shape {tuple(images.shape)}: the embedded judges expect (B, 3, 64, 64)")
        return images.to(self.device).contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def parse(self, images: Tensor) -> Tensor:
        """Logits (B, 19, 64, 64), CelebAMask-HQ order."""
        return self.network("parser")(self._images(images))

    def labels(self, images: Tensor) -> Tensor:
        """Classes int64 (B, 64, 64)."""
        return self.parse(images).argmax(1)

    @torch.inference_mode()
    def features(self, images: Tensor, kinds: Sequence[str] = ("pool",)) -> dict[str, Tensor]:
        """Features for the set metrics by kind, one pass for all of them: 'pool' (B, 64)."""
        for kind in kinds:
            if kind != "pool":
                raise ConcordError(f"features '{kind}': the embedded judges have only 'pool'")
        return {"pool": self._features.features(self._images(images))}

    def feature_network(self, kind: str) -> str:
        """Which network (a key of `sha256`) gives a kind of features; it is loaded, so that its hash is known."""
        if kind != "pool":
            raise ConcordError(f"features '{kind}': the embedded judges have only 'pool'")
        self.network("features")
        return "features"

    @torch.inference_mode()
    def attributes(self, images: Tensor) -> dict[str, Tensor]:
        """Logits by attribute, (B, levels) each."""
        logits = self._features(self._images(images))
        return {name: logits[name] for name in self._features.heads}

    @torch.inference_mode()
    def embed_images(self, images: Tensor) -> Tensor:
        """Unit vectors (B, 64)."""
        return self._pair.embed_images(self._images(images))

    @torch.inference_mode()
    def embed_texts(self, captions: Sequence[str]) -> Tensor:
        """Unit vectors (B, 64)."""
        return self._pair.embed_texts(list(captions))

    @cached_property
    def _features(self) -> FeatureNetwork:
        network = self.network("features")
        assert isinstance(network, FeatureNetwork)
        return network

    @cached_property
    def _pair(self) -> TextImagePair:
        network = self.network("text-image")
        assert isinstance(network, TextImagePair)
        return network
