"""Layouts as the items of a dataset: COCO-MIG's own file, or a drawn tree with images and interactions beside it.

    mig_bench.json        the layouts (data/datasets/layouts/layout.py); this file alone makes a dataset without
    images
    images/{id}.png       a layout's own image, by its `image_id`
    styles/{id}.png       the reference image that its request is given for palette and texture
    interactions.json     {"0": [[subject, "link", object], ...], ...}: instances by their number

The items come level by level in turn (an L2, an L3, ..., an L6, the next L2, ...), in the file's order within a level,
so that the first n of them hold equally many of each level, up to one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from concord.data.content import content_digest
from concord.data.datasets.item import Dataset, Item
from concord.data.datasets.layouts.layout import Layout, LayoutSet, is_interaction, open_layouts
from concord.data.errors import ConcordError
from concord.data.files import read_json
from concord.data.images import read_image
from concord.data.notes import note

IMAGES = "images"
STYLES = "styles"
INTERACTIONS = "interactions.json"


@dataclass(frozen=True)
class LayoutItem(Item):
    """One layout. `id` is its key in the file ('17')."""

    id: str
    layout: Layout
    root: Path
    image_file: str | None  # relative to root
    style_file: str | None = None
    text: str = field(init=False)  # the layout's caption

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", self.layout.caption)

    @property
    def has_layout(self) -> bool:
        return True

    def layout_of(self) -> Layout:
        return self.layout

    def facts(self) -> dict[str, Any]:
        """Its number of instances and of interactions."""
        return {"level": self.layout.level, "interactions": len(self.layout.interactions)}

    @property
    def has_image(self) -> bool:
        return self.image_file is not None

    def image(self, size: int | None = None) -> np.ndarray:
        """The layout's own image, uint8 (size, size, 3) RGB, box-averaged; in its own size where none is given."""
        if self.image_file is None:
            raise ConcordError(f"layout {self.id}: has no image; expected {IMAGES}/{self.layout.image_id}.png")
        return read_image(self.root / self.image_file, size)

    def style(self, size: int) -> np.ndarray | None:
        """The tree's own style reference, uint8 (size, size, 3) RGB; None where it has none."""
        return None if self.style_file is None else read_image(self.root / self.style_file, size)


@dataclass(frozen=True)
class LayoutDataset(Dataset[LayoutItem]):
    """The layouts of one file with what lies beside it. bench: which published file it is, if any."""

    root: Path
    name: str
    bench: str | None
    items: list[LayoutItem]

    def __getitem__(self, item: str) -> LayoutItem:
        """The layout of that id; ConcordError when there is none."""
        try:
            return self._by_id[item]
        except KeyError:
            some = ", ".join(one.id for one in self.items[:3])
            raise ConcordError(f"{self.root}: no layout '{item}'; expected an id such as {some}") from None

    @cached_property
    def _by_id(self) -> dict[str, LayoutItem]:
        return {item.id: item for item in self.items}

    def with_items(self, items: Sequence[LayoutItem]) -> LayoutDataset:
        return replace(self, items=list(items))

    @cached_property
    def listing(self) -> str:
        """SHA-256 over the layouts with their interactions, and the names and sizes of their images."""
        digest = hashlib.sha256()
        for item in self.items:
            layout = item.layout
            facts = [item.id, layout.caption, layout.boxes.tolist(), layout.labels, layout.interactions]
            digest.update(json.dumps(facts).encode() + b"\n")
            for name in (item.image_file, item.style_file):
                if name is None:
                    continue
                try:
                    size = (self.root / name).stat().st_size
                except OSError as error:
                    where = self.root / name
                    raise ConcordError(f"{where}: gone since the dataset was opened ({error.strerror})") from None
                digest.update(f"{name}\x00{size}\n".encode())
        return digest.hexdigest()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the listing and the bytes of every image; unchanged files are not read again."""
        files = [name for item in self.items for name in (item.image_file, item.style_file) if name is not None]
        return content_digest(self.listing, self.root, files)


def open_layout_items(path: Path | str, bench: str | None = None) -> LayoutDataset:
    """Open a file of layouts, or a folder with one and what lies beside it; `bench` as in
    `concord.data.datasets.layouts.layout.open_layouts`.

    Raises ConcordError naming the file and the entry where a layout has a defect, or an interaction is none between
    two different instances of its layout.
    """
    layouts = open_layouts(path, bench)
    root = layouts.path.parent
    triples = read_interactions(root / INTERACTIONS, layouts)
    folders = [name for name in (IMAGES, STYLES) if (root / name).is_dir()]
    items = []
    for item, layout in layouts.items():
        files = {name: f"{name}/{layout.image_id}.png" for name in folders}
        there = {name: file for name, file in files.items() if (root / file).is_file()}
        known = replace(layout, interactions=triples.get(item, ()))
        items.append(LayoutItem(item, known, root, there.get(IMAGES), there.get(STYLES)))
    without = [item for item in items if item.image_file is None]
    if IMAGES in folders and without:
        note(
            f"{root}: {len(without)} of {len(items)} layouts have no image in {IMAGES}/, the first is {without[0].id} "
            f"(expected {IMAGES}/{without[0].layout.image_id}.png)"
        )
    return LayoutDataset(root, root.resolve().name, layouts.bench, in_turn(items))


def in_turn(items: Iterable[LayoutItem]) -> list[LayoutItem]:
    """One item of each level after the other, levels from the lowest up, in their order within a level."""
    levels: dict[int, list[LayoutItem]] = {}
    for item in items:
        levels.setdefault(item.layout.level, []).append(item)
    rounds = zip_longest(*(levels[level] for level in sorted(levels)))
    return [item for item in chain.from_iterable(rounds) if item is not None]


def read_interactions(path: Path, layouts: LayoutSet) -> dict[str, tuple[tuple[int, str, int], ...]]:
    """(subject, kind, object) of every layout that has some; empty where there is no such file."""
    if not path.is_file():
        return {}
    content = read_json(path)
    if not isinstance(content, dict):
        raise ConcordError(f'{path}: holds no object; expected {{"0": [[0, "link", 1], ...], ...}}')
    found = {}
    for item, triples in content.items():
        if item not in layouts:
            raise ConcordError(f"{path}, entry '{item}': {layouts.path.name} has no such layout; make the folder anew")
        level, listed = layouts[item].level, isinstance(triples, list)
        given = tuple(tuple(one) if isinstance(one, list) else one for one in (triples if listed else ()))
        wrong = [one for one in given if not is_interaction(one, level)]
        if wrong or not listed:
            what = json.dumps(wrong[0] if wrong else triples)[:80]
            raise ConcordError(
                f"{path}, entry '{item}': {what}; expected [subject, kind, object], two different instances of "
                f"0..{level - 1}"
            )
        found[item] = given
    return found
