"""SynthScenes on disk: COCO-MIG's own JSON, and beside it what COCO-MIG does not have.

    mig_bench.json        {"0": {"caption", "segment": [{"bbox", "label"}, ...], "image_id"}, ...}
    (data/datasets/layouts/layout.py)
    images/{id}.png       64 x 64 RGB
    instances/{id}.png    64 x 64, 1 + the number of the instance that is seen, 0 where none is
    styles/{id}.png       64 x 64 RGB, other things on the same ground: the reference for a scene's palette and texture
    interactions.json     {"0": [[subject, "link", object], ...], ...}: instances by their number
    world.json            world seed, versions of renderer and folder, range of scenes

A COCO-MIG file without the rest is read too: its layouts have no images.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from concord.data.datasets.layouts.dataset import STYLES
from concord.data.datasets.layouts.layout import FILES, LayoutSet, coco_mig_entries, inspect_layouts
from concord.data.errors import ConcordError
from concord.data.files import read_json
from concord.data.progress import watched
from concord.data.synthetic.faces.tree import _new_folder, _write_json
from concord.data.synthetic.faces.world import available_cores
from concord.data.synthetic.scenes.scene import (
    INTERACTIONS,
    RENDERER_VERSION,
    SIZE,
    WORLD_SEED,
    Scene,
    reference,
    scene,
)

WORLD = "world.json"
TREE_VERSION = "2"  # of the folder: 1 had no styles
_NOTE = "SynthScenes: drawn objects in boxes, in the layout of COCO-MIG."


def iter_scenes(
    indices: range, world_seed: int = WORLD_SEED, workers: int | None = None, progress: bool = False
) -> Iterator[Scene]:
    """Draw scenes one after the other, in their order, on `workers` processes (default: all cores)."""
    jobs = [(index, world_seed) for index in indices]
    workers = max(1, min(workers if workers is not None else available_cores(), len(jobs) // 400 + 1))
    if workers == 1:
        yield from watched(map(_scene_of, jobs), "drawing scenes", len(jobs), progress)
        return
    import multiprocessing

    with multiprocessing.get_context("spawn").Pool(workers) as pool:  # as in data.synthetic.world
        yield from watched(pool.imap(_scene_of, jobs, chunksize=64), "drawing scenes", len(jobs), progress)


def _scene_of(job: tuple[int, int]) -> Scene:
    return scene(*job)


def world_of(indices: range, world_seed: int = WORLD_SEED) -> dict[str, Any]:
    """What world.json says of a folder: two that say the same hold the same."""
    return {
        "note": _NOTE,
        "world_seed": world_seed,
        "renderer_version": RENDERER_VERSION,
        "tree_version": TREE_VERSION,
        "scenes": len(indices),
        "indices": {"start": indices.start, "stop": indices.stop},
    }


def write_scenes(
    root: Path | str, indices: range, world_seed: int = WORLD_SEED, workers: int | None = None, progress: bool = True
) -> None:
    """Draw scenes and write them as a folder at `root`, which must not exist yet or be empty: whole or not at all."""
    root = Path(root)
    if not len(indices):
        raise ConcordError("indices: expected at least one scene")
    with _new_folder(root) as folder:
        for name in ("images", "instances", STYLES):
            (folder / name).mkdir()
        layouts, interactions = {}, {}
        for number, made in enumerate(iter_scenes(indices, world_seed, workers, progress)):
            Image.fromarray(made.image).save(folder / "images" / f"{made.index}.png")
            Image.fromarray(made.instances).save(folder / "instances" / f"{made.index}.png")
            Image.fromarray(reference(made.index, world_seed)).save(folder / STYLES / f"{made.index}.png")
            layouts[str(number)] = made.layout
            interactions[str(number)] = [list(triple) for triple in made.interactions]
        _write_json(folder / FILES[0], coco_mig_entries(layouts))
        _write_json(folder / "interactions.json", interactions)
        _write_json(folder / WORLD, world_of(indices, world_seed))


# -------------------------------------------------------------------------------------------------------------- reading


def is_layouts(path: Path) -> bool:
    """Whether a path is a layout file, or a folder with one: not a tree of faces."""
    if path.is_dir():
        return any((path / name).is_file() for name in FILES)
    return path.suffix.lower() in (".json", ".yaml", ".yml")


@dataclass(frozen=True)
class SceneTree:
    """Layouts with what lies beside them."""

    layouts: LayoutSet

    @property
    def root(self) -> Path:
        return self.layouts.path.parent

    @property
    def has_images(self) -> bool:
        return (self.root / "images").is_dir()

    def image(self, item: str) -> np.ndarray:
        """uint8 (H, W, 3) RGB of a layout's own image."""
        return _read(self.root / "images" / f"{self.layouts[item].image_id}.png", "RGB")

    def instances(self, item: str) -> np.ndarray:
        """uint8 (H, W): 1 + the number of the instance that is seen, 0 where none is."""
        return _read(self.root / "instances" / f"{self.layouts[item].image_id}.png", "L")

    def style(self, item: str) -> np.ndarray:
        """uint8 (H, W, 3) RGB: the reference image for a layout's palette and texture."""
        return _read(self.root / STYLES / f"{self.layouts[item].image_id}.png", "RGB")

    def interactions(self) -> dict[str, tuple[tuple[int, str, int], ...]]:
        """(subject, kind, object) of every layout; empty where the folder has no such file."""
        path = self.root / "interactions.json"
        if not path.is_file():
            return {}
        return {item: tuple((int(s), str(k), int(o)) for s, k, o in found) for item, found in read_json(path).items()}


