"""Faces with masks and captions: one reader for CelebAMask-HQ + CelebA-Dialog trees, real or synthetic.

    CelebA-HQ-img/{i}.jpg                                 1024x1024 pictures (or images/; .png too)
    CelebAMask-HQ-mask-anno/{i//2000}/{i:05d}_{part}.png  512x512, one file a part (also spelled CelebAMaskHQ-mask-anno)
    CelebAMask-HQ-mask/{i}.png                            or masks of class numbers (also CelebAMaskHQ-mask, masks)
    captions_hq.json, captions_hq_beard_and_age_*.json    captions (data/datasets/faces/captions.py)
    identity-references/{i}.jpg                           another picture of the same person, where there is one
    landmarks.npz                                         indices (N,), landmarks (N, 68, 2) in pixels of the pictures

A plain folder of index masks (`*.png`, or `masks/*.png`) with a caption file is read too; its faces have no pictures.
Opening lists the folders once and decodes nothing; pictures and masks are decoded when asked for.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from concord.data.content import content_digest
from concord.data.datasets.faces.captions import item_id, load_captions
from concord.data.errors import ConcordError
from concord.data.images import WRONG_SIZE, BadFile, read_image, read_index, read_part, reduce_labels
from concord.data.labels import INDEX, PART_SUFFIXES

IMAGE_FOLDERS = ("CelebA-HQ-img", "images")
PART_FOLDERS = ("CelebAMask-HQ-mask-anno", "CelebAMaskHQ-mask-anno")
INDEX_FOLDERS = ("CelebAMask-HQ-mask", "CelebAMaskHQ-mask", "masks")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
REFERENCE_FOLDER = "identity-references"
LANDMARK_FILE = "landmarks.npz"
DRAWN = "world.json"  # a tree with this file was drawn by a program, which can draw a person a second time

FULL_SET = 29_900  # CelebAMask-HQ has 30,000 faces; with a few lost it still is the full set, and has a test split
TEST_KEYS = 3_000  # Collaborative Diffusion: the last 3,000 keys of the caption file
SPLITS = ("test", "all")


# -------------------------------------------------------------------------------------------------------- the listing


@dataclass
class Listing:
    """What lies in a tree, by name alone; paths are relative to `root`, with '/'."""

    root: Path
    images: dict[str, str] = field(default_factory=dict)  # id -> file
    parts: dict[str, dict[int, str]] = field(default_factory=dict)  # id -> class -> file
    masks: dict[str, str] = field(default_factory=dict)  # id -> file of class numbers
    image_folder: str | None = None
    mask_folder: str | None = None
    references: dict[str, str] = field(default_factory=dict)  # id -> another picture of the same person
    strays: list[tuple[str, str, str]] = field(default_factory=list)  # (file, 'unknown name' | 'duplicate', what)

    @property
    def ids(self) -> list[str]:
        """Every face with a picture or a mask; numbers first, in their order."""
        return sorted(self.images.keys() | self.parts.keys() | self.masks.keys(), key=_natural)

    def mask_files(self, item: str) -> tuple[tuple[int, str], ...]:
        """(class, file) of each part in the order of drawing; a file of class numbers comes alone, with class -1."""
        if item in self.parts:
            return tuple(sorted(self.parts[item].items()))
        return ((-1, self.masks[item]),) if item in self.masks else ()


def list_tree(root: Path | str) -> Listing:
    """List a tree of faces, opening no file; ConcordError when it holds none."""
    root = Path(root)
    if not root.is_dir():
        what = "is a file" if root.exists() else "no such folder"
        raise ConcordError(f"{root}: {what}; expected a CelebAMask-HQ folder or a folder of index masks")
    listing = Listing(root)
    listing.image_folder = _first_folder(root, IMAGE_FOLDERS)
    part_folder, index_folder = _first_folder(root, PART_FOLDERS), _first_folder(root, INDEX_FOLDERS)
    if listing.image_folder:
        _list_files(listing, listing.image_folder, listing.images, IMAGE_SUFFIXES, "{i}.jpg")
    if part_folder:
        _list_parts(listing, part_folder)
    if index_folder:
        _list_files(listing, index_folder, listing.masks, (".png",), "{i}.png")
    elif not listing.image_folder and not part_folder:
        index_folder = "."
        _list_files(listing, "", listing.masks, (".png",), None)
    listing.mask_folder = part_folder or index_folder
    if (root / REFERENCE_FOLDER).is_dir():
        _list_files(listing, REFERENCE_FOLDER, listing.references, IMAGE_SUFFIXES, "{i}.jpg")
    if not listing.ids:
        raise ConcordError(
            f"{root}: no faces here; expected {IMAGE_FOLDERS[0]}/ with {PART_FOLDERS[0]}/, or index masks (*.png)"
            + _suggestion(root)
        )
    return listing


def _first_folder(root: Path, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if (root / name).is_dir()), None)


def _scan(folder: Path) -> Iterator[os.DirEntry[str]]:
    """The entries of a folder, by name, without the hidden ones."""
    try:
        with os.scandir(folder) as entries:
            yield from sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise ConcordError(f"{folder}: cannot be listed ({error.strerror}); expected a readable folder") from None


def _list_files(
    listing: Listing, folder: str, found: dict[str, str], suffixes: tuple[str, ...], pattern: str | None
) -> None:
    """Add the folder's files to `found`; others are strays, unless `pattern` is None (a folder that holds anything)."""
    prefix = f"{folder}/" if folder else ""
    for entry in _scan(listing.root / folder):
        if entry.is_dir():
            continue
        file = prefix + entry.name
        if not entry.name.lower().endswith(suffixes):
            if pattern is not None:
                listing.strays.append((file, "unknown name", f"expected {pattern}"))
        elif found.setdefault(item_id(entry.name), file) != file:
            listing.strays.append((file, "duplicate", f"is the same face as {found[item_id(entry.name)]}"))


