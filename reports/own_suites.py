"""Suites of the user's own: a results folder keeps a copy of each file that was run, so that its table stays.

results/<profile>/suites/<name>.yaml        remove it, and the suite leaves the report
"""

from __future__ import annotations

from pathlib import Path

from concord.benchmarks.store.run import Store
from concord.benchmarks.suite import Suite, read_suite, suite_names
from concord.data.errors import ConcordError
from concord.data.files import atomic_path
from concord.data.notes import note

FOLDER = "suites"


def keep_suite(store: Store, file: Path) -> None:
    """Keep a copy of a suite file; what is wrong with the folder is said and stops nothing."""
    copy = store.root / FOLDER / file.name
    if file.stem in suite_names() or copy.resolve() == file.resolve():
        return
    try:
        content = file.read_bytes()
        if copy.is_file() and copy.read_bytes() == content:
            return
        new = not copy.is_file()
        copy.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(copy) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        note(f"{copy}: not kept ({error.strerror}); later reports will not show suite '{file.stem}'")
        return
    if new:
        note(f"suite '{file.stem}' stays in the report until {copy} is removed")


def kept_suites(store: Store) -> list[Suite]:
    """The suites that are kept here and hold results; a copy that cannot be read is named and left out."""
    found = []
    for path in sorted((store.root / FOLDER).glob("*.yaml")):
        try:
            suite = read_suite(str(path))
        except ConcordError as error:
            note(f"{error} (left out of the report)")
            continue
        if suite.name not in suite_names() and store.runs(suite.request_set):
            found.append(suite)
    return found
