"""Unpacking archives that others made: inside their folder only, and never more than was announced.

Taken are plain files and folders under relative names. Refused, before a byte is written where the list of contents
tells: absolute names, `..`, drive letters, links of any kind, devices, encrypted members, two members of one name, and
archives that hold more than `most_bytes` (counted while unpacking too: a list of contents can lie). The content is
written to a folder of its own, which its caller renames once all of it is there.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
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


def unpack(
    archive: Path, folder: Path, most_bytes: int, progress: Callable[[int, int | None], None] = lambda done, of: None
) -> Members:
    """Unpack a zip or tar (plain, gz, bz2, xz) into `folder`, which is made anew; returns its files with their hashes.

    Empty where there are more than `MOST_HASHED` files. Raises ConcordError naming the archive and the member that
    is refused or broken; what was unpacked until then is removed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    try:
        if zipfile.is_zipfile(archive):
            found = _unpack_zip(archive, folder, most_bytes, progress)
        else:
            found = _unpack_tar(archive, folder, most_bytes, progress)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, (FileExistsError, NotADirectoryError, IsADirectoryError)):
            raise BadArchive(
                f"{archive}: one of its members is a file and a folder at once; it is not unpacked"
            ) from None
        raise
    return found


def _unpack_zip(archive: Path, folder: Path, most: int, progress: Callable[[int, int | None], None]) -> Members:
    try:
        with zipfile.ZipFile(archive) as content:
            members = [info for info in content.infolist() if not _JUNK.search(info.filename)]
            for info in members:
                _refuse_zip(archive, info)
            total = sum(info.file_size for info in members)
            target = _Target(archive, folder, most, total, len(members), progress)
            for info in members:
                if info.is_dir():
                    target.make_folder(info.filename)
                    continue
                with content.open(info) as source:
                    target.write(info.filename, source, info.file_size)
            return target.members
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise _broken(archive, error) from None


def _refuse_zip(archive: Path, info: zipfile.ZipInfo) -> None:
    mode = info.external_attr >> 16
    if mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_IFMT(mode) == 0):
        raise _refusal(archive, info.filename, "is a link or a device")
    if info.flag_bits & 0x1:
        raise _refusal(archive, info.filename, "is encrypted")


def _unpack_tar(archive: Path, folder: Path, most: int, progress: Callable[[int, int | None], None]) -> Members:
    target = _Target(archive, folder, most, None, 0, progress)
    with _decompressed(archive) as stream:
        try:
            bounded = _Bounded(stream, most + SPARE_BYTES, archive)
            content = tarfile.TarFile(fileobj=bounded)
        except tarfile.TarError:
            raise BadArchive(f"{archive}: neither a zip nor a tar archive{_hint(archive)}; fetch it again") from None
        except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            raise _broken(archive, error) from None
        try:
            for info in content:
                if info.isdir():
                    target.make_folder(info.name)
                    continue
                if not info.isreg() or info.issparse():
                    raise _refusal(archive, info.name, "is a link, a device or another special file")
                source = content.extractfile(info)
                assert source is not None  # as it is a regular file
                with source:
                    target.write(info.name, source, info.size)
            while bounded.read(BLOCK):  # to the end of the compressed stream, where its checksum is
                pass
        except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OverflowError, ValueError) as error:
            raise _broken(archive, error) from None
        except OSError as error:
            if error.errno is not None:  # the disk's; a damaged gzip or bz2 stream has no number
                raise
            raise _broken(archive, error) from None
    return target.members


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


class _Target:
    """The folder that is filled: counts what is written, refuses what does not belong there."""

    def __init__(
        self,
        archive: Path,
        folder: Path,
        most: int,
        total: int | None,
        count: int,
        progress: Callable[[int, int | None], None],
    ) -> None:
        self.archive, self.folder, self.most, self.total, self.progress = archive, folder, most, total, progress
        self.written = 0
        self.seen: set[str] = set()
        self.members: Members = {}
        self.hashing = count <= MOST_HASHED
        if count > MOST_MEMBERS:
            raise BadArchive(f"{archive}: holds {count:,} files; expected at most {MOST_MEMBERS:,}")
        if total is not None:
            self._check_total(total)
            check_space(folder, total, f"unpacking {archive.name}")
        folder.mkdir(parents=True)

    def _check_total(self, count: int) -> None:
        if count > self.most:
            raise BadArchive(
                f"{self.archive}: unpacks to {count:,} bytes or more, expected at most {self.most:,}; not unpacked"
            )

    def make_folder(self, name: str) -> None:
        relative = self._relative(name)
        if relative.parts:
            (self.folder / relative).mkdir(parents=True, exist_ok=True)

    def write(self, name: str, source: IO[bytes], announced: int) -> None:
        """One file, of as many bytes as its entry announces."""
        relative = self._relative(name)
        key = str(relative)
        if key in self.seen or not relative.parts:
            raise _refusal(self.archive, name, "is there twice" if relative.parts else "has no name")
        self.seen.add(key)
        if len(self.seen) > MOST_MEMBERS:
            raise BadArchive(f"{self.archive}: holds more than {MOST_MEMBERS:,} files; it is not unpacked")
        path = self.folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        digest, size = hashlib.sha256(), 0
        with open(path, "xb") as out:  # a new file: nothing that is there is followed or overwritten
            while block := source.read(BLOCK):
                size += len(block)
                self._check_total(self.written + size)
                out.write(block)
                if self.hashing:
                    digest.update(block)
        if size != announced:
            raise _refusal(self.archive, name, f"has {size:,} bytes and announces {announced:,}")
        self.written += size
        self._keep(key, size, digest.hexdigest())
        self.progress(self.written, self.total)

    def _keep(self, key: str, size: int, digest: str) -> None:
        if self.hashing and len(self.members) >= MOST_HASHED:
            self.hashing, self.members = False, {}
        if self.hashing:
            self.members[key] = (size, digest)

    def _relative(self, name: str) -> PurePosixPath:
        path = PurePosixPath(name)
        if path.is_absolute() or "\\" in name or re.match(r"[A-Za-z]:", name):
            raise _refusal(self.archive, name, "has an absolute name")
        if ".." in path.parts:
            raise _refusal(self.archive, name, "leads out of the folder")
        if any(ord(sign) < 32 for sign in name) or any(len(os.fsencode(part)) > 255 for part in path.parts):
            raise _refusal(self.archive, name, "has a name that is no file name")
        return path


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
