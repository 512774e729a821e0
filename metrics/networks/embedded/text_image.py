"""Image and text encoder with a common space (CLIP, Radford et al. 2021), small, trained on SynthFaces captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from concord.data.errors import ConcordError
from concord.metrics.networks.embedded.blocks import Pyramid, ResidualBlock, for_scoring, load_perception
from concord.metrics.networks.embedded.text import TextTransformer, Tokenizer


class TextImagePair(nn.Module):
    """Unit vectors (B, E) of images (B, 3, 64, 64) in [0, 1] and of captions."""

    def __init__(
        self,
        words: Sequence[str],
        length: int = 64,
        embedding: int = 64,
        width: int = 24,
        text_width: int = 64,
        text_layers: int = 2,
    ) -> None:
        super().__init__()
        self.tokenizer = Tokenizer(words, length)
        self.image = Pyramid(width, embedding)
        self.text = TextTransformer(self.tokenizer.size, length, text_width, text_layers)
        self.project = nn.Linear(text_width, embedding)
        self.log_scale = nn.Parameter(torch.tensor(2.5))  # logits = exp(log_scale) * cosine

    def embed_images(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> unit vectors (B, D)."""
        return normalize(self.image(images), dim=-1)

    def embed_ids(self, ids: Tensor) -> Tensor:
        """From token ids (B, L)."""
        return normalize(self.project(self.text.pool(self.text(ids), ids)), dim=-1)

    def embed_texts(self, captions: Sequence[str]) -> Tensor:
        """Captions -> unit vectors (B, D)."""
        return self.embed_ids(self.tokenizer(captions).to(self.log_scale.device))

    def text_features(self, captions: Sequence[str]) -> Tensor:
        """What `embed_texts` brings to length 1, (B, E)."""
        ids = self.tokenizer(list(captions)).to(self.log_scale.device)
        return self.project(self.text.pool(self.text(ids), ids))


@dataclass(frozen=True)
class SynthTextImage:
    """The pair as it scores and guides."""

    network: TextImagePair

    def guide_features(self, images: Tensor) -> Tensor:
        """Unnormalised (B, 64); gradients pass."""
        return self.network.image(images)

    def block_features(self, images: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """Features (B, C, h, w) behind the named residual blocks, from 1, of the image encoder; gradients pass."""
        layers: list[nn.Module] = list(self.network.image.body)
        ends = [i for i, layer in enumerate(layers) if isinstance(layer, ResidualBlock)]
        for block in blocks:
            if not 1 <= block <= len(ends):
                raise ConcordError(f"style_blocks: {block}; expected numbers from 1 to {len(ends)}")
        hidden, features = torch.nn.functional.pixel_unshuffle(images * 2 - 1, 2), {}
        for i, layer in enumerate(layers[: ends[max(blocks) - 1] + 1]):
            hidden = layer(hidden)
            features[i] = hidden
        return [features[ends[block - 1]] for block in blocks]

    @torch.inference_mode()
    def embed_images(self, images: Tensor) -> Tensor:
        """Unit vectors (B, 64)."""
        return self.network.embed_images(for_scoring(images, self.network))

    @torch.inference_mode()
    def image_features(self, images: Tensor) -> Tensor:
        """What `embed_images` brings to length 1, (B, 64)."""
        return self.network.image(for_scoring(images, self.network))

    @torch.no_grad()
    def embed_texts(self, captions: Sequence[str]) -> Tensor:
        """Unit vectors (B, 64)."""
        return self.network.embed_texts(list(captions))

    @torch.no_grad()
    def text_features(self, captions: Sequence[str]) -> Tensor:
        """What `embed_texts` brings to length 1, (B, 64)."""
        return self.network.text_features(captions)


def load_text_image(path: Path, device: torch.device | str = "cpu") -> SynthTextImage:
    """The text-image pair of SynthFaces from its committed weights."""
    return SynthTextImage(load_perception(TextImagePair, path, device))
