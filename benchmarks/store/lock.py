"""One writer per run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from concord.data.errors import ConcordError
from concord.data.lock import Held, hold


@contextlib.contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; raises ConcordError that names the holder when another process has it.

    A killed run never blocks the next one: its lock ends with it.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(hold(folder / ".lock"))
        except Held as held:
            raise ConcordError(f"{folder}: {held.holder} is writing this run; wait for it, or end it first") from None
        except OSError as error:
            raise ConcordError(
                f"{folder}: cannot be written ({error.strerror}); choose another folder with --results"
            ) from None
        yield
