"""Shards: 64 PNG images in an uncompressed tar, with a JSON beside it that is written last.

A shard counts only with its JSON, and only while the tar has the SHA-256 that the JSON names. The tar's bytes follow
from the images alone (no times, no owners), so that equal images give equal files.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from concord.benchmarks.store.regular import check_regular
from concord.data.errors import ConcordError
from concord.data.files import atomic_path, read_json, sha256_file, write_json
from concord.data.printable import printable

SHARD_NAME = re.compile(r"[0-9]{5}\.(tar|json)")

SHARD_SIZE = 64
"""Requests in one shard; also the largest sample grid and the largest batch."""


def tar_path(folder: Path, index: int) -> Path:
    """Where the images of shard `index` lie."""
    return folder / f"{index:05d}.tar"


def json_path(folder: Path, index: int) -> Path:
    """Where the facts of shard `index` lie."""
    return folder / f"{index:05d}.json"


def encode_png(image: np.ndarray) -> bytes:
    """PNG bytes of a uint8 (H, W, 3) RGB image."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=1)  # level 9 saves 5 % and takes ten times as long
    return buffer.getvalue()


def decode_png(content: bytes, name: str, side: int | None = None) -> np.ndarray:
    """uint8 (H, W, 3) RGB of PNG bytes; `name` is what an error calls the image, `side` what H and W have to be.

    The size is looked at before anything is unpacked: a file of a few bytes may claim gigapixels.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if side is not None and image.size != (side, side):
                raise ConcordError(f"{name}: {image.size[0]}x{image.size[1]} pixels; expected {side}x{side}")
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, MemoryError, Image.DecompressionBombError) as error:
        raise ConcordError(f"{name}: not a readable image ({error}); generate the row again") from None


def write_shard(
    folder: Path, index: int, ids: Sequence[str], pngs: Sequence[bytes], facts: dict[str, object]
) -> dict[str, object]:
    """Write the tar, then the JSON, each atomically; returns the JSON's content."""
    path = tar_path(folder, index)
    with atomic_path(path) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in zip(ids, pngs, strict=True):
            member = tarfile.TarInfo(f"{name}.png")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    info: dict[str, object] = {
        "shard": index,
        "n": len(ids),
        "sha256": sha256_file(path),
        "requests": list(ids),
        **facts,
    }
    info["digest"] = digest_of_info(info)
    write_json(json_path(folder, index), info)
    return info


def digest_of_info(info: Mapping[str, object]) -> str:
    """SHA-256 over a shard's facts, which vouches for them until the row's own list of digests stands."""
    facts = {key: value for key, value in info.items() if key != "digest"}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def read_info(folder: Path, index: int) -> dict[str, object] | None:
    """The shard's JSON if the shard is whole: both files there, as they were written; None otherwise."""
    path = tar_path(folder, index)
    try:
        check_regular(path)
        check_regular(json_path(folder, index))
        info = read_json(json_path(folder, index))
        whole = isinstance(info, dict) and info.get("digest") == digest_of_info(info)
        return info if whole and info.get("sha256") == sha256_file(path) else None
    except (ConcordError, OSError):
        return None


def read_images(
    path: Path, wanted: set[str] | None = None, side: int | None = None, content: bytes | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """(request id, uint8 (H, W, 3)) of a tar, in its order. side: what H and W have to be.

    content: the tar's bytes, where it does not lie at `path` on this machine.
    """
    try:
        file = None if content is None else io.BytesIO(content)
        with tarfile.open(path, "r:", fileobj=file) as tar:
            for member in tar:
                name = member.name.removesuffix(".png")
                if wanted is None or name in wanted:
                    inner = tar.extractfile(member) if member.isfile() else None
                    if inner is None:
                        raise ConcordError(f"{path}: {printable(member.name)} is no file; generate the row again")
                    yield name, decode_png(inner.read(), f"{path}: {printable(member.name)}", side)
    except FileNotFoundError:
        raise ConcordError(f"{path}: no such file; generate the row again") from None
    except tarfile.TarError as error:
        raise ConcordError(f"{path}: not a readable tar ({error}); generate the row again") from None
