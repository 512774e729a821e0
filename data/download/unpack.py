"""Unpacking archives that others made: inside their folder only, and never more than was announced.

Taken are plain files and folders under relative names. Refused, before a byte is written where the list of contents
tells: absolute names, `..`, drive letters, links of any kind, devices, encrypted members, two members of one name, and
archives that hold more than `most_bytes` (counted while unpacking too: a list of contents can lie). The content is
written to a folder of its own, which its caller renames once all of it is there.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from concord.data.download.transfer import check_space
from concord.data.errors import ConcordError
from concord.data.files import sha256_file

BLOCK = 1 << 18
SPARE_BYTES = 16 << 20  # for the headers of a tar
MOST_MEMBERS = 2_000_000
MOST_HASHED = 1_000
"""The members' hashes are kept up to so many of them; beyond, the archive's own must do."""
_JUNK = re.compile(r"(^|/)(__MACOSX(/|$)|\.DS_Store$|Thumbs\.db$)")


class BadArchive(ConcordError):
    """An archive that is broken, dishonest or another one than was expected; the same bytes will fail again."""


Members = dict[str, tuple[int, str]]
"""Path in the folder -> (size, SHA-256)."""
Progress = Callable[[int, int | None], None]


def unpack(archive: Path, folder: Path, most_bytes: int, progress: Progress = lambda done, of: None) -> Members:
    """Unpack a zip or tar (plain, gz, bz2, xz) into `folder`, which is made anew; returns its files with their hashes.

    Empty where there are more than `MOST_HASHED` files. Raises ConcordError naming the archive and the member that
    is refused or broken; what was unpacked until then is removed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
        contents = _Contents(archive, most_bytes)
        if zipfile.is_zipfile(archive):
            _unpack_zip(archive, folder, contents, progress)
        else:
            _unpack_tar(archive, folder, contents, progress)
        if len(contents.files) > MOST_HASHED:
            return {}
        return {name: (size, sha256_file(folder / name)) for name, size in contents.files.items()}
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, (FileExistsError, NotADirectoryError, IsADirectoryError)):
            raise BadArchive(
                f"{archive}: one of its members is a file and a folder at once; it is not unpacked"
            ) from None
        raise


class _Contents:
    """What an archive may hold: each member is admitted by its name and size before a byte of it is written.

    zipfile and tarfile see to it that no member becomes longer than it announces, or lies outside the folder; what
    they would bend into shape (an absolute name, `..`, two of one name) is refused here, as no honest archive has it.
    """

    def __init__(self, archive: Path, most_bytes: int) -> None:
        self.archive, self.most_bytes = archive, most_bytes
        self.files: dict[str, int] = {}
        self.total = 0

    def admit(self, name: str, size: int | None) -> None:
        """Take a file of that size in bytes, or a folder (None); BadArchive when it does not belong in an archive."""
        path = PurePosixPath(name)
        if path.is_absolute() or "\\" in name or re.match(r"[A-Za-z]:", name):
            raise _refusal(self.archive, name, "has an absolute name")
        if ".." in path.parts:
            raise _refusal(self.archive, name, "leads out of the folder")
        if any(ord(sign) < 32 for sign in name) or any(len(os.fsencode(part)) > 255 for part in path.parts):
            raise _refusal(self.archive, name, "has a name that is no file name")
        if size is None:
            return
        if str(path) in self.files or not path.parts:
            raise _refusal(self.archive, name, "is there twice" if path.parts else "has no name")
        self.files[str(path)] = size
        self.total += size
        if len(self.files) > MOST_MEMBERS:
            raise BadArchive(f"{self.archive}: holds more than {MOST_MEMBERS:,} files; it is not unpacked")
        if self.total > self.most_bytes:
            raise BadArchive(
                f"{self.archive}: unpacks to {self.total:,} bytes or more, expected at most {self.most_bytes:,}; "
                "not unpacked"
            )


def _unpack_zip(archive: Path, folder: Path, contents: _Contents, progress: Progress) -> None:
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [info for info in opened.infolist() if not _JUNK.search(info.filename)]
            for info in members:
                mode = info.external_attr >> 16
                if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise _refusal(archive, info.filename, "is a link or a device")
                if info.flag_bits & 0x1:
                    raise _refusal(archive, info.filename, "is encrypted")
                contents.admit(info.filename, None if info.is_dir() else info.file_size)
            check_space(folder, contents.total, f"unpacking {archive.name}")
            done = 0
            for info in members:
                opened.extract(info, folder)
                done += info.file_size
                if not info.is_dir():
                    progress(done, contents.total)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise _broken(archive, error) from None


