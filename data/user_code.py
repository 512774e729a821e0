"""One guard around everything that is the user's code: plugins, installed packages, commands of external methods.

Whatever it raises becomes one line that says whose code it was and what it was doing; other rows go on. The full
traceback is kept as the error's cause, for `--debug`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

from concord.data.errors import ConcordError
from concord.data.printable import printable

LONGEST = 300  # characters of a message: some hold whole tensors


class UserCodeError(ConcordError):
    """Code that is not Concord's failed. details: its traceback, where it happened in another process."""

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


class _Interrupts:
    """Whether Ctrl-C was pressed, so that a KeyboardInterrupt that code raises itself is told from it."""

    pressed = False


def watch_interrupts() -> None:
    """Remember Ctrl-C from now on; the process is interrupted by it as before."""
    if threading.current_thread() is not threading.main_thread():
        return
    _Interrupts.pressed = False
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def interrupted() -> bool:
    """Whether Ctrl-C was pressed since `watch_interrupts`."""
    return _Interrupts.pressed


def _interrupt(number: int, frame: FrameType | None) -> None:
    _Interrupts.pressed = True
    signal.default_int_handler(number, frame)


@contextlib.contextmanager
def user_code(what: str | Callable[[], str], names_itself: bool = False) -> Iterator[None]:
    """Run somebody else's code: whatever it raises is a UserCodeError that begins with `what`.

    what: whose code, and what it was doing; a function is called only when it is needed.
    names_itself: a ConcordError says by itself where it comes from, and keeps its words.
    Ctrl-C passes as it is. SystemExit does not end the process, whatever its code.
    """
    try:
        yield
    except UserCodeError:
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and _Interrupts.pressed:
            raise
        said = str(error) if isinstance(error, ConcordError) else failure(error)
        if not (names_itself and isinstance(error, ConcordError)):
            said = f"{what if isinstance(what, str) else what()}: {said}"
        raise UserCodeError(said, traceback_of(error)) from error


@contextlib.contextmanager
def exits_are_errors() -> Iterator[None]:
    """Inside, `os._exit` raises SystemExit: a module that is imported here must not end this process unsaid."""
    kept = os._exit

    def refuse(status: int) -> NoReturn:
        raise SystemExit(status)

    os._exit = refuse
    try:
        yield
    finally:
        os._exit = kept


def failure(error: BaseException) -> str:
    """An exception in a few words: what kind, and the first line of what it says."""
    kind = type(error).__name__
    if isinstance(error, SystemExit):
        return f"ended the process (SystemExit {error.code!r}); raise an error that says what is wrong instead"
    if isinstance(error, KeyboardInterrupt):
        return "raised KeyboardInterrupt by itself, nobody interrupted it"
    try:
        text = printable(str(error)).strip()
    except Exception:  # its own __str__ may fail too
        text = ""
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]} ..."
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError":
        return f"out of memory ({kind}{f': {text}' if text else ''}); a smaller --batch-size takes less"
    return f"{kind}: {text}" if text else kind


def traceback_of(error: BaseException) -> str:
    """The traceback as Python prints it; '' where it cannot be printed."""
    try:
        return "".join(traceback.format_exception(error))
    except Exception:  # an exception's own __str__ may fail
        return ""