def _read(path: Path, mode: str) -> np.ndarray:
    try:
        with Image.open(path) as image:
            if image.mode != mode:
                raise ConcordError(f"{path}: is of mode {image.mode}; expected {mode}")
            return np.asarray(image)
    except FileNotFoundError:
        raise ConcordError(f"{path}: no such file; make the folder anew (`concord data scenes`)") from None
    except (OSError, SyntaxError) as error:
        raise ConcordError(f"{path}: cannot be read ({error}); make the folder anew (`concord data scenes`)") from None


# ------------------------------------------------------------------------------------------------------------- checking


@dataclass
class SceneCheck:
    """What a whole run found. counts: layouts, instances, images, ...; defects: (kind, where, what)."""

    root: Path
    counts: dict[str, int] = field(default_factory=dict)
    defects: list[SceneDefect] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """The whole as JSON text."""
        kinds = dict(Counter(defect.kind for defect in self.defects))
        return json.dumps(
            {
                "root": self.root.as_posix(),
                "counts": self.counts,
                "kinds": kinds,
                "defects": [asdict(defect) for defect in self.defects],
                "notes": self.notes,
            },
            indent=1,
            ensure_ascii=False,
        )

    def summary(self) -> str:
        """One line: clean, or how many defects of which kinds."""
        if not self.defects:
            return f"{self.root}: no defects"
        kinds = Counter(defect.kind for defect in self.defects)
        listed = ", ".join(f"{n} x {kind}" for kind, n in kinds.items())
        return f"{self.root}: {len(self.defects)} defects ({listed})"


@dataclass(frozen=True)
class SceneDefect:
    """One thing that is wrong."""

    kind: str
    path: str
    detail: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.path}: {self.detail}"


def check_scenes(path: Path) -> SceneCheck:
    """Every defect of a layout file and of the images, instance maps and interactions beside it."""
    found = inspect_layouts(path)
    tree, result = SceneTree(found), SceneCheck(path)
    result.defects += [SceneDefect(d.kind, f"{found.path.name}, entry '{d.entry}'", d.detail) for d in found.defects]
    result.counts = {"layouts": len(found), "instances": found.instances, **found.counts}
    bench = found.bench
    result.notes.append(f"the published file '{bench}'" if bench else "none of the published files")
    if not tree.has_images:
        return result
    result.counts["images"] = sum(1 for _ in os.scandir(tree.root / "images"))
    triples: dict[str, Any] = {}
    try:
        triples = dict(tree.interactions())
    except (ConcordError, TypeError, ValueError, AttributeError) as error:
        result.defects.append(SceneDefect("broken interactions", "interactions.json", f"{error}; expected triples"))
    result.counts["interactions"] = sum(map(len, triples.values()))
    readers = [("images", tree.image), ("instances", tree.instances)]
    if (tree.root / STYLES).is_dir():
        readers.append((STYLES, tree.style))
    for item, layout in found.items():
        for folder, read in readers:
            name = f"{folder}/{layout.image_id}.png"
            try:
                pixels = read(item)
            except ConcordError as error:
                result.defects.append(SceneDefect("unreadable image", name, str(error).partition(": ")[2]))
                continue
            if pixels.shape[:2] != (SIZE, SIZE):
                detail = f"is {pixels.shape[1]} x {pixels.shape[0]}; expected {SIZE} x {SIZE}"
                result.defects.append(SceneDefect("image of the wrong size", name, detail))
            if folder == "instances":
                result.defects += _instance_defects(name, pixels, layout.level)
        for triple in triples.get(item, ()):
            if not _is_interaction(triple, layout.level):
                expected = f"two of the {layout.level} instances and one of {', '.join(INTERACTIONS)}"
                where = f"interactions.json, entry '{item}'"
                result.defects.append(SceneDefect("wrong interaction", where, f"{list(triple)}; expected {expected}"))
    return result


def _is_interaction(triple: tuple[int, str, int], level: int) -> bool:
    subject, kind, other = triple
    return kind in INTERACTIONS and subject != other and min(subject, other) >= 0 and max(subject, other) < level


def _instance_defects(name: str, pixels: np.ndarray, level: int) -> list[SceneDefect]:
    found = []
    if int(pixels.max()) > level:
        found.append(SceneDefect("instance out of range", name, f"holds {int(pixels.max())}; expected 0 to {level}"))
    unseen = sorted(set(range(1, level + 1)) - set(np.unique(pixels).tolist()))
    if unseen:
        found.append(SceneDefect("instance not seen", name, f"no pixel of instance {unseen[0] - 1}; expected some"))
    return found
