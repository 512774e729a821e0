"""Asking git, and what it says where it refuses: in its own words, as it knows best what to do."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path
from typing import NamedTuple

SECONDS = 60
OUTSIDE = "not a git repository"


class Answer(NamedTuple):
    """What a git command did: its exit status, what it printed, and what it said on the error stream, in one line."""

    status: int
    output: bytes
    said: str


def ask(root: Path, *arguments: str) -> Answer:
    """Run a git command in `root`, in English; FileNotFoundError without git, TimeoutExpired where it hangs."""
    done = subprocess.run(
        ["git", "-C", str(root), *arguments],
        capture_output=True,
        timeout=SECONDS,
        check=False,
        env={**os.environ, "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"},
    )
    return Answer(done.returncode, done.stdout, " ".join(done.stderr.decode("utf-8", "replace").split()))


@cache
def refusal(root: Path) -> str:
    """Why git does not answer in a checkout (another user's, a damaged one), in its own words; '' if it does.

    A folder that is no checkout has nothing to ask of.
    """
    if not (root / ".git").exists():
        return ""
    try:
        answer = ask(root, "rev-parse", "--is-inside-work-tree")
    except (OSError, subprocess.TimeoutExpired) as error:
        return " ".join(str(error).split())
    return answer.said if answer.status else ""
