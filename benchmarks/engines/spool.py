"""What lies in `<results>/.slurm/<task>/`: a task that was submitted, what it has given so far, its last word.

task.json      what it is, and its job; failed.json once it has failed
parcel-3/      what it gave of part 3, with the SHA-256 of each file; whole or not there
end.json       the job's last word: {"line": null}, or what went wrong
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from concord.benchmarks.engines.base import Parcel
from concord.benchmarks.engines.desk import TAIL
from concord.data.errors import ConcordError
from concord.data.files import read_json

SPOOL = ".slurm"
PARCEL = "parcel-"


@dataclass
class Spooled:
    """A task that was submitted, as its folder tells it."""

    folder: Path
    name: str
    row: str
    key: str
    images: int
    parts: tuple[int, ...]
    job: str  # '12_3'; '' where the driver ended before Slurm had answered
    log: Path
    submitted: float

    @classmethod
    def read(cls, folder: Path, file: str = "task.json") -> Spooled | None:
        """None for what is no task, or was not submitted."""
        try:
            found = read_json(folder / file)
            return cls(
                folder,
                str(found["name"]),
                str(found["row"]),
                str(found["key"]),
                int(found["images"]),
                tuple(int(part) for part in found["parts"]),
                str(found["job"]),
                Path(str(found["log"])),
                float(found["submitted"]),
            )
        except (ConcordError, KeyError, TypeError, ValueError):
            return None

    @property
    def end(self) -> dict[str, Any] | None:
        """The job's last word: {'line': None} for a whole task; None before."""
        try:
            found = read_json(self.folder / "end.json")
        except ConcordError:
            return None
        return found if isinstance(found, dict) else None

    @property
    def given(self) -> list[int]:
        """The parts that lie here."""
        return sorted(int(path.name.removeprefix(PARCEL)) for path in self.folder.glob(f"{PARCEL}[0-9]*"))

    def parcel(self, part: int) -> Parcel:
        """A part; ConcordError where a file of it is not the one that was written."""
        place = self.folder / f"{PARCEL}{part}"
        files = {path.name: path.read_bytes() for path in sorted(place.iterdir()) if path.name != "sha256.json"}
        digests = read_json(place / "sha256.json")
        if {name: hashlib.sha256(content).hexdigest() for name, content in files.items()} != digests:
            raise ConcordError(f"{place}: is not what job {self.job} wrote (SHA-256)")
        return Parcel({"shard": part}, files)

    def tail(self) -> str:
        """The last that the job printed."""
        try:
            with open(self.log, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 4 * TAIL))
                return file.read().decode(errors="replace")[-TAIL:]
        except OSError:
            return ""


def spooled(folder: Path) -> Iterator[Spooled]:
    """All that was submitted for a results folder and not taken yet, the oldest first."""
    found = [one for path in (folder / SPOOL).glob("*/task.json") if (one := Spooled.read(path.parent)) is not None]
    yield from sorted(found, key=lambda one: (one.submitted, one.name))
