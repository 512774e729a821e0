"""Sets of images as people keep them: folders, tar shards, arrays. Each image is decoded once, in bounded memory.

    a folder          every image file under it, in natural order of the path (2.png before 10.png); tar files in it
                      count as folders of their members, in the tar's own order
    a .tar            uncompressed, read in place: nothing is unpacked
    a Concord row     results/<profile>/<request set>/<row>: its shards, images named by their request
    .npy, .npz        an array (N, H, W, 3), read from the disk as it is needed; of an .npz, `arr_0` (as ADM writes it)
    arrays, tensors   (N, H, W, 3) or (N, 3, H, W), or a list of images of any sizes; uint8, or floats in [0, 1]

What becomes of a picture that is not 8-bit RGB, the same everywhere:

    grey, 1-bit, palette      its colours, in three channels
    16 bits a channel         the high byte is kept
    alpha                     dropped where every pixel is opaque; a picture that shows its background is refused
    CMYK JPEG                 Pillow's conversion; ICC profiles and EXIF orientation are ignored, as by clean-fid
    GIF, BMP, TIFF, AVIF ...  refused by name, as are animations, links in a tar, and what is empty or truncated

Other files (.json, .txt, hidden ones) are passed over.
"""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Union

import numpy as np
from PIL import Image

from concord.data.datasets.images.array_files import as_array, channels_last, checked, digest_of, map_array, to_numpy
from concord.data.errors import ConcordError
from concord.data.files import read_json
from concord.data.images import UNREADABLE, WRONG_MODE, BadFile, decode_bytes

if TYPE_CHECKING:
    from torch import Tensor

Source = Union[str, Path, np.ndarray, "Tensor", Sequence[Any], "ImageSet"]

