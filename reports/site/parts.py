"""A report is made part by part: one that cannot be drawn costs a line, and never the tables or the other parts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from concord.data.errors import ConcordError, one_line
from concord.data.user_code import failure, traceback_of

Part = Callable[[str], AbstractContextManager[object]]
"""part(what): inside, something of the report is made that is called so"""


@contextlib.contextmanager
def part_or_error(what: str) -> Iterator[None]:
    """Let every error through: for one who wants a whole report or none."""
    yield


class Unmade:
    """What of a report could not be made, and why: part -> one line. `details`: the tracebacks, for --debug."""

    def __init__(self) -> None:
        self.parts: dict[str, str] = {}
        self.details: list[str] = []

    @contextlib.contextmanager
    def part(self, what: str) -> Iterator[None]:
        """Whatever fails inside is written down under this name; the rest of the report goes on."""
        try:
            yield
        except Exception as error:
            self.parts[what] = str(error) if isinstance(error, ConcordError) else one_line(failure(error))
            self.details.append(traceback_of(error))

    @property
    def line(self) -> str:
        """One line on all of it; '' where the report is whole."""
        if not self.parts:
            return ""
        what, reason = next(iter(self.parts.items()))
        others = [name for name in self.parts if name != what]
        more = f"; nor could {', '.join(others[:8])}{', ...' if len(others) > 8 else ''}" if others else ""
        return f"the report lacks what could not be made: {what}: {reason}{more}"
