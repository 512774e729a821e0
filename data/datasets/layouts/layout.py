"""Layouts: boxes with a label each, and the two files in which the COCO-MIG benchmark is published.

    mig_bench.json (COCO-MIG, the one that AMDM's tables use)
        {"0": {"caption": "a photo of ...", "segment": [{"bbox": [x1, y1, x2, y2], "label": "a red bird"}, ...],
               "image_id": "500084"}, ...}
    mig_bench_anno.yaml (MIGC's own; another sample of layouts, none of them is in the other file)
        "a photo of a red bird and ...": {"a red bird": [[x1, y1, x2, y2], ...], ..., "coco_id": "6"}

Coordinates are shares of the image's width and height, in [0, 1], y downwards. An entry's level is its number of
instances: both files hold 160 prompts of each of the levels L2 to L6. A label is an article, one of seven colours and
a category ("a blue orange" is an orange that is blue). Keys that are not named here are left alone.

The published files are known by their SHA-256: scores on another sample of layouts do not compare with the papers', so
a suite names the file that it means.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from concord.data.errors import ConcordError
from concord.data.files import LARGEST_TEXT, parse_json, path_kind, read_bytes, read_text

COLOURS: tuple[str, ...] = ("black", "blue", "brown", "green", "red", "white", "yellow")
LEVELS: tuple[int, ...] = (2, 3, 4, 5, 6)
ARTICLES = ("a", "an")
BENCHES: dict[str, str] = {  # name -> how the SHA-256 of the published file begins
    "coco-mig": "11f9f72eea9c82e4c981d2d0ef62a513870a5cbec36c2d8d8860a933c55b7ca6",
    "migc": "25165519b657",
}
FILES = ("mig_bench.json", "mig_bench_anno.yaml")  # looked for where a folder is given
ROUNDING = 1e-9  # a box computed as (x + width) / image width may end that far above 1

KINDS = (
    "duplicate key",
    "missing key",
    "empty caption",
    "no instances",
    "wrong level",
    "malformed box",
    "box outside the image",
    "empty box",
    "malformed label",
    "unknown colour",
    "label without category",
)


# --------------------------------------------------------------------------------------------------------- one layout


@dataclass(frozen=True, eq=False)
class Layout:
    """What is to be where in one image.

    caption: of the whole image.
    boxes: float64 (N, 4): x1, y1, x2, y2 in [0, 1], x1 < x2 and y1 < y2; read-only.
    labels: N phrases ("a red bird"); `colours` (one of `COLOURS`, or None where none is asked for) and
        `categories` ("bird") are their parts.
    image_id: of the image that the boxes were taken from.
    interactions: (subject, kind, object), the instances by their number: such as (0, "holding", 2); COCO-MIG has none.

    Raises ConcordError where there is no box, a box is empty or outside the image, or an interaction names an instance
    that is not there, or the same one twice.
    """

    caption: str
    boxes: np.ndarray
    labels: tuple[str, ...]
    colours: tuple[str | None, ...]
    categories: tuple[str, ...]
    image_id: str = ""
    interactions: tuple[tuple[int, str, int], ...] = ()

    def __post_init__(self) -> None:
        boxes = np.array(self.boxes, dtype=np.float64)  # a copy, so that nobody else can change it
        n = len(boxes)
        if n == 0 or boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ConcordError(f"layout '{self.caption}': boxes of shape {boxes.shape}; expected (N, 4), N at least 1")
        if not len(self.labels) == len(self.colours) == len(self.categories) == n:
            raise ConcordError(f"layout '{self.caption}': {n} boxes but {len(self.labels)} labels; expected one each")
        for number, box in enumerate(boxes):
            wrong = _box_defect(box.tolist())
            if wrong:
                raise ConcordError(f"layout '{self.caption}': box {number} {wrong[1]}")
        for triple in self.interactions:
            if not is_interaction(triple, n):
                raise ConcordError(
                    f"layout '{self.caption}': interaction {_short(triple)}; expected (subject, kind, object), "
                    f"two different instances of 0..{n - 1}"
                )
        boxes.flags.writeable = False
        object.__setattr__(self, "boxes", boxes)

    @classmethod
    def of(
        cls,
        caption: str,
        boxes: Any,
        labels: Sequence[str],
        image_id: str = "",
        interactions: Sequence[tuple[int, str, int]] = (),
    ) -> Layout:
        """A layout from its labels, each split into colour and category; a label without one of `COLOURS` has none."""
        colours, categories = zip(*map(split_label, labels), strict=True) if labels else ((), ())
        return cls(caption, boxes, tuple(labels), colours, categories, image_id, tuple(interactions))

    @property
    def level(self) -> int:
        """The number of instances, N: 2 to 6 in COCO-MIG, written L2 to L6."""
        return len(self.boxes)


def is_interaction(triple: Any, level: int) -> bool:
    """Whether a triple is (subject, kind, object) of two different ones of a layout's `level` instances."""
    if not isinstance(triple, tuple) or len(triple) != 3 or not isinstance(triple[1], str) or not triple[1].strip():
        return False
    ends = (triple[0], triple[2])
    numbers = all(isinstance(end, int) and not isinstance(end, bool) and 0 <= end < level for end in ends)
    return numbers and ends[0] != ends[1]


