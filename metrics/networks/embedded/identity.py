"""Identity embedder of SynthFaces: images of one person lie near each other, those of two persons far apart.

Stands where ArcFace (Deng et al. 2019) stands at the papers' scale: unit vectors, compared by their cosine.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from concord.metrics.networks.embedded.blocks import Pyramid, for_scoring, load_perception
from concord.metrics.networks.embedded.parser import SynthParser


class IdentityNetwork(nn.Module):
    """Images (B, 3, 64, 64) in [0, 1] -> unit vectors (B, E)."""

    def __init__(self, width: int = 24, embedding: int = 64) -> None:
        super().__init__()
        self.image = Pyramid(width, embedding)

    def embed(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> unit vectors (B, D)."""
        return normalize(self.image(images), dim=-1)

    def forward(self, images: Tensor) -> Tensor:
        return self.embed(images)


@dataclass(frozen=True)
class SynthIdentity:
    """The identity network, and a parser that says whether there is a face at all."""

    network: IdentityNetwork
    parser: SynthParser

    def embed(self, images: Tensor) -> Tensor:
        """Unit vectors (B, E); gradients pass."""
        return self.network.embed(images)

    @torch.inference_mode()
    def embed_faces(self, images: Tensor) -> tuple[Tensor, list[str]]:
        """Unit vectors (B, E), with 'ok' or why there is none; a vector without a face means nothing."""
        return self.network.embed(for_scoring(images, self.network)), self.parser.face_status(images)


def load_identity(path: Path, parser: SynthParser, device: torch.device | str = "cpu") -> SynthIdentity:
    """The identity network of SynthFaces from its committed weights."""
    return SynthIdentity(load_perception(IdentityNetwork, path, device), parser)
