"""What Concord fetches: one YAML file each in `data/manifests/`, and where a fetched file lies.

A manifest names the sources of each file in the order in which they are tried, its size and SHA-256 where somebody
states them ("unknown" otherwise: recorded at the first download, then enforced), the licence and what follows from it,
whom to cite, and what needs it. A source that is dead or not the authors' own is marked as such.

    <cache>/weights/<name>/<file>      verified files         <cache>/.fetch/<name>/    what is still on its way
    <cache>/data/<name>/<file>                                <cache>/locks/<name>.json   SHA-256 of what was had

The cache is `$CONCORD_CACHE`, or `datasets/` in the checkout. Nothing here opens a connection: data/download/fetch.py
does.
"""

from __future__ import annotations

import contextlib
import os
import re
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from concord.data.errors import ConcordError
from concord.data.files import read_json, sha256_file, write_json
from concord.data.schema import read_model

FOLDER = Path(__file__).resolve().parents[1] / "manifests"
CACHE_VARIABLE = "CONCORD_CACHE"
UNKNOWN = "unknown"

_SHA256 = re.compile(r"[0-9a-f]{64}")
_PREFIX = re.compile(r"[0-9a-f]{8,63}")


# ---------------------------------------------------------------------------------------------------------- the schema


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Strict):
    """One place that has a file. Exactly one of the four addresses is given.

    status: 'official' (the authors'), 'mirror' (a copy that the authors or a well-known library point to),
    'unofficial' (somebody's copy: trust it by its hash alone), 'dead' (gone; kept for the record, not tried).
    """

    gdrive: str | None = None  # the id of a file
    gdrive_folder: str | None = None  # the id of a folder that holds `file`
    huggingface: str | None = None  # owner/name of a repository that holds `file`
    url: str | None = None
    file: str | None = None  # its path in the folder or repository; the file's own name where absent
    revision: str = "main"  # of a Hugging Face repository
    status: Literal["official", "mirror", "unofficial", "dead"] = "official"
    note: str = ""

    @model_validator(mode="after")
    def _one_address(self) -> Source:
        given = [key for key in ("gdrive", "gdrive_folder", "huggingface", "url") if getattr(self, key)]
        if len(given) != 1:
            raise ValueError("a source has exactly one of gdrive, gdrive_folder, huggingface and url")
        if self.url and not self.url.startswith(("https://", "http://")):
            raise ValueError(f"url '{self.url}' does not begin with https://")
        return self

    def __str__(self) -> str:
        if self.url:
            place = self.url
        elif self.huggingface:
            place = f"Hugging Face {self.huggingface}"
        elif self.gdrive:
            place = f"Google Drive file {self.gdrive}"
        else:
            place = f"Google Drive folder {self.gdrive_folder}"
        return place if self.status == "official" else f"{place} ({self.status})"


class Unpacking(_Strict):
    """How an archive becomes a folder. `expects`: paths that its content has, which also find its top folder."""

    into: str  # the folder's name beside the archive
    expects: tuple[str, ...] = Field(min_length=1)
    most_bytes: int = Field(gt=0)  # unpacked; more than that is no honest archive of this name

    @field_validator("into")
    @classmethod
    def _safe(cls, value: str) -> str:
        return _relative(value)


class File(_Strict):
    """One file as it is fetched. `name` may have folders in it; `size_about` serves planning alone."""

    name: str
    size: int | None = None
    size_about: int | None = None
    sha256: str = UNKNOWN
    sha256_prefix: str | None = None  # where the name of a file ends with the beginning of its hash
    sources: tuple[Source, ...] = ()
    unpack: Unpacking | None = None

    @field_validator("name")
    @classmethod
    def _safe(cls, value: str) -> str:
        return _relative(value)

    @field_validator("sha256")
    @classmethod
    def _hash(cls, value: str) -> str:
        if value != UNKNOWN and not _SHA256.fullmatch(value):
            raise ValueError("sha256 is 64 hex digits in lower case, or 'unknown'")
        return value

    @field_validator("sha256_prefix")
    @classmethod
    def _beginning(cls, value: str | None) -> str | None:
        if value is not None and not _PREFIX.fullmatch(value):
            raise ValueError("sha256_prefix is 8 to 63 hex digits in lower case")
        return value

    @property
    def result(self) -> str:
        """What stands in the cache once it is fetched: the file, or the folder that it was unpacked into."""
        return self.unpack.into if self.unpack else self.name

    @property
    def bytes_about(self) -> int | None:
        """Its size in bytes, or about that; None where nobody says."""
        return self.size if self.size is not None else self.size_about


