"""Checking a whole tree of faces: every file is decoded, and every defect is listed in one run.

A defect is what makes a face unusable or wrong. A note is what a user should know and need not mend: the caption of
5380.jpg, which CelebA-Dialog itself lacks, or a folder without a caption file.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from concord.data.datasets.faces.captions import bad_entries, caption_files, item_id, kind_of
from concord.data.datasets.faces.dataset import landmark_rows
from concord.data.datasets.faces.tree import LANDMARK_FILE, PART_FOLDERS, REFERENCE_FOLDER, Listing, list_tree
from concord.data.errors import ConcordError
from concord.data.files import parse_json, read_text
from concord.data.images import (
    UNREADABLE,
    WRONG_CLASS,
    WRONG_MODE,
    WRONG_SIZE,
    BadFile,
    read_image,
    read_index,
    read_part,
)
from concord.data.progress import watched

KNOWN_MISSING = {"5380": "5380.jpg is missing in CelebA-Dialog itself"}  # facts of the published data, not defects

# A file's defect is named by what the file is and what is wrong with it.
_IMAGE_KINDS = {UNREADABLE: "unreadable image", WRONG_SIZE: "image of the wrong size", WRONG_MODE: "unexpected mode"}
_MASK_KINDS = {
    UNREADABLE: "unreadable mask",
    WRONG_SIZE: "mask of the wrong size",
    WRONG_CLASS: "class out of range",
    WRONG_MODE: "unexpected mode",
}
KINDS = (
    "missing image", "unreadable image", "image of the wrong size", "item without mask", "unreadable mask",
    "mask of the wrong size", "class out of range", "unexpected mode", "unknown file name", "misplaced file",
    "duplicate file", "unreadable landmarks", "broken JSON", "missing key", "empty caption", "duplicate caption",
    "image without caption", "mask without caption", "caption without image", "caption without mask",
)  # fmt: skip  # a table


@dataclass(frozen=True)
class Defect:
    """One thing that is wrong. `kind`: one of `KINDS`; `path`: relative to the tree; `detail`: found and expected."""

    kind: str
    path: str
    detail: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.path}: {self.detail}"


@dataclass
class Verification:
    """What a whole run found. `counts`: faces, images, masks, part files, captions."""

    root: Path
    counts: dict[str, int] = field(default_factory=dict)
    defects: list[Defect] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def by_kind(self) -> dict[str, int]:
        """How many defects of each kind, in the order of `KINDS`."""
        found = Counter(defect.kind for defect in self.defects)
        return {kind: found[kind] for kind in KINDS if found[kind]}

    def to_json(self) -> str:
        """The whole as JSON text."""
        return json.dumps(
            {
                "root": self.root.as_posix(),
                "counts": self.counts,
                "kinds": self.by_kind(),
                "defects": [asdict(defect) for defect in self.defects],
                "notes": self.notes,
            },
            indent=1,
            ensure_ascii=False,
        )


def verify(root: Path | str) -> list[Defect]:
    """Every defect of the tree; an empty list when it is clean. ConcordError when there is no tree."""
    return inspect(root).defects


def inspect(root: Path | str, workers: int | None = None, progress: bool = False) -> Verification:
    """Check the tree with `workers` threads (all cores; decoding releases Python's lock); `progress` draws a bar."""
    listing = list_tree(root)
    result = Verification(listing.root)
    names = {"unknown name": "unknown file name", "duplicate": "duplicate file"}
    result.defects += [Defect(names[kind], path, detail) for path, kind, detail in listing.strays]
    result.defects += _misplaced(listing)
    result.defects += _check_landmarks(listing)
    found = _check_files(listing, workers or os.cpu_count() or 1, progress)
    result.defects += [defect for face in found for defect in face.defects]
    result.defects += _wrong_sizes("image", (face.image for face in found))
    result.defects += _wrong_sizes("mask", (mask for face in found for mask in face.masks))
    result.counts = {
        "faces": len(listing.ids),
        "images": len(listing.images),
        "masks": len(listing.parts.keys() | listing.masks.keys()),
        "part files": sum(len(parts) for parts in listing.parts.values()),
    }
    if listing.references:
        result.counts["identity references"] = len(listing.references)
    _check_captions(listing, result)
    order = {kind: number for number, kind in enumerate(KINDS)}
    result.defects.sort(key=lambda defect: order[defect.kind])  # stable: within a kind as found, face by face
    return result


# ---------------------------------------------------------------------------------------------------------- the files


@dataclass
class _Face:
    """What the files of one face are: (path, side in pixels) of each that could be read, and its defects."""

    image: tuple[str, int] | None = None
    masks: list[tuple[str, int]] = field(default_factory=list)
    defects: list[Defect] = field(default_factory=list)


def _check_face(listing: Listing, item: str) -> _Face:
    face = _Face()
    image = listing.images.get(item)
    if image is None and listing.image_folder:
        wanted = f"expected for mask {listing.mask_files(item)[0][1]}"
        face.defects.append(Defect("missing image", f"{listing.image_folder}/{item}.jpg", wanted))
    elif image is not None:
        try:
            face.image = (image, len(read_image(listing.root / image)))
        except BadFile as error:
            face.defects.append(Defect(_IMAGE_KINDS[error.kind], image, error.fact))
    reference = listing.references.get(item)
    if listing.references and reference is None:
        wanted = f"expected as for {len(listing.references)} other faces"
        face.defects.append(Defect("missing image", f"{REFERENCE_FOLDER}/{item}.jpg", wanted))
    elif reference is not None:
        try:
            read_image(listing.root / reference)
        except BadFile as error:
            face.defects.append(Defect(_IMAGE_KINDS[error.kind], reference, error.fact))
    files = listing.mask_files(item)
    if not files:
        place = listing.mask_folder or PART_FOLDERS[0]
        face.defects.append(Defect("item without mask", image or item, f"expected part files or a mask in {place}/"))
    for number, file in files:
        try:
            side = len(read_index(listing.root / file) if number < 0 else read_part(listing.root / file))
            face.masks.append((file, side))
        except BadFile as error:
            face.defects.append(Defect(_MASK_KINDS[error.kind], file, error.fact))
    return face


def _check_files(listing: Listing, workers: int, progress: bool) -> list[_Face]:
    """Decode every file of every face; the result is in the order of the faces, whatever thread was first."""
    with ThreadPoolExecutor(workers) as pool:
        try:
            jobs = pool.map(lambda item: _check_face(listing, item), listing.ids)
            return list(watched(jobs, "checking faces", len(listing.ids), progress))
        except BaseException:  # Ctrl-C: do not decode the remaining thousands first
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _check_landmarks(listing: Listing) -> list[Defect]:
    """The landmark file, where there is one: readable, of the right shape, a row for every face."""
    try:
        rows = landmark_rows(listing.root)
    except ConcordError as error:
        fact = str(error).removeprefix(f"{listing.root / LANDMARK_FILE}: ")
        return [Defect("unreadable landmarks", LANDMARK_FILE, fact)]
    lacking = [item for item in listing.ids if item not in rows] if rows else []
    return [Defect("missing key", LANDMARK_FILE, f"no landmarks of face {item}") for item in lacking]


def _wrong_sizes(what: str, files: Iterable[tuple[str, int] | None]) -> list[Defect]:
    """Files of another size than most of the tree has (of equally frequent sizes, the larger is taken as right)."""
    known = [file for file in files if file is not None]
    if not known:
        return []
    sizes = Counter(side for _, side in known)
    right = max(sizes, key=lambda side: (sizes[side], side))
    due = f"expected {right}x{right} as {sizes[right]} others"
    return [
        Defect(f"{what} of the wrong size", path, f"is {side}x{side}; {due}") for path, side in known if side != right
    ]


def _misplaced(listing: Listing) -> list[Defect]:
    """Part files outside the sub-folder i // 2000, where the dataset's own tools would not find them."""
    found = []
    for item, parts in listing.parts.items():
        right = str(int(item) // 2000)
        for _, file in sorted(parts.items()):
            folder, name = PurePosixPath(file).parent.name, PurePosixPath(file).name
            if folder != right:
                found.append(Defect("misplaced file", file, f"expected in {listing.mask_folder}/{right}/"))
            elif not name.startswith(f"{int(item):05d}_"):
                found.append(Defect("unknown file name", file, f"expected {int(item):05d}{name[name.index('_') :]}"))
    return found


# ------------------------------------------------------------------------------------------------------- the captions


def _check_captions(listing: Listing, result: Verification) -> None:
    """Check every caption file against itself and against the faces that are there."""
    files = caption_files(listing.root)
    result.counts["captions"] = 0
    if not files:
        result.notes.append("no caption file: the faces have no captions")
    for path in files:
        name = path.relative_to(listing.root).as_posix()
        try:
            content, repeated = _load_json(path)
        except ConcordError as error:
            result.defects.append(Defect("broken JSON", name, str(error).removeprefix(f"{path}: ")))
            continue
        kind = kind_of(content, path.name)
        if kind is None:
            result.defects.append(Defect("missing key", name, "no entry holds a caption"))
            continue
        result.defects += [Defect("duplicate caption", name, f"entry '{key}' occurs twice") for key in repeated]
        result.defects += [Defect(bad.kind, name, bad.fact) for bad in bad_entries(content, kind)]
        _match_captions(listing, name, content, result)


def _load_json(path: Path) -> tuple[Any, list[str]]:
    """The content, and the keys that occur twice in one object (JSON readers silently keep the last)."""
    repeated: list[str] = []

    def pairs(entries: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(entries)) < len(entries):
            repeated.extend(key for key, count in Counter(key for key, _ in entries).items() if count > 1)
        return dict(entries)

    return parse_json(read_text(path, "a JSON file"), str(path), pairs), repeated


def _match_captions(listing: Listing, name: str, content: dict[str, Any], result: Verification) -> None:
    """Faces without a caption, captions without a face, two captions for one face."""
    faces, keys = set(listing.ids), dict[str, str]()
    for key in content:
        if keys.setdefault(item_id(key), key) != key:
            first = keys[item_id(key)]
            result.defects.append(Defect("duplicate caption", name, f"entries '{first}' and '{key}' name one face"))
    what = "image" if listing.image_folder else "mask"
    for item in listing.ids:
        if item not in keys and item in KNOWN_MISSING:
            result.notes.append(f"{name}: face {item} has no caption; {KNOWN_MISSING[item]}")
        elif item not in keys:
            file = listing.images.get(item) or listing.mask_files(item)[0][1]
            kind = "image without caption" if item in listing.images else "mask without caption"
            result.defects.append(Defect(kind, file, f"expected an entry '{item}.jpg' in {name}"))
    for item, key in keys.items():
        if item not in faces and item in KNOWN_MISSING:
            result.notes.append(f"{name}: entry '{key}' has no {what}; {KNOWN_MISSING[item]}")
        elif item not in faces:
            place = listing.image_folder if what == "image" else listing.mask_folder
            result.defects.append(Defect(f"caption without {what}", name, f"entry '{key}' has no {what} in {place}/"))
    result.counts["captions"] += len(keys)


def summary(result: Verification) -> str:
    """One line that says how the run ended."""
    if not result.defects:
        return f"{result.root}: clean, no defects in {result.counts['faces']} faces"
    kinds = ", ".join(f"{count} {kind}" for kind, count in result.by_kind().items())
    number = len(result.defects)
    return f"{result.root}: {number:,} defect{'s' if number > 1 else ''} ({kinds}); mend or remove what is listed"
