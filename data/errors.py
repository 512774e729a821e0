"""The one exception that a user is meant to see: one line, exit code 2."""

import re

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def one_line(text: str) -> str:
    r"""The text with line breaks, control characters and bytes that are no text as escapes: '\n', '\x1b', '\udce9'."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


class ConcordError(Exception):
    """Bad input or a request that cannot be met.

    The message is one line that names the file or field, says what was expected, and what to do.
    The command line prints it without a traceback and exits with code 2; finished work stays as it was.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(one_line(message))
