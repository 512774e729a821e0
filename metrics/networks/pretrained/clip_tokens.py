"""The tokens of CLIP's image encoder in which FreeDoM sees style: those of the patches, after the third block."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from concord.metrics.networks.pretrained.clip import Clip

BLOCK = 2  # of 0..11 in ViT-B/16: FreeDoM's `feats[2]`


def style_tokens(clip: Clip, images: Tensor) -> Tensor:
    """Tokens (B, N, C) of images (B, 3, H, W) RGB in [0, 1], the class token left out; differentiable.

    By FreeDoM's preparation: bicubic (a = -0.75, not antialiased) of the whole image. N = 196, C = 768 in ViT-B/16.
    """
    images = images.to(clip.mean.device)
    if images.shape[2:] != (clip.size, clip.size):
        images = F.interpolate(images, (clip.size, clip.size), mode="bicubic", align_corners=False)
    visual: Any = clip.model.visual
    layers = visual.forward_intermediates(
        (images - clip.mean) / clip.std,
        indices=[BLOCK],
        stop_early=True,
        normalize_intermediates=False,
        intermediates_only=True,
        output_fmt="NLC",
    )
    tokens = layers["image_intermediates"][0]
    assert isinstance(tokens, Tensor)
    return tokens
