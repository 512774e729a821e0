"""Removing and overwriting inside a results folder: only what Concord wrote there itself, and never through a link."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from concord.data.errors import ConcordError

PART = re.compile(r"\..+\.[0-9a-f]{8}\.part")
"""Names of `concord.data.files.atomic_path` that a killed process leaves behind."""


def refuse_links(root: Path, *paths: Path) -> None:
    """Raise ConcordError where a folder below `root`, on the way to one of the paths or a path itself, is a link.

    The results folder as a whole may be a link: that is the user's choice of a disk. One inside it leads to files that
    are not Concord's.
    """
    for path in paths:
        inside = [path, *path.parents]
        for folder in inside[: inside.index(root)] if root in inside else [path]:
            if folder.is_symlink():
                raise ConcordError(
                    f"{folder}: is a link; nothing is written or removed through links inside a results folder: put a "
                    "folder in its place, or make the whole results folder the link"
                )


def refuse_links_below(root: Path) -> None:
    """Raise ConcordError where `root` is a link or any folder below it is one; loops of links are never walked."""
    refuse_links(root.parent, root)
    for place, folders, _ in os.walk(root, followlinks=False):
        for name in folders:
            refuse_links(root, Path(place) / name)


def own_files(folder: Path, pattern: re.Pattern[str]) -> Iterator[Path]:
    """Files of the folder, no links and no folders, whose whole name matches; none where the folder is a link."""
    if folder.is_symlink() or not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
    yield from (folder / name for name in sorted(names) if pattern.fullmatch(name))


def remove_own(folder: Path, pattern: re.Pattern[str], keep: Collection[str] = ()) -> None:
    """Remove the files of `own_files` but those named in `keep`."""
    for path in own_files(folder, pattern):
        if path.name not in keep:
            path.unlink(missing_ok=True)