def split_label(label: str) -> tuple[str | None, str]:
    """'a red bird' -> ('red', 'bird'); a label without one of `COLOURS` keeps all its words: (None, 'teddy bear')."""
    words = label.split()
    if words and words[0].lower() in ARTICLES:
        words = words[1:]
    colour = words[0] if words and words[0] in COLOURS else None
    category = " ".join(words[1:] if colour else words)
    if not category:
        raise ConcordError(f"label '{label}': names no category; expected such as 'a red bird'")
    return colour, category


def _box_defect(box: Any) -> tuple[str, str] | None:
    """(kind, what is wrong and what was expected) of one box as it lies in a file; None where it is sound."""
    numbers = isinstance(box, list) and all(isinstance(x, int | float) and not isinstance(x, bool) for x in box)
    if not numbers or len(box) != 4 or not all(map(math.isfinite, box)):
        return "malformed box", f"is {_short(box)}; expected four numbers x1, y1, x2, y2"
    x1, y1, x2, y2 = box
    if min(box) < 0 or max(box) > 1 + ROUNDING:
        return "box outside the image", f"is {_short(box)}; expected shares of the image's size, 0 to 1"
    if x1 >= x2 or y1 >= y2:
        return "empty box", f"is {_short(box)}; expected x1 < x2 and y1 < y2"
    return None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."


# ------------------------------------------------------------------------------------------------------ a file of them


@dataclass(frozen=True)
class Defect:
    """One thing that is wrong in a file. `kind`: one of `KINDS`; `entry`: its key; `detail`: found and expected."""

    kind: str
    entry: str
    detail: str

    def __str__(self) -> str:
        return f"entry '{self.entry}': {self.kind}: {self.detail}"


@dataclass
class LayoutSet(Mapping[str, Layout]):
    """The layouts of one file by id, in its order: the entry's key in the JSON, `coco_id` in the YAML.

    Entries with a defect are not among them. sha256: of the file.
    """

    path: Path
    sha256: str
    layouts: dict[str, Layout] = field(default_factory=dict)
    defects: list[Defect] = field(default_factory=list)

    def __getitem__(self, item: str) -> Layout:
        return self.layouts[item]

    def __iter__(self) -> Iterator[str]:
        return iter(self.layouts)

    def __len__(self) -> int:
        return len(self.layouts)

    @property
    def bench(self) -> str | None:
        """Which of the published files it is, byte for byte: a key of `BENCHES`, or None."""
        return next((name for name, digest in BENCHES.items() if self.sha256.startswith(digest)), None)

    @cached_property
    def counts(self) -> dict[str, int]:
        """Number of layouts of each level that occurs: {'L2': 160, ...}."""
        found = Counter(layout.level for layout in self.layouts.values())
        return {f"L{level}": found[level] for level in sorted(found)}

    @property
    def instances(self) -> int:
        """Number of instances of all layouts."""
        return sum(layout.level for layout in self.layouts.values())


