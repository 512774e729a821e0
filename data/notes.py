"""What was done with an input that could be taken in more than one way: one line, said once.

A reader takes its input right, refuses it (ConcordError), or says here what it did. The command line prints notes on
the error stream; in Python they are warnings.
"""

from __future__ import annotations

import sys
import warnings
from typing import TextIO

from concord.data.errors import ConcordWarning, one_line


class Note(ConcordWarning):
    """One line about an input: what it is, and what was done with it."""


_said: set[str] = set()
_as_lines = False


def note(line: str, once: str | None = None) -> None:
    """Say a line, once in a process; `once` names what is said where the line names an example of many."""
    key = once or line
    if key not in _said:
        _said.add(key)
        warnings.warn(Note(one_line(line)), stacklevel=3)


def show_notes_as_lines() -> None:
    """Print notes as one line each on the error stream, as command lines do; other warnings stay as they are."""
    global _as_lines
    if _as_lines:
        return
    _as_lines = True
    usual = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if isinstance(message, ConcordWarning):
            print(f"note: {message}", file=file or sys.stderr)
        else:
            usual(message, category, filename, lineno, file, line)

    warnings.showwarning = show
    warnings.simplefilter("always", Note)
