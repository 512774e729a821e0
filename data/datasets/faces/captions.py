"""Caption files of faces: which ones a folder has, and what they say.

- overall: CelebA-Dialog's captions_hq.json,
  {"0.jpg": {"attribute_wise_captions": {...}, "overall_caption": "..."}}
- beard-and-age: Collaborative Diffusion's captions_hq_beard_and_age_2022-08-19.json,
  {"0.jpg": {"Beard_and_Age": "..."}}
- plain: a user's own, {"0": "..."}; the key may carry the image's suffix
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from concord.data.errors import ConcordError
from concord.data.files import read_json
from concord.data.notes import note

KEYS = {"beard-and-age": "Beard_and_Age", "overall": "overall_caption"}  # kind -> the entry's key
KINDS = (*KEYS, "plain")  # in the order of preference
_SHAPES = {
    "beard-and-age": '{"0.jpg": {"Beard_and_Age": "..."}}',
    "overall": '{"0.jpg": {"overall_caption": "..."}}',
    "plain": '{"0": "..."}',
}
_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Captions:
    """The captions of one file: `texts` maps a face's id to its caption, in the order of the file."""

    path: Path
    kind: str
    texts: dict[str, str]


@dataclass(frozen=True)
class BadEntry:
    """An entry that cannot be used. `kind`: 'missing key' or 'empty caption'."""

    key: str
    kind: str
    fact: str


def item_id(name: str) -> str:
    """The id of a face from a file name or caption key: without suffix, and '00012' is '12'."""
    stem = name[: name.rindex(".")] if name.lower().endswith(_SUFFIXES) else name
    stem = unicodedata.normalize("NFC", stem)  # two ways to write an accent are one name
    return str(int(stem)) if stem.isascii() and stem.isdigit() and len(stem) < 100 else stem


def caption_files(root: Path) -> list[Path]:
    """The files that may hold captions, best first: captions*.json, else any *.json; in the folder or in its text/.

    Of several beard-and-age files (their names end in a date) the newest comes first.
    """
    places = [root, root / "text"]
    named = [path for place in places for path in sorted(place.glob("captions*.json"), reverse=True)]
    return named or [path for place in places for path in sorted(place.glob("*.json")) if _looks_like_captions(path)]


def kind_of(content: Any, name: str = "") -> str | None:
    """Which of `KINDS` a caption file is, by its entries, else by its file name; None when it is none of them."""
    if not isinstance(content, dict):
        return None
    for entry in content.values():  # the first entry that says it: one with a missing key must not hide the kind
        if isinstance(entry, str):
            return "plain"
        if isinstance(entry, dict):
            for kind, key in KEYS.items():
                if key in entry:
                    return kind
    if content and name.startswith("captions_hq"):
        return "beard-and-age" if "beard_and_age" in name else "overall"
    return None


def bad_entries(content: dict[str, Any], kind: str) -> Iterator[BadEntry]:
    """Every entry of a caption file of that kind without the key or with an empty caption."""
    for name, entry in content.items():
        text = entry if kind == "plain" else entry.get(KEYS[kind]) if isinstance(entry, dict) else None
        if not isinstance(text, str):
            wanted = "a caption (a string)" if kind == "plain" else f"the key '{KEYS[kind]}' with a caption"
            yield BadEntry(name, "missing key", f"entry '{name}' lacks {wanted}")
        elif not text.strip():
            yield BadEntry(name, "empty caption", f"entry '{name}' has an empty caption")


def load_captions(root: Path, kind: str = "auto") -> Captions | None:
    """The captions of a folder; None when it has no caption file and none was asked for by kind.

    `kind`: one of `KINDS`, or 'auto' for the first of them that the folder has. Another kind than the one asked for is
    never taken instead. Raises ConcordError naming the file and the first bad entry.
    """
    if kind not in ("auto", *KINDS):
        raise ConcordError(f"captions '{kind}': expected one of auto, {', '.join(KINDS)}")
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    files = caption_files(root)
    for path in files:
        content = read_json(path)
        sort = kind_of(content, path.name)
        if sort is None:
            shapes = " or ".join(_SHAPES.values())
            raise ConcordError(f"{path}: no entry holds a caption; expected {shapes}")
        if sort in found:
            note(f"{root}: captions of kind '{sort}' are read from {found[sort][0].name}, not from {path.name}")
        found.setdefault(sort, (path, content))
        if sort == (kind if kind != "auto" else KINDS[0]):
            break  # nothing better can come
    if kind != "auto" and kind not in found:
        has = ", ".join(f"{path.name} ({sort})" for sort, (path, _) in found.items()) or "no caption file"
        raise ConcordError(f"{root}: no captions of kind '{kind}', but {has}; ask for another or add {_SHAPES[kind]}")
    for sort in KINDS if kind == "auto" else (kind,):
        if sort in found:
            return _read(*found[sort], sort)
    return None


def _read(path: Path, content: dict[str, Any], kind: str) -> Captions:
    bad = next(bad_entries(content, kind), None)
    if bad is not None:
        raise ConcordError(
            f"{path}: {bad.fact}; expected {_SHAPES[kind]}; complete or remove the entry "
            "(`concord data verify` lists all)"
        )
    texts = {item_id(name): entry if kind == "plain" else entry[KEYS[kind]] for name, entry in content.items()}
    if len(texts) < len(content):
        raise ConcordError(f"{path}: two entries name the same face; expected one caption a face; remove one of them")
    return Captions(path, kind, texts)


def _looks_like_captions(path: Path) -> bool:
    """Whether a JSON file of any name holds captions; one that cannot be parsed counts, so that it is complained of."""
    try:
        return kind_of(read_json(path)) is not None
    except ConcordError:
        return True