def open_layouts(
    path: Path | str, bench: str | None = None, levels: Collection[int] = LEVELS, colours: bool = True
) -> LayoutSet:
    """Read a layout file without defects.

    path: the file (.json, .yaml), or a folder with one of `FILES`.
    bench: a key of `BENCHES`: the file has to be that published one, byte for byte.
    levels: the numbers of instances that an entry may have. colours: whether every label has to name one.
    Raises ConcordError naming the first defect and the number of others, or both hashes where it is another file.
    """
    found = inspect_layouts(path, levels, colours)
    if bench is not None and found.bench != bench:
        if bench not in BENCHES:
            raise ConcordError(f"layouts '{bench}': unknown; expected one of {', '.join(BENCHES)}")
        raise ConcordError(
            f"{found.path}: SHA-256 is {found.sha256[:12]}..., that of '{bench}' {BENCHES[bench][:12]}...; scores on "
            "other layouts do not compare with the papers': fetch the published file, or leave the name out"
        )
    if found.defects:
        more = f" (and {len(found.defects) - 1} more defects)" if len(found.defects) > 1 else ""
        raise ConcordError(f"{found.path}: {found.defects[0]}{more}; mend the file or fetch it again")
    if not found.layouts:
        raise ConcordError(f"{found.path}: holds no layouts; expected entries such as COCO-MIG's")
    return found


def inspect_layouts(path: Path | str, levels: Collection[int] = LEVELS, colours: bool = True) -> LayoutSet:
    """Read a layout file and list every defect of it; ConcordError only where it cannot be read at all."""
    file = _find(Path(path))
    content = read_bytes(file, "a file of layouts", LARGEST_TEXT)
    result = LayoutSet(file, hashlib.sha256(content).hexdigest())
    yaml = file.suffix.lower() in (".yaml", ".yml")
    entries = (_yaml_entries if yaml else _json_entries)(file, content, result.defects)
    for key, caption, image_id, pairs in entries:
        _add(result, key, caption, image_id, pairs, levels, colours)
    return result


def _find(path: Path) -> Path:
    kind = path_kind(path)
    if kind != "folder":
        if kind == "none":
            raise ConcordError(f"{path}: no such file; expected a layout file such as {FILES[0]}")
        return path
    found = next((path / name for name in FILES if (path / name).is_file()), None)
    if found is None:
        raise ConcordError(f"{path}: no layouts here; expected {' or '.join(FILES)}, or give the file itself")
    return found


Pairs = list[tuple[Any, Any]] | None  # (box, label) as they lie in the file; None where the entry has no such list
Entry = tuple[str, Any, Any, Pairs]  # key, caption, image_id, pairs


