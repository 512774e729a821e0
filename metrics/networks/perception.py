"""What scores and guides look through: parser, features and text-image pair of one role, loaded when first used."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from concord.data.checkpoints import load_weights
from concord.data.errors import ConcordError
from concord.metrics.networks.embedded.features import KINDS, FeatureNetwork
from concord.metrics.networks.embedded.identity import IdentityNetwork
from concord.metrics.networks.embedded.landmarks import LandmarkNetwork
from concord.metrics.networks.embedded.parser import FaceParser
from concord.metrics.networks.embedded.perceptual import (
    PERCEPTUAL_LAYERS,
    STYLE_LAYERS,
    perceptual_distance,
    trunk_activations,
)
from concord.metrics.networks.embedded.scenes import SceneDetector, SceneInteractions, SceneSegmenter
from concord.metrics.networks.embedded.text_image import TextImagePair

Role = Literal["judge", "guide"]
CLASSES: dict[str, type[nn.Module]] = {
    "parser": FaceParser,
    "features": FeatureNetwork,
    "text-image": TextImagePair,
    "identity": IdentityNetwork,
    "landmarks": LandmarkNetwork,
    "detector": SceneDetector,
    "segmenter": SceneSegmenter,
    "interactions": SceneInteractions,
}
OF_LAYOUTS = ("detector", "segmenter", "interactions")
"""Trained on SynthScenes, as judges alone; all others are of SynthFaces."""
FACE_PARTS = {(1,): 135, (2,): 3, (3, 4, 5): 24, (10, 11, 12): 6}
"""Classes of skin, nose, eyes or glasses, and mouth -> pixels; half of the least on 1,000 faces of 64x64."""
SURE = {"judge": 0.92, "guide": 0.89}
"""The parser's mean probability of what it sees: the least on 1,000 faces is 0.955 (judge) and 0.918 (guide); on noise,
decoded noise and 240 style references none reaches these values with all parts of a face in the picture."""
NO_FACE = "no face found"


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
        """The networks of a profile: 'embedded', or 'paper', whose guides are FreeDoM's and whose files are fetched."""
        if profile == "paper":
            from concord.metrics.networks.pretrained.freedom import FreeDoMNetworks
            from concord.metrics.networks.pretrained.perception import PaperPerception

            # The same methods, and no other network behind them.
            return PaperPerception(device) if role == "judge" else FreeDoMNetworks(device)  # type: ignore[return-value]
        if profile != "embedded":
            raise ConcordError(f"profile '{profile}': expected embedded or paper")
        return cls(role, device)

    def network(self, kind: str) -> nn.Module:
        """The network itself, in evaluation mode, its parameters frozen."""
        if kind not in CLASSES:
            raise ConcordError(
                f"network '{kind}': profile 'embedded' has {', '.join(CLASSES)}; leave out the metrics that look "
                "through it, or score with profile 'paper'"
            )
        if kind not in self.networks:
            if kind in OF_LAYOUTS and self.role != "judge":
                raise ConcordError(f"network '{kind}': there is a judge of it alone, which no method may look through")
            name = f"{'scenes' if kind in OF_LAYOUTS else 'faces'}-{kind}-{self.role}"
            with torch.inference_mode(False):  # first used while scoring, it still has to let gradients through
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
        """Features for the set metrics by kind, one pass for all of them: see `FeatureNetwork.views`."""
        for kind in kinds:
            self.feature_network(kind)
        return self._features.views(self._images(images), kinds)

    def feature_network(self, kind: str) -> str:
        """Which network (a key of `sha256`) gives a kind of features; it is loaded, so that its hash is known."""
        if kind not in KINDS:
            raise ConcordError(
                f"features '{kind}': profile 'embedded' has {', '.join(KINDS)}; leave out the metrics that read them, "
                "or score with profile 'paper'"
            )
        self.network("features")
        return "features"

    @torch.inference_mode()
    def attributes(self, images: Tensor) -> dict[str, Tensor]:
        """Logits by attribute, (B, levels) each."""
        logits = self._features(self._images(images))
        return {name: logits[name] for name in self._features.heads}

    def style_features(self, images: Tensor) -> list[Tensor]:
        """Early activations (B, C, h, w) of the feature network, for `concord.metrics.networks.embedded.perceptual`;
        differentiable."""
        return trunk_activations(self._features, self._images(images), STYLE_LAYERS)

    def perceptual_distance(self, images: Tensor, originals: Tensor) -> Tensor:
        """(B,) in [0, 4]: LPIPS's form over the feature network, without learnt weights; differentiable."""
        sides = [trunk_activations(self._features, self._images(x), PERCEPTUAL_LAYERS) for x in (images, originals)]
        return perceptual_distance(*sides)

    @torch.inference_mode()
    def embed_images(self, images: Tensor) -> Tensor:
        """Unit vectors (B, 64)."""
        return self._pair.embed_images(self._images(images))

    @torch.inference_mode()
    def embed_texts(self, captions: Sequence[str]) -> Tensor:
        """Unit vectors (B, 64)."""
        return self._pair.embed_texts(list(captions))

    @torch.inference_mode()
    def image_features(self, images: Tensor) -> Tensor:
        """What `embed_images` brings to length 1, (B, 64)."""
        return self._pair.image(self._images(images))

    @torch.inference_mode()
    def text_features(self, captions: Sequence[str]) -> Tensor:
        """What `embed_texts` brings to length 1, (B, 64)."""
        pair = self._pair
        ids = pair.tokenizer(list(captions)).to(self.device)
        return pair.project(pair.text.pool(pair.text(ids), ids))

    def has_face(self, images: Tensor) -> Tensor:
        """bool (B,): whether the parser sees every part that a face has, and is sure of what it sees."""
        probability, classes = self.parse(images).softmax(1).max(1)  # (B, 64, 64) each
        found = probability.mean((1, 2)) >= SURE[self.role]
        for kinds, least in FACE_PARTS.items():
            found = found & (torch.isin(classes, torch.tensor(kinds, device=classes.device)).sum((1, 2)) >= least)
        return found

    def face_status(self, images: Tensor) -> list[str]:
        """'ok' or 'no face found'."""
        return ["ok" if face else NO_FACE for face in self.has_face(images).tolist()]

    @torch.inference_mode()
    def embed_faces(self, images: Tensor) -> tuple[Tensor, list[str]]:
        """Who it is: unit vectors (B, E), with 'ok' or why there is none; a vector without a face means nothing."""
        network = self.network("identity")
        assert isinstance(network, IdentityNetwork)
        return network.embed(self._images(images)), self.face_status(images)

    @torch.inference_mode()
    def landmarks(self, images: Tensor) -> tuple[Tensor, list[str]]:
        """The 68 points in iBUG order (B, 68, 2), pixels, with 'ok' or why there are none."""
        return self.network("landmarks")(self._images(images)), self.face_status(images)

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
