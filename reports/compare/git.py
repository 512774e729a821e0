"""What the checkout's git history holds: files at a revision, and the commits that changed a folder.

Reads only. Whatever is not there (no git, no repository, an unknown revision) is one line that says so.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from concord.data.errors import ConcordError

SECONDS = 60
SEPARATOR = "\x1f"


@dataclass(frozen=True)
class Commit:
    """One commit: its full hash, its day (YYYY-MM-DD) and the first line of its message."""

    sha: str
    day: str
    subject: str


def git(root: Path, *arguments: str) -> tuple[int, bytes]:
    """Exit status and output of a git command in `root`; ConcordError where there is no git."""
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, timeout=SECONDS, check=False)
    except FileNotFoundError:
        raise ConcordError("git is not installed, so no revision can be looked up; give a results folder") from None
    except subprocess.TimeoutExpired:
        raise ConcordError(f"git {arguments[0]} took more than {SECONDS} seconds in {root}; try again") from None
    return done.returncode, done.stdout


def is_repository(root: Path) -> bool:
    """Whether `root` lies in a git repository."""
    return git(root, "rev-parse", "--is-inside-work-tree") == (0, b"true\n")


def is_shallow(root: Path) -> bool:
    """Whether the clone holds only the newest commits."""
    return git(root, "rev-parse", "--is-shallow-repository")[1].strip() == b"true"


def resolve(root: Path, revision: str) -> str:
    """The full commit hash of a revision; ConcordError where there is none."""
    if not is_repository(root):
        raise ConcordError(
            f"'{revision}': no such folder, and {root} is not a git repository in which a revision could be looked up; "
            "give a results folder, or 'baseline'"
        )
    status, output = (1, b"")
    if revision and not revision.startswith("-"):
        status, output = git(root, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    if status:
        hint = "; this clone is shallow: `git fetch --unshallow` brings the rest" if is_shallow(root) else ""
        raise ConcordError(
            f"'{revision}': no such folder, and no revision of the git repository; expected a revision (a commit, tag "
            f"or branch), a results folder, or 'baseline'{hint}"
        )
    return output.decode().strip()


def show(root: Path, commit: str, path: str) -> bytes | None:
    """The content of `path` (relative to root) at a commit; None where it had no such file."""
    status, output = git(root, "show", f"{commit}:./{path}")
    return None if status else output


def commits_of(root: Path, path: str) -> list[Commit]:
    """The commits that changed `path`, oldest first; ConcordError outside a repository."""
    if not is_repository(root):
        raise ConcordError(f"{root}: not a git repository, so there is no history to read")
    layout = f"%H{SEPARATOR}%cs{SEPARATOR}%s"
    status, output = git(root, "log", "--first-parent", f"--format={layout}", "--", path)
    if status:  # a repository without a commit
        return []
    lines = output.decode("utf-8", "replace").splitlines()
    return [Commit(*line.split(SEPARATOR, 2)) for line in reversed(lines) if line.count(SEPARATOR) >= 2]
