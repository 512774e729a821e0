"""CelebAMask-HQ as compact shards: what the benchmark reads of it, in some hundred files instead of 400,000.

    <out>/test-00000.tar ...     the last 3,000 keys of the caption file: Collaborative Diffusion's test split, in order
    <out>/train-00000.tar ...    every other face
    <out>/<shard>.json           where each face lies in its tar, its SHA-256, and the key of what it was made from
    <out>/captions.json          {"0": "..."}: one caption a face, spaces trimmed
    <out>/prepared.json          what was made of what; written last

A tar is uncompressed and holds, for each face i, `images/i.png` (256x256 RGB), `masks/i.png` (512x512, class numbers in
the CelebAMask-HQ order) and `masks-256/i.png`: unpacked, it is a folder that data/datasets/faces/dataset.py reads.

Masks: the parts, later over earlier, composed at 512 and reduced by NEAREST, so that no class appears that was not
there. Images: 256x256 is the mean of each 4x4 block of the 1024x1024 original ('area', Pillow's BOX, which rounds
after each axis). Collaborative Diffusion reads `image_256_downsampled_from_hq_1024`, but neither its text nor its code
states the filter; the mean uses every pixel once, has no ringing, and is what `FaceItem.image(256)` gives of the tree
itself, so that shards and tree are interchangeable to the bit at 256 (smaller images are reduced twice, and differ by
up to two levels). A test keeps that so.

A shard is written under a temporary name and counts only with its JSON. A stopped run goes on with the shards that are
lacking; a shard whose sources have changed (names, sizes) is made anew.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from concord.data.code import code_hash
from concord.data.content import content_digest
from concord.data.datasets.faces.captions import KEYS, Captions, bad_entries, item_id, kind_of, load_captions
from concord.data.datasets.faces.dataset import FaceItem
from concord.data.datasets.faces.prepared import (
    CAPTIONS,
    IMAGE_SIZE,
    MANIFEST,
    MASK_SIZE,
    SMALL_MASK,
    VERSION,
    Places,
    Prepared,
    open_prepared,
)
from concord.data.datasets.faces.tree import FULL_SET, IMAGE_FOLDERS, PART_FOLDERS, TEST_KEYS, Listing, list_tree
from concord.data.errors import ConcordError
from concord.data.files import atomic_path, path_kind, read_json, sha256_file, write_json
from concord.data.images import reduce_labels

DATASET = "celebamask-hq"
SHARD = 100  # faces; about 12 MB
FOLDERS = ("images", "masks", f"masks-{SMALL_MASK}")
BYTES_A_FACE = 130_000  # for the check of disk space


# -------------------------------------------------------------------------------------------------------- what there is


def prepare(
    source: Path | None,
    out: Path | None,
    captions: Path | None,
    cache: Path,
    workers: int | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
    say: Callable[[str], None] = lambda line: None,
) -> Prepared:
    """Make the shards of a tree of faces that are not there yet; returns the dataset that they are.

    source, captions: a tree and a caption file; what was fetched where None. progress: faces done, of how many.
    Raises ConcordError for a folder of another shape (saying what it looks like), images without masks, captions of
    other images, a broken file, no space; finished shards stay.
    """
    root = source or _fetched(DATASET, cache)
    out = out or cache / "data" / DATASET / "prepared"
    listing = _list(root)
    known = _captions(root, captions, cache)
    faces = _faces(listing, known, say)
    splits = _splits(listing, faces, known)
    _make_room(out, len(faces))
    write_json(out / CAPTIONS, {item: known.texts[item] for item in known.texts if item in faces})
    tasks = [
        Task(out, f"{split}-{index:05d}", tuple(faces[item] for item in ids))
        for split, items in splits.items()
        for index, ids in enumerate(_batches(items, SHARD))
    ]
    started, done, made = time.perf_counter(), 0, 0
    for n, new in _work(tasks, workers or os.cpu_count() or 1):
        done, made = done + n, made + new
        progress(done, len(faces))
    seconds = time.perf_counter() - started
    _remove_others(out, {task.name for task in tasks})
    write_json(out / MANIFEST, _facts(root, known, splits, tasks))
    if made:
        say(f"{made:,} faces in {seconds:.1f} s, {made / seconds:.0f} a second")
    return open_prepared(out, "all")


def _fetched(name: str, cache: Path) -> Path:
    from concord.data.download.manifest import fetched_file, load_manifest

    return fetched_file(load_manifest(name), cache=cache)


def _list(root: Path) -> Listing:
    """The tree's files; ConcordError that says what it looks like when it is no tree of images with masks."""
    from concord.data.download.unpack import describe

    try:
        listing = list_tree(root)
    except ConcordError as error:
        if path_kind(root) != "folder":
            raise
        raise ConcordError(f"{error}; it looks like {describe(root)}") from None
    masks = len(listing.parts.keys() | listing.masks.keys())
    if not masks or not listing.images:
        has, lacks = ("images", PART_FOLDERS[0]) if listing.images else ("masks", IMAGE_FOLDERS[0])
        raise ConcordError(
            f"{root}: {len(listing.ids):,} {has} but no {'masks' if listing.images else 'images'}; "
            f"expected {lacks}/ beside them; it looks like {describe(root)}"
        )
    return listing


