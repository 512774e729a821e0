"""Image and text encoder with a common space (CLIP, Radford et al. 2021), small, trained on SynthFaces captions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from concord.metrics.networks.embedded.blocks import Pyramid
from concord.metrics.networks.embedded.text import TextTransformer, Tokenizer


class TextImagePair(nn.Module):
    """Unit vectors (B, E) of images (B, 3, 64, 64) in [0, 1] and of captions."""

    def __init__(
        self, words: Sequence[str], length: int = 64, embedding: int = 64, width: int = 24, text_width: int = 64,
        text_layers: int = 2,
    ) -> None:  # fmt: skip
        super().__init__()
        self.tokenizer = Tokenizer(words, length)
        self.image = Pyramid(width, embedding)
        self.text = TextTransformer(self.tokenizer.size, length, text_width, text_layers)
        self.project = nn.Linear(text_width, embedding)
        self.log_scale = nn.Parameter(torch.tensor(2.5))  # logits = exp(log_scale) * cosine

    def embed_images(self, images: Tensor) -> Tensor:
        return normalize(self.image(images), dim=-1)

    def embed_ids(self, ids: Tensor) -> Tensor:
        """From token ids (B, L)."""
        return normalize(self.project(self.text.pool(self.text(ids), ids)), dim=-1)

    def embed_texts(self, captions: Sequence[str]) -> Tensor:
        return self.embed_ids(self.tokenizer(captions).to(self.log_scale.device))
