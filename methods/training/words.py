"""Hiding words of a caption while training, so that words outside the vocabulary do no harm later."""

from __future__ import annotations

import torch
from torch import Tensor

from concord.metrics.networks.embedded.text import START, UNKNOWN


def hide_words(ids: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Token ids (B, L) in which each word (never padding or the start) becomes <unknown> with probability `share`."""
    hidden = torch.rand(ids.shape, generator=generator) < share
    return torch.where(hidden & (ids > START), torch.full_like(ids, UNKNOWN), ids)
