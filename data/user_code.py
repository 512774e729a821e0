"""One guard around everything that is the user's code: plugins, installed packages, commands of external methods.

Whatever it raises becomes one line that says whose code it was and what it was doing; other rows go on. The full
traceback is kept as the error's cause, for `--debug`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

from concord.data.errors import ConcordError
from concord.data.printable import printable

LONGEST = 300  # characters of a message: some hold whole tensors


class UserCodeError(ConcordError):
    """Code that is not Concord's failed. details: its traceback, where it happened in another process."""


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


ENDED_WELL = 77  # the exit code of a fork that came to its end
ONLY_TRIED = 60.0  # seconds that a trial may take; what takes longer is not tried to its end


def survives(act: Callable[[], object], what: str) -> None:
    """Try something in a fork that may end the process (a fault in compiled code), before it is done here.

    Raises UserCodeError, beginning with `what`, where the fork was ended; errors that it raises are met here again.
    """
    if not hasattr(os, "fork"):
        return
    leave, own = os._exit, os.getpid()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads: it computes nothing
        child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            _die_with_parent()  # a thread cannot look while compiled code holds the interpreter
            threading.Thread(target=_end_with, args=(own, leave), daemon=True).start()
            nowhere = os.open(os.devnull, os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(nowhere, number)
            act()
        leave(ENDED_WELL)
    deadline = time.monotonic() + ONLY_TRIED
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return
        time.sleep(0.005)
    code = os.waitstatus_to_exitcode(status)
    if code != ENDED_WELL:
        named = {int(number): number.name for number in signal.Signals}
        how = f"killed by {named.get(-code, f'signal {-code}')}" if code < 0 else f"exit code {code}"
        raise UserCodeError(f"{what}: ends the process ({how})")


def _die_with_parent() -> None:
    """Ask Linux to kill this process when its parent ends; elsewhere a thread looks."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)  # 1: PR_SET_PDEATHSIG


def _end_with(parent: int, leave: Callable[[int], NoReturn]) -> None:
    """End this process, a fork, when the one that made it is gone."""
    while os.getppid() == parent:
        time.sleep(0.2)
    leave(1)


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