class Licence(_Strict):
    """name: as its owner calls it. consequence: what a user may do. accept: it must be agreed to before a fetch."""

    name: str
    consequence: str
    url: str = ""
    accept: bool = False


class Manifest(_Strict):
    """Everything about one name. `bundles`: what `concord fetch --for BUNDLE` takes along."""

    name: str
    kind: Literal["data", "weights"]
    title: str
    files: tuple[File, ...] = Field(min_length=1)
    licence: Licence
    citation: str
    needed_by: tuple[str, ...] = Field(min_length=1)
    bundles: tuple[str, ...] = ()
    by_hand: str = ""  # where to look when no source answers
    notes: str = ""

    @model_validator(mode="after")
    def _no_twins(self) -> Manifest:
        names = [file.name for file in self.files] + [file.unpack.into for file in self.files if file.unpack]
        twins = sorted({name for name in names if names.count(name) > 1})
        if twins:
            raise ValueError(f"two files are called {twins[0]}")
        return self

    @property
    def command(self) -> str:
        """The command that fetches it."""
        return f"concord {self.kind} fetch {self.name}"

    def folder(self, cache: Path | None = None) -> Path:
        """Where its files lie."""
        return (cache or cache_folder()) / self.kind / self.name

    def file(self, name: str | None = None) -> File:
        """The file of that name; its first one where none is given."""
        if name is None:
            return self.files[0]
        for file in self.files:
            if name in (file.name, file.result):
                return file
        known = ", ".join(file.name for file in self.files)
        raise ConcordError(f"{self.name}: has no file '{name}'; expected one of {known}")


def _relative(value: str) -> str:
    path = PurePosixPath(value)
    if not value or path.is_absolute() or ".." in path.parts or "\\" in value or str(path) != value or value == ".":
        raise ValueError(f"'{value}' is not a plain relative path")
    return value


# --------------------------------------------------------------------------------------------------------- the reading


def manifest_names(folder: Path = FOLDER) -> list[str]:
    """Every name that can be fetched, in alphabetical order."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def load_manifest(name: str, folder: Path = FOLDER) -> Manifest:
    """The manifest of a name; ConcordError listing near names when there is none, or naming the field that is wrong."""
    path = folder / f"{name}.yaml"
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", name) or not path.is_file():
        import difflib

        known = manifest_names(folder)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or known
        raise ConcordError(f"nothing to fetch is called '{name}': expected a name such as {', '.join(near)}")
    return _read_manifest(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _read_manifest(path: Path, _changed: int) -> Manifest:
    found = read_model(path, Manifest)
    if found.name != path.stem:
        raise ConcordError(f"{path}: name is '{found.name}', expected '{path.stem}' as the file is called")
    return found


def load_bundle(bundle: str, folder: Path = FOLDER) -> list[Manifest]:
    """Every manifest of a bundle, data first; ConcordError listing the bundles when there is no such one."""
    found = [load_manifest(name, folder) for name in manifest_names(folder)]
    chosen = [manifest for manifest in found if bundle in manifest.bundles]
    if not chosen:
        known = sorted({name for manifest in found for name in manifest.bundles})
        raise ConcordError(f"--for {bundle}: expected one of {', '.join(known)}")
    return sorted(chosen, key=lambda manifest: (manifest.kind, manifest.name))


# ----------------------------------------------------------------------------------------------------------- the cache


def cache_folder() -> Path:
    """`$CONCORD_CACHE`, or `datasets/` in `own_folder`."""
    given = os.environ.get(CACHE_VARIABLE)
    return Path(given).expanduser() if given else own_folder() / "datasets"


def own_folder() -> Path:
    """Where Concord keeps what it draws and fetches: the checkout, or, where it is installed, the user's cache."""
    root = Path(__file__).resolve().parents[2]
    if (root / "dvc.yaml").is_file():
        return root
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "concord"


