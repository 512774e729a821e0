"""Writes SynthFaces to disk in the layout of CelebAMask-HQ and CelebA-Dialog, so that the real readers read it.

    CelebA-HQ-img/{i}.jpg       64 x 64 RGB, JPEG quality 98 without chroma subsampling
    CelebAMask-HQ-mask-anno/{i // 2000}/{i:05d}_{part}.png   one 0/255 image per part that the face has, 64 x 64
    captions_hq.json            {"i.jpg": {"attribute_wise_captions": {...}, "overall_caption": "..."}}
    captions_hq_beard_and_age_2022-08-19.json   {"i.jpg": {"Beard_and_Age": "..."}}
    attributes.json             {"i.jpg": {"sex": "...", "Bangs": 0, ...}}
    landmarks.npz, identities.npz   indices (N,) and landmarks (N, 68, 2) or identities (N, 24)
    identity-references/{i}.jpg     where asked for: another image of the same person (other age, smile, pose, light)
    world.json                  world seed, renderer version, range or list of indices

The real layout wants .jpg files; against the rendered image that leaves a PSNR of 44.6 dB on average and 43.8 dB at
worst (50 faces; ``jpeg_loss`` measures it, ``concord.benchmarks.profiling.synthetic_speed`` prints it). Parts never
overlap: a reader may
lay them over each other in any order. Facial hair has no part, as in CelebAMask-HQ: a pixel under a beard belongs to
the skin, neck, clothes, hair or background behind it.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from concord.data.datasets.faces.tree import LANDMARK_FILE, REFERENCE_FOLDER
from concord.data.errors import ConcordError
from concord.data.labels import CELEBAMASK_HQ
from concord.data.synthetic.draw import SIZE
from concord.data.synthetic.faces.world import RENDERER_VERSION, WORLD_SEED, Face, FaceArrays, iter_faces, stack

JPEG: dict[str, Any] = {"format": "JPEG", "quality": 98, "subsampling": 0}
REFERENCE_VARIANT = 1  # which other image of a person (data/synthetic/faces/world.py)
_NOTE = "SynthFaces: drawn portraits in the layout of CelebAMask-HQ and CelebA-Dialog; no real person is shown."


def write_tree(
    root: str | Path,
    indices: Iterable[int],
    world_seed: int = WORLD_SEED,
    progress: bool = True,
    workers: int | None = None,
    references: bool = False,
) -> None:
    """Render faces and write them as a tree at ``root``, which must not exist yet or be empty.

    ``references``: draw every person a second time too, as the image by which an identity is told.
    The tree is built in a temporary folder beside ``root`` and renamed at the end: a killed run leaves no half tree.
    """
    root = Path(root)
    wanted = [int(i) for i in indices]
    if not wanted:
        raise ConcordError("indices: expected at least one face")
    if len(set(wanted)) != len(wanted):
        raise ConcordError("indices: expected every face once")
    with _new_folder(root) as folder:
        (folder / "CelebA-HQ-img").mkdir()
        for number in sorted({i // 2000 for i in wanted}):
            (folder / "CelebAMask-HQ-mask-anno" / str(number)).mkdir(parents=True)
        faces: list[Face] = []
        for face in iter_faces(wanted, world_seed, workers, progress, "Writing faces"):
            _write_pixels(folder, face)
            faces.append(face)
        if references:
            (folder / REFERENCE_FOLDER).mkdir()
            title = "Writing identity references"
            for other in iter_faces(wanted, world_seed, workers, progress, title, REFERENCE_VARIANT):
                Image.fromarray(other.image).save(folder / REFERENCE_FOLDER / f"{other.index}.jpg", **JPEG)
        _write_tables(folder, stack(faces), wanted, world_seed, references)


def jpeg_loss(image: np.ndarray) -> float:
    """PSNR in dB of an image (64, 64, 3) uint8 after the tree's JPEG."""
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, **JPEG)
    back = np.asarray(Image.open(buffer), np.float64)
    error = float(((back - image) ** 2).mean())
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


def _write_pixels(folder: Path, face: Face) -> None:
    Image.fromarray(face.image).save(folder / "CelebA-HQ-img" / f"{face.index}.jpg", **JPEG)
    parts = folder / "CelebAMask-HQ-mask-anno" / str(face.index // 2000)
    for number in np.unique(face.mask):
        if number:
            part = Image.fromarray((face.mask == number) * np.uint8(255))
            # these images hold two values in large areas: the fastest compression is as small as the best
            part.save(parts / f"{face.index:05d}_{CELEBAMASK_HQ[number]}.png", compress_level=1)


def _write_tables(folder: Path, faces: FaceArrays, wanted: list[int], world_seed: int, references: bool) -> None:
    names = [f"{i}.jpg" for i in wanted]
    said = list(zip(names, faces.captions))
    columns = ("Bangs", "Eyeglasses", "No_Beard", "Smiling", "Young")
    _write_json(
        folder / "captions_hq.json",
        {name: {"attribute_wise_captions": c.attribute_wise, "overall_caption": c.overall} for name, c in said},
    )
    _write_json(
        folder / "captions_hq_beard_and_age_2022-08-19.json",
        {name: {"Beard_and_Age": c.beard_and_age} for name, c in said},
    )
    _write_json(
        folder / "attributes.json",
        {
            name: {"sex": str(sex), **{key: int(level) for key, level in zip(columns, levels)}}
            for name, sex, levels in zip(names, faces.sex, faces.attributes)
        },
    )
    np.savez(folder / LANDMARK_FILE, indices=faces.indices, landmarks=faces.landmarks, size=np.int64(SIZE))
    np.savez(folder / "identities.npz", indices=faces.indices, identities=faces.identities)
    contiguous = wanted == list(range(wanted[0], wanted[-1] + 1))
    _write_json(
        folder / "world.json",
        {
            "note": _NOTE,
            "world_seed": world_seed,
            "renderer_version": RENDERER_VERSION,
            "faces": len(wanted),
            "identity_references": references,
            "indices": {"start": wanted[0], "stop": wanted[-1] + 1} if contiguous else wanted,
        },
    )


def _write_json(path: Path, value: Any) -> None:
    # plain writes: the whole folder becomes visible at once, when it is renamed
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def _new_folder(root: Path) -> Iterator[Path]:
    """A temporary folder beside ``root`` that becomes ``root`` on success and is removed on failure."""
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ConcordError(f"{root}: exists already; choose a new or empty folder for the faces")
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{root.name}.", suffix=".part", dir=root.parent))
    except OSError as error:
        raise ConcordError(f"{root}: cannot be written ({error.strerror}); choose another folder") from None
    try:
        yield folder
        folder.chmod(0o777 & ~_umask())  # mkdtemp makes folders that only their owner can read
        if root.exists():
            root.rmdir()
        os.replace(folder, root)
    except OSError as error:
        raise ConcordError(
            f"{root}: cannot be written ({error.strerror}); free space or choose another folder"
        ) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
