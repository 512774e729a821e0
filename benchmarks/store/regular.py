"""What a stored file is: a file, and no link, folder or pipe in its place."""

from __future__ import annotations

import stat
from pathlib import Path

from concord.data.errors import ConcordError

AGAIN = "run `concord run` again, which makes it new"


class Changed(ConcordError):
    """A stored file is not the one that was written."""


def check_regular(path: Path) -> None:
    """Raise Changed unless the path is a file: no folder, no link (even to a file of the same content), no pipe."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        raise Changed(f"{path}: is missing, though it was written; {AGAIN}") from None
    except OSError as error:
        raise Changed(f"{path}: cannot be read ({error.strerror}); {AGAIN}") from None
    if not stat.S_ISREG(mode):
        kinds = ((stat.S_ISLNK, "a link"), (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"))
        kind = next((words for test, words in kinds if test(mode)), "a device or socket")
        raise Changed(f"{path}: is {kind} where a file was written; {AGAIN}")
