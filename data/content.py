"""Hashes of files, remembered: a file that has not changed since it was hashed is not read again.

Remembered by path, size, mtime_ns, ctime_ns and inode, as git's index does it, with git's racy rule: a file may be
written twice within one tick of the clock of its file system, so that a hash taken when the file was that young proves
nothing later. Such a file is hashed again until it is older than its hash.

What is remembered lies in JSON files in `$CONCORD_HASHES`, else in `concord/` of the user's cache (`$XDG_CACHE_HOME`,
`~/.cache`). A folder that cannot be written costs seconds, never a wrong hash.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path

from concord.data.errors import ConcordError
from concord.data.files import atomic_path, sha256_file

TICK = 2_000_000_000
"""ns: the coarsest clock of a file system in use (FAT); a file younger than this may change unseen."""

Entry = list[int | str]


def memory_folder() -> Path:
    """Where hashes are remembered."""
    if named := os.environ.get("CONCORD_HASHES"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "concord"


class Memory:
    """Hashes of files by path. `compute` gives a file's hash: of its bytes, or of what they mean."""

    def __init__(self, path: Path, compute: Callable[[Path], str] = sha256_file) -> None:
        self.path, self.compute = path, compute
        self._entries: dict[str, Entry] | None = None
        self._changed = False

    def hash(self, file: Path) -> str:
        """The file's hash; OSError where it cannot be read."""
        stat = file.stat()
        facts = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        known = self.entries.get(str(file))
        if known is not None and known[:4] == facts:
            taken, digest = known[4], known[5]
            if isinstance(taken, int) and max(stat.st_mtime_ns, stat.st_ctime_ns) + TICK < taken:
                return str(digest)
        taken = time.time_ns()
        digest = self.compute(file)
        self.entries[str(file)] = [*facts, taken, digest]
        self._changed = True
        return digest

    @property
    def entries(self) -> dict[str, Entry]:
        if self._entries is None:
            self._entries = self._read()
        return self._entries

    def _read(self) -> dict[str, Entry]:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        if not isinstance(found, dict):
            return {}
        return {name: entry for name, entry in found.items() if isinstance(entry, list) and len(entry) == 6}

    def save(self) -> None:
        """Keep what is new; entries of files that are gone are dropped, those of other processes stay."""
        if not self._changed:
            return
        self._changed = False
        merged = {**self._read(), **self.entries}
        kept = {name: entry for name, entry in merged.items() if name in self.entries or os.path.lexists(name)}
        with contextlib.suppress(ConcordError, OSError), atomic_path(self.path) as temporary:
            temporary.write_text(json.dumps(kept, separators=(",", ":")), encoding="utf-8")


@lru_cache(maxsize=64)
def memory_of(folder: Path, part: str = "") -> Memory:
    """The memory of the files of one folder, or of a part of them."""
    name = hashlib.sha256(f"{folder}\x00{part}".encode()).hexdigest()[:16]
    return Memory(memory_folder() / f"content-{name}.json")


def content_hash(file: Path) -> str:
    """SHA-256 of a file's bytes, read only where it has changed since; OSError where it cannot be read."""
    folder = file.parent.resolve()
    memory = memory_of(folder)
    digest = memory.hash(folder / file.name)
    memory.save()
    return digest


def content_digest(facts: str, root: Path, files: Iterable[str], part: str = "") -> str:
    """One SHA-256 over some facts and the names and bytes of files below `root`; ConcordError naming one that is gone.

    part: the memory that is used, where many processes look at files of one folder.
    """
    root = root.resolve()
    memory, digest = memory_of(root, part), hashlib.sha256(facts.encode())
    for file in files:
        try:
            digest.update(f"\x00{file}\x00{memory.hash(root / file)}".encode())
        except OSError as error:
            raise ConcordError(f"{root / file}: gone since the dataset was opened ({error.strerror})") from None
    memory.save()
    return digest.hexdigest()