def _list_parts(listing: Listing, folder: str) -> None:
    """Add the part files of the annotation folder, from its numbered sub-folders or itself."""
    known = frozenset(PART_SUFFIXES)
    for place in _scan(listing.root / folder):
        inside = _scan(listing.root / folder / place.name) if place.is_dir() else iter([place])
        prefix = f"{folder}/{place.name}/" if place.is_dir() else f"{folder}/"
        for entry in inside:
            file = prefix + entry.name
            number, _, part = entry.name.removesuffix(".png").partition("_")
            if part not in known or not number.isdecimal() or not entry.name.endswith(".png"):
                listing.strays.append((file, "unknown name", "expected {i:05d}_{part}.png, parts as in data/labels.py"))
                continue
            parts = listing.parts.setdefault(str(int(number)), {})
            if parts.setdefault(INDEX[part], file) != file:
                listing.strays.append((file, "duplicate", f"is the same part as {parts[INDEX[part]]}"))


def _suggestion(root: Path) -> str:
    """A word on a tree that lies one folder deeper, as archives often unpack."""
    for entry in _scan(root):
        if entry.is_dir() and _first_folder(Path(entry.path), IMAGE_FOLDERS + PART_FOLDERS + INDEX_FOLDERS):
            return f"; did you mean {entry.path}?"
    return "; give the folder that contains them"


def _natural(item: str) -> tuple[bool, int, str]:
    return (False, int(item), "") if item.isdecimal() else (True, 0, item)


# ---------------------------------------------------------------------------------------------------------- the faces


