"""What every stored file has to be: one manifest of SHA-256 digests a row, itself vouched for by the index of its set.

    <request set>/<row>/digests.json    file -> SHA-256 of each stored file of the row, and a digest of that list
    <request set>/index.json            row -> SHA-256 of its digests.json, and a digest of that list

A file that a number comes from is read through `checked_bytes`: what does not fit is named, never used. A row that the
index names and that is not there was removed after it was made.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from concord.benchmarks.store.regular import AGAIN, Changed, check_regular
from concord.data.errors import ConcordError
from concord.data.files import read_json, sha256_file, write_json
from concord.data.lock import Held, hold

DIGESTS, INDEX = "digests.json", "index.json"
PATIENCE = 30.0  # seconds that a row waits for another one that writes the index


def digest_of(entries: Mapping[str, str]) -> str:
    """SHA-256 over the sorted entries of a list of digests."""
    return hashlib.sha256(json.dumps(dict(sorted(entries.items()))).encode()).hexdigest()


# ------------------------------------------------------------------------------------------------------------- reading


def read_digests(folder: Path) -> dict[str, str]:
    """The digests of a row's files; raises Changed where the list is missing or does not fit its own digest."""
    return _read_list(folder / DIGESTS, "files")


def read_index(folder: Path) -> dict[str, str]:
    """The rows of a request set's folder, each with the digest of its list; {} where nothing was ever made there."""
    if not (folder / INDEX).exists() and not any(folder.glob(f"*/{DIGESTS}")):
        return {}
    return _read_list(folder / INDEX, "rows")


def _read_list(path: Path, key: str) -> dict[str, str]:
    check_regular(path)
    try:
        content = read_json(path)
        entries = {str(name): str(digest) for name, digest in content[key].items()}
        fits = content["sha256"] == digest_of(entries)
    except ConcordError:
        fits = False
    except (KeyError, TypeError, AttributeError):
        fits = False
    if not fits:
        raise Changed(f"{path}: has changed since it was written (its own digest does not fit); {AGAIN}")
    return entries


def checked_bytes(folder: Path, name: str, digests: Mapping[str, str]) -> bytes:
    """The content of a row's stored file, which is the one that was written; raises Changed that names it otherwise."""
    path = folder / name
    check_regular(path)
    if name not in digests:
        raise Changed(f"{path}: is not among the files of this row ({DIGESTS}); {AGAIN}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Changed(f"{path}: cannot be read ({error.strerror}); {AGAIN}") from None
    if hashlib.sha256(content).hexdigest() != digests[name]:
        raise Changed(f"{path}: has changed since it was written (another SHA-256 than in {DIGESTS}); {AGAIN}")
    return content


def listed_digests(folder: Path) -> dict[str, str]:
    """The digests of a row's files, the list being the one that the index names; raises Changed otherwise."""
    digests = read_digests(folder)
    if read_index(folder.parent).get(folder.name) != sha256_file(folder / DIGESTS):
        raise Changed(f"{folder / DIGESTS}: is not the list that {folder.parent / INDEX} names; {AGAIN}")
    return digests


def fits(folder: Path, needed: Iterable[str], but: Iterable[str] = ()) -> bool:
    """Whether the files of a row, its list of digests and its entry of the index are what was written.

    needed: files that have to be in the list; all others of it are looked at too, except those in `but`.
    """
    needed, but = set(needed), set(but)
    try:
        digests = listed_digests(folder)
        for name in needed | (digests.keys() - but):
            check_regular(folder / name)
            if sha256_file(folder / name) != digests.get(name):
                return False
    except (ConcordError, OSError):
        return False
    return True


# ------------------------------------------------------------------------------------------------------------- writing


def record(folder: Path, names: Iterable[str], drop: Iterable[str] | None = ()) -> None:
    """Write down what these files of a row are now, and the row in the index; the row's lock is held.

    drop: files that are no longer of this run; None for all others.
    """
    try:
        known = {} if drop is None else read_digests(folder)
    except Changed:
        known = {}
    kept = {name: digest for name, digest in known.items() if name not in set(drop or ())}
    entries = {**kept, **{name: sha256_file(folder / name) for name in names}}
    make_way(folder / DIGESTS)
    write_json(folder / DIGESTS, {"files": dict(sorted(entries.items())), "sha256": digest_of(entries)})
    list_row(folder)


def list_row(folder: Path) -> None:
    """Enter a row into the index of its request set; rows whose folders are gone as a whole leave it."""
    path = folder.parent / INDEX
    with _held(folder.parent / ".index.lock"):
        try:
            rows = read_index(folder.parent)
        except Changed:
            rows = dict(_rows_there(folder.parent))
        rows = {name: digest for name, digest in rows.items() if (folder.parent / name).is_dir()}
        rows[folder.name] = sha256_file(folder / DIGESTS)
        make_way(path)
        write_json(path, {"rows": dict(sorted(rows.items())), "sha256": digest_of(rows)})


def _rows_there(folder: Path) -> Iterator[tuple[str, str]]:
    """What an index holds that is made new: every row whose list fits its own digest."""
    for place in sorted(folder.glob(f"*/{DIGESTS}")):
        with contextlib.suppress(ConcordError):
            read_digests(place.parent)
            yield place.parent.name, sha256_file(place)


@contextlib.contextmanager
def _held(path: Path) -> Iterator[None]:
    """The lock of the index: rows are made by several processes at once, and each waits its turn of milliseconds."""
    deadline = time.monotonic() + PATIENCE
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(hold(path))
                break
            except Held as held:
                if time.monotonic() > deadline:
                    raise ConcordError(f"{path}: {held.holder} holds it; wait for it, or end it first") from None
                time.sleep(0.05)
            except OSError as error:
                raise ConcordError(f"{path}: cannot be written ({error.strerror}); choose another --results") from None
        yield


def make_way(path: Path) -> None:
    """Where a folder lies in the place of a file that is to be written, move it aside; what it holds is kept."""
    if path.is_symlink() or not path.is_dir():
        return
    try:
        path.rmdir()
    except OSError:
        os.replace(path, path.with_name(f"{path.name}.moved-{secrets.token_hex(4)}"))