def weight_file(name: str, file: str | None = None) -> Path:
    """The local path of a fetched file of weights, its SHA-256 verified.

    name: a manifest's. file: one of its files, or a path inside its unpacked archive; its first file where none is
    given, and for an archive that is the folder. Raises ConcordError naming file, source, licence and the command that
    fetches it when it is absent, and both hashes when it is not the file that was expected.
    """
    return fetched_file(load_manifest(name), file)


def weight_folder(name: str) -> Path:
    """The folder of a manifest of several files, such as `from_pretrained` takes; each of them verified."""
    manifest = load_manifest(name)
    for file in manifest.files:
        fetched_file(manifest, file.name)
    return manifest.folder()


def fetched_file(manifest: Manifest, file: str | None = None, cache: Path | None = None) -> Path:
    """`weight_file` for any manifest and cache."""
    wanted, inside = _locate(manifest, file)
    path = manifest.folder(cache) / wanted.result
    if not path.exists():
        raise ConcordError(absence(manifest, wanted, path))
    lock = Lock(manifest, cache)
    if wanted.unpack is None:
        lock.check(wanted)
        return path
    return lock.check_member(wanted, inside) if inside else path


def _locate(manifest: Manifest, file: str | None) -> tuple[File, str | None]:
    """The manifest's file that `file` names, and the path inside its folder where it lies in an unpacked archive."""
    archives = [entry for entry in manifest.files if entry.unpack]
    known = {name for entry in manifest.files for name in (entry.name, entry.result)}
    if file is not None and file not in known and archives:
        for entry in archives:
            if file.startswith(f"{entry.result}/"):
                return entry, _relative(file.removeprefix(f"{entry.result}/"))
        return archives[0], _relative(file)
    return manifest.file(file), None


def absence(manifest: Manifest, file: File, path: Path) -> str:
    """The one line about a file that is not there: which, its source and licence, the command that fetches it."""
    usable = [source for source in file.sources if source.status != "dead"]
    source = str(usable[0]) if usable else "no public source"
    advice = f"run `{manifest.command}`"
    if not usable:
        advice = f"{manifest.by_hand or 'find it by hand'}, then {advice[:-1]} --from-file PATH`"
    return f"{path}: not fetched yet (source: {source}; licence: {manifest.licence.name}); {advice}"


# ------------------------------------------------------------------------------------------------------------ the lock


