"""One writer per run: a lock that dies with its process, so that a killed run never blocks the next one."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from concord.data.errors import ConcordError


@contextlib.contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; raises ConcordError that names the holder when another process has it.

    The operating system drops the lock when its holder ends, however it ends: there is no stale lock to clear. The
    file only tells who holds it.
    """
    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise ConcordError(
            f"{folder}: cannot be written ({error.strerror}); choose another folder with --results"
        ) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConcordError(f"{folder}: {_holder(path)} is writing this run; wait for it, or end it first") from None
        _sign(handle)
        yield
    finally:
        os.close(handle)


def _sign(handle: int) -> None:
    with contextlib.suppress(OSError):  # a full disk must not keep a finished run from being read
        os.ftruncate(handle, 0)
        os.write(handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text())
        return f"process {holder['pid']} on {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
