"""One file over HTTP into a partial file, so that a cut loses nothing: data/download/fetch.py decides what to do on a
fault.

A partial file `<key>.part` has a note `<key>.json` beside it: the source, its total length, and the validator (ETag or
Last-Modified) that lets a server say that the file has changed since (RFC 9110, If-Range). Bytes are appended only
where the server confirms the position; a server that ignores Range sends everything again, from the beginning.
"""

from __future__ import annotations

import hashlib
import html
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urljoin

from concord.data.download.manifest import File, Source
from concord.data.errors import ConcordError
from concord.data.files import write_json

if TYPE_CHECKING:
    from requests import Response, Session

BLOCK = 1 << 18  # bytes asked for at once; what has come is written at once
PAGE = 1 << 20  # bytes of a web page that are looked at
SPARE = 64 << 20  # bytes of disk that are left free
TRANSIENT = {408, 425, 429, 500, 502, 503, 504, 509, 520, 521, 522, 523, 524}

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there, and of how many where that is known."""


class Fault(Exception):
    """Why a source gave no file. lasting: trying the same source again is no use. wait: seconds that it asked for."""

    def __init__(self, reason: str, lasting: bool = False, wait: float | None = None) -> None:
        super().__init__(reason)
        self.lasting, self.wait = lasting, wait


@dataclass(frozen=True)
class Network:
    """How patient to be, and where the hosts are."""

    connect_seconds: float = 15.0
    stall_seconds: float = 60.0  # without a single byte
    attempts: int = 6  # in a row that bring no new byte
    first_wait: float = 1.0  # doubled after every attempt
    longest_wait: float = 120.0  # a server that asks for more is left for the next source
    drive: str = "https://drive.usercontent.google.com"
    drive_folders: str = "https://drive.google.com"
    huggingface: str = "https://huggingface.co"
    sleep: Callable[[float], None] = time.sleep


# ---------------------------------------------------------------------------------------------------- the partial file


class Part:
    """A file on its way from one source."""

    def __init__(self, folder: Path, file: File, source: Source) -> None:
        key = hashlib.sha256(f"{file.name}\0{source.model_dump_json(exclude={'note', 'status'})}".encode()).hexdigest()
        self.path = folder / f"{key[:16]}.part"
        self.note_path = folder / f"{key[:16]}.json"
        self.total: int | None = None
        self.validator: str | None = None
        with suppress(OSError, ValueError, KeyError, TypeError):  # a broken note: begin anew
            note = json.loads(self.note_path.read_text(encoding="utf-8"))
            self.total, self.validator = note["total"], note["validator"]
        if self.total is None and self.validator is None:
            self.discard()

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    @property
    def complete(self) -> bool:
        return self.total is not None and self.path.is_file() and self.size == self.total

    def begin(self, total: int | None, validator: str | None) -> None:
        """Start an empty file of which so much is to come."""
        self.discard()
        self.total, self.validator = total, validator
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.note_path, {"total": total, "validator": validator})
        self.path.touch()

    def discard(self) -> None:
        """Forget what has come."""
        for path in (self.path, self.note_path):  # in this order: bytes without a note count for nothing
            path.unlink(missing_ok=True)
        self.total = self.validator = None


# ------------------------------------------------------------------------------------------------------------ addresses


def open_session() -> Session:
    """A session that honours the proxies and certificates of the environment, and sends nobody's passwords."""
    import requests

    session = requests.Session()
    session.headers.update({"User-Agent": "concord (https; research benchmark)", "Accept-Encoding": "identity"})
    session.auth = lambda request: request  # else a .netrc would be read
    return session


def address(source: Source, file: File, network: Network, session: Session) -> str:
    """The URL of a file at a source; a folder of Google Drive is listed to find it."""
    if source.url:
        return source.url
    name = source.file or file.name
    if source.huggingface:
        return f"{network.huggingface}/{source.huggingface}/resolve/{quote(source.revision)}/{quote(name)}"
    identity = source.gdrive or _find_in_folder(str(source.gdrive_folder), name, network, session)
    return f"{network.drive}/download?id={quote(identity)}&export=download&confirm=t"


def _find_in_folder(folder: str, name: str, network: Network, session: Session) -> str:
    """The id of a file in a public folder of Google Drive, by its path there."""
    *folders, last = name.split("/")
    for depth, part in enumerate([*folders, last]):
        with _opened(session, f"{network.drive_folders}/embeddedfolderview?id={quote(folder)}", {}, network) as answer:
            _check_status(answer)
            page = _Page.read(answer)
        wanted = {entry.name: entry for entry in page.entries if entry.is_folder == (depth < len(folders))}
        if part not in wanted:
            there = ", ".join(sorted(entry.name for entry in page.entries)[:8]) or "nothing that can be listed"
            raise Fault(f"the folder has no '{part}' (it shows {there})", lasting=True)
        folder = wanted[part].identity
    return folder


@dataclass(frozen=True)
class _Entry:
    identity: str
    name: str
    is_folder: bool


