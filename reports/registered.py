"""How old a registered claim is against the results that it is about: what is younger is printed as post hoc.

A claim of a suite's file is as old as the commit that first held its text; a row is as old as the commit that its first
shard was made at. The claim came first where its commit is that commit or an ancestor of it. A claim that is not
committed, or whose history cannot be read, cannot be shown to have come first, and is post hoc. Claims given with
`--claim` say themselves which rows had images by then.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from concord.benchmarks.claims import Claim, parse_claim, read_registered
from concord.benchmarks.suite import FOLDER
from concord.data.errors import ConcordError
from concord.reports.compare.git import git

if TYPE_CHECKING:
    from concord.benchmarks.store.run import Store
    from concord.benchmarks.suite import Suite


@dataclass(frozen=True)
class RegisteredClaim:
    """A claim with its age. post_hoc: why it may be younger than the results, '' where it is not."""

    claim: Claim
    day: str
    commit: str
    post_hoc: str = ""

    @property
    def words(self) -> str:
        """'registered 2026-11-30 at 1a2b3c4', or that it is post hoc, and why."""
        where = f"registered {self.day} at {self.commit[:7]}" if self.day else "registered"
        return f"post hoc ({self.post_hoc}; {where})" if self.post_hoc else where


def registered_claims(suite: Suite, store: Store, folder: Path = FOLDER) -> list[RegisteredClaim]:
    """The claims of a suite's file, then those of the results folder."""
    made = {row: _made_at(store, suite, row) for row in suite.row_names()}
    found = []
    for text in suite.claims:
        claim = parse_claim(text)
        day, commit = first_commit(folder / f"{suite.name}.yaml", text)
        rows = {row: at for row in (claim.winner, claim.loser) if (at := made.get(row))}
        found.append(RegisteredClaim(claim, day, commit, _younger(folder, commit, rows)))
    for one in read_registered(store.root):
        if one.suite == suite.name:
            late = f"{', '.join(one.made)} had images by then" if one.made else ""
            found.append(RegisteredClaim(one.claim, one.day, one.commit, late))
    return found


def first_commit(path: Path, text: str) -> tuple[str, str]:
    """(day, hash) of the commit that first held the text in the file; two empty ones where none does."""
    if not path.is_file():
        return "", ""
    try:
        status, output, _ = git(path.parent, "log", "--reverse", f"-S{text}", "--format=%cs %H", "--", path.name)
    except ConcordError:
        return "", ""
    lines = output.decode("utf-8", "replace").split("\n")
    day, _, commit = lines[0].partition(" ")
    return ("", "") if status else (day, commit)


def _made_at(store: Store, suite: Suite, row: str) -> str:
    """The commit that a row's images were made at; '' where it has none, or does not say."""
    run = store.run(suite.request_set, row)
    if not run.finished:
        return ""
    return str((run.manifest.get("provenance") or {}).get("git_commit") or "unknown")


def _younger(folder: Path, commit: str, rows: dict[str, str]) -> str:
    if not rows:
        return ""
    if not commit:
        return "it is not committed"
    for row, at in rows.items():
        status, _, _ = git(folder, "merge-base", "--is-ancestor", commit, at.removesuffix("+dirty"))
        if status:
            return f"younger than the images of {row}, made at {at[:7]}"
    return ""
