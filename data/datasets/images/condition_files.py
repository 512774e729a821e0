"""Conditions beside a folder of images: captions in a file; masks, reference images in folders; read when needed.

    captions            a file of any of the kinds of captions.py
    masks               index masks (data/images.py), CelebAMask-HQ order, brought to the images' size by NEAREST
    identities, styles  reference images: one for each image, or one for all

What is named meets its image by name (pairing.py); what is not, in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np

from concord.data.datasets.images.captions import read_captions
from concord.data.datasets.images.image_sets import FileSet, ImageSet, open_images
from concord.data.datasets.images.pairing import pair
from concord.data.errors import ConcordError
from concord.data.images import read_index, reduce_labels
from concord.data.request import Conditions


@dataclass(frozen=True)
class ConditionImages:
    """A reference image for each image, or a single one for all."""

    images: ImageSet
    places: np.ndarray

    @classmethod
    def beside(cls, path: Path, images: ImageSet) -> ConditionImages:
        """The images at `path` for a set: paired by name, or the only one for all."""
        found = open_images(path)
        return cls(found, np.zeros(len(images), np.int64) if len(found) == 1 else pair(images, found))

    def load(self, index: int) -> np.ndarray:
        """uint8 (H, W, 3) RGB."""
        image = self.images.load(int(self.places[index]))
        return image if image.dtype == np.uint8 else (image * 255).round().astype(np.uint8)


class ConditionFiles(Sequence[Conditions]):
    """The conditions of a set of images, one for each, in its order."""

    def __init__(
        self,
        images: ImageSet,
        captions: Path | None = None,
        masks: Path | None = None,
        identities: Path | None = None,
        styles: Path | None = None,
    ) -> None:
        self.images = images
        self.captions = None if captions is None else read_captions(captions, images)
        self.masks = None if masks is None else _files(masks, images)
        self.identities = None if identities is None else ConditionImages.beside(identities, images)
        self.styles = None if styles is None else ConditionImages.beside(styles, images)
        self.size = images.load(0).shape[0] if masks is not None else 0

    def __len__(self) -> int:
        return len(self.images)

    @overload
    def __getitem__(self, index: int) -> Conditions: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Conditions]: ...
    def __getitem__(self, index: int | slice) -> Conditions | Sequence[Conditions]:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        return Conditions(
            text=None if self.captions is None else self.captions[index],
            mask=None if self.masks is None else reduce_labels(read_index(self.masks[index]), self.size),
            identity=None if self.identities is None else self.identities.load(index),
            style=None if self.styles is None else self.styles.load(index),
        )


def _files(folder: Path, images: ImageSet) -> list[Path]:
    """A file of the folder for each image."""
    found = open_images(folder)
    if not isinstance(found, FileSet) or any(entry[2] >= 0 for entry in found.entries):
        raise ConcordError(f"{folder}: expected a folder of index masks, one file for each image")
    return [found.entries[place][1] for place in pair(images, found)]
