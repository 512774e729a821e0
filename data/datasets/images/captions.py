"""Captions of a set of images: one for each, out of a file.

    .txt             one line for each image, in order
    .json            a list in order, {image: caption}, or records as in .jsonl
    .jsonl, .csv     records of an image (`IMAGE_KEYS`) and a caption (`CAPTION_KEYS`)

An image is named by its path in the set, or by less of it (no suffix, no folder, the number alone) where that means one
image. An image with two captions, a key that stands twice, a name that may mean two images: all are refused. Captions
of images that are not in the set are left, and that is said.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from concord.data.datasets.images.pairing import Names
from concord.data.errors import ConcordError
from concord.data.files import read_json, read_json_lines, read_text, text_lines
from concord.data.notes import note

if TYPE_CHECKING:
    from concord.data.datasets.images.image_sets import ImageSet

IMAGE_KEYS = ("image", "file_name", "filename", "image_file", "image_path", "path", "file", "image_id", "name", "id")
"""Keys of a record that may name its image, in the order in which they are tried: `id` is often the caption's own."""
CAPTION_KEYS = ("caption", "text", "prompt")

Rows = list[tuple[int, Mapping[str, Any]]]  # (line, record)


LINES = ("", ".txt", ".text", ".caption", ".captions")
"""How files are called that hold a caption a line."""


def read_captions(path: Path, images: ImageSet) -> list[str]:
    """One caption for each image, in its order; ConcordError naming the image with none, several or an empty one."""
    kind = path.suffix.lower()
    if kind == ".json":
        content = read_json(path)
        if isinstance(content, list) and content and all(isinstance(row, Mapping) for row in content):
            return _of_records(path, list(enumerate(content, 1)), images)
        if isinstance(content, list):
            return _in_order(path, content, images)
        if not isinstance(content, Mapping):
            raise ConcordError(f"{path}: expected a list of captions or a mapping of image to caption")
        return _by_name(path, list(content.items()), images)
    if kind == ".jsonl":
        return _of_records(path, _json_records(path), images)
    if kind == ".csv":
        return _of_records(path, _csv_records(path), images)
    if kind not in LINES:
        raise ConcordError(
            f"{path}: captions in a {kind} file; expected .json, .jsonl, .csv, or .txt with a caption a line"
        )
    return _in_order(path, text_lines(read_text(path, "a file of captions")), images)


def _in_order(path: Path, found: Sequence[Any], images: ImageSet) -> list[str]:
    if len(found) != len(images):
        raise ConcordError(f"{path}: {len(found)} captions for {len(images)} images; expected one for each, in order")
    for name, caption in zip(images.names, found, strict=True):
        _check(path, name, caption)
    return list(found)


def _check(path: Path, name: str, caption: Any) -> None:
    if not isinstance(caption, str) or not caption.strip():
        raise ConcordError(f"{path}: the caption of '{name}' is empty or no text; expected a sentence")


def _by_name(path: Path, pairs: Sequence[tuple[str, Any]], images: ImageSet) -> list[str]:
    """Captions by the name of their image."""
    if not images.named:
        raise ConcordError(f"{path}: captions by name, but {images.label} has no names; give a list in order")
    names = Names(images.names)
    found: dict[int, tuple[str, Any]] = {}
    others: list[str] = []
    for key, caption in pairs:
        place = names.find(key, str(path))
        if place is None:
            others.append(key)
        elif place in found:
            raise ConcordError(
                f"{path}: '{images.names[place]}' has two captions, by '{found[place][0]}' and by '{key}'; expected "
                "one for each image: keep one of them"
            )
        else:
            found[place] = key, caption
    lacking = [name for place, name in enumerate(images.names) if place not in found]
    if lacking:
        raise ConcordError(f"{path}: no caption for '{lacking[0]}' ({len(lacking)} of {len(images)} have none)")
    if others:
        note(
            f"{path}: {len(others)} captions are of no image in {images.label} and are left, the first is '{others[0]}'"
        )
    for place, name in enumerate(images.names):
        _check(path, name, found[place][1])
    return [found[place][1] for place in range(len(images))]


def _of_records(path: Path, rows: Rows, images: ImageSet) -> list[str]:
    """Captions out of records: by the first key that all of them have and that names images."""
    wanted = f"an image ({', '.join(IMAGE_KEYS)}) and a caption ({', '.join(CAPTION_KEYS)})"
    if not rows:
        raise ConcordError(f"{path}: holds no records; expected {wanted} in each")
    keys = [key for key in IMAGE_KEYS if all(_names(row.get(key)) for _, row in rows)]
    texts = [key for key in CAPTION_KEYS if all(key in row for _, row in rows)]
    if not keys or not texts:
        known = [set(IMAGE_KEYS), set(CAPTION_KEYS)]
        bad = next((line for line, row in rows if not all(one & row.keys() for one in known)), rows[0][0])
        raise ConcordError(f"{path}, line {bad}: expected {wanted}, under the same keys in every record")
    if len(texts) > 1:
        note(f"{path}: captions are read from '{texts[0]}', not from '{texts[1]}'")
    if not images.named:
        raise ConcordError(f"{path}: captions by name, but {images.label} has no names; give a list in order")
    names = Names(images.names)
    known_by = [key for key in keys if any(_may_find(names, row[key]) for _, row in rows)]
    key = (known_by or keys)[0]
    return _by_name(path, [(str(row[key]), row[texts[0]]) for _, row in rows], images)


def _names(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip() != ""


def _may_find(names: Names, key: Any) -> bool:
    try:
        return names.find(str(key), "") is not None
    except ConcordError:
        return True  # it means several: that is complained of where it counts


def _json_records(path: Path) -> Rows:
    rows: Rows = []
    for number, row in read_json_lines(path):
        if not isinstance(row, Mapping):
            raise ConcordError(f"{path}, line {number}: is no object; expected one record a line")
        rows.append((number, row))
    return rows


def _csv_records(path: Path) -> Rows:
    text = read_text(path, "a file of captions")
    if "\0" in text:
        raise ConcordError(f"{path}: holds zero bytes; expected a CSV file")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: Rows = []
    try:
        head = next(reader, [])
        twice = next((name for name in head if head.count(name) > 1), None)
        if twice is not None:
            raise ConcordError(f"{path}, line 1: column '{twice}' stands twice; keep one of them")
        for row in reader:
            if not row:
                continue
            if len(row) != len(head):
                raise ConcordError(
                    f"{path}, line {reader.line_num}: has {len(row)} fields; expected {len(head)}, as in the first "
                    "line (put a caption with a comma in quotes)"
                )
            rows.append((reader.line_num, dict(zip(head, row, strict=True))))
    except csv.Error as error:
        raise ConcordError(f"{path}, line {reader.line_num}: not readable as CSV ({error})") from None
    return rows
