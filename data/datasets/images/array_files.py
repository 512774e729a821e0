"""Images as arrays: in memory, on a device, or mapped from .npy and .npz files; checked image by image."""

from __future__ import annotations

import hashlib
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from concord.data.errors import ConcordError
from concord.data.images import UNREADABLE, BadFile
from concord.data.notes import note


def to_numpy(source: Any) -> np.ndarray:
    """An array of an array or tensor, from any device; half precision becomes float32, which NumPy knows."""
    if hasattr(source, "detach"):  # a tensor, which may be on a GPU
        source = source.detach().cpu()
        source = source.float() if str(source.dtype) in ("torch.bfloat16", "torch.float16") else source
        return np.asarray(source.numpy())
    return np.asarray(source)


def as_array(source: Any, label: str) -> np.ndarray:
    """(N, H, W, 3) of an array or tensor; one image alone is a set of one."""
    array = to_numpy(source)
    if array.ndim == 3 and 3 in (array.shape[0], array.shape[2]):
        if array.shape[2] != 3:
            note(f"{label}: an array of shape {array.shape} is taken for one RGB image, not for three grey ones")
        array = array[None]
    return channels_last(array, label, first=hasattr(source, "detach"))


def channels_last(array: np.ndarray, label: str, first: bool = False) -> np.ndarray:
    """Channels where Concord reads them; `first` decides for an array whose height and width could be channels too."""
    if array.ndim != 4 or 3 not in (array.shape[1], array.shape[3]):
        raise ConcordError(f"{label}: an array of shape {array.shape}; expected (N, H, W, 3) or (N, 3, H, W)")
    if array.shape[3] != 3 or (array.shape[1] == 3 and first):
        return array.transpose(0, 2, 3, 1)
    return array


def checked(image: np.ndarray, place: str) -> np.ndarray:
    """uint8 as it is, floats as float32; ConcordError for NaN, for values outside of [0, 1] and for other types."""
    if image.dtype == np.uint8:
        return np.ascontiguousarray(image)
    if not np.issubdtype(image.dtype, np.floating):
        raise ConcordError(f"{place}: pixels of type {image.dtype}; expected uint8, or floats in 0..1")
    broken = int((~np.isfinite(image)).any(axis=2).sum())
    if broken:
        raise ConcordError(f"{place}: {broken} pixels are NaN or infinite; expected floats in 0..1")
    low, high = float(image.min()), float(image.max())
    if low < -1e-4 or high > 1 + 1e-4:
        raise ConcordError(f"{place}: pixels from {low:.4g} to {high:.4g}; expected floats in 0..1 (or uint8)")
    return np.clip(image, 0, 1).astype(np.float32)


def digest_of(image: np.ndarray) -> bytes:
    """SHA-256 over shape, type and pixels of an image (H, W, 3)."""
    head = f"{image.shape}{image.dtype.str}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(image).tobytes()).digest()


def map_array(path: Path) -> np.ndarray:
    """The array of an .npy, or `arr_0` of an .npz (its only array, else), mapped from the file."""
    try:
        if path.suffix.lower() == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            array = _map_member(path)
    except (
        OSError,
        ValueError,
        EOFError,
        KeyError,
        MemoryError,
        OverflowError,
        RuntimeError,
        struct.error,
        SyntaxError,
        TypeError,
        zlib.error,
        zipfile.BadZipFile,
    ) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:90]
        raise BadFile(path, UNREADABLE, f"is not a readable array file ({reason})", "write it again") from None
    return channels_last(array, str(path))


def _map_member(path: Path) -> np.ndarray:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        name = "arr_0.npy" if "arr_0.npy" in names else names[0] if len(names) == 1 else None
        if name is None:
            kept = ", ".join(entry.removesuffix(".npy") for entry in names[:6])
            raise BadFile(path, UNREADABLE, f"holds {kept}, no images", "expected arr_0 (N, H, W, 3), as ADM writes it")
        info = archive.getinfo(name)
        if info.compress_type != zipfile.ZIP_STORED:
            with archive.open(name) as file:
                return np.asarray(np.lib.format.read_array(file, allow_pickle=False))  # compressed: all at once
        with open(path, "rb") as raw:
            raw.seek(info.header_offset + 26)
            lengths = raw.read(4)
            start = (
                info.header_offset + 30 + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
            )
            raw.seek(start)
            version = np.lib.format.read_magic(raw)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(raw)
            if dtype.hasobject:
                raise ValueError("holds Python objects")
            return np.memmap(path, dtype, "r", raw.tell(), shape, "F" if fortran else "C")
