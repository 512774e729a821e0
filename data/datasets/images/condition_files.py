"""Conditions beside a folder of images: captions in a file, masks and pictures in folders, each read when needed.

    captions        .txt: one line for each image, in order; .json: a list, or {image: caption}; .jsonl and .csv:
                    records of an image (`image`, `file_name`, `name` or `id`) and a caption (`caption`, `text` or
                    `prompt`)
    masks           index masks (data/images.py), CelebAMask-HQ order, brought to the images' size by NEAREST
    people, styles  pictures: one for each image, or one for all

What is named meets its image by name, without folder and suffix; what is not, in order.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, overload

import numpy as np

from concord.data.datasets.images.image_sets import FileSet, ImageSet, open_images, pair
from concord.data.errors import ConcordError
from concord.data.files import read_json
from concord.data.images import BadFile, read_index, reduce_labels
from concord.data.request import Conditions

IMAGE_KEYS = ("image", "file_name", "name", "id")
CAPTION_KEYS = ("caption", "text", "prompt")


@dataclass(frozen=True)
class Pictures:
    """One picture for each image, or a single one for all."""

    images: ImageSet
    places: np.ndarray

    @classmethod
    def beside(cls, path: Path, images: ImageSet) -> Pictures:
        found = open_images(path)
        return cls(found, np.zeros(len(images), np.int64) if len(found) == 1 else pair(images, found))

    def load(self, index: int) -> np.ndarray:
        """uint8 (H, W, 3) RGB."""
        picture = self.images.load(int(self.places[index]))
        return picture if picture.dtype == np.uint8 else (picture * 255).round().astype(np.uint8)


class ConditionFiles(Sequence[Conditions]):
    """The conditions of a set of images, one for each, in its order."""

    def __init__(
        self, images: ImageSet, captions: Path | None = None, masks: Path | None = None, people: Path | None = None,
        styles: Path | None = None,
    ) -> None:  # fmt: skip
        self.images = images
        self.captions = None if captions is None else read_captions(captions, images)
        self.masks = None if masks is None else _files(masks, images)
        self.people = None if people is None else Pictures.beside(people, images)
        self.styles = None if styles is None else Pictures.beside(styles, images)
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
            identity=None if self.people is None else self.people.load(index),
            style=None if self.styles is None else self.styles.load(index),
        )


def _files(folder: Path, images: ImageSet) -> list[Path]:
    """A file of the folder for each image."""
    found = open_images(folder)
    if not isinstance(found, FileSet) or any(entry[2] >= 0 for entry in found.entries):
        raise ConcordError(f"{folder}: expected a folder of index masks, one file for each image")
    return [found.entries[place][1] for place in pair(images, found)]


# ------------------------------------------------------------------------------------------------------------- captions


def read_captions(path: Path, images: ImageSet) -> list[str]:
    """One caption for each image, in its order; ConcordError naming the image that has none, or whose is empty."""
    kind = path.suffix.lower()
    if kind == ".json":
        content = read_json(path)
        found = content if isinstance(content, list) else _by_name(path, content)
    elif kind == ".jsonl":
        found = _by_name(path, dict(_record(path, n, row) for n, row in enumerate(_json_lines(path), 1)))
    elif kind == ".csv":
        rows = csv.DictReader(io.StringIO(_text(path)))
        found = _by_name(path, dict(_record(path, n, row) for n, row in enumerate(rows, 2)))
    else:
        found = _text(path).splitlines()
    return _in_order(path, found, images)


def _in_order(path: Path, found: list[Any] | dict[str, Any], images: ImageSet) -> list[str]:
    if isinstance(found, dict):
        if not images.named:
            raise ConcordError(f"{path}: captions by name, but {images.label} has no names; give a list in order")
        lacking = [name for name in images.names if _bare(name) not in found]
        if lacking:
            raise ConcordError(f"{path}: no caption for '{lacking[0]}' ({len(lacking)} of {len(images)} have none)")
        found = [found[_bare(name)] for name in images.names]
    if len(found) != len(images):
        raise ConcordError(f"{path}: {len(found)} captions for {len(images)} images; expected one for each, in order")
    for name, caption in zip(images.names, found, strict=True):
        if not isinstance(caption, str) or not caption.strip():
            raise ConcordError(f"{path}: the caption of '{name}' is empty or no text; expected a sentence")
    return found


def _by_name(path: Path, content: Any) -> dict[str, Any]:
    if not isinstance(content, Mapping):
        raise ConcordError(f"{path}: expected a list of captions or a mapping of image to caption")
    return {_bare(str(name)): caption for name, caption in content.items()}


def _bare(name: str) -> str:
    path = PurePosixPath(name)
    return path.stem if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp") else path.name


def _record(path: Path, line: int, row: Any) -> tuple[str, Any]:
    keys = [next((key for key in names if isinstance(row, Mapping) and key in row), None)
            for names in (IMAGE_KEYS, CAPTION_KEYS)]  # fmt: skip
    if keys[0] is None or keys[1] is None:
        wanted = f"an image ({', '.join(IMAGE_KEYS)}) and a caption ({', '.join(CAPTION_KEYS)})"
        raise ConcordError(f"{path}, line {line}: expected {wanted}")
    return str(row[keys[0]]), row[keys[1]]


def _json_lines(path: Path) -> list[Any]:
    rows = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise ConcordError(f"{path}, line {number}: not valid JSON ({error})") from None
    return rows


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadFile(path, "unreadable", f"cannot be read ({error.strerror})", "expected a file of captions") from None
    except UnicodeDecodeError as error:
        raise ConcordError(f"{path}: not UTF-8 text ({error.reason}); expected a file of captions") from None