class _Repeated(dict[str, Any]):
    """A JSON object that remembers the keys that occur twice, of which `json` silently keeps the last."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.repeated = [key for key, n in Counter(key for key, _ in pairs).items() if n > 1]


def _json_entries(file: Path, content: bytes, defects: list[Defect]) -> Iterator[Entry]:
    tree = parse_json(read_text(file, f"a file such as {FILES[0]}"), str(file), _Repeated)
    if not isinstance(tree, _Repeated):
        raise ConcordError(f'{file}: holds no object; expected {{"0": {{"caption": ..., "segment": [...]}}, ...}}')
    defects += [Defect("duplicate key", key, "occurs twice; expected every key once") for key in tree.repeated]
    for key, entry in tree.items():
        if not isinstance(entry, dict):
            defects.append(Defect("missing key", key, f"is {_short(entry)}; expected an object with 'caption'"))
            continue
        lacking = [name for name in ("caption", "segment", "image_id") if name not in entry]
        if lacking:
            defects.append(Defect("missing key", key, f"lacks '{lacking[0]}'"))
            continue
        inner = [entry, *(entry["segment"] if isinstance(entry["segment"], list) else ())]
        twice = [name for part in inner if isinstance(part, _Repeated) for name in part.repeated]
        if twice:
            defects.append(Defect("duplicate key", key, f"'{twice[0]}' occurs twice in it; expected every key once"))
            continue
        segments = entry["segment"]
        if not isinstance(segments, list):
            yield key, entry["caption"], entry["image_id"], None
            continue
        parts = [part if isinstance(part, dict) else {} for part in segments]
        yield key, entry["caption"], entry["image_id"], [(part.get("bbox"), part.get("label")) for part in parts]


def _yaml_entries(file: Path, content: bytes, defects: list[Defect]) -> Iterator[Entry]:
    from concord.data.schema import PlainLoader, parse_yaml

    class Loader(PlainLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            twice = next((str(key) for key, n in Counter(map(str, keys)).items() if n > 1), None)
            if twice is not None:
                defects.append(Defect("duplicate key", twice, "occurs twice; expected every key once"))
            return super().construct_mapping(node, deep)

    tree = parse_yaml(read_text(file, f"a file such as {FILES[1]}"), str(file), Loader)
    if not isinstance(tree, dict):
        raise ConcordError(f"{file}: holds no mapping; expected captions with their boxes, as in {FILES[1]}")
    seen: set[str] = set()
    for caption, entry in tree.items():
        if not isinstance(entry, dict) or "coco_id" not in entry:
            defects.append(Defect("missing key", _short(caption), "lacks 'coco_id'"))
            continue
        key = str(entry["coco_id"])
        if key in seen:
            defects.append(Defect("duplicate key", key, f"is the 'coco_id' of two captions, one is {_short(caption)}"))
            continue
        seen.add(key)
        boxes = {label: found for label, found in entry.items() if label != "coco_id"}
        if not all(isinstance(found, list) for found in boxes.values()):
            yield key, caption, key, None
            continue
        yield key, caption, key, [(box, label) for label, found in boxes.items() for box in found]


def _add(
    result: LayoutSet, key: str, caption: Any, image_id: Any, pairs: Pairs, levels: Collection[int], colours: bool
) -> None:
    """Add the entry to the layouts, or what is wrong with it to the defects."""
    found: list[Defect] = []
    if not isinstance(caption, str) or not caption.strip():
        found.append(Defect("empty caption", key, f"caption is {_short(caption)}; expected a sentence"))
    if not pairs:
        found.append(Defect("no instances", key, "has no list of boxes; expected one for each instance"))
    elif len(pairs) not in levels:
        wanted = ", ".join(map(str, sorted(levels)))
        found.append(Defect("wrong level", key, f"has {len(pairs)} instances; expected one of {wanted}"))
    for number, (box, label) in enumerate(pairs or []):
        wrong = _box_defect(box)
        if wrong:
            found.append(Defect(wrong[0], key, f"box {number} {wrong[1]}"))
        found += _label_defects(key, number, label, colours)
    result.defects += found
    if not found:
        assert pairs is not None
        boxes, labels = zip(*pairs, strict=True)
        result.layouts[key] = Layout.of(caption.strip(), boxes, labels, str(image_id))


def _label_defects(key: str, number: int, label: Any, colours: bool) -> list[Defect]:
    if not isinstance(label, str) or not label.strip():
        return [Defect("malformed label", key, f"label {number} is {_short(label)}; expected such as 'a red bird'")]
    try:
        colour, _ = split_label(label)
    except ConcordError:
        return [Defect("label without category", key, f"label {number} is '{label}'; expected such as 'a red bird'")]
    if colour is None and colours:
        known = ", ".join(COLOURS)
        return [Defect("unknown colour", key, f"label {number} is '{label}'; expected one of the colours {known}")]
    return []


def coco_mig_entries(layouts: Mapping[str, Layout]) -> dict[str, Any]:
    """The content of a COCO-MIG JSON file with these layouts, by id; `concord.data.files.write_json` writes it."""
    return {
        key: {
            "caption": layout.caption,
            "segment": [
                {"bbox": box, "label": label} for box, label in zip(layout.boxes.tolist(), layout.labels, strict=True)
            ],
            "image_id": layout.image_id,
        }
        for key, layout in layouts.items()
    }
