"""Fetching what a manifest names: sources in turn, resumed after a cut, verified, and only then under its final name.

A file goes through `<cache>/.fetch/<name>/`: bytes are appended to a partial file (data/download/transfer.py), hashed
when all
are there, and renamed into place; an archive is unpacked beside it first (data/download/unpack.py) and its folder
renamed. What
stands under a final name is whole, whenever the program was stopped. The SHA-256 of a file for which the manifest
states none is kept in `<cache>/locks/` before the rename, and enforced from then on.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from concord.data.download.manifest import UNKNOWN, File, Lock, Manifest, Source, cache_folder
from concord.data.download.transfer import (
    Fault,
    Network,
    Part,
    Progress,
    address,
    check_space,
    megabytes,
    transfer,
)
from concord.data.download.unpack import BadArchive, describe, find_root, unpack
from concord.data.errors import ConcordError
from concord.data.lock import Held, hold

OFFLINE_VARIABLE = "CONCORD_OFFLINE"
ARRIVING = ".fetch"


def offline_by_environment() -> bool:
    """Whether `$CONCORD_OFFLINE` forbids every connection."""
    return os.environ.get(OFFLINE_VARIABLE, "").strip().lower() not in ("", "0", "false", "no")


def _silent(what: str) -> contextlib.AbstractContextManager[Progress]:
    return contextlib.nullcontext(lambda done, total: None)


@dataclass(frozen=True)
class Fetcher:
    """How to fetch. `say` gets a line about every retry; `bar` opens a progress bar of bytes for a description."""

    cache: Path = field(default_factory=cache_folder)
    offline: bool = field(default_factory=offline_by_environment)
    network: Network = field(default_factory=Network)
    say: Callable[[str], None] = lambda line: None
    bar: Callable[[str], contextlib.AbstractContextManager[Progress]] = _silent

    # ------------------------------------------------------------------------------------------------ before it starts

    def missing(self, manifest: Manifest) -> list[File]:
        """The files that are not there yet; ConcordError with both hashes when one is there but another file."""
        lock, folder = Lock(manifest, self.cache), manifest.folder(self.cache)
        lacking = []
        for file in manifest.files:
            path = folder / file.result
            if not path.exists():
                lacking.append(file)
            elif file.unpack is None:
                lock.check(file)
        return lacking

    def bytes_to_come(self, manifest: Manifest, files: list[File]) -> int:
        """Bytes of disk that these files need beyond what has come of them, as far as anybody knows."""
        needed = 0
        for file in files:
            parts = [self._part(manifest, file, source) for source in file.sources]
            here = max((part.size for part in parts), default=0)
            needed += max(0, (file.bytes_about or 0) - here)
            if file.unpack:
                needed += file.bytes_about or 0  # images and weights hardly shrink in an archive
        return needed

    # ------------------------------------------------------------------------------------------------------- the verbs

    def fetch(self, manifest: Manifest, accepted: bool = False, from_file: Path | None = None) -> list[Path]:
        """Bring every file of a manifest into the cache; returns where they stand.

        accepted: the user agreed to the licence, now. from_file: take a file that was fetched by hand instead of going
        to the network. Raises ConcordError in one line: licence not accepted, offline, no space, no permission, no
        source gave it (each with its reason), another SHA-256, an archive of another shape.
        """
        folder = manifest.folder(self.cache)
        there = [folder / file.result for file in manifest.files]
        lacking = self.missing(manifest)
        if not lacking:
            return there
        self._check_licence(manifest, accepted)
        if self.offline and from_file is None:
            raise ConcordError(
                f"{manifest.name}: not fetched yet, and connections are off (--offline or {OFFLINE_VARIABLE}); "
                f"switch them on, or run `{manifest.command} --from-file PATH`"
            )
        with self._claim(manifest):
            lacking = self.missing(manifest)  # another process may have finished it meanwhile
            if accepted and manifest.licence.accept:
                Lock(manifest, self.cache).accept()
            check_space(self.cache, self.bytes_to_come(manifest, lacking), manifest.name)
            if from_file is not None:
                self._take(manifest, lacking, from_file)
            else:
                for file in lacking:
                    self._fetch_file(manifest, file)
        shutil.rmtree(self._arriving(manifest), ignore_errors=True)
        return there

    def _check_licence(self, manifest: Manifest, accepted: bool) -> None:
        licence = manifest.licence
        if licence.accept and not accepted and not Lock(manifest, self.cache).accepted:
            raise ConcordError(
                f"{manifest.name}: licence not accepted: {licence.name}. {licence.consequence} "
                f"Read {licence.url or 'its terms'}, then run `{manifest.command}` and answer yes, or add --yes"
            )

    # ------------------------------------------------------------------------------------------------- from the network

    def _fetch_file(self, manifest: Manifest, file: File) -> None:
        reasons = []
        for source in file.sources:
            if source.status == "dead":
                reasons.append(f"{source}: {source.note or 'gone'}")
                continue
            if source.status == "unofficial":
                self.say(f"{file.name}: from an unofficial source, {source}")
            try:
                self._fetch_from(manifest, file, source)
                return
            except Fault as fault:
                reasons.append(f"{source}: {fault}")
                self.say(f"{file.name}: {source}: {fault}")
        told = "; ".join(reasons) or "none is known"
        by_hand = manifest.by_hand or "fetch it in a browser"
        raise ConcordError(
            f"{manifest.name}: no source gave {file.name} ({told}); {by_hand}, "
            f"then run `{manifest.command} --from-file PATH`"
        )

    def _fetch_from(self, manifest: Manifest, file: File, source: Source) -> None:
        part = self._part(manifest, file, source)
        resumed = part.size > 0
        while True:
            resumed = self._fill(part, file, source) or resumed
            digest = self._hash(file, part.path)
            problem = Lock(manifest, self.cache).refusal(file, part.size, digest)
            if problem is None:
                break
            part.discard()
            if not resumed:
                raise Fault(problem, lasting=True)
            resumed = False  # two halves of different files, perhaps: once more, from the beginning
            self.say(f"{file.name}: {problem}; beginning anew")
        try:
            self._finish(manifest, file, part.path, digest, str(source))
        except BadArchive as error:
            part.discard()
            raise Fault(str(error).replace(f"{part.path}: ", ""), lasting=True) from None
        part.discard()

    def _fill(self, part: Part, file: File, source: Source) -> bool:
        """Bring the part to its full length, with as many attempts as bring bytes; whether more than one was needed."""
        network, failures, furthest, attempts, url = self.network, 0, part.size, 0, ""
        with self.bar(file.name) as progress:
            while not part.complete:
                attempts += 1
                try:
                    url = url or address(source, file, network)
                    transfer(url, part, file, network, progress)
                except Fault as fault:
                    failures = 1 if part.size > furthest else failures + 1
                    furthest = max(furthest, part.size)
                    wait = network.first_wait * 2 ** (failures - 1) if fault.wait is None else fault.wait
                    if fault.lasting or failures >= network.attempts:
                        raise
                    if wait > network.longest_wait and fault.wait is not None:
                        raise Fault(f"{fault}, and asks to wait {wait:.0f} s", lasting=True) from None
                    wait = min(wait, network.longest_wait)
                    self.say(f"{file.name}: {fault}; again in {wait:.3g} s, from byte {part.size:,}")
                    network.sleep(wait)
        return attempts > 1

    # ------------------------------------------------------------------------------------------------------ from a file

    def _take(self, manifest: Manifest, lacking: list[File], given: Path) -> None:
        """Take what was fetched by hand: one file, or a folder that holds the files by their names."""
        for file, path in _pair(manifest, lacking, given).items():
            digest = self._hash(file, path)
            problem = Lock(manifest, self.cache).refusal(file, path.stat().st_size, digest)
            if problem:
                raise ConcordError(f"{path}: not {file.name}: {problem}; fetch it again")
            if file.unpack:
                self._finish(manifest, file, path, digest, "given by hand")
                continue
            part = self._arriving(manifest) / "given.part"
            try:
                self._copy(file, path, part)
                self._finish(manifest, file, part, digest, "given by hand")
            finally:
                part.unlink(missing_ok=True)

    def _copy(self, file: File, path: Path, part: Path) -> None:
        total, done = path.stat().st_size, 0
        check_space(part.parent, total, file.name)
        try:
            with open(path, "rb") as source, open(part, "wb") as out, self.bar(f"{file.name} (copying)") as progress:
                while block := source.read(1 << 22):
                    out.write(block)
                    done += len(block)
                    progress(done, total)
        except OSError as error:
            raise ConcordError(f"{path}: cannot be copied to {part} ({error.strerror}); free space") from None

    # ------------------------------------------------------------------------------------------------------- the finish

    def _finish(self, manifest: Manifest, file: File, path: Path, digest: str, source: str) -> None:
        """Give verified bytes their final name; the lock is written before, so that no file stands without its hash."""
        lock, folder = Lock(manifest, self.cache), manifest.folder(self.cache)
        final, size = folder / file.result, path.stat().st_size
        if file.sha256 == UNKNOWN and not lock.entry(file):
            self.say(f"{file.name}: SHA-256 {digest}, recorded now and enforced from here on")
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            if file.unpack is None:
                with open(path, "rb") as done:
                    os.fsync(done.fileno())
                lock.record(file, size, digest, source)
                os.replace(path, final)
                return
            place = self._arriving(manifest) / "unpacking"
            with self.bar(f"{file.name} (unpacking)") as progress:
                members = unpack(path, place, file.unpack.most_bytes, progress)
            root = find_root(place, file.unpack.expects, file.name)
            prefix = "" if root == place else f"{root.relative_to(place).as_posix()}/"
            kept = {key[len(prefix) :]: value for key, value in members.items() if key.startswith(prefix)}
            os.sync()  # many files: one call for all of them
            lock.record(file, size, digest, source, members=kept)
            os.replace(root, final)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConcordError(
                f"{final}: cannot be written ({reason}); free space or give another --cache-dir"
            ) from None

    def _hash(self, file: File, path: Path) -> str:
        digest, done, total = hashlib.sha256(), 0, path.stat().st_size
        with open(path, "rb") as source, self.bar(f"{file.name} (checking)") as progress:
            while block := source.read(1 << 22):
                digest.update(block)
                done += len(block)
                progress(done, total)
        return digest.hexdigest()

    def _arriving(self, manifest: Manifest) -> Path:
        return self.cache / ARRIVING / manifest.name

    def _part(self, manifest: Manifest, file: File, source: Source) -> Part:
        return Part(self._arriving(manifest), file, source)

    @contextlib.contextmanager
    def _claim(self, manifest: Manifest) -> Iterator[None]:
        """No other process works on this name meanwhile; a killed one's claim ends with it."""
        folder = self._arriving(manifest)
        path = folder.with_name(f"{manifest.name}.claim")
        with contextlib.ExitStack() as stack:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(hold(path))
            except Held as held:
                raise ConcordError(
                    f"{manifest.name}: another process is fetching it ({held.holder} holds {path}); wait for it"
                ) from None
            except OSError as error:
                raise ConcordError(
                    f"{folder}: cannot be written ({error.strerror}); give a folder of your own with --cache-dir"
                ) from None
            yield


