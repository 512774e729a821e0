"""A stand-in for the perception networks of faces: it sees what an image's own pixels tell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from given_networks import seen_by
from torch import Tensor

from concord.data.networks import Networks
from concord.data.request import Conditions
from concord.metrics.base import Observation

NO_FACE = "no face found"
FACE: np.ndarray = np.random.default_rng(68).uniform(20, 44, (68, 2))
FACE[36], FACE[45] = (22.0, 30.0), (42.0, 30.0)  # outer eye corners, 20 pixels apart
FACE.setflags(write=False)


class FaceSeer:
    """Identity: where the image is bright; landmarks: what the test puts there; a black image has no face."""

    def __init__(self, points: np.ndarray | None = None) -> None:
        self.points = points
        self.embedded: list[tuple[int, ...]] = []  # shapes of the batches that were embedded

    def embed_faces(self, images: Tensor) -> tuple[Tensor, list[str]]:
        self.embedded.append(tuple(images.shape))
        vectors = torch.nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)
        found = images.flatten(1).amax(dim=1) != 0  # true for NaN
        return torch.nn.functional.normalize(vectors, dim=1), ["ok" if face else NO_FACE for face in found.tolist()]

    def landmarks(self, images: Tensor) -> tuple[Tensor, list[str]]:
        points = FACE[None].repeat(len(images), 0) if self.points is None else self.points
        found = images.flatten(1).amax(dim=1) != 0
        return torch.tensor(points, dtype=torch.float32), ["ok" if face else NO_FACE for face in found.tolist()]

    def parse(self, images: Tensor) -> Tensor:
        """Logits (B, 19, H, W): distances of the brightness to 19 levels."""
        return -10 * (images.mean(1, keepdim=True) - torch.linspace(0, 1, 19).view(1, -1, 1, 1)).abs()

    def labels(self, images: Tensor) -> Tensor:
        return self.parse(images).argmax(1)


def pictures(n: int, seed: int = 0, size: int = 64) -> Tensor:
    """Random images float32 (n, 3, size, size) at 8 bits."""
    levels = np.random.default_rng(seed).integers(1, 256, (n, 3, size, size))
    return torch.from_numpy(levels.astype(np.float32) / 255)


def as_bytes(image: Tensor) -> np.ndarray:
    """An image (3, H, W) at 8 bits as uint8 (H, W, 3)."""
    return (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def observe(
    images: Tensor, conditions: Sequence[Conditions], seer: object, originals: Tensor | None = None
) -> Observation:
    return Observation(images, conditions, seer if isinstance(seer, Networks) else seen_by(seer), originals)
