"""Files written so that a reader sees the old one or the whole new one; files of others read; hashes of files."""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import io
import json
import os
import re
import secrets
import stat
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from concord.data.errors import ConcordError


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`; on success it is synced and renamed to `path`, on failure removed.

    Raises ConcordError when the folder cannot be written (read-only, full).
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not mkstemp: its files are for their owner alone, and a report is to be read by others too.
        temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.part"
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        reason = f"cannot be written ({error.strerror})"
        raise ConcordError(f"{path}: {reason}; free space or choose another folder") from None
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        reason = f"cannot be written ({error.strerror})"
        raise ConcordError(f"{path}: {reason}; free space or choose another folder") from None
    finally:
        temporary.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # some file systems refuse to sync a folder; the rename stands all the same
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys in the order given, with a final newline."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


# ------------------------------------------------------------------------------------------------------------- reading

LARGEST_TEXT = 1 << 30
"""Bytes of text that are read whole; ten times CelebA-Dialog's captions."""
DEEPEST = 100
"""Levels of lists and objects within each other, far more than any file of ours has."""
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_LONE = re.compile(r"\\u[dD][89a-fA-F]")


def path_kind(path: Path) -> Literal["file", "folder", "other", "none"]:
    """What lies at a path; 'other': a pipe, a socket, a device, none of which is ever opened.

    ConcordError for a path that no file can have (too long, a loop of links) or that may not be looked at.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "none"
    except OSError as error:
        shown = str(path) if len(str(path)) <= 200 else f"{str(path)[:200]}..."
        raise ConcordError(f"{shown}: cannot be looked at ({error.strerror}); give another path") from None
    except ValueError:  # a zero byte
        raise ConcordError(f"{path}: no file can have this name; give another path") from None
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "other"


def read_bytes(path: Path, expected: str = "a file", limit: int | None = None) -> bytes:
    """The content of a file; ConcordError naming it where there is none, or it is no file, or larger than `limit`."""
    kind = path_kind(path)
    if kind == "none":
        raise ConcordError(f"{path}: no such file; expected {expected}")
    if kind != "file":
        what = "a folder" if kind == "folder" else "a pipe, a socket or a device"
        raise ConcordError(f"{path}: is {what}; expected {expected}")
    try:
        size = path.stat().st_size
        if limit is not None and size > limit:
            raise ConcordError(f"{path}: has {size:,} bytes; expected {expected} of at most {limit:,}")
        return path.read_bytes()
    except OSError as error:
        raise ConcordError(f"{path}: cannot be read ({error.strerror}); expected {expected}") from None
    except MemoryError:
        raise ConcordError(f"{path}: is too large for the memory of this machine; expected {expected}") from None


def read_text(path: Path, expected: str = "a text file") -> str:
    """UTF-8 text, with or without a byte order mark (UTF-16 with one), its line ends as they are in the file."""
    content = read_bytes(path, expected, LARGEST_TEXT)
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConcordError(f"{path}, line {line}: not UTF-8 text ({error.reason}); expected {expected}") from None


def text_lines(text: str) -> list[str]:
    """The lines of a text file, cut at line feeds and carriage returns alone: a caption may hold U+2028 or U+0085."""
    lines = re.split(r"\r\n|\n|\r", text)
    while lines and not lines[-1].strip():
        lines.pop()  # the end of the last line, and empty lines after it
    return lines


def parse_json(text: str, place: str, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """The value of a JSON text; `place` is what an error calls it.

    Raises ConcordError for what is no JSON, for a key that stands twice in one object (`json` would take the last), for
    halves of surrogate pairs (no text), and for lists and objects nested more than `DEEPEST` levels deep.

    pairs: makes an object of its keys and values, in place of the rule about keys.
    """
    advice = "expected an intact JSON file"
    try:
        value = json.loads(text, object_pairs_hook=pairs or _unique)
    except _RepeatedKey as error:
        raise ConcordError(f"{place}: key '{error.key}' stands twice in one object; keep one of them") from None
    except RecursionError:
        raise ConcordError(f"{place}: nested too deep; {advice} of at most {DEEPEST} levels") from None
    except ValueError as error:
        raise ConcordError(f"{place}: not valid JSON ({error}); {advice}") from None
    if _may_be_deep(text) and _depth(value) > DEEPEST:
        raise ConcordError(f"{place}: nested too deep; {advice} of at most {DEEPEST} levels")
    if _LONE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(error.object[error.start]):04x}"
            raise ConcordError(f"{place}: holds {half}, half of a character; {advice}") from None
    return value


class _RepeatedKey(Exception):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key if len(key) <= 60 else f"{key[:57]}..."


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _RepeatedKey(key)
            seen.add(key)
    return found


def _may_be_deep(text: str) -> bool:
    """Whether brackets, those inside of strings counted too, ever stand more than DEEPEST deep."""
    import numpy as np

    content = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
    opening = ((content == ord("[")) | (content == ord("{"))).astype(np.int32)
    closing = ((content == ord("]")) | (content == ord("}"))).astype(np.int32)
    return bool(len(content)) and int((opening - closing).cumsum(dtype=np.int32).max()) > DEEPEST


def _depth(value: Any) -> int:
    deepest, waiting = 0, [(value, 1)]
    while waiting:
        one, depth = waiting.pop()
        if isinstance(one, dict | list):
            deepest = max(deepest, depth)
            waiting += [(part, depth + 1) for part in (one.values() if isinstance(one, dict) else one)]
    return deepest


def read_json(path: Path) -> Any:
    """Read JSON by the rules of `parse_json`; ConcordError names the file."""
    return parse_json(read_text(path, "a JSON file"), str(path))


def read_json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """(line, value) of a file with one JSON text a line, empty lines passed over; ConcordError names file and line."""
    for number, line in enumerate(text_lines(read_text(path, "JSON lines")), 1):
        if line.strip():
            yield number, parse_json(line, f"{path}, line {number}")


def read_arrays(path: Path, names: Iterable[str], expected: str) -> dict[str, Any]:
    """The named arrays of an .npz file, those that it has; ConcordError naming the file where it cannot be read.

    Python objects are refused, and an array whose header claims more than the file holds.
    """
    import numpy as np

    content = read_bytes(path, expected)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("is one array, not an .npz")
            return {name: file[name] for name in names if name in file.files}
    except (OSError, EOFError, ValueError, KeyError, MemoryError, zipfile.BadZipFile, NotImplementedError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:80]
        raise ConcordError(f"{path}: cannot be read ({reason}); expected {expected}") from None


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
