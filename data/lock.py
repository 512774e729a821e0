"""A file that one process holds at a time: the system's lock where the file system has one, else a file that names its
holder.

The system drops its lock when the holder ends, however it ends, so there is never a stale one. File systems without
locks (some mounts of NFS, Lustre and object stores) get a second file with host, process and start time in it: that of
a process of this machine that is no more is taken over; that of another machine stays, and the error names its owner.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ESTALE}
"""What a file system answers that has no locks, or whose lock service is gone."""


class Held(Exception):
    """Another process has the file. `holder`: its number and machine in a few words."""

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder


@contextlib.contextmanager
def hold(path: Path) -> Iterator[None]:
    """Hold `path` for this process until the block ends; raises Held when another has it, OSError when the folder
    cannot be written."""
    with contextlib.ExitStack() as stack:
        try:
            _take(FileLock(path, blocking=False, fallback_to_soft=False), stack, path)
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
            marker = path.with_name(path.name + ".holder")
            _take(
                SoftFileLock(marker, timeout=0.5, poll_interval=0.1), stack, marker
            )  # the first try clears a dead one's
        else:
            with contextlib.suppress(OSError):  # a full disk must not keep a finished run from being read
                path.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        yield


def _take(lock: BaseFileLock, stack: contextlib.ExitStack, path: Path) -> None:
    try:
        stack.enter_context(lock)
    except Timeout:
        raise Held(_holder(path)) from None


def _holder(path: Path) -> str:
    """Who has the file, as it says: {pid, host} as we write it, or filelock's lines of process and machine."""
    try:
        text = path.read_text(encoding="utf-8")
        holder = (
            json.loads(text) if text.startswith("{") else dict(zip(("pid", "host"), text.split("\n"), strict=False))
        )
        return f"process {int(holder['pid'])} on {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
