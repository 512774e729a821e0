"""Identity embedder of SynthFaces: pictures of one person lie near each other, those of two persons far apart.

Stands where ArcFace (Deng et al. 2019) stands at the papers' scale: unit vectors, compared by their cosine.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import normalize

from concord.metrics.networks.embedded.blocks import Pyramid


class IdentityNetwork(nn.Module):
    """Images (B, 3, 64, 64) in [0, 1] -> unit vectors (B, E)."""

    def __init__(self, width: int = 24, embedding: int = 64) -> None:
        super().__init__()
        self.image = Pyramid(width, embedding)

    def embed(self, images: Tensor) -> Tensor:
        return normalize(self.image(images), dim=-1)

    def forward(self, images: Tensor) -> Tensor:
        return self.embed(images)
