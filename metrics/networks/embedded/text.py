"""Words to tokens to vectors: the small text transformer of the embedded profile (pre-norm, Vaswani et al. 2017)."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

PAD, START, UNKNOWN = 0, 1, 2
_WORD = re.compile(r"[a-z]+|[0-9]+")


class Tokenizer:
    """Lower-cased words, one token each; a word outside the vocabulary becomes <unknown>, punctuation is dropped.

    words: the vocabulary, in the order that the weights were trained with (it is kept in the network's card).
    length: tokens per caption, the start token included; longer captions are cut, shorter ones padded.
    """

    def __init__(self, words: Sequence[str], length: int) -> None:
        self.words, self.length = list(words), length
        self.index = {word: 3 + i for i, word in enumerate(self.words)}

    @property
    def size(self) -> int:
        """How many token ids there are."""
        return 3 + len(self.words)

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Token ids int64 (B, length)."""
        ids = torch.full((len(captions), self.length), PAD, dtype=torch.long)
        for row, caption in enumerate(captions):
            tokens = [START] + [self.index.get(word, UNKNOWN) for word in _WORD.findall(caption.lower())]
            tokens = tokens[: self.length]
            ids[row, : len(tokens)] = torch.tensor(tokens)
        return ids

    def unknown(self, caption: str) -> list[str]:
        """The words of a caption that the vocabulary does not hold."""
        return [word for word in _WORD.findall(caption.lower()) if word not in self.index]


class TextTransformer(nn.Module):
    """Token ids (B, L) -> token vectors (B, L, D); padding is never attended to."""

    def __init__(self, vocabulary: int, length: int, width: int = 96, layers: int = 3, heads: int = 4) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width, padding_idx=PAD)
        self.positions = nn.Parameter(torch.randn(length, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.tokens(ids) + self.positions[: ids.shape[1]]  # (B, L, D)
        return self.norm(self.layers(hidden, src_key_padding_mask=ids == PAD))

    @staticmethod
    def pool(hidden: Tensor, ids: Tensor) -> Tensor:
        """Mean over the real tokens: (B, L, D) -> (B, D)."""
        real = (ids != PAD).to(hidden.dtype).unsqueeze(-1)
        return (hidden * real).sum(1) / real.sum(1)