class _Page(HTMLParser):
    """What matters of a web page: its title, the form of Google Drive's warning, its refusal, its list of a folder."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.title = self.refusal = ""
        self.action: str | None = None
        self.fields: dict[str, str] = {}
        self.entries: list[_Entry] = []
        self._collect: str | None = None
        self._text = ""
        self._link: tuple[str, bool] | None = None

    @classmethod
    def read(cls, answer: Response) -> _Page:
        """The page of an answer, its first megabyte."""
        with _network_faults():
            content = answer.raw.read(PAGE, decode_content=True)
        page = cls()
        page.feed(content.decode("utf-8", "replace"))
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {key: value or "" for key, value in attrs}
        kinds = found.get("class", "").split()
        if tag == "form" and found.get("id") == "download-form":
            self.action = html.unescape(found.get("action", ""))
        elif tag == "input" and self.action is not None and found.get("type") == "hidden":
            self.fields[found.get("name", "")] = found.get("value", "")
        elif tag == "a":
            match = re.search(r"/(folders|file/d)/([\w-]+)", found.get("href", ""))
            if match:
                self._link = (match[2], match[1] == "folders")
        elif tag == "title":
            self._begin("title")
        elif "uc-error-caption" in kinds or "uc-error-subcaption" in kinds:
            self._begin("refusal")
        elif "flip-entry-title" in kinds:
            self._begin("entry")

    def _begin(self, what: str) -> None:
        self._collect, self._text = what, ""

    def handle_data(self, data: str) -> None:
        if self._collect:
            self._text += data

    def handle_endtag(self, tag: str) -> None:
        text = " ".join(self._text.split())
        if self._collect == "title" and tag == "title":
            self.title = text
        elif self._collect == "refusal" and tag in ("p", "div"):
            self.refusal = f"{self.refusal} {text}".strip()
        elif self._collect == "entry" and tag == "div":
            if self._link and text:
                self.entries.append(_Entry(self._link[0], text, self._link[1]))
        else:
            return
        self._collect = None

    @property
    def summary(self) -> str:
        """What the page says, in a few words."""
        return (self.refusal or self.title or "no title")[:120]


# ---------------------------------------------------------------------------------------------------------- a transfer


def transfer(url: str, part: Part, file: File, network: Network, session: Session, progress: Progress) -> None:
    """Bring the partial file to its full length, in one attempt; Fault where that fails, what came is kept.

    Raises ConcordError when the disk is full or cannot be written.
    """
    if part.complete:
        return
    with _opened(session, url, _range_headers(part), network) as first:
        form = _drive_form(first, url, network)
        if form is None:
            _receive(first, part, file, progress)
            return
    with _opened(session, form[0], _range_headers(part), network, form[1]) as second:
        _receive(second, part, file, progress)


def _range_headers(part: Part) -> dict[str, str]:
    if not part.size:
        return {}
    headers = {"Range": f"bytes={part.size}-"}
    if part.validator and not part.validator.startswith("W/"):  # a weak validator may not be asked for
        headers["If-Range"] = part.validator
    return headers


def _receive(answer: Response, part: Part, file: File, progress: Progress) -> None:
    position = _position(answer, part)
    if position is None:
        return  # the whole file had come before
    if position == 0:
        _begin(answer, part, file)
    _check_space(part, file)
    with _open_to_append(part.path) as out:
        for block in _blocks(answer):
            if position == 0 and _is_page(block):
                part.discard()
                page = _Page()
                page.feed(block.decode("utf-8", "replace"))
                raise Fault(f"sent a web page instead of the file ('{page.summary}')", lasting=True)
            _write(out, block, part.path)
            position += len(block)
            most = part.total if part.total is not None else file.size
            if most is not None and position > most:
                part.discard()
                raise Fault(f"sends more than the {most:,} bytes that were announced", lasting=True)
            progress(position, part.total)
    if part.total is None:
        if file.size is None and "chunked" not in answer.headers.get("Transfer-Encoding", ""):
            part.discard()
            raise Fault("does not say how long the file is, so a cut could not be told from its end", lasting=True)
        part.total = position
        write_json(part.note_path, {"total": position, "validator": part.validator})
    if position < part.total:
        raise Fault(f"was cut after {position:,} of {part.total:,} bytes")


def _position(answer: Response, part: Part) -> int | None:
    """Where the body begins in the file; None when there is nothing left to receive."""
    status = answer.status_code
    if status == 416:
        match = re.fullmatch(r"bytes \*/(\d+)", answer.headers.get("Content-Range", "").strip())
        if match and part.size == int(match[1]):
            part.total = part.size
            return None
        part.discard()
        raise Fault("has another length than before; beginning anew")
    if status == 206:
        match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", answer.headers.get("Content-Range", "").strip())
        whole = match is not None and match[3] != "*" and part.total not in (None, int(match[3]))
        if match is None or int(match[1]) != part.size or whole:
            part.discard()
            raise Fault("continued at another place or with another file; beginning anew")
        return part.size
    _check_status(answer)
    if "text/html" in answer.headers.get("Content-Type", "").lower():
        raise Fault(f"sent a web page instead of the file ('{_Page.read(answer).summary}')", lasting=True)
    return 0


def _begin(answer: Response, part: Part, file: File) -> None:
    length = answer.headers.get("Content-Length", "")
    total = int(length) if length.isdigit() and not answer.headers.get("Content-Encoding") else None
    if total is not None and file.size is not None and total != file.size:
        raise Fault(f"announces {total:,} bytes, the manifest says {file.size:,}", lasting=True)
    etag, modified = answer.headers.get("ETag"), answer.headers.get("Last-Modified")
    validator = etag if etag and not etag.startswith("W/") else modified or etag
    try:
        part.begin(total, validator)
    except OSError as error:
        raise _unwritable(part.path, error) from None


def _check_space(part: Part, file: File) -> None:
    """ConcordError when what is still to come does not fit."""
    if part.total is not None:
        check_space(part.path.parent, part.total - part.size, file.name)


def check_space(folder: Path, needed: int, what: str) -> None:
    """ConcordError when the disk of `folder` (or of its nearest parent) has no room for so many bytes more."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed + SPARE > free:
        raise ConcordError(
            f"{folder}: no space for {what}: it needs {megabytes(needed)} more, {megabytes(free)} are free; "
            "free some or give another folder with --cache-dir"
        )


