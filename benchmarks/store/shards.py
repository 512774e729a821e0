"""Shards: 64 PNG images in an uncompressed tar, with a JSON beside it that is written last.

A shard counts only with its JSON, and only while the tar has the SHA-256 that the JSON names. The tar's bytes follow
from the images alone (no times, no owners), so that equal images give equal files.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from concord.data.errors import ConcordError
from concord.data.files import atomic_path, read_json, sha256_file, write_json

SHARD_SIZE = 64
"""Requests in one shard; also the largest sample grid and the largest batch."""


def tar_path(folder: Path, index: int) -> Path:
    return folder / f"{index:05d}.tar"


def json_path(folder: Path, index: int) -> Path:
    return folder / f"{index:05d}.json"


def encode_png(image: np.ndarray) -> bytes:
    """PNG bytes of a uint8 (H, W, 3) RGB image."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=1)  # level 9 saves 5 % and takes ten times as long
    return buffer.getvalue()


def decode_png(content: bytes, name: str) -> np.ndarray:
    """uint8 (H, W, 3) RGB of PNG bytes; `name` is what an error calls the image."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise ConcordError(f"{name}: not a readable image ({error}); generate the row again") from None


def write_shard(
    folder: Path, index: int, ids: Sequence[str], pngs: Sequence[bytes], facts: dict[str, Any]
) -> dict[str, Any]:
    """Write the tar, then the JSON, each atomically; returns the JSON's content."""
    path = tar_path(folder, index)
    with atomic_path(path) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in zip(ids, pngs, strict=True):
            member = tarfile.TarInfo(f"{name}.png")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    info = {"shard": index, "n": len(ids), "sha256": sha256_file(path), "requests": list(ids), **facts}
    write_json(json_path(folder, index), info)
    return info


def read_info(folder: Path, index: int) -> dict[str, Any] | None:
    """The shard's JSON if the shard is whole: both files there, and the tar is the one that the JSON describes."""
    path = tar_path(folder, index)
    if not json_path(folder, index).is_file() or not path.is_file():
        return None
    try:
        info = read_json(json_path(folder, index))
    except ConcordError:
        return None
    if not isinstance(info, dict) or info.get("sha256") != sha256_file(path):
        return None
    return info


def read_images(path: Path, wanted: set[str] | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """(request id, uint8 (H, W, 3)) of a tar, in its order."""
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                name = member.name.removesuffix(".png")
                if wanted is None or name in wanted:
                    file = tar.extractfile(member)
                    assert file is not None
                    yield name, decode_png(file.read(), f"{path}: {member.name}")
    except FileNotFoundError:
        raise ConcordError(f"{path}: no such file; generate the row again") from None
    except tarfile.TarError as error:
        raise ConcordError(f"{path}: not a readable tar ({error}); generate the row again") from None