def _pair(manifest: Manifest, lacking: list[File], given: Path) -> dict[File, Path]:
    """Which of the lacking files the path given by hand is, or holds."""
    names = ", ".join(file.name for file in lacking)
    if given.is_dir():
        found = {file: given / file.name for file in lacking if (given / file.name).is_file()}
        found |= {
            file: given / Path(file.name).name
            for file in lacking
            if file not in found and (given / Path(file.name).name).is_file()
        }
        if not found:
            raise ConcordError(f"{given}: expected {names} in it; it looks like {describe(given)}")
        return found
    if not given.is_file():
        raise ConcordError(f"{given}: no such file; expected {names}")
    same = [file for file in lacking if Path(file.name).name == given.name]
    if len(lacking) == 1 or len(same) == 1:
        return {(same or lacking)[0]: given}
    raise ConcordError(
        f"{given}: {manifest.name} has {len(lacking)} files; expected {names}; name it as one of them, "
        "or give the folder that holds them"
    )


@dataclass(frozen=True)
class Row:
    """What is shown of a name before a fetch. size: bytes that are lacking; vague: of one file it is not known."""

    manifest: Manifest
    lacking: list[File]
    size: int
    vague: bool


def listing(manifests: list[Manifest], fetcher: Fetcher) -> list[Row]:
    """A row for each manifest."""
    rows = []
    for manifest in manifests:
        lacking = fetcher.missing(manifest)
        sizes = [file.bytes_about for file in lacking]
        rows.append(Row(manifest, lacking, sum(size or 0 for size in sizes), None in sizes))
    return rows


__all__ = ["Fetcher", "Row", "listing", "megabytes", "offline_by_environment"]
