"""Ends what a command started when the process that started it is gone, however that ended.

A killed `make bench` can clean up nothing: its shell, DVC, the stages and their workers would live on, write into the
results and hold DVC's lock. So a small process of a session of its own waits for the end of a pipe that nobody else
has, and then ends all processes that carry the command's mark in their environment.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

UNDER = "CONCORD_UNDER"
"""The environment's name of a process id with which this one ends: that of `make`."""
DONE = b"done"
LEAVE = os._exit  # as it is now: while a plugin is imported, `os._exit` raises (concord/data/user_code.py)
ROUNDS = 20  # a process that is being ended may start another one


@contextlib.contextmanager
def guarded(name: str, value: str, folder: Path) -> Iterator[int]:
    """While inside, this process's sudden end is the end of every process with `name=value` in its environment.

    Yields the pipe's end, which a fork of this process has to close: while any process has it, nothing is ended.
    folder: a temporary one of this process's, which goes with it.
    """
    command = [sys.executable, "-m", "concord.guardian", name, value, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as guardian:
        assert guardian.stdin is not None
        try:
            yield guardian.stdin.fileno()
        finally:
            with contextlib.suppress(OSError):
                guardian.communicate(DONE)


def end_with(parent: int, seconds: float = 0.2) -> None:
    """End this process as soon as another one is gone."""

    def watch() -> None:
        while True:
            try:
                os.kill(parent, 0)
            except ProcessLookupError:
                LEAVE(137)
            except OSError:
                return  # it is somebody else's by now
            time.sleep(seconds)

    threading.Thread(target=watch, name="end-with", daemon=True).start()


def end_with_parent(parent: int, seconds: float = 0.2) -> None:
    """End this process as soon as its parent, this one, is gone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(seconds)
        LEAVE(137)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def end_all(name: str, value: str) -> None:
    """End every process of this user's with `name=value` in its environment."""
    import psutil

    for _ in range(ROUNDS):
        found = False
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.pid != os.getpid() and process.environ().get(name) == value:
                    found |= process.status() != psutil.STATUS_ZOMBIE
                    process.kill()
        if not found:
            return
        time.sleep(0.05)


def main() -> None:
    """The process of its own: NAME VALUE FOLDER as arguments, the pipe as its input."""
    import psutil  # noqa: F401  # now: when it is needed, seconds count

    name, value, folder = sys.argv[1:]
    if sys.stdin.buffer.read() == DONE:
        return
    end_all(name, value)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
