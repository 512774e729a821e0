"""CLIP as it guides: the authors' preparations of the image, which gradients pass, for the text and for the style.

FreeDoM, Z-Magic       ViT-B/16 by FreeDoM's preparation; their codes print distances of text and style made with it
Universal Guidance     RN50 under ImageNet's mean and std (Universal-Guided-Diffusion at ff82f88): images of
                       any size come to 224 x 224 without antialiasing, bicubic for styles (stable-diffusion-guided/
                       scripts/style_transfer.py, lines 155-178), bilinear for texts (Guided/Clip_guided.py)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from concord.data.errors import ConcordError
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


class UniversalClip(Clip):
    """RN50 as Universal Guidance's scripts look through it; gradients pass through all of its image side."""

    IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def __init__(self, model: Any, architecture: str, resize: Literal["bicubic", "bilinear"] = "bicubic") -> None:
        super().__init__(model, architecture)
        self.resize = resize
        for buffer, values in zip((self.mean, self.std), self.IMAGENET, strict=True):
            buffer.copy_(torch.tensor(values).view(3, 1, 1))

    def guide_features(self, images: Tensor) -> Tensor:
        """Unnormalised (B, E)."""
        if images.shape[2:] != (self.size, self.size):
            images = interpolate(images, self.size, mode=self.resize, align_corners=False)
        return self.model.encode_image((images - self.mean) / self.std)

    def embed_images(self, images: Tensor) -> Tensor:
        """Unit vectors (B, E)."""
        return normalize(self.guide_features(images), dim=-1)

    def block_features(self, images: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """It has none of the tokens that FreeDoM's style is made of."""
        raise ConcordError(
            "style_residual 'gram' takes the tokens of a ViT, and encoder 'universal' is CLIP RN50; "
            "choose style_residual: cosine or embedding, or encoder: text-image"
        )


def load_universal_clip(
    path: Path | None = None,
    device: torch.device | str = "cpu",
    name: str = "clip-rn50",
    resize: Literal["bicubic", "bilinear"] = "bicubic",
) -> UniversalClip:
    """The network with the weights of `load_clip`."""
    clip = load_clip(path, device, name)
    guide = frozen(UniversalClip(clip.model, clip.architecture, resize), device)
    assert isinstance(guide, UniversalClip)
    return guide
