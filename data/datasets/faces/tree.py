"""A tree of faces by name alone: which files belong to which face. No file is opened.

    CelebA-HQ-img/{i}.jpg                                 1024x1024 images (or images/; .png too)
    CelebAMask-HQ-mask-anno/{i//2000}/{i:05d}_{part}.png  512x512, one file a part (also spelled CelebAMaskHQ-mask-anno)
    CelebAMask-HQ-mask/{i}.png                            or masks of class numbers (also CelebAMaskHQ-mask, masks)
    captions_hq.json, captions_hq_beard_and_age_*.json    captions (data/datasets/faces/captions.py)
    identity-references/{i}.jpg                           another image of the same person, where there is one
    landmarks.npz                                         indices (N,), landmarks (N, 68, 2) in pixels of the images

A plain folder of index masks (`*.png`, or `masks/*.png`) with a caption file is read too; its faces have no images.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from concord.data.datasets.faces.captions import item_id
from concord.data.errors import ConcordError
from concord.data.files import path_kind
from concord.data.images import is_image
from concord.data.labels import INDEX, PART_SUFFIXES
from concord.data.notes import note

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
    references: dict[str, str] = field(default_factory=dict)  # id -> another image of the same person
    strays: list[tuple[str, str, str]] = field(default_factory=list)  # (file, 'unknown name' | 'duplicate', what)

    @property
    def is_celebamask_hq(self) -> bool:
        """Whether the tree has the folders of CelebAMask-HQ, and not merely many faces."""
        return self.image_folder == IMAGE_FOLDERS[0] or self.mask_folder in (*PART_FOLDERS, *INDEX_FOLDERS[:2])

    @property
    def has_test_split(self) -> bool:
        """Whether it is the full CelebAMask-HQ, whose last caption keys are the test split."""
        return self.is_celebamask_hq and len(self.ids) >= FULL_SET

    def refuse_duplicates(self) -> None:
        """ConcordError where two files are the same face or part ('1.png' beside '1.jpg'): neither is the right one."""
        twice = [(file, what) for file, kind, what in self.strays if kind == "duplicate"]
        if twice:
            more = f" (and {len(twice) - 1} more)" if len(twice) > 1 else ""
            raise ConcordError(f"{self.root / twice[0][0]}: {twice[0][1]}{more}; keep one of them")

    def say_what_is_left(self) -> None:
        """Say which image files are left, and which folders look like masks under a name that is not read."""
        left = [file for file, kind, _ in self.strays if kind == "unknown name" and is_image(file.rpartition("/")[2])]
        if left:
            what = "has a name that is not read" if len(left) == 1 else "and others have names that are not read"
            note(f"{self.root}: {left[0]} {what} ({len(left)} in all; `concord data verify` lists them)")
        if self.mask_folder is None:
            for entry in _scan(self.root):
                plain = re.sub("[^a-z]", "", entry.name.lower())
                if entry.is_dir() and any(word in plain for word in ("mask", "label", "anno", "segment", "parsing")):
                    note(
                        f"{self.root}: {entry.name}/ looks like masks but is not read; call it {PART_FOLDERS[0]} (one "
                        f"file a part) or {INDEX_FOLDERS[0]} (class numbers)"
                    )

    @property
    def ids(self) -> list[str]:
        """Every face with an image or a mask; numbers first, in their order."""
        return sorted(self.images.keys() | self.parts.keys() | self.masks.keys(), key=_natural)

    def mask_files(self, item: str) -> tuple[tuple[int, str], ...]:
        """(class, file) of each part in the order of drawing; a file of class numbers comes alone, with class -1."""
        if item in self.parts:
            return tuple(sorted(self.parts[item].items()))
        return ((-1, self.masks[item]),) if item in self.masks else ()


def list_tree(root: Path | str) -> Listing:
    """List a tree of faces, opening no file; ConcordError when it holds none."""
    root = Path(root)
    kind = path_kind(root)
    if kind != "folder":
        what = {"file": "is a file", "none": "no such folder", "other": "is a pipe, a socket or a device"}[kind]
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
    if part_folder and index_folder:
        note(f"{root}: masks are composed of {part_folder}/; {index_folder}/ is read for faces without parts")
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
            if part not in known or not number.isdecimal() or len(number) > 99 or not entry.name.endswith(".png"):
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
    return (False, int(item), "") if item.isdecimal() and len(item) < 100 else (True, 0, item)
