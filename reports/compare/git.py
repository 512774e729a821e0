"""What the checkout's git history holds: files at a revision, and the commits that changed a folder.

Reads only. Whatever is not there (no git, no repository, an unknown revision) is one line that says so.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from concord.data.errors import ConcordError
from concord.data.git import OUTSIDE, SECONDS, Answer, ask

SEPARATOR = "\x1f"


@dataclass(frozen=True)
class Commit:
    """One commit: its full hash, its day (YYYY-MM-DD) and the first line of its message."""

    sha: str
    day: str
    subject: str


def git(root: Path, *arguments: str) -> Answer:
    """What git answers in `root`; ConcordError where there is no git."""
    try:
        return ask(root, *arguments)
    except FileNotFoundError:
        raise ConcordError("git is not installed, so no revision can be looked up; give a results folder") from None
    except subprocess.TimeoutExpired:
        raise ConcordError(f"git {arguments[0]} took more than {SECONDS} seconds in {root}; try again") from None


def outside(root: Path) -> str:
    """Why no revision can be looked up in `root`, in git's own words; '' in a repository that answers."""
    answer = git(root, "rev-parse", "--is-inside-work-tree")
    if (answer.status, answer.output) == (0, b"true\n"):
        return ""
    return answer.said or f"{root} is {OUTSIDE}"


def is_shallow(root: Path) -> bool:
    """Whether the clone holds only the newest commits."""
    return git(root, "rev-parse", "--is-shallow-repository").output.strip() == b"true"


def resolve(root: Path, revision: str) -> str:
    """The full commit hash of a revision; ConcordError where there is none."""
    if said := outside(root):
        raise ConcordError(
            f"'{revision}': no such folder, and no revision can be looked up in {root}, as git says: {said}; give a "
            "results folder, or 'baseline'"
        )
    status, output, _ = Answer(1, b"", "")
    if revision and not revision.startswith("-"):
        status, output, _ = git(root, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    if status:
        hint = "; this clone is shallow: `git fetch --unshallow` brings the rest" if is_shallow(root) else ""
        raise ConcordError(
            f"'{revision}': no such folder, and no revision of the git repository; expected a revision (a commit, tag "
            f"or branch), a results folder, or 'baseline'{hint}"
        )
    return output.decode().strip()


def show(root: Path, commit: str, path: str) -> bytes | None:
    """The content of `path` (relative to root) at a commit; None where it had no such file."""
    status, output, _ = git(root, "show", f"{commit}:./{path}")
    return None if status else output


def commits_of(root: Path, path: str) -> list[Commit]:
    """The commits that changed `path`, oldest first; ConcordError outside a repository."""
    if said := outside(root):
        raise ConcordError(f"{root}: there is no history to read, as git says: {said}")
    layout = f"%H{SEPARATOR}%cs{SEPARATOR}%s"
    status, output, _ = git(root, "log", "--first-parent", f"--format={layout}", "--", path)
    if status:  # a repository without a commit
        return []
    lines = output.decode("utf-8", "replace").splitlines()
    return [Commit(*line.split(SEPARATOR, 2)) for line in reversed(lines) if line.count(SEPARATOR) >= 2]
