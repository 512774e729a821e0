"""The embedded worlds on disk: faces and scenes are drawn where they are missing, and left where they are whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from concord.data.errors import ConcordError
from concord.data.files import read_json, write_json

FINGERPRINT = "fingerprint.json"
PLAIN_SPLITS = ("train", "validation")
"""Splits of faces that are drawn without identity references."""
WORLD = "world.json"
"""What a drawn tree says about itself (data/synthetic/faces/tree.py)."""


def face_range(split: str, n: int | None) -> range:
    """The faces of a split by name, or of a range 'N..M'; the first `n` of them."""
    from concord.data.synthetic import SPLITS

    if split in SPLITS:
        faces = SPLITS[split]
    else:
        world = max(part.stop for part in SPLITS.values())
        first, dots, last = split.partition("..")
        if not (dots and first.isdecimal() and last.isdecimal() and int(first) < int(last) <= world):
            known = ", ".join(SPLITS)
            raise ConcordError(f"--split {split}: expected {known}, or FIRST..LAST with 0 <= FIRST < LAST <= {world}")
        faces = range(int(first), int(last))
    return faces if n is None else faces[:n]


def make_faces(
    out: Path, faces: range, *, workers: int | None = None, force: bool = False, references: bool = False
) -> str:
    """Write one tree, unless it is there; returns what was done, in a line.

    Its fingerprint is kept with it, to tell later whether it still is whole.
    """
    from concord.data.datasets.faces.open import open_faces
    from concord.data.synthetic import write_tree

    what = f"faces {faces.start}..{faces.stop}"
    if out.is_dir() and any(out.iterdir()):
        problem = _difference(out, faces, references)
        if problem is None:
            return f"{out}: {len(faces):,} {what} are there already; nothing to do"
        if not (out / "world.json").is_file():
            raise ConcordError(f"{out}: holds other files; expected a new or empty folder; choose another --out")
        if not force:
            raise ConcordError(
                f"{out}: {problem}; expected {what}; add --force to write it anew, or choose another --out"
            )
        shutil.rmtree(out)
    write_tree(out, faces, workers=workers, references=references)
    write_json(out / FINGERPRINT, {"fingerprint": open_faces(out, "all").listing})
    return f"{out}: {len(faces):,} {what} written"


def _difference(out: Path, faces: range, references: bool) -> str | None:
    """What is wrong with the tree that is there; None when it holds these very faces and is whole."""
    from concord.data.datasets.faces.open import open_faces
    from concord.data.synthetic import WORLD_SEED
    from concord.data.synthetic.faces.world import RENDERER_VERSION

    try:
        world, kept = read_json(out / "world.json"), read_json(out / FINGERPRINT)
        dataset = open_faces(out, "all")
    except ConcordError:
        return "is damaged or was not finished"
    if not isinstance(world, dict) or not isinstance(kept, dict):
        return "is damaged or was not finished"
    if (world.get("world_seed"), world.get("renderer_version")) != (WORLD_SEED, RENDERER_VERSION):
        return "holds faces of another world or renderer"
    if [face.id for face in dataset] != [str(i) for i in faces]:
        return f"holds {len(dataset):,} other faces, from {dataset.items[0].id} to {dataset.items[-1].id}"
    if references and not world.get("identity_references"):
        return "has no identity references"
    return None if kept.get("fingerprint") == dataset.listing else "is damaged: files are missing or have changed"


def ensure_faces(
    folder: Path, split: str, n: int, references: bool = False, say: Callable[[str], None] = print
) -> None:
    """Make sure that `folder` holds at least the first `n` faces of a split, with identity references where asked.

    Faces that are drawn again are the same to the byte.
    """
    from concord.data.synthetic import SPLITS

    n = min(n, len(SPLITS[split]))
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / WORLD).is_file():
            return
        faces, whole = _drawn(folder, references)
        if whole and faces >= n:
            return
        n = max(n, faces)  # whoever drew more has a use for them
    references = split not in PLAIN_SPLITS
    say(make_faces(folder, face_range(split, n), force=True, references=references))


def make_scenes(
    folder: Path, split: str, n: int | None = None, *, workers: int | None = None, force: bool = False
) -> str:
    """Write the first `n` scenes of a split, unless the folder holds them; returns what was done, in a line."""
    from concord.data.synthetic.scenes.scene import SPLITS
    from concord.data.synthetic.scenes.tree import WORLD, world_of, write_scenes

    if split not in SPLITS:
        raise ConcordError(f"--split {split}: expected one of {', '.join(SPLITS)}")
    indices = SPLITS[split] if n is None else SPLITS[split][:n]
    what = f"scenes {indices.start}..{indices.stop}"
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / WORLD).is_file():
            raise ConcordError(f"{folder}: holds other files; expected a new or empty folder; choose another --out")
        if read_json(folder / WORLD) == world_of(indices):
            return f"{folder}: {len(indices):,} {what} are there already; nothing to do"
        if not force:
            raise ConcordError(f"{folder}: holds other scenes; expected {what}; add --force, or choose another --out")
        shutil.rmtree(folder)
    write_scenes(folder, indices, workers=workers)
    return f"{folder}: {len(indices):,} {what} written"


def ensure_scenes(folder: Path, n: int, say: Callable[[str], None] = print) -> None:
    """Make sure that `folder` holds at least the first `n` scenes of the test split, drawn by today's renderer."""
    from concord.data.synthetic.scenes.scene import RENDERER_VERSION, SPLITS

    n = min(n, len(SPLITS["test"]))
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / WORLD).is_file():
            return
        try:
            world = read_json(folder / WORLD)
            drawn, today = int(world["scenes"]), world["renderer_version"] == RENDERER_VERSION
        except (KeyError, TypeError, ValueError):
            raise ConcordError(f"{folder / WORLD}: expected 'scenes' and 'renderer_version'; remove {folder}") from None
        if today and drawn >= n:
            return
        n = max(n, drawn)
    say(make_scenes(folder, "test", n, force=True))


def _drawn(folder: Path, references: bool) -> tuple[int, bool]:
    """How many faces the folder says that it holds, and whether by today's renderer, with the references asked for."""
    from concord.data.synthetic.faces.world import RENDERER_VERSION

    try:
        world = read_json(folder / WORLD)
        lacking = references and not world.get("identity_references")
        return int(world["faces"]), world["renderer_version"] == RENDERER_VERSION and not lacking
    except (KeyError, TypeError, ValueError):
        raise ConcordError(f"{folder / WORLD}: expected 'faces' and 'renderer_version'; remove {folder}") from None