class Lock:
    """What was had of one manifest: `<cache>/locks/<name>.json`, the same on every machine that had the same.

    files: name -> {size, sha256, source}, for an archive with `members`: path -> [size, sha256]. accepted: the licence
    that the user agreed to. Beside it, `<name>.seen.json` holds [size, mtime in ns] of the files that were hashed here:
    one that has not changed since is not read again.
    """

    def __init__(self, manifest: Manifest, cache: Path | None = None) -> None:
        self.manifest = manifest
        self.folder = manifest.folder(cache)
        self.path = (cache or cache_folder()) / "locks" / f"{manifest.name}.json"
        self.seen_path = self.path.with_suffix(".seen.json")
        self.content: dict[str, Any] = {"files": {}}
        if self.path.is_file():
            content = read_json(self.path)
            if not isinstance(content, dict) or not isinstance(content.get("files"), dict):
                raise ConcordError(f"{self.path}: expected an object with 'files'; remove it and fetch again")
            self.content = content

    def entry(self, file: File) -> dict[str, Any]:
        """What is known of a file; empty when it was never had."""
        found = self.content["files"].get(file.name, {})
        return found if isinstance(found, dict) else {}

    def expected(self, file: File) -> str | None:
        """The SHA-256 that the file must have: the manifest's, else the one of the first download."""
        return file.sha256 if file.sha256 != UNKNOWN else self.entry(file).get("sha256")

    def refusal(self, file: File, size: int, sha256: str) -> str | None:
        """Why these bytes are not the file; None when they are it, or nothing is known against them."""
        expected = self.expected(file)
        if expected is not None and sha256 != expected:
            origin = "the manifest" if file.sha256 != UNKNOWN else f"the first download ({self.path})"
            return f"SHA-256 is {sha256}, {origin} says {expected}"
        if file.sha256_prefix and not sha256.startswith(file.sha256_prefix):
            return f"SHA-256 is {sha256}, its name says {file.sha256_prefix}..."
        if file.size is not None and size != file.size:
            return f"has {size:,} bytes, the manifest says {file.size:,}"
        return None

    def record(self, file: File, size: int, sha256: str, source: str, **more: Any) -> None:
        """Keep what a file is."""
        entry = {"size": size, "sha256": sha256, "source": source, **more}
        if entry != self.entry(file):
            self.content["files"][file.name] = entry
            write_json(self.path, self.content)

    @property
    def accepted(self) -> bool:
        """Whether the licence was agreed to, in the words that it has now."""
        return self.content.get("accepted") == self.manifest.licence.name

    def accept(self) -> None:
        """Keep that the licence was agreed to."""
        self.content["accepted"] = self.manifest.licence.name
        write_json(self.path, self.content)

    def check(self, file: File) -> None:
        """ConcordError with both hashes unless what stands in the cache is the file that was expected."""
        path, known = self.folder / file.result, self.entry(file)
        size, digest = self._digest(path, known.get("sha256"))
        problem = self.refusal(file, size, digest)
        if problem:
            raise ConcordError(f"{path}: {problem}; remove the file and run `{self.manifest.command}`")
        with contextlib.suppress(ConcordError):  # a cache that cannot be written costs the next call a hash
            self.record(file, size, digest, known.get("source", "found in the cache"))

    def check_member(self, file: File, inside: str) -> Path:
        """The path of a file inside an unpacked archive, verified against what was unpacked."""
        folder = self.folder / file.result
        path, again = folder / inside, f"remove {folder} and run `{self.manifest.command}`"
        if not path.is_file():
            raise ConcordError(f"{path}: not in the fetched archive {file.name}; {again}")
        members = self.entry(file).get("members", {})
        if inside in members:  # an archive of many thousand files keeps no hash of each
            expected = members[inside][1]
            digest = self._digest(path, expected)[1]
            if digest != expected:
                raise ConcordError(f"{path}: SHA-256 is {digest}, the archive's was {expected}; {again}")
        return path

    def _digest(self, path: Path, known: str | None) -> tuple[int, str]:
        """Size and SHA-256 of a file: `known`, where it has not changed since it was hashed to that."""
        try:
            stat = path.stat()
            now = [stat.st_size, stat.st_mtime_ns, known]
            key = path.relative_to(self.folder).as_posix()
            seen = self._seen()
            if known is not None and seen.get(key) == now:
                return stat.st_size, known
            digest = sha256_file(path)
        except OSError as error:
            raise ConcordError(f"{path}: cannot be read ({error.strerror}); expected a fetched file") from None
        with contextlib.suppress(ConcordError):
            write_json(self.seen_path, {**seen, key: [*now[:2], digest]})
        return stat.st_size, digest

    def _seen(self) -> dict[str, Any]:
        with contextlib.suppress(ConcordError):
            content = read_json(self.seen_path)
            if isinstance(content, dict):
                return content
        return {}
