"""Sets of images as people keep them: folders, tar shards, arrays. Each image is decoded once, in bounded memory.

    a folder          every image file under it, in natural order of the path (2.png before 10.png); tar files in it
                      count as folders of their members, in the tar's own order
    a dataset         CelebA-HQ-img/ or images/ of it, or the images of prepared shards; its masks are no images
    a .tar            uncompressed, read in place: nothing is unpacked
    a Concord row     results/<profile>/<request set>/<row>: its shards, images named by their request
    .npy, .npz        an array (N, H, W, 3), read from the disk as it is needed; of an .npz, `arr_0` (as ADM writes it)
    arrays, tensors   (N, H, W, 3) or (N, 3, H, W), or a list of images of any sizes; uint8, or floats in [0, 1]

What becomes of an image that is not 8-bit RGB, the same everywhere:

    grey, 1-bit, palette      its colours, in three channels
    16 bits a channel         the high byte is kept
    alpha                     dropped where every pixel is opaque; an image that shows its background is refused
    CMYK JPEG                 Pillow's conversion, which is said; ICC profiles and EXIF orientation are ignored, as by
                              clean-fid
    MPO (of phones)           its first image
    GIF, AVIF, HEIC ...       refused by name, as are animations, links in a tar, and what is empty or truncated

Other files (.json, .txt, hidden ones) are passed over.
"""

from __future__ import annotations

import hashlib
import os
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Union

import numpy as np
from PIL import Image

from concord.data.datasets.faces.prepared import MANIFEST as PREPARED
from concord.data.datasets.faces.tree import IMAGE_FOLDERS, INDEX_FOLDERS, PART_FOLDERS
from concord.data.datasets.images.array_files import as_array, channels_last, checked, digest_of, map_array, to_numpy
from concord.data.datasets.images.image_files import (
    EXPECTED,
    Entry,
    is_archive,
    listed,
    members,
    printable,
    refuse_system_folder,
    say_what_is_left,
)
from concord.data.errors import ConcordError
from concord.data.files import path_kind, read_json
from concord.data.images import SET_FORMATS, UNREADABLE, WRONG_MODE, BadFile, decode_bytes, is_image, opaque_rgb

if TYPE_CHECKING:
    from torch import Tensor

Source = Union[str, Path, np.ndarray, "Tensor", Sequence[Any], "ImageSet"]

MASK_FOLDERS = frozenset([*PART_FOLDERS, *INDEX_FOLDERS[:2]])  # 'masks' may be anybody's name
PIXELS = 1 << 23
"""Most pixels of a batch, 32 images of 512 x 512: what bounds the memory of one batch whatever the sizes."""
AHEAD = 2  # batches that are decoded before they are asked for


@dataclass(frozen=True)
class Batch:
    """Images of one size.

    indices: int64 (B,), their places in the set.
    images: (B, H, W, 3) RGB, uint8 or float32 in [0, 1].
    """

    indices: np.ndarray
    images: np.ndarray


class ImageSet(ABC):
    """A finite sequence of images. `label` is what errors call the set; `names` are the images' own."""

    label: str
    names: Sequence[str]
    named = True  # whether the names say which image is which, so that two sets can be paired by them
    is_row = False  # whether the names are those of requests: '<item>-<repetition>'

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def load(self, index: int) -> np.ndarray:
        """Image (H, W, 3) RGB, uint8 or float32 in [0, 1]; ConcordError naming it where it cannot be used."""

    @abstractmethod
    def digest(self, index: int) -> bytes:
        """SHA-256 of the image as it is kept (of an encoded file: of its bytes), without decoding it."""

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the images' own, in order."""
        total = hashlib.sha256()
        for index in range(len(self)):
            total.update(self.digest(index))
        return total.hexdigest()

    def batches(self, size: int = 32, workers: int | None = None) -> Iterator[Batch]:
        """All images, each once, in batches of one size and type, at most `size` images or `PIXELS` pixels each.

        Where all have one size, batches are in order. Else an image waits for others of its size; when more than
        two batches' worth wait, the fullest group goes.
        """
        waiting: dict[tuple[Any, ...], tuple[list[int], list[np.ndarray]]] = {}
        for index, image in enumerate(self._decoded(AHEAD * size, workers)):
            indices, images = waiting.setdefault((image.shape, image.dtype.str), ([], []))
            indices.append(index)
            images.append(image)
            if len(indices) >= fitting(size, image):
                yield _stack(waiting.pop((image.shape, image.dtype.str)))
            elif len(waiting) > 1 and _worth(waiting, size) > 2:
                yield _stack(waiting.pop(max(waiting, key=lambda key: len(waiting[key][0]))))
        for group in waiting.values():
            yield _stack(group)

    def _decoded(self, ahead: int, workers: int | None) -> Iterator[np.ndarray]:
        """Images in order; threads decode those that come next (Pillow works outside of Python's lock)."""
        workers = min(4, os.cpu_count() or 1) if workers is None else workers
        if workers < 1 or len(self) < 2:
            yield from (self.load(index) for index in range(len(self)))
            return
        with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
            coming: deque[Future[np.ndarray]] = deque()
            try:
                for index in range(len(self)):
                    coming.append(pool.submit(self.load, index))
                    if len(coming) >= ahead:
                        yield coming.popleft().result()
                while coming:
                    yield coming.popleft().result()
            finally:
                for future in coming:
                    future.cancel()