def megabytes(count: int | None) -> str:
    """A number of bytes for people, in units of 1000."""
    if count is None:
        return "unknown size"
    for unit, size in (("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)):
        if count >= size:
            return f"{count / size:.3g} {unit}" if count < 1000 * size else f"{count / size:,.0f} {unit}"
    return f"{count} bytes"


def _is_page(block: bytes) -> bool:
    start = block[:256].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return start.startswith((b"<!doctype html", b"<html"))


# ------------------------------------------------------------------------------------------------------------- the wire


@contextmanager
def _opened(
    session: Session, url: str, headers: dict[str, str], network: Network, query: dict[str, str] | None = None
) -> Iterator[Response]:
    with _network_faults():
        answer = session.get(
            url, headers=headers, params=query, stream=True, timeout=(network.connect_seconds, network.stall_seconds)
        )
    try:
        yield answer
    finally:
        answer.close()


@contextmanager
def _network_faults() -> Iterator[None]:
    """The errors of the wire as Faults of one line."""
    import requests
    import urllib3

    try:
        yield
    except (requests.Timeout, urllib3.exceptions.TimeoutError):
        raise Fault("stalled: no answer in time") from None
    except (requests.exceptions.InvalidURL, requests.exceptions.MissingSchema, requests.TooManyRedirects) as error:
        raise Fault(f"leads nowhere ({type(error).__name__})", lasting=True) from None
    except (requests.exceptions.SSLError, urllib3.exceptions.SSLError) as error:
        raise Fault(f"has a certificate that is not trusted ({_short(error)})", lasting=True) from None
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise Fault(f"broke the connection ({_short(error)})") from None


def _short(error: BaseException) -> str:
    """The innermost cause in a few words: the libraries nest them."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())[:80]


def _blocks(answer: Response) -> Iterator[bytes]:
    while True:
        with _network_faults():
            block = answer.raw.read1(BLOCK, decode_content=False)
        if not block:
            return
        yield block


def _check_status(answer: Response) -> None:
    status = answer.status_code
    if 200 <= status < 300:
        return
    said = f"answered {status} {answer.reason or ''}".strip()
    if status in TRANSIENT:
        raise Fault(said, wait=_retry_after(answer.headers.get("Retry-After")))
    raise Fault(said, lasting=True)


def _retry_after(value: str | None) -> float | None:
    """Seconds from a number or a date; None where there is none that can be read."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _drive_form(answer: Response, url: str, network: Network) -> tuple[str, dict[str, str]] | None:
    """Address and fields of the button on Google Drive's page 'cannot scan for viruses'; None where a file came.

    Fault with what the page says when it has no such button: too many downloads today, no permission, gone.
    """
    if not url.startswith(network.drive) or "text/html" not in answer.headers.get("Content-Type", "").lower():
        return None
    _check_status(answer)
    page = _Page.read(answer)
    if page.action is None:
        raise Fault(f"Google Drive sent a page instead of the file ('{page.summary}')", lasting=True)
    return urljoin(url, page.action), page.fields


# ------------------------------------------------------------------------------------------------------------- the disk


def _unwritable(path: Path, error: OSError) -> ConcordError:
    return ConcordError(f"{path}: cannot be written ({error.strerror}); free space or give another --cache-dir")


@contextmanager
def _open_to_append(path: Path) -> Iterator[int]:
    try:
        out = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        yield out
    finally:
        os.close(out)


def _write(out: int, block: bytes, path: Path) -> None:
    view = memoryview(block)
    while len(view):  # the system may take a part only
        try:
            view = view[os.write(out, view) :]
        except OSError as error:
            raise _unwritable(path, error) from None
