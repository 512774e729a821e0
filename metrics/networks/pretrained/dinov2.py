"""DINOv2 ViT-L/14 (Oquab et al. 2023) for FD-DINOv2: the class token of an image at 224 x 224, through transformers.

    image -> Pillow's 8-bit bicubic to 224 x 224 (as dgm-eval) -> ImageNet mean and std -> ViT -> last LayerNorm
          -> class token, (B, 1024)

Positions. The published weights hold a grid of 37 x 37 position vectors, for 518 pixels; 224 pixels have 16 x 16
patches. The authors' code, which dgm-eval runs, shrinks the grid by the factor (16 + 0.1) / 37 and reads it at that
spacing; transformers shrinks it by 16 / 37. Both are bicubic, and the features differ. Here the grid is resized once,
at load, by the authors' rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from concord.data.errors import ConcordError
from concord.data.files import sha256_file
from concord.metrics.image import resize
from concord.metrics.networks.pretrained.transformers_folder import WEIGHTS, load_pretrained, model_folder
from concord.metrics.networks.pretrained.weights import frozen

SIDE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OFFSET = 0.1  # of the authors' code, there against a rounding error; kept, since the features depend on it


class DINOv2Features(nn.Module):
    """Images uint8, or floats in [0, 1], (B, 3, H, W) -> {'dinov2': class tokens float32 (B, D)}."""

    def __init__(self, network: Any, sha256: str = "") -> None:
        super().__init__()
        self.network, self.sha256 = network, sha256
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD)[:, None, None], persistent=False)

    @torch.inference_mode()
    def forward(self, images: Tensor, kinds: tuple[str, ...] = ("dinov2",)) -> dict[str, Tensor]:
        """'dinov2' is the one kind there is."""
        if tuple(kinds) != ("dinov2",):
            raise ConcordError(f"features {', '.join(kinds)}: DINOv2 gives 'dinov2'")
        small = resize.pillow(resize.levels(images), SIDE).to(self.network.device) / 255
        pixels = (small - self.get_buffer("mean")) / self.get_buffer("std")
        return {"dinov2": self.network(pixel_values=pixels).last_hidden_state[:, 0].float()}

    def features(self, images: Tensor, kinds: Sequence[str]) -> dict[str, Tensor]:
        """{'dinov2': class tokens float32 (B, D)}."""
        return self(images)


def load_dinov2(path: Path | None = None, device: torch.device | str = "cpu") -> DINOv2Features:
    """From a folder as `save_pretrained` writes it: config.json and model.safetensors. Nothing is fetched."""
    from transformers import Dinov2Model

    folder = model_folder("dinov2-vit-l-14", path)
    network: Any = load_pretrained(Dinov2Model, folder)
    embeddings = network.embeddings
    embeddings.position_embeddings = nn.Parameter(
        positions_for(embeddings.position_embeddings.detach(), SIDE // network.config.patch_size)
    )
    features = frozen(DINOv2Features(network, sha256_file(folder / WEIGHTS)), device)
    assert isinstance(features, DINOv2Features)
    return features


def positions_for(positions: Tensor, patches: int) -> Tensor:
    """Position vectors (1, 1 + M M, D), the class token's first -> (1, 1 + patches^2, D), by the authors' rule."""
    side = round((positions.shape[1] - 1) ** 0.5)
    if side == patches:
        return positions
    grid = positions[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2).float()
    scale = (patches + OFFSET) / side
    small = nn.functional.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    flat = small.permute(0, 2, 3, 1).reshape(1, patches * patches, -1).to(positions.dtype)
    return torch.cat([positions[:, :1], flat], dim=1)
