"""Small layout models with random weights, and a layout for them."""

from __future__ import annotations

from typing import Any

import torch

from concord.data.datasets.layouts.layout import Layout
from concord.methods.networks.layout_experts import LayoutExpert

SMALL: dict[str, Any] = {"channels": (16, 16, 16), "width": 16}
BOXES = [(0.1, 0.2, 0.5, 0.7), (0.6, 0.1, 0.9, 0.4), (0.3, 0.5, 0.8, 0.95)]
LABELS = ["a red star", "a blue car", "a green fish"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def expert(kind: str) -> LayoutExpert:
    """A small model with random weights everywhere, also where a fresh one starts at zero."""
    made = LayoutExpert(kind, **SMALL)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator(parameter.numel())))
    return made.eval().requires_grad_(False)


def layout(labels: list[str] = LABELS, boxes: Any = BOXES, triples: Any = ((0, "link", 1),)) -> Layout:
    return Layout.of("a photo", boxes, labels, "1", triples)
