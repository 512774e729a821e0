"""The one exception that a user is meant to see (one line, exit code 2), and the one warning."""

from __future__ import annotations

import re
import warnings
from typing import Any

LONGEST = 2000
"""Letters of one line."""
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def one_line(text: str) -> str:
    r"""The text with line breaks, control characters and bytes that are no text as escapes: '\n', '\x1b', '\udce9'."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


class ConcordError(Exception):
    """Bad input or a request that cannot be met.

    The message is one line that names the file or field, says what was expected, and what to do.
    The command line prints it without a traceback and exits with code 2; finished work stays as it was.
    details: tracebacks of what was caught on the way, for `--debug`.
    """

    def __init__(self, message: str = "", details: str = "") -> None:
        line = one_line(message)
        if len(line) > LONGEST:  # a path of thousands of letters: what is wrong stands at its end
            line = f"{line[: LONGEST // 2]} ... {line[-LONGEST // 4 :]}"
        super().__init__(line)
        self.details = details


class ConcordWarning(UserWarning):
    """Something still works that should be written otherwise, or is worth a look; one line that says what to do."""


_SHOWN: dict[Any, Any] = {}


def warn(message: str) -> None:
    """Show a message of one line on stderr, once in a process."""
    warnings.warn_explicit(message, ConcordWarning, filename="concord", lineno=1, registry=_SHOWN)
