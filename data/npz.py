"""Arrays of .npz files that others may have written: nothing is unpickled, and no header claims memory for nothing."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import IO

import numpy as np

from concord.data.errors import ConcordError

LARGEST = 16 * 2**30
"""Bytes of all arrays of one file together."""


def read_npz(source: Path | bytes, where: str = "", names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of a file, or of its bytes; `names`: only these, where they are there.

    Raises ConcordError that begins with `where` (the path, if absent) when it is no .npz, damaged, holds objects, or an
    array whose header claims another size than the file has.
    """
    where = where or str(source)
    try:
        with zipfile.ZipFile(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            entries = [one for one in file.infolist() if one.filename.endswith(".npy")]
            if sum(one.file_size for one in entries) > LARGEST:
                raise ConcordError(f"{where}: claims more than {LARGEST / 2**30:.0f} GiB of arrays")
            found = {}
            for entry in entries:
                name = entry.filename.removesuffix(".npy")
                if names is None or name in names:
                    with file.open(entry) as member:
                        found[name] = _read_array(member, entry.file_size, f"{where}, array '{ascii(name)[1:-1]}'")
            return found
    except (
        OSError,
        ValueError,
        EOFError,
        KeyError,
        NotImplementedError,
        RuntimeError,
        MemoryError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise ConcordError(f"{where}: not a readable .npz ({' '.join(str(error).split())[:120]})") from None


def _read_array(member: IO[bytes], size: int, where: str) -> np.ndarray:
    version = np.lib.format.read_magic(member)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read_header(member)
    if dtype.hasobject:
        raise ConcordError(f"{where}: holds Python objects; expected numbers or text")
    wanted = math.prod(shape) * dtype.itemsize
    if wanted > size:
        raise ConcordError(f"{where}: its header claims {wanted:,} bytes, the file has {size:,}")
    array = np.frombuffer(member.read(), dtype=dtype, count=math.prod(shape))
    return array.reshape(shape[::-1]).T.copy() if fortran else array.reshape(shape).copy()