FORMATS = ("PNG", "JPEG", "WEBP")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
OTHER_PICTURES = frozenset({".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".jp2", ".jxl", ".ppm", ".tga", ".ico"})
ARCHIVES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip", ".7z", ".rar")
EXPECTED = "expected PNG, JPEG or WebP"

PIXELS = 1 << 23
"""Most pixels of a batch, 32 pictures of 512 x 512: what bounds the memory of one batch whatever the sizes."""
AHEAD = 2  # batches that are decoded before they are asked for


@dataclass(frozen=True)
class Batch:
    """Pictures of one size.

    indices: int64 (B,), their places in the set.
    images: (B, H, W, 3) RGB, uint8 or float32 in [0, 1].
    """

    indices: np.ndarray
    images: np.ndarray


class ImageSet(ABC):
    """A finite sequence of pictures. `label` is what errors call the set; `names` are the pictures' own."""

    label: str
    names: Sequence[str]
    named = True  # whether the names say which picture is which, so that two sets can be paired by them
    is_row = False  # whether the names are those of requests: '<item>-<repetition>'

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def load(self, index: int) -> np.ndarray:
        """Picture (H, W, 3) RGB, uint8 or float32 in [0, 1]; ConcordError naming it where it cannot be used."""

    @abstractmethod
    def digest(self, index: int) -> bytes:
        """SHA-256 of the picture as it is kept (of an encoded file: of its bytes), without decoding it."""

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the pictures' own, in order."""
        total = hashlib.sha256()
        for index in range(len(self)):
            total.update(self.digest(index))
        return total.hexdigest()

    def batches(self, size: int = 32, workers: int | None = None) -> Iterator[Batch]:
        """All pictures, each once, in batches of one size and type, at most `size` pictures or `PIXELS` pixels each.

        Where all have one size, batches are in order. Else a picture waits for others of its size; when more than
        two batches' worth wait, the fullest group goes.
        """
        waiting: dict[tuple[Any, ...], tuple[list[int], list[np.ndarray]]] = {}
        for index, picture in enumerate(self._decoded(AHEAD * size, workers)):
            indices, pictures = waiting.setdefault((picture.shape, picture.dtype.str), ([], []))
            indices.append(index)
            pictures.append(picture)
            if len(indices) >= fitting(size, picture):
                yield _stack(waiting.pop((picture.shape, picture.dtype.str)))
            elif len(waiting) > 1 and _worth(waiting, size) > 2:
                yield _stack(waiting.pop(max(waiting, key=lambda key: len(waiting[key][0]))))
        for group in waiting.values():
            yield _stack(group)

    def _decoded(self, ahead: int, workers: int | None) -> Iterator[np.ndarray]:
        """Pictures in order; threads decode those that come next (Pillow works outside of Python's lock)."""
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


def fitting(size: int, picture: np.ndarray) -> int:
    """How many pictures like this one make a batch."""
    return max(1, min(size, PIXELS // (picture.shape[0] * picture.shape[1])))


def _worth(waiting: dict[tuple[Any, ...], tuple[list[int], list[np.ndarray]]], size: int) -> float:
    return sum(len(indices) / fitting(size, pictures[0]) for indices, pictures in waiting.values())


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
    if path.is_dir():
        if (path / "run.json").is_file():
            return _open_row(path)
        if (path / "images").is_dir() and not any(_is_picture(p.name) for p in path.iterdir()):
            return FileSet(_listed(path / "images"), str(path / "images"))
        return FileSet(_listed(path), str(path))
    if not path.is_file():
        raise ConcordError(f"{path}: no such file or folder; expected a folder of images, a tar, or an array file")
    kind = path.suffix.lower()
    if kind == ".tar":
        return FileSet(_members(path), str(path))
    if kind in (".npy", ".npz"):
        return ArraySet(map_array(path), str(path))
    if _is_picture(path.name):
        return FileSet([Entry(path.name, path)], str(path))
    if _is_archive(path.name):
        raise ConcordError(f"{path}: a compressed archive; unpack it, or give an uncompressed .tar")
    raise BadFile(path, UNREADABLE, "is no set of images", "expected a folder, .tar, .npy, .npz or an image")


def _open_row(path: Path) -> FileSet:
    """The finished row of a request set: images in the order of its requests, named by them."""
    manifest = read_json(path / "run.json")
    try:
        shards = [f"{shard['shard']:05d}.tar" for shard in manifest["shards"]]
    except (KeyError, TypeError, ValueError):
        raise ConcordError(f"{path / 'run.json'}: names no shards; generate the row again") from None
    entries = [entry for shard in shards for entry in _members(path / "images" / shard)]
    row = FileSet([Entry(PurePosixPath(e.name).stem, *e[1:]) for e in entries], str(path))
    row.is_row = True
    return row


def _open_list(source: Sequence[Any], label: str) -> ImageSet:
    if all(isinstance(item, (str, Path)) for item in source):
        return FileSet([Entry(str(item), Path(item)) for item in source], label)
    return ListSet(list(source), label)


# ---------------------------------------------------------------------------------------------------------------- files


class Entry(tuple[str, Path, int, int]):
    """(name, path, offset, size): a file of its own at offset -1, else a member of the tar at `path`."""

    def __new__(cls, name: str, path: Path, offset: int = -1, size: int = 0) -> Entry:
        return super().__new__(cls, (name, path, offset, size))

    @property
    def name(self) -> str:
        return self[0]

    @property
    def place(self) -> str:
        """What an error calls it."""
        return str(self[1]) if self[2] < 0 else f"{self[1]}: {self[0]}"

    def read(self) -> bytes:
        path, offset, size = self[1:]
        try:
            if offset < 0:
                return path.read_bytes()
            with open(path, "rb") as file:
                content = os.pread(file.fileno(), size, offset)
        except OSError as error:
            advice = f"{EXPECTED}; fetch the file again"
            raise BadFile(self.place, UNREADABLE, f"cannot be read ({error.strerror})", advice) from None
        if len(content) < size:
            raise BadFile(path, UNREADABLE, f"is truncated inside of {self[0]}", "write the tar again")
        return content


class FileSet(ImageSet):
    """Encoded pictures, in files or in tars."""

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
    """An encoded picture as uint8 (H, W, 3), by the rules at the head of this file; BadFile where they refuse it."""
    if content[:6] in (b"GIF87a", b"GIF89a"):
        raise BadFile(place, WRONG_MODE, "is a GIF", f"{EXPECTED}; convert it, one picture a file")
    picture = decode_bytes(content, place, FORMATS)
    return picture_to_rgb(picture, place)


def picture_to_rgb(picture: Image.Image, place: str) -> np.ndarray:
    """`to_rgb` of a picture that Pillow has decoded."""
    frames = getattr(picture, "n_frames", 1)
    if frames > 1 and picture.format != "MPO":
        raise BadFile(place, WRONG_MODE, f"is animated ({frames} frames)", f"{EXPECTED} of one picture; convert it")
    mode = picture.mode
    if mode.startswith("I;16"):
        return _grey(np.asarray(picture) >> 8)
    if mode == "I":  # what older Pillows call 16-bit grey
        return _grey(np.asarray(picture).clip(0, 65535) >> 8)
    if mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        clear = int((np.asarray(picture.getchannel("A")) < 255).sum())
        if clear:
            raise BadFile(
                place, WRONG_MODE, f"has {clear} transparent pixels", "put it on the background that is meant"
            )
    elif mode not in ("RGB", "L", "1", "P", "CMYK", "YCbCr"):
        raise BadFile(place, WRONG_MODE, f"has mode {mode}", f"{EXPECTED} in RGB or grey; convert it")
    return np.asarray(picture.convert("RGB"))


def _grey(levels: np.ndarray) -> np.ndarray:
    return np.repeat(levels.astype(np.uint8)[..., None], 3, axis=2)


def natural(name: str) -> list[Any]:
    """Sort key in which numbers count as numbers: 'a2' before 'a10'."""
    return [
        (0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name.lower()) if part
    ]


def _listed(folder: Path) -> list[Entry]:
    """Image files and tars under a folder, in natural order of their paths; links to folders are followed once."""
    found: list[tuple[str, Path]] = []
    been: set[str] = set()

    def refuse(error: OSError) -> None:
        raise ConcordError(f"{error.filename}: cannot be read ({error.strerror})")

    for here, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        real = os.path.realpath(here)
        folders[:] = [] if real in been else [name for name in folders if not _is_hidden(name)]
        if real not in been:
            found += [(os.path.relpath(os.path.join(here, name), folder), Path(here, name)) for name in files]
        been.add(real)
    entries: list[Entry] = []
    for name, path in sorted(found, key=lambda pair: ([natural(part) for part in Path(pair[0]).parts], pair[0])):
        if path.suffix.lower() == ".tar" and not _is_hidden(path.name):
            entries += _members(path)
        elif _is_picture(path.name):
            entries.append(Entry(name.replace(os.sep, "/"), path))
        elif _is_archive(path.name):
            raise ConcordError(f"{path}: a compressed archive; unpack it, or move it out of the folder")
    return entries


def _members(path: Path) -> list[Entry]:
    """The images of an uncompressed tar, with where their bytes lie."""
    entries = []
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not _is_picture(PurePosixPath(member.name).name):
                    continue
                if not member.isreg():
                    raise ConcordError(f"{path}: {member.name} is a link, not an image; write the tar with its files")
                entries.append(Entry(member.name, path, member.offset_data, member.size))
    except tarfile.TarError as error:
        raise ConcordError(f"{path}: not a readable uncompressed tar ({error}); write it again") from None
    except OSError as error:
        raise ConcordError(f"{path}: cannot be read ({error.strerror}); write the tar again") from None
    return entries


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))


def _is_picture(name: str) -> bool:
    """Also of the kinds that are refused: better an error than a set that is silently smaller than its folder."""
    return not _is_hidden(name) and Path(name).suffix.lower() in SUFFIXES | OTHER_PICTURES


def _is_archive(name: str) -> bool:
    return not _is_hidden(name) and name.lower().endswith(ARCHIVES)


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
    """Pictures of any sizes: arrays, tensors, or Pillow's images."""

    named = False

    def __init__(self, items: list[Any], label: str) -> None:
        self.items, self.label = items, label
        self.names = [f"{index:06d}" for index in range(len(items))]
        self.lock = threading.Lock()  # a Pillow image reads its file when first looked at, and not from two threads

    def load(self, index: int) -> np.ndarray:
        item, place = self.items[index], f"{self.label}[{index}]"
        if isinstance(item, Image.Image):
            with self.lock:
                return picture_to_rgb(item, place)
        if not hasattr(item, "shape"):
            raise ConcordError(f"{place}: a {type(item).__name__}; expected an array, a tensor or a picture")
        array = to_numpy(item)
        if array.ndim == 2:
            array = np.repeat(array[..., None], 3, axis=2)
        if array.ndim != 3:
            raise ConcordError(f"{place}: shape {array.shape}; expected (H, W, 3) or (3, H, W)")
        return checked(channels_last(array[None], place)[0], place)

    def digest(self, index: int) -> bytes:
        return digest_of(self.load(index))


# -------------------------------------------------------------------------------------------------------------- pairing


def pair(first: ImageSet, second: ImageSet) -> np.ndarray:
    """For each picture of `first`, the place of its partner in `second`: int64 (n,).

    By name without suffix, or bare name, where both sets have the same ones, else in order. Unequal numbers, and names
    of which only some agree (a set that lost or gained pictures), are errors.
    """
    if len(first) != len(second):
        raise ConcordError(
            f"{first.label} holds {len(first)} images and {second.label} {len(second)}: "
            "metrics of pairs need one partner for each; give sets of one size"
        )
    if first.named and second.named:
        for key in (_without_suffix, _bare):
            own, other = ([key(name) for name in side.names] for side in (first, second))
            if len(set(own)) < len(own) or len(set(other)) < len(other):
                continue
            places = {name: index for index, name in enumerate(other)}
            lonely = [name for name in own if name not in places]
            if not lonely:
                return np.array([places[name] for name in own], dtype=np.int64)
            if len(lonely) < len(own):
                others = len(own) - len(lonely)
                raise ConcordError(
                    f"{first.label}: '{lonely[0]}' has no partner of its name in {second.label}, while {others} others "
                    "have; name both sets alike, or wholly unlike to pair them in order"
                )
    return np.arange(len(first), dtype=np.int64)


def _without_suffix(name: str) -> str:
    return str(PurePosixPath(name).with_suffix("")) if _is_picture(PurePosixPath(name).name) else name


def _bare(name: str) -> str:
    return PurePosixPath(_without_suffix(name)).name
