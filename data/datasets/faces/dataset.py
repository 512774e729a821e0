"""Faces with masks and captions, whatever they are read from: a tree (tree.py) or prepared shards (prepared.py).

Images and masks are decoded when asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from concord.data.content import content_digest
from concord.data.datasets.faces.captions import item_id
from concord.data.datasets.faces.tree import IMAGE_FOLDERS, LANDMARK_FILE, REFERENCE_FOLDER
from concord.data.datasets.item import Dataset, Item
from concord.data.errors import ConcordError
from concord.data.files import path_kind, read_arrays
from concord.data.images import WRONG_SIZE, BadFile, read_image, read_index, read_part, reduce_labels


@dataclass(frozen=True, slots=True)
class FaceItem(Item):
    """One face. `id` is its number as text ('27003'); `text` its caption, where it has one."""

    id: str
    text: str | None
    root: Path
    image_file: str | None  # these are relative to root: half a million Path objects would slow the opening
    mask_files: tuple[tuple[int, str], ...]  # (class, part file) in the order of drawing; (-1, file of class numbers)
    identity_file: str | None = None  # an image of the same person: another one, or where there is none its own
    landmark_row: int | None = None  # in landmarks.npz

    @property
    def has_image(self) -> bool:
        return self.image_file is not None

    @property
    def has_mask(self) -> bool:
        return bool(self.mask_files)

    @property
    def has_identity(self) -> bool:
        return self.identity_file is not None

    @property
    def has_landmarks(self) -> bool:
        return self.landmark_row is not None

    def image(self, size: int | None = None) -> np.ndarray:
        """The image, uint8 (size, size, 3) RGB, box-averaged; in its own size where none is given."""
        if self.image_file is None:
            raise ConcordError(f"face {self.id}: has no image; expected {IMAGE_FOLDERS[0]}/{self.id}.jpg")
        return read_image(self.root / self.image_file, size)

    def mask(self, size: int | None = None) -> np.ndarray:
        """The classes, int64 (size, size), CelebAMask-HQ order; in the file's own size where none is given.

        Composed at the size of the files, then reduced once by NEAREST (`reduce_labels`: source pixel
        floor((i + 0.5) * H / size), Pillow's convention), so that no class appears that was not there.
        """
        if not self.mask_files:
            raise ConcordError(f"face {self.id}: has no mask; expected part files or an index mask in the dataset")
        mask = compose_mask(tuple((number, self.root / file) for number, file in self.mask_files))
        return mask if size is None else reduce_labels(mask, size)

    def identity(self, size: int | None = None) -> np.ndarray:
        """An image of this person, uint8 (size, size, 3) RGB, reduced as `image` is."""
        if self.identity_file is None:
            raise ConcordError(f"face {self.id}: has no image of its person; expected {REFERENCE_FOLDER}/{self.id}.jpg")
        return read_image(self.root / self.identity_file, size).copy()  # an image of Pillow's cannot be written to

    def landmarks(self, size: int | None = None) -> np.ndarray:
        """The 68 points in iBUG order, float32 (68, 2), in pixels of an image of that size (pixel centres at .5)."""
        if self.landmark_row is None:
            raise ConcordError(f"face {self.id}: has no landmarks; expected a row in {LANDMARK_FILE}")
        points, side = read_landmarks(self.root / LANDMARK_FILE)
        found = points[self.landmark_row]
        if size is not None:
            found = found * (size / (side or len(self.image())))
        return found.astype(np.float32)

    def restricted_to(self, parts: Collection[str]) -> FaceItem:
        return replace(
            self,
            identity_file=self.identity_file if "identity" in parts else None,
            landmark_row=self.landmark_row if "landmarks" in parts else None,
        )


def read_landmarks(path: Path) -> tuple[np.ndarray, int | None]:
    """The points float32 (N, 68, 2) of a landmark file, and the side of the images that they were placed in, if said.

    Raises ConcordError when the file is broken, of another shape, or holds numbers that are not finite.
    """
    points, _, side = _landmark_file(path, path.stat().st_mtime_ns)
    return points, side


@lru_cache(maxsize=8)
def _landmark_file(path: Path, _changed: int) -> tuple[np.ndarray, tuple[str, ...], int | None]:
    expected = "expected 'indices' (N,) and 'landmarks' (N, 68, 2)"
    file = read_arrays(path, ("landmarks", "indices", "size"), expected.removeprefix("expected "))
    try:
        points, indices = np.asarray(file["landmarks"], np.float32), np.asarray(file["indices"])
        side = int(file["size"]) if "size" in file else None
    except (ValueError, KeyError, TypeError) as error:
        raise ConcordError(f"{path}: cannot be read ({str(error).splitlines()[0][:80]}); {expected}") from None
    if points.ndim != 3 or points.shape[1:] != (68, 2) or indices.shape != (len(points),):
        raise ConcordError(f"{path}: arrays of shapes {indices.shape} and {points.shape}; {expected}")
    bad = np.flatnonzero(~np.isfinite(points).all((1, 2)))
    if len(bad):
        raise ConcordError(f"{path}: the landmarks of face {indices[bad[0]]} are not finite; fix or remove its row")
    ids = tuple(item_id(str(index)) for index in indices)  # '00012' is face 12
    if len(set(ids)) < len(ids):
        twice = next(item for item in ids if ids.count(item) > 1)
        raise ConcordError(f"{path}: face {twice} has two rows; keep one of them")
    return points, ids, side


def compose_mask(files: tuple[tuple[int, Path], ...]) -> np.ndarray:
    """The mask, int64 (H, H), from (class, part file) pairs, later over earlier, or from one (-1, index mask)."""
    if files[0][0] < 0:
        return read_index(files[0][1])
    mask: np.ndarray | None = None
    for number, path in files:
        part = read_part(path)
        if mask is None:
            mask = np.zeros(part.shape, dtype=np.int64)
        if part.shape != mask.shape:
            wanted = f"expected {len(mask)}x{len(mask)} as in {files[0][1].name}; make all parts of a face one size"
            raise BadFile(path, WRONG_SIZE, f"is {len(part)}x{len(part)}", wanted)
        mask[part] = number
    assert mask is not None
    return mask


@dataclass(frozen=True)
class Missing:
    """Something that a face lacks. `what`: 'image', 'mask' or 'caption'."""

    id: str
    what: str
    expected: str  # where it was looked for

    def __str__(self) -> str:
        return f"face {self.id}: no {self.what} ({self.expected})"


@dataclass(frozen=True)
class FaceDataset(Dataset[FaceItem]):
    """The faces of one tree. `captions` is the kind of caption that they carry, None where the tree has none."""

    root: Path
    name: str
    split: str
    captions: str | None
    items: list[FaceItem]
    missing: list[Missing]

    def __getitem__(self, item: str) -> FaceItem:
        """The face of that id; ConcordError when there is none."""
        try:
            return self._by_id[item]
        except KeyError:
            some = ", ".join(face.id for face in self.items[:3])
            raise ConcordError(f"{self.root}: no face '{item}'; expected an id such as {some}") from None

    @cached_property
    def _by_id(self) -> dict[str, FaceItem]:
        return {face.id: face for face in self.items}

    def with_items(self, items: Sequence[FaceItem]) -> FaceDataset:
        return replace(self, items=list(items))

    @cached_property
    def listing(self) -> str:
        """SHA-256 over the names and sizes of the faces' files, their captions and landmarks; decodes no image."""
        digest = hashlib.sha256()
        for face in self.items:
            digest.update(f"\x01{face.id}\x00{face.text if face.text is not None else chr(2)}\x00".encode())
            if face.has_landmarks:
                digest.update(face.landmarks().tobytes())
            single = [file for file in (face.image_file, face.identity_file) if file]
            for file in single + [file for _, file in face.mask_files]:
                try:
                    size = (self.root / file).stat().st_size
                except OSError as error:
                    raise ConcordError(
                        f"{self.root / file}: gone since the dataset was opened ({error.strerror})"
                    ) from None
                digest.update(f"{file}\x00{size}\x00".encode())
        return digest.hexdigest()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the listing and the bytes of every file of the faces; unchanged files are not read again."""
        files: dict[str, None] = {}
        for face in self.items:
            files |= dict.fromkeys(file for file in (face.image_file, face.identity_file) if file)
            files |= dict.fromkeys(file for _, file in face.mask_files)
        return content_digest(self.listing, self.root, files)

    def summary(self) -> str:
        """One line: how many faces, and of what."""
        images, masks = (sum(getattr(face, name) for face in self.items) for name in ("has_image", "has_mask"))
        texts = sum(face.text is not None for face in self.items)
        kind = f" ({self.captions})" if self.captions else ""
        return (
            f"{self.name}, {self.split}: {len(self)} faces; {images} images, {masks} masks, {texts} captions{kind}; "
            f"{len(self.missing)} missing"
        )


def landmark_rows(root: Path) -> dict[str, int]:
    """Which row of a tree's landmark file belongs to which face; empty where there is no such file."""
    path = root / LANDMARK_FILE
    if path_kind(path) != "file":
        return {}
    return {item: row for row, item in enumerate(_landmark_file(path, path.stat().st_mtime_ns)[1])}