def fitting(size: int, image: np.ndarray) -> int:
    """How many images like this one make a batch."""
    return max(1, min(size, PIXELS // (image.shape[0] * image.shape[1])))


def _worth(waiting: dict[tuple[Any, ...], tuple[list[int], list[np.ndarray]]], size: int) -> float:
    return sum(len(indices) / fitting(size, images[0]) for indices, images in waiting.values())


def _stack(group: tuple[list[int], list[np.ndarray]]) -> Batch:
    return Batch(np.array(group[0], dtype=np.int64), np.stack(group[1]))


# -------------------------------------------------------------------------------------------------------------- opening


def open_images(source: Source, label: str | None = None) -> ImageSet:
    """The set that a path, an array or a list stands for; ConcordError when it holds no images.

    label: what errors call a set that has no path, such as 'generated'.
    """
    if isinstance(source, ImageSet):
        return source
    name = label or "images"
    if isinstance(source, (str, Path)):
        found: ImageSet = _open_path(Path(source))
    elif hasattr(source, "shape") and hasattr(source, "dtype"):
        found = ArraySet(as_array(source, name), name)
    elif isinstance(source, Sequence):
        found = _open_list(source, name)
    else:
        raise ConcordError(f"{name}: a {type(source).__name__}; expected a folder, a tar, an array or a list of images")
    if not len(found):
        raise ConcordError(f"{found.label}: holds no images; {EXPECTED} files, or tar shards of them")
    return found


def _open_path(path: Path) -> ImageSet:
    kind = path_kind(path)
    if kind == "folder":
        return _open_folder(path)
    if kind == "none":
        raise ConcordError(f"{path}: no such file or folder; expected a folder of images, a tar, or an array file")
    if kind == "other":
        raise ConcordError(f"{path}: is a pipe, a socket or a device; expected a folder of images, a tar, or an array")
    suffix = path.suffix.lower()
    if suffix == ".tar":
        return FileSet(members(path), str(path))
    if suffix in (".npy", ".npz"):
        return ArraySet(map_array(path), str(path))
    if is_image(path.name):
        return FileSet([Entry(printable(path.name), path)], str(path))
    if is_archive(path.name):
        raise ConcordError(f"{path}: a compressed archive; unpack it, or give an uncompressed .tar")
    raise BadFile(path, UNREADABLE, "is no set of images", "expected a folder, .tar, .npy, .npz or an image")


def _open_folder(path: Path) -> FileSet:
    """A row of ours, the images of a dataset, or every image under the folder."""
    refuse_system_folder(path)
    shards = _row_shards(path)
    if shards is not None:
        row = FileSet([Entry(PurePosixPath(e.name).stem, *e[1:]) for e in shards], str(path))
        row.is_row = True
        return row
    if (path / PREPARED).is_file():  # masks lie beside the images in every shard
        tars = sorted(path.glob("*.tar"))
        return FileSet([entry for tar in tars for entry in members(tar, "images/")], str(path))
    for name in IMAGE_FOLDERS:  # of a dataset: its masks are no images
        if (path / name).is_dir() and not any(is_image(entry.name) for entry in path.iterdir()):
            say_what_is_left(path, name)
            return FileSet(listed(path / name), str(path / name))
    parts = next((name for name in (*PART_FOLDERS, *INDEX_FOLDERS) if (path / name).is_dir()), None)
    if parts is not None:
        raise ConcordError(
            f"{path}: a dataset, whose masks ({parts}/) are no images; give the folder that holds the images alone"
        )
    entries = listed(path)
    _refuse_datasets_below(path, entries)
    return FileSet(entries, str(path))


def _refuse_datasets_below(root: Path, entries: Iterable[Entry]) -> None:
    """ConcordError where a folder further down is a dataset: its masks would count as images, without a word."""
    for folder in dict.fromkeys(entry[1].parent for entry in entries):
        below = folder.relative_to(root).parts
        place = next((index for index, name in enumerate(below) if name in MASK_FOLDERS), None)
        if place is not None or (folder / PREPARED).is_file():
            found = folder if place is None else root.joinpath(*below[:place])
            images = next((found / name for name in IMAGE_FOLDERS if (found / name).is_dir()), found)
            raise ConcordError(f"{root}: holds a dataset, whose masks are no images, in {found}; give {images}")


def _row_shards(path: Path) -> list[Entry] | None:
    """The images of a finished row of ours, in the order of its requests; None where `run.json` is somebody else's."""
    if path_kind(path / "run.json") != "file":
        return None
    ours = any((path / "images").glob("[0-9][0-9][0-9][0-9][0-9].tar"))
    try:
        manifest = read_json(path / "run.json")
    except ConcordError:
        if ours:
            raise
        return None  # a file of the user's own
    if not isinstance(manifest, dict) or ("shards" not in manifest and not ours):
        return None
    try:
        shards = [f"{int(shard['shard']):05d}.tar" for shard in manifest["shards"]]
    except (KeyError, TypeError, ValueError):
        raise ConcordError(f"{path / 'run.json'}: names no shards; generate the row again") from None
    return [entry for shard in shards for entry in members(path / "images" / shard)]


def _open_list(source: Sequence[Any], label: str) -> ImageSet:
    if all(isinstance(item, (str, Path)) for item in source):
        return FileSet([Entry(printable(str(item)), Path(item)) for item in source], label)
    return ListSet(list(source), label)


# ---------------------------------------------------------------------------------------------------------------- files


class FileSet(ImageSet):
    """Encoded images, in files or in tars."""

    def __init__(self, entries: list[Entry], label: str) -> None:
        self.entries, self.label = entries, label
        self.digests: dict[int, bytes] = {}  # of what has been read already: no file is read twice
        self.names = [entry.name for entry in entries]
        if len(set(self.names)) < len(self.names):  # members of several tars: the tar's name tells them apart
            self.names = [f"{e[1].stem}/{e.name}" if e[2] >= 0 else e.name for e in entries]
            seen: set[str] = set()
            for name in self.names:
                if name in seen:
                    raise ConcordError(f"{label}: holds '{name}' twice; give every image a name of its own")
                seen.add(name)

    def load(self, index: int) -> np.ndarray:
        entry = self.entries[index]
        content = entry.read()
        if index not in self.digests:
            self.digests[index] = hashlib.sha256(content).digest()
        return to_rgb(content, entry.place)

    def digest(self, index: int) -> bytes:
        if index not in self.digests:
            self.digests[index] = hashlib.sha256(self.entries[index].read()).digest()
        return self.digests[index]


def to_rgb(content: bytes, place: str) -> np.ndarray:
    """An encoded image as uint8 (H, W, 3), by the rules at the head of this file; BadFile where they refuse it."""
    if content[:6] in (b"GIF87a", b"GIF89a"):
        raise BadFile(place, WRONG_MODE, "is a GIF", f"{EXPECTED}; convert it, one image a file")
    image = decode_bytes(content, place, SET_FORMATS)
    return image_to_rgb(image, place)


def image_to_rgb(image: Image.Image, place: str) -> np.ndarray:
    """`to_rgb` of an image that Pillow has decoded."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise BadFile(place, WRONG_MODE, f"is animated ({frames} frames)", f"{EXPECTED} of one image; convert it")
    mode = image.mode
    if mode.startswith("I;16"):
        return _grey(np.asarray(image) >> 8)
    if mode == "I":  # what older Pillows call 16-bit grey
        return _grey(np.asarray(image).clip(0, 65535) >> 8)
    if mode not in ("RGB", "L", "1", "P", "CMYK", "YCbCr", "RGBA", "LA", "PA"):
        raise BadFile(place, WRONG_MODE, f"has mode {mode}", f"{EXPECTED} in RGB or grey; convert it")
    return np.asarray(opaque_rgb(image, place))


def _grey(levels: np.ndarray) -> np.ndarray:
    return np.repeat(levels.astype(np.uint8)[..., None], 3, axis=2)


# --------------------------------------------------------------------------------------------------------------- arrays


class ArraySet(ImageSet):
    """One array (N, H, W, 3), uint8 or floats in [0, 1]; it may be mapped from a file."""

    named = False

    def __init__(self, array: np.ndarray, label: str) -> None:
        if array.ndim != 4 or array.shape[3] != 3:
            raise ConcordError(f"{label}: an array of shape {array.shape}; expected (N, H, W, 3) or (N, 3, H, W)")
        self.array, self.label = array, label
        self.names = [f"{index:06d}" for index in range(len(array))]

    def load(self, index: int) -> np.ndarray:
        return checked(self.array[index], f"{self.label}[{index}]")

    def digest(self, index: int) -> bytes:
        return digest_of(self.array[index])


class ListSet(ImageSet):
    """Images of any sizes: arrays, tensors, or Pillow's images."""

    named = False

    def __init__(self, items: list[Any], label: str) -> None:
        self.items, self.label = items, label
        self.names = [f"{index:06d}" for index in range(len(items))]
        self.lock = threading.Lock()  # a Pillow image reads its file when first looked at, and not from two threads

    def load(self, index: int) -> np.ndarray:
        item, place = self.items[index], f"{self.label}[{index}]"
        if isinstance(item, Image.Image):
            with self.lock:
                return image_to_rgb(item, place)
        if not hasattr(item, "shape"):
            raise ConcordError(f"{place}: a {type(item).__name__}; expected an array, a tensor or a Pillow image")
        array = to_numpy(item)
        if array.ndim == 2:
            array = np.repeat(array[..., None], 3, axis=2)
        if array.ndim != 3:
            raise ConcordError(f"{place}: shape {array.shape}; expected (H, W, 3) or (3, H, W)")
        return checked(channels_last(array[None], place)[0], place)

    def digest(self, index: int) -> bytes:
        return digest_of(self.load(index))
