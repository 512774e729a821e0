"""Image files, in folders and in tars: which there are, in which order, and their bytes. Nothing is decoded here.

Every file under a folder counts whose name is that of an image: also of a kind that is not read (GIF, AVIF, ...), since
an error is better than a set that is silently smaller than its folder. Other files (.json, .txt, hidden ones) are
passed over; so is a link to a folder that leads back to where one is.
"""

from __future__ import annotations

import os
import re
import tarfile
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from concord.data.errors import ConcordError
from concord.data.files import read_bytes
from concord.data.images import UNREADABLE, BadFile, is_hidden, is_image
from concord.data.notes import note

ARCHIVES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip", ".7z", ".rar")
EXPECTED = "expected PNG, JPEG, WebP, BMP or TIFF"
SYSTEM_FOLDERS = ("/proc", "/sys", "/dev")
MEMORY_FOLDER = "/dev/shm"


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
        """The encoded bytes; BadFile where they cannot be read."""
        path, offset, size = self[1:]
        if offset < 0:
            try:
                return read_bytes(path, "an image")
            except ConcordError as error:
                fact, _, _ = str(error).removeprefix(f"{path}: ").partition("; expected")
                raise BadFile(self.place, UNREADABLE, fact, f"{EXPECTED}; fetch the file again") from None
        try:
            with open(path, "rb") as file:
                content = os.pread(file.fileno(), size, offset)
        except OSError as error:
            advice = f"{EXPECTED}; fetch the file again"
            raise BadFile(self.place, UNREADABLE, f"cannot be read ({error.strerror})", advice) from None
        if len(content) < size:
            raise BadFile(path, UNREADABLE, f"is truncated inside of {self[0]}", "write the tar again")
        return content


def natural(name: str) -> list[Any]:
    """Sort key in which numbers count as numbers: 'a2' before 'a10'."""
    return [
        (0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name.lower()) if part
    ]


def is_archive(name: str) -> bool:
    """Whether a file of this name is opened as a folder of images."""
    return not is_hidden(name) and name.lower().endswith(ARCHIVES)


def printable(name: str) -> str:
    """The name in NFC, bytes that are no UTF-8 as escapes: 'caf\\xe9.png'. Different files keep different names."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return os.fsencode(name).decode("utf-8", "backslashreplace")
    return unicodedata.normalize("NFC", name)


def refuse_system_folder(folder: Path) -> None:
    """ConcordError for a folder of the running system: its files are no files, and walking it may never end."""
    real = os.path.realpath(folder)
    if any(real == one or real.startswith(f"{one}/") for one in SYSTEM_FOLDERS) and not real.startswith(MEMORY_FOLDER):
        raise ConcordError(f"{folder}: is a folder of the running system; expected a folder of images")


def listed(folder: Path) -> list[Entry]:
    """Image files and tars under a folder, in natural order of their paths; links to folders are followed once."""
    refuse_system_folder(folder)
    found: list[tuple[str, Path]] = []
    been: set[str] = set()
    own = os.path.realpath(folder)

    def refuse(error: OSError) -> None:
        raise ConcordError(f"{error.filename}: cannot be read ({error.strerror})")

    for here, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        real = os.path.realpath(here)
        above = real != own and own.startswith(real.rstrip("/") + "/")  # a link to where one came from
        again = real in been or above
        folders[:] = [] if again else [name for name in folders if not is_hidden(name)]
        if not again:
            found += [(os.path.relpath(os.path.join(here, name), folder), Path(here, name)) for name in files]
        been.add(real)
    entries: list[Entry] = []
    for name, path in sorted(found, key=lambda pair: ([natural(part) for part in Path(pair[0]).parts], pair[0])):
        if path.suffix.lower() == ".tar" and not is_hidden(path.name):
            entries += members(path)
        elif is_image(path.name):
            entries.append(Entry(printable(name.replace(os.sep, "/")), path))
        elif is_archive(path.name):
            raise ConcordError(f"{path}: a compressed archive; unpack it, or move it out of the folder")
    return entries


def members(path: Path, below: str = "") -> list[Entry]:
    """The images of an uncompressed tar, with where their bytes lie; those in the tar's folder `below` alone."""
    entries = []
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not is_image(PurePosixPath(member.name).name) or not member.name.startswith(below):
                    continue
                if not member.isreg():
                    raise ConcordError(f"{path}: {member.name} is a link, not an image; write the tar with its files")
                entries.append(Entry(printable(member.name), path, member.offset_data, member.size))
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise ConcordError(f"{path}: not a readable uncompressed tar ({error}); write it again") from None
    except OSError as error:
        raise ConcordError(f"{path}: cannot be read ({error.strerror}); write the tar again") from None
    return entries


def say_what_is_left(folder: Path, taken: str, known: Iterable[str] = ()) -> None:
    """Say which sub-folders hold images that are not of the set, where one of them stands for the whole folder."""
    left = []
    for place in sorted(folder.iterdir()):
        if place.is_dir() and place.name != taken and place.name not in known and not is_hidden(place.name):
            with os.scandir(place) as entries:
                if any(is_image(entry.name) for entry in entries):
                    left.append(f"{printable(place.name)}/")
    if left:
        note(f"{folder}: the images of {taken}/ alone are read; {', '.join(left)} beside it are left")