@dataclass(frozen=True, slots=True)
class FaceItem:
    """One face. `id` is its number as text ('27003'); `text` its caption, where it has one."""

    id: str
    text: str | None
    root: Path
    image_file: str | None  # these are relative to root: half a million Path objects would slow the opening
    mask_files: tuple[tuple[int, str], ...]  # (class, part file) in the order of drawing; (-1, file of class numbers)
    identity_file: str | None = None  # a picture of the same person: another one, or where there is none its own
    landmark_row: int | None = None  # in landmarks.npz

    @property
    def has_image(self) -> bool:
        return self.image_file is not None

    @property
    def has_mask(self) -> bool:
        return bool(self.mask_files)

    @property
    def has_text(self) -> bool:
        return self.text is not None

    @property
    def has_identity(self) -> bool:
        return self.identity_file is not None

    @property
    def has_landmarks(self) -> bool:
        return self.landmark_row is not None

    @property
    def has_style(self) -> bool:
        return True

    @property
    def has_masked_image(self) -> bool:
        return self.has_image

    @property
    def has_source_image(self) -> bool:
        return self.has_image

    def image(self, size: int | None = None) -> np.ndarray:
        """The picture, uint8 (size, size, 3) RGB, box-averaged; in its own size where none is given."""
        if self.image_file is None:
            raise ConcordError(f"face {self.id}: has no picture; expected {IMAGE_FOLDERS[0]}/{self.id}.jpg")
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
        """A picture of this person, uint8 (size, size, 3) RGB, reduced as `image` is."""
        if self.identity_file is None:
            raise ConcordError(
                f"face {self.id}: has no picture of its person; expected {REFERENCE_FOLDER}/{self.id}.jpg"
            )
        return read_image(self.root / self.identity_file, size).copy()  # a picture of Pillow's cannot be written to

    def landmarks(self, size: int | None = None) -> np.ndarray:
        """The 68 points in iBUG order, float32 (68, 2), in pixels of a picture of that size (pixel centres at .5)."""
        if self.landmark_row is None:
            raise ConcordError(f"face {self.id}: has no landmarks; expected a row in {LANDMARK_FILE}")
        points, side = read_landmarks(self.root / LANDMARK_FILE)
        found = points[self.landmark_row]
        if size is not None:
            found = found * (size / (side or len(self.image())))
        return found.astype(np.float32)

    def style(self, size: int) -> np.ndarray:
        """The style reference that this item is given, uint8 (size, size, 3) RGB (data/synthetic/styles.py)."""
        from concord.data.synthetic.styles import style_image, style_of

        return style_image(style_of(self.id), size)

    def kept_for(self, conditions: Iterable[str]) -> FaceItem:
        """The item without the files that only other conditions read."""
        named = set(conditions)
        return replace(
            self,
            identity_file=self.identity_file if "identity" in named else None,
            landmark_row=self.landmark_row if "landmarks" in named else None,
        )


def read_landmarks(path: Path) -> tuple[np.ndarray, int | None]:
    """The points float32 (N, 68, 2) of a landmark file, and the side of the pictures that they were placed in, if said.

    Raises ConcordError when the file is broken, of another shape, or holds numbers that are not finite.
    """
    points, _, side = _landmark_file(path, path.stat().st_mtime_ns)
    return points, side


