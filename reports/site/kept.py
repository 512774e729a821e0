"""Files of the report that are made once: what each was made from, and the SHA-256 by which it is known again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from concord.benchmarks.store.digests import check_regular, make_way
from concord.data.errors import ConcordError
from concord.data.files import read_json, sha256_file, write_json
from concord.data.notes import note


class Kept:
    """An index of files below `folder`: name -> the key that its files follow from, and file -> SHA-256.

    A file that is not what was written is never shown: it is made anew, and a line says so.
    """

    def __init__(self, folder: Path, path: Path) -> None:
        self.folder, self.path = folder, path
        self.entries: dict[str, object] = {}
        if path.exists() or path.is_symlink():
            try:
                check_regular(path)
                found = read_json(path)
                if not isinstance(found, dict):
                    raise ConcordError(f"{path}: expected a JSON object")
                self.entries = found
            except ConcordError:
                note(f"{path}: was broken; it is made anew, with the files that it vouches for")

    def files(self, name: str, key: str) -> list[str] | None:
        """The files of a name, where they were made from `key` and are as they were written; None otherwise."""
        entry = self.entries.get(name)
        files = entry.get("files") if isinstance(entry, dict) and entry.get("key") == key else None
        if not isinstance(files, dict):
            return None
        for file, digest in files.items():
            path = self.folder / file
            try:
                check_regular(path)
                whole = sha256_file(path) == digest
            except (ConcordError, OSError):
                whole = False
            if not whole:
                if path.exists():
                    note(f"{path}: has changed since it was written; it is made anew")
                return None
        return list(files)

    def keep(self, name: str, key: str, files: Sequence[str], write: bool = True) -> None:
        """Enter the files of a name as they are now. write: False where `write` follows."""
        self.entries[name] = {"key": key, "files": {file: sha256_file(self.folder / file) for file in files}}
        if write:
            self.write()

    def write(self) -> None:
        make_way(self.path)
        write_json(self.path, self.entries)
