"""CLIP as it guides: FreeDoM's preparation of the image, which gradients pass, for the text and for the style.

FreeDoM and Z-Magic are guided by ViT-B/16 so, and their distances of text and style are made with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from concord.metrics.networks.pretrained.clip import Clip, load_clip
from concord.metrics.networks.pretrained.clip_tokens import style_tokens
from concord.metrics.networks.pretrained.weights import frozen


class GuideClip(Clip):
    """A CLIP whose image side is FreeDoM's; gradients pass through all of it."""

    def image_features(self, images: Tensor) -> Tensor:
        """Unnormalised (B, E)."""
        return self.guide_features(images)

    def embed_images(self, images: Tensor) -> Tensor:
        """Unit vectors (B, E)."""
        return normalize(self.guide_features(images), dim=-1)

    def style_tokens(self, images: Tensor) -> Tensor:
        """FreeDoM's tokens (B, N, C) of the third block."""
        return style_tokens(self, images)

    def block_features(self, images: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """FreeDoM's tokens of the third block, as a map (B, C, N, 1), whichever blocks are named."""
        return [self.style_tokens(images).mT[..., None]]


def load_guide_clip(
    path: Path | None = None, device: torch.device | str = "cpu", name: str = "clip-vit-b-16"
) -> GuideClip:
    """The network with the weights of `load_clip`."""
    clip = load_clip(path, device, name)
    guide = frozen(GuideClip(clip.model, clip.architecture), device)
    assert isinstance(guide, GuideClip)
    return guide