@lru_cache(maxsize=8)
def _landmark_file(path: Path, _changed: int) -> tuple[np.ndarray, tuple[str, ...], int | None]:
    expected = "expected 'indices' (N,) and 'landmarks' (N, 68, 2)"
    try:
        with np.load(path, allow_pickle=False) as file:
            points, indices = np.asarray(file["landmarks"], np.float32), np.asarray(file["indices"])
            side = int(file["size"]) if "size" in file.files else None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ConcordError(f"{path}: cannot be read ({str(error).splitlines()[0][:80]}); {expected}") from None
    if points.ndim != 3 or points.shape[1:] != (68, 2) or indices.shape != (len(points),):
        raise ConcordError(f"{path}: arrays of shapes {indices.shape} and {points.shape}; {expected}")
    bad = np.flatnonzero(~np.isfinite(points).all((1, 2)))
    if len(bad):
        raise ConcordError(f"{path}: the landmarks of face {indices[bad[0]]} are not finite; mend or remove its row")
    return points, tuple(str(index) for index in indices), side


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
class FaceDataset:
    """The faces of one tree. `captions` is the kind of caption that they carry, None where the tree has none."""

    root: Path
    name: str
    split: str
    captions: str | None
    items: list[FaceItem]
    missing: list[Missing]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[FaceItem]:
        return iter(self.items)

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

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the names and sizes of the faces' files, their captions and landmarks; decodes no picture."""
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
    def content(self) -> str:
        """SHA-256 over the fingerprint and the bytes of every file of the faces; unchanged files are not read again."""
        files: dict[str, None] = {}
        for face in self.items:
            files |= dict.fromkeys(file for file in (face.image_file, face.identity_file) if file)
            files |= dict.fromkeys(file for _, file in face.mask_files)
        return content_digest(self.fingerprint, self.root, files)

    def summary(self) -> str:
        """One line: how many faces, and of what."""
        count = {what: sum(getattr(face, f"has_{what}") for face in self.items) for what in ("image", "mask", "text")}
        kind = f" ({self.captions})" if self.captions else ""
        return (f"{self.name}, {self.split}: {len(self)} faces; {count['image']} images, {count['mask']} masks, "
                f"{count['text']} captions{kind}; {len(self.missing)} missing")  # fmt: skip


def open_faces(root: Path | str, split: str = "test", captions: str = "auto") -> FaceDataset:
    """Open a tree of faces.

    `split`: 'test' is, on the full set (30,000 faces), the last 3,000 keys of the caption file, in its order; on any
    smaller tree every face. 'all' is every face with a picture or a mask.
    `captions`: 'beard-and-age', 'overall' or 'plain'; 'auto' takes the first of these that the tree has.
    What a face lacks is listed in `missing`, and so are captions of faces that are not there.
    """
    if split not in SPLITS:
        raise ConcordError(f"split '{split}': expected one of {', '.join(SPLITS)}")
    if (Path(root) / "prepared.json").is_file():  # shards that data/datasets/faces/prepare.py made of a tree
        from concord.data.datasets.faces.prepare import open_prepared

        return open_prepared(Path(root), split, captions)
    listing = list_tree(root)
    known = load_captions(listing.root, captions)
    rows = landmark_rows(listing.root)
    drawn = (listing.root / DRAWN).is_file()
    texts = known.texts if known else {}
    ids = listing.ids
    there = set(ids)
    wanted = ids + [item for item in texts if item not in there]
    if split == "test" and len(ids) >= FULL_SET:
        if known is None:
            raise ConcordError(
                f"{root}: the test split is the last {TEST_KEYS:,} caption keys, but there is no caption file; "
                "add captions_hq_beard_and_age_*.json or captions_hq.json"
            )
        wanted = list(texts)[-TEST_KEYS:]
    items, missing = [], []
    for item in wanted:
        image, files = listing.images.get(item), listing.mask_files(item)
        if image is None and listing.image_folder:
            missing.append(Missing(item, "image", f"{listing.image_folder}/{item}.jpg"))
        if not files and listing.mask_folder:
            missing.append(Missing(item, "mask", listing.mask_folder))
        if known is not None and item not in texts:
            missing.append(Missing(item, "caption", known.path.name))
        if image is not None or files:
            # a drawn tree without references would make a person recognise the very picture: it has none then
            person = listing.references.get(item, None if drawn else image)
            items.append(FaceItem(item, texts.get(item), listing.root, image, files, person, rows.get(item)))
    return FaceDataset(listing.root, listing.root.resolve().name, split, known.kind if known else None, items, missing)


def landmark_rows(root: Path) -> dict[str, int]:
    """Which row of a tree's landmark file belongs to which face; empty where there is no such file."""
    path = root / LANDMARK_FILE
    if not path.is_file():
        return {}
    return {item: row for row, item in enumerate(_landmark_file(path, path.stat().st_mtime_ns)[1])}
