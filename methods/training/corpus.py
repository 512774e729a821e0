"""SynthFaces as tensors for training: rendered once, kept in a git-ignored cache."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from concord.data.files import atomic_path

CACHE = Path("datasets") / "cache"
ATTRIBUTES = ("Bangs", "Eyeglasses", "No_Beard", "Smiling", "Young")


@dataclass(frozen=True)
class Corpus:
    """A split of the world in memory.

    images: uint8 (N, 3, 64, 64). masks: uint8 (N, 64, 64). attributes: int64 (N, 5), levels 0..5, in the order of
    ATTRIBUTES. male: int64 (N,). identities: float32 (N, D).
    """

    images: Tensor
    masks: Tensor
    attributes: Tensor
    male: Tensor
    identities: Tensor
    beard_and_age: list[str]
    overall: list[str]

    def __len__(self) -> int:
        return len(self.images)

    def pictures(self, index: Tensor) -> Tensor:
        """Images float32 (B, 3, 64, 64) in [0, 1]."""
        return self.images[index].float() / 255


def corpus(split: str, limit: int | None = None) -> Corpus:
    """A split ('train', 'validation', 'test'), or its first `limit` faces."""
    whole = _split(split)
    if limit is None or limit >= len(whole):
        return whole
    parts = {f.name: getattr(whole, f.name)[:limit] for f in fields(Corpus)}
    return Corpus(**parts)


@cache
def _split(split: str) -> Corpus:
    from concord.data.synthetic.faces.world import RENDERER_VERSION, SPLITS, WORLD_SEED, render_many

    indices = SPLITS[split]
    path = CACHE / f"synthfaces-{WORLD_SEED}-v{RENDERER_VERSION}-{split}.npz"
    if not path.is_file():
        faces = render_many(indices, progress=True)
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(
                file,
                images=faces.images,
                masks=faces.masks,
                attributes=faces.attributes,
                male=np.array([sex == "male" for sex in faces.sex]),
                identities=faces.identities,
                beard_and_age=np.array([c.beard_and_age for c in faces.captions]),
                overall=np.array([c.overall for c in faces.captions]),
            )
    with np.load(path, allow_pickle=False) as arrays:
        return Corpus(
            images=torch.from_numpy(arrays["images"]).movedim(-1, 1).contiguous(),
            masks=torch.from_numpy(arrays["masks"]),
            attributes=torch.from_numpy(arrays["attributes"].astype(np.int64)),
            male=torch.from_numpy(arrays["male"].astype(np.int64)),
            identities=torch.from_numpy(arrays["identities"].astype(np.float32)),
            beard_and_age=[str(c) for c in arrays["beard_and_age"]],
            overall=[str(c) for c in arrays["overall"]],
        )


@cache
def landmarks(split: str) -> Tensor:
    """The 68 landmarks of every face of a split, float32 (N, 68, 2) in pixels: geometry alone, nothing is painted."""
    from concord.data.synthetic.faces.geometry import head_pose, landmarks_of, shape_of
    from concord.data.synthetic.faces.world import SPLITS, describe

    found = []
    for index in SPLITS[split]:
        _, person, attributes, scene, _ = describe(index)
        shape = shape_of(person, attributes)
        found.append(landmarks_of(shape, head_pose(scene, shape)))
    return torch.from_numpy(np.stack(found))


@cache
def variants(split: str, variant: int, limit: int) -> Tensor:
    """Another picture (other age, smile, pose, light, clothes) of each of a split's first `limit` persons.

    uint8 (limit, 3, 64, 64); kept in the cache. Row i shows the person of row i of `corpus(split)`.
    """
    from concord.data.synthetic.faces.world import RENDERER_VERSION, SPLITS, WORLD_SEED, render_many

    path = CACHE / f"synthfaces-{WORLD_SEED}-v{RENDERER_VERSION}-{split}-variant{variant}-{limit}.npz"
    if not path.is_file():
        faces = render_many(SPLITS[split][:limit], progress=True, variant=variant)
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, images=faces.images)
    with np.load(path, allow_pickle=False) as arrays:
        return torch.from_numpy(arrays["images"]).movedim(-1, 1).contiguous()