def _captions(root: Path, given: Path | None, cache: Path) -> Captions:
    """The captions that are given, else those in the tree, else the fetched ones; spaces trimmed."""
    found = _read_captions(given) if given else load_captions(root)
    for name in ("collab-captions", "celeba-dialog"):
        if found is None:
            folder = cache / "data" / name
            found = load_captions(folder) if folder.is_dir() else None
    if found is None:
        raise ConcordError(f"{root}: no caption file; add --captions FILE, or run `concord data fetch collab-captions`")
    return Captions(found.path, found.kind, {item: " ".join(text.split()) for item, text in found.texts.items()})


def _read_captions(path: Path) -> Captions:
    content = read_json(path)
    kind = kind_of(content, path.name)
    bad = next(bad_entries(content, kind), None) if kind else None
    if kind is None or bad is not None:
        problem = bad.fact if bad else "no entry holds a caption"
        raise ConcordError(
            f"{path}: {problem}; expected a caption file (data/datasets/faces/captions.py shows the kinds)"
        )
    texts = {item_id(key): entry if kind == "plain" else entry[KEYS[kind]] for key, entry in content.items()}
    if len(texts) < len(content):
        raise ConcordError(f"{path}: two entries name the same face; expected one caption a face; remove one of them")
    return Captions(path, kind, texts)


def _faces(listing: Listing, known: Captions, say: Callable[[str], None]) -> dict[str, FaceItem]:
    """The faces with an image and a mask, by id; ConcordError when the captions are those of other images."""
    there = listing.ids
    faces = {}
    for item in there:
        image, masks = listing.images.get(item), listing.mask_files(item)
        if image is not None and masks:
            faces[item] = FaceItem(item, known.texts.get(item), listing.root, image, masks)
    lost = len(there) - len(faces)
    if lost:
        first = next(item for item in there if item not in faces)
        say(f"{lost:,} of {len(there):,} faces lack an image or a mask and are left out, the first is {first}")
    common = sum(item in known.texts for item in faces)
    other = (
        len(known.texts) > 1.5 * len(there) and listing.is_celebamask_hq and len(there) >= FULL_SET
    )  # CelebA's numbers are not CelebA-HQ's
    if 2 * common < len(faces) or other:
        keys, ids = ", ".join(islice(known.texts, 3)), ", ".join(islice(faces, 3))
        raise ConcordError(
            f"{known.path}: captions of other images: {len(known.texts):,} of them ({keys}, ...), {common:,} for "
            f"the {len(faces):,} faces of {listing.root} ({ids}, ...); give the caption file of these faces"
        )
    if common < len(faces):
        say(f"{len(faces) - common:,} faces have no caption in {known.path.name}")
    return faces


def _splits(listing: Listing, faces: dict[str, FaceItem], known: Captions) -> dict[str, list[str]]:
    """'test': the last keys of the caption file on the full set, every face on a smaller one; 'train': the others."""
    if not listing.is_celebamask_hq or len(faces) < FULL_SET:
        return {"test": list(faces)}
    test = [item for item in list(known.texts)[-TEST_KEYS:] if item in faces]
    chosen = set(test)
    return {"test": test, "train": [item for item in faces if item not in chosen]}


