"""SynthScenes as tensors for training: drawn once, kept in a git-ignored cache."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache

import numpy as np
import torch
from torch import Tensor

from concord.data.files import atomic_path
from concord.methods.training.corpus import CACHE

MOST = 6  # objects in a scene
MOST_INTERACTIONS = 2
TRAIN = 8_000  # scenes of the split that are drawn for training


@dataclass(frozen=True)
class Scenes:
    """A split of the world of layouts in memory; rows past a scene's last object or interaction are -1 (boxes: 0).

    images: uint8 (N, 3, 64, 64). instances: uint8 (N, 64, 64), see data.synthetic.scenes.Scene.
    boxes: float32 (N, 6, 4) x1, y1, x2, y2 in [0, 1]. categories, colours: int64 (N, 6), numbers in
    data.synthetic.scenes.CATEGORIES and data.layouts.COLOURS.
    interactions: int64 (N, 2, 3): subject, number in data.synthetic.scenes.INTERACTIONS, object.
    """

    images: Tensor
    instances: Tensor
    boxes: Tensor
    categories: Tensor
    colours: Tensor
    interactions: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def pictures(self, index: Tensor) -> Tensor:
        """Images float32 (B, 3, 64, 64) in [0, 1]."""
        return self.images[index].float() / 255


def scenes(split: str, limit: int | None = None) -> Scenes:
    """A split ('train': its first 8,000 scenes, 'validation', 'test'), or its first `limit` scenes."""
    whole = _split(split)
    if limit is None or limit >= len(whole):
        return whole
    return Scenes(**{f.name: getattr(whole, f.name)[:limit] for f in fields(Scenes)})


@cache
def _split(split: str) -> Scenes:
    from concord.data.synthetic.scenes.scene import RENDERER_VERSION, SPLITS, WORLD_SEED

    indices = SPLITS[split][:TRAIN]
    path = CACHE / f"synthscenes-{WORLD_SEED}-v{RENDERER_VERSION}-{split}-{len(indices)}.npz"
    if not path.is_file():
        arrays = _draw(indices)
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    with np.load(path, allow_pickle=False) as kept:
        found = {f.name: torch.from_numpy(kept[f.name]) for f in fields(Scenes)}
    return Scenes(**{**found, "images": found["images"].movedim(-1, 1).contiguous()})


def _draw(indices: range) -> dict[str, np.ndarray]:
    from concord.data.datasets.layouts.layout import COLOURS
    from concord.data.synthetic.scenes.scene import CATEGORIES, INTERACTIONS
    from concord.data.synthetic.scenes.tree import iter_scenes

    n = len(indices)
    boxes = np.zeros((n, MOST, 4), np.float32)
    categories, colours = np.full((n, MOST), -1, np.int64), np.full((n, MOST), -1, np.int64)
    interactions = np.full((n, MOST_INTERACTIONS, 3), -1, np.int64)
    images, instances = np.zeros((n, 64, 64, 3), np.uint8), np.zeros((n, 64, 64), np.uint8)
    for k, made in enumerate(iter_scenes(indices, workers=1, progress=True)):
        layout, level = made.layout, made.layout.level
        images[k], instances[k], boxes[k, :level] = made.image, made.instances, layout.boxes
        categories[k, :level] = [CATEGORIES.index(name) for name in layout.categories]
        colours[k, :level] = [COLOURS.index(str(name)) for name in layout.colours]
        for row, (subject, kind, other) in enumerate(made.interactions):
            interactions[k, row] = subject, INTERACTIONS.index(kind), other
    return {
        "images": images,
        "instances": instances,
        "boxes": boxes,
        "categories": categories,
        "colours": colours,
        "interactions": interactions,
    }