def _unpack_tar(archive: Path, folder: Path, contents: _Contents, progress: Progress) -> None:
    with _decompressed(archive) as stream:
        bounded = _Bounded(stream, contents.most_bytes + SPARE_BYTES, archive)
        try:
            opened = tarfile.TarFile(fileobj=bounded)
        except tarfile.TarError:
            raise BadArchive(f"{archive}: neither a zip nor a tar archive{_hint(archive)}; fetch it again") from None
        except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            raise _broken(archive, error) from None
        # Python before 3.11.4 has no filters; what `admit` lets through is safe without them.
        opened.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
        try:
            for info in opened:
                if not (info.isreg() or info.isdir()) or info.issparse():
                    raise _refusal(archive, info.name, "is a link, a device or another special file")
                contents.admit(info.name, None if info.isdir() else info.size)
                opened.extract(info, folder, set_attrs=False)
                progress(contents.total, None)
            while bounded.read(BLOCK):  # to the end of the compressed stream, where its checksum is
                pass
        except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OverflowError, ValueError) as error:
            raise _broken(archive, error) from None
        except OSError as error:
            if error.errno is not None:  # the disk's; a damaged gzip or bz2 stream has no number
                raise
            raise _broken(archive, error) from None


def _decompressed(archive: Path) -> IO[bytes]:
    """The archive's bytes as they were before compression, which its first bytes tell."""
    with open(archive, "rb") as file:
        start = file.read(6)
    if start.startswith(b"\x1f\x8b"):
        return gzip.open(archive)  # type: ignore[return-value]
    if start.startswith(b"BZh"):
        return bz2.open(archive)
    if start == b"\xfd7zXZ\x00":
        return lzma.open(archive)
    return open(archive, "rb")


class _Bounded:
    """A stream that refuses to give more than so many bytes, or very many at once: a header may ask for gigabytes."""

    def __init__(self, file: IO[bytes], most: int, archive: Path) -> None:
        self._file, self._left, self._archive = file, most, archive

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= SPARE_BYTES or self._left < 0:
            raise BadArchive(f"{self._archive}: unpacks to more than it may; it is not unpacked")
        block = self._file.read(size)
        self._left -= len(block)
        return block

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _refusal(archive: Path, member: str, why: str) -> BadArchive:
    shown = member.encode("unicode_escape").decode()[:80]
    return BadArchive(f"{archive}: its member '{shown}' {why}; it is not unpacked; get it from another source")


def _broken(archive: Path, error: BaseException) -> BadArchive:
    reason = " ".join(str(error).split())[:100] or type(error).__name__
    return BadArchive(f"{archive}: a broken archive ({reason}); fetch it again")


def _hint(archive: Path) -> str:
    with open(archive, "rb") as file:
        start = file.read(256).lstrip().lower()
    return " but a web page" if start.startswith((b"<!doctype html", b"<html")) else ""


# ----------------------------------------------------------------------------------------------------------- the result


def find_root(folder: Path, expects: tuple[str, ...], name: str) -> Path:
    """The folder that holds all of `expects`: `folder`, or one up to two levels inside it.

    Raises ConcordError that says what was expected and what the folder looks like instead.
    """
    for place in _levels(folder, 2):
        if all((place / path).exists() for path in expects):
            return place
    raise BadArchive(f"{name}: expected {', '.join(expects)} inside; it looks like {describe(folder)}")


def _levels(folder: Path, depth: int) -> Iterator[Path]:
    level = [folder]
    for _ in range(depth + 1):
        yield from level
        level = [inner for place in level for inner in sorted(place.iterdir()) if inner.is_dir()][:1000]


def describe(folder: Path) -> str:
    """A folder in a few words: its sub-folders, and its files by their endings."""
    folders, endings = [], Counter[str]()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                folders.append(entry.name + "/")
            else:
                endings[Path(entry.name).suffix.lower() or "files without an ending"] += 1
    parts = sorted(folders)[:6] + ([f"and {len(folders) - 6:,} more folders"] if len(folders) > 6 else [])
    parts += [f"{count:,} {ending}" for ending, count in endings.most_common(4)]
    return "a folder with " + ", ".join(parts) if parts else "an empty folder"