def _batches(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _make_room(out: Path, faces: int) -> None:
    from concord.data.download.transfer import check_space

    try:
        out.mkdir(parents=True, exist_ok=True)
        for left in out.glob(".*.part"):  # of a run that was killed
            left.unlink()
        here = sum(path.stat().st_size for path in out.glob("*.tar"))
    except OSError as error:
        raise ConcordError(f"{out}: cannot be written ({error.strerror}); choose another --out") from None
    check_space(out, max(0, faces * BYTES_A_FACE - here), "the shards")


def _remove_others(out: Path, names: set[str]) -> None:
    """Shards of an earlier, larger tree."""
    for path in out.iterdir():
        if path.suffix in (".tar", ".json") and path.stem not in names and path.name not in (MANIFEST, CAPTIONS):
            path.unlink()


def _facts(root: Path, known: Captions, splits: dict[str, list[str]], tasks: Sequence[Task]) -> dict[str, Any]:
    return {
        "version": VERSION,
        "name": root.resolve().name,
        "captions": {"kind": known.kind, "file": known.path.name, "sha256": sha256_file(known.path)},
        "image": {"size": IMAGE_SIZE, "filter": "area: mean of the covered pixels (Pillow's BOX)"},
        "masks": {"sizes": [MASK_SIZE, SMALL_MASK], "filter": "NEAREST", "order": "celebamask-hq"},
        "splits": {split: len(items) for split, items in splits.items()},
        "shards": [{"name": task.name, "sha256": str(read_json(task.note)["sha256"])} for task in tasks],
    }


# ----------------------------------------------------------------------------------------------------------- the shards


@dataclass(frozen=True)
class Task:
    """One shard to be made."""

    out: Path
    name: str
    faces: tuple[FaceItem, ...]

    @property
    def tar(self) -> Path:
        return self.out / f"{self.name}.tar"

    @property
    def note(self) -> Path:
        return self.out / f"{self.name}.json"


def _work(tasks: Sequence[Task], workers: int) -> Iterator[tuple[int, int]]:
    """Make the shards, a few ahead of those that are done; (faces, faces newly made) of each as it is finished."""
    workers = min(workers, len(tasks))
    if workers == 1:
        yield from (_finished(make_shard(task)) for task in tasks)
        return
    waiting = iter(tasks)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(make_shard, task) for task in islice(waiting, 2 * workers)}
        try:
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                running |= {pool.submit(make_shard, task) for task in islice(waiting, len(done))}
                for future in done:
                    yield _finished(future.result())
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _finished(result: tuple[int, int] | str) -> tuple[int, int]:
    if isinstance(result, str):
        raise ConcordError(result)
    return result


def make_shard(task: Task) -> tuple[int, int] | str:
    """Write one shard unless it is there; (faces, faces newly made), or the line of a ConcordError.

    The line, because not every exception can be sent from one process to another.
    """
    try:
        key = _key(task.faces)
        if _is_whole(task, key):
            return len(task.faces), 0
        places: dict[str, Places] = {}
        with atomic_path(task.tar) as temporary:
            with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
                for face in task.faces:
                    places[face.id] = [
                        _add(tar, f"{folder}/{face.id}.png", content)
                        for folder, content in zip(FOLDERS, encode(face), strict=True)
                    ]
            digest, size = sha256_file(temporary), temporary.stat().st_size
        write_json(task.note, {"key": key, "sha256": digest, "bytes": size, "faces": places})
    except ConcordError as error:
        return str(error)
    return len(task.faces), len(task.faces)


def _key(faces: Sequence[FaceItem]) -> str:
    """SHA-256 of what a shard is made from: the code that makes it, and the bytes of the files.

    A file is read again only where it has changed since; what is remembered of a shard's files is kept apart, so that
    processes that prepare others do not wait for it.
    """
    code = code_hash(["concord.data.datasets.faces.prepare"])
    facts = f"{VERSION} {IMAGE_SIZE} {MASK_SIZE} {SMALL_MASK} {code}"
    files: dict[str, None] = {}
    for face in faces:
        files |= dict.fromkeys([str(face.image_file), *(file for _, file in face.mask_files)])
    return content_digest(facts, faces[0].root, files, part=faces[0].id)


def _is_whole(task: Task, key: str) -> bool:
    """Whether the shard is there, made from these files, and as long as its note says."""
    try:
        note = read_json(task.note)
        return bool(note["key"] == key and task.tar.stat().st_size == note["bytes"])
    except (ConcordError, OSError, KeyError, TypeError):
        return False


def encode(face: FaceItem) -> tuple[bytes, bytes, bytes]:
    """The PNG files of a face, in the order of FOLDERS."""
    mask = face.mask(MASK_SIZE).astype(np.uint8)
    return _png(face.image(IMAGE_SIZE)[..., ::-1]), _png(mask), _png(reduce_labels(mask, SMALL_MASK))


def _png(pixels: np.ndarray) -> bytes:
    """PNG bytes of uint8 (H, W), or (H, W, 3) in the order blue, green, red.

    Run-length deflate over rows minus the row above: for a 256x256 image 2 ms against Pillow's 8 at its fastest, and
    2 % smaller.
    """
    import cv2

    settings = [
        cv2.IMWRITE_PNG_COMPRESSION,
        1,
        cv2.IMWRITE_PNG_STRATEGY,
        cv2.IMWRITE_PNG_STRATEGY_RLE,
        cv2.IMWRITE_PNG_FILTER,
        cv2.IMWRITE_PNG_FILTER_UP,
    ]
    written, content = cv2.imencode(".png", np.ascontiguousarray(pixels), settings)
    assert written
    return content.tobytes()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> list[int]:
    """Append a file without time or owner; [offset of its content, size]."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
    return [tar.offset - -(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE, len(content)]
