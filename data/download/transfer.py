"""One file over HTTP into a partial file, so that a cut loses little. What to do on a fault, fetch.py decides.

pooch reads the bytes and gdown knows Google Drive; what is here decides where in the file they belong. A partial file
`<key>.part` has a note `<key>.json` beside it: the source, its total length, and the validator (ETag or Last-Modified)
that lets a server say that the file has changed since (RFC 9110, If-Range). Bytes are appended only where the server
confirms the position; a server that ignores Range sends everything again, from the beginning.
"""

from __future__ import annotations

import errno
import hashlib
import html
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urljoin

from concord.data.download.manifest import File, Source
from concord.data.errors import ConcordError
from concord.data.files import write_json

if TYPE_CHECKING:
    from requests import PreparedRequest, Response

BLOCK = 1 << 12  # bytes written at once: what a cut can lose
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
        """Bytes that are there already."""
        return self.path.stat().st_size if self.path.is_file() else 0

    @property
    def complete(self) -> bool:
        """Whether all bytes are there, where their number is known."""
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


def address(source: Source, file: File, network: Network) -> str:
    """The URL of a file at a source; a folder of Google Drive is listed to find it."""
    if source.url:
        return source.url
    name = source.file or file.name
    if source.huggingface:
        return f"{network.huggingface}/{source.huggingface}/resolve/{quote(source.revision)}/{quote(name)}"
    identity = source.gdrive or _find_in_folder(str(source.gdrive_folder), name, network)
    return f"{network.drive}/download?id={quote(identity)}&export=download&confirm=t"


def _find_in_folder(folder: str, name: str, network: Network) -> str:
    """The id of a file in a public folder of Google Drive, by its path there."""
    import gdown

    timeout = (network.connect_seconds, network.stall_seconds)
    try:
        with _network_faults():
            files = gdown.download_folder(id=folder, quiet=True, use_cookies=False, skip_download=True, timeout=timeout)
    except gdown.DownloadError as error:
        busy = any(f"status code {status}" in str(error) for status in TRANSIENT)
        raise Fault(f"the folder cannot be listed ({_one_line(str(error))})", lasting=not busy) from None
    there = {file.path: file.id for file in files if not isinstance(file, str)}
    if name not in there:
        shown = ", ".join(sorted(there)[:8]) or "nothing that can be listed"
        raise Fault(f"the folder has no '{name}' (it shows {shown})", lasting=True)
    return there[name]


# ---------------------------------------------------------------------------------------------------------- a transfer


def transfer(url: str, part: Part, file: File, network: Network, progress: Progress) -> None:
    """Bring the partial file to its full length, in one attempt; Fault where that fails, what came is kept.

    Raises ConcordError when the disk is full or cannot be written.
    """
    if part.complete:
        return
    try:
        _receive(url, part, file, network, progress)
    except _Confirmation as page:  # Google Drive asks once whether a file too large for its scan is wanted
        _receive(page.url, part, file, network, progress)


class _Confirmation(Exception):
    """Google Drive sent its page 'cannot scan for viruses' in place of the file; the button on it leads to `url`."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.url = url


class _Whole(Exception):
    """The server says that nothing is left to send."""


def _receive(url: str, part: Part, file: File, network: Network, progress: Progress) -> None:
    from pooch import HTTPDownloader

    headers = {"User-Agent": "concord (https; research benchmark)", "Accept-Encoding": "identity"}
    if part.size:
        headers["Range"] = f"bytes={part.size}-"
        if part.validator and not part.validator.startswith("W/"):  # a weak validator may not be asked for
            headers["If-Range"] = part.validator
    body = _Body(part, file, network, progress)
    download = HTTPDownloader(
        chunk_size=BLOCK,
        headers=headers,
        timeout=(network.connect_seconds, network.stall_seconds),
        auth=_nobody,
        hooks={"response": body.begin},
    )
    try:
        with _network_faults():
            download(url, body, None)
    except _Whole:
        return
    finally:
        body.close()
    body.finish()


def _nobody(request: PreparedRequest) -> PreparedRequest:
    """No password is sent; without this one a .netrc would be read."""
    return request


class _Body:
    """Where the bytes of an answer go: `begin` sees its head, `write` every block."""

    def __init__(self, part: Part, file: File, network: Network, progress: Progress) -> None:
        self.part, self.file, self.network, self.progress = part, file, network, progress
        self.position, self.chunked = 0, False
        self._out: int | None = None

    def begin(self, answer: Response, **_: Any) -> None:
        """Decide from the head where in the file the body belongs; Fault when it is not the file, or not its rest."""
        if answer.is_redirect:
            return
        self.position = self._position(answer)
        self.chunked = "chunked" in answer.headers.get("Transfer-Encoding", "")
        if self.position == 0:
            self._begin_part(answer)
        if self.part.total is not None:
            check_space(self.part.path.parent, self.part.total - self.part.size, self.file.name)
        try:
            self._out = os.open(self.part.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        except OSError as error:
            raise _unwritable(self.part.path, error) from None

    def _position(self, answer: Response) -> int:
        part, status, span = self.part, answer.status_code, answer.headers.get("Content-Range", "").strip()
        if status == 416:
            match = re.fullmatch(r"bytes \*/(\d+)", span)
            if match and part.size == int(match[1]):
                part.total = part.size
                raise _Whole
            part.discard()
            raise Fault("has another length than before; beginning anew")
        if status == 206:
            match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", span)
            other = match is not None and match[3] != "*" and part.total not in (None, int(match[3]))
            if match is None or int(match[1]) != part.size or other:
                part.discard()
                raise Fault("continued at another place or with another file; beginning anew")
            return part.size
        _check_status(answer)
        if "text/html" in answer.headers.get("Content-Type", "").lower():
            self._refuse_page(answer)
        return 0

    def _refuse_page(self, answer: Response) -> None:
        with _network_faults():
            page = answer.raw.read(PAGE, decode_content=True).decode("utf-8", "replace")
        if not answer.url.startswith(self.network.drive):
            raise Fault(f"sent a web page instead of the file ('{_summary(page)}')", lasting=True)
        import gdown
        from gdown.download import get_url_from_gdrive_confirmation

        try:  # line by line, so that a form has to stand on one
            url = get_url_from_gdrive_confirmation(" ".join(page.splitlines()))
        except gdown.FileURLRetrievalError:
            raise Fault(f"Google Drive sent a page instead of the file ('{_summary(page)}')", lasting=True) from None
        raise _Confirmation(urljoin(answer.url, url))

    def _begin_part(self, answer: Response) -> None:
        length = answer.headers.get("Content-Length", "")
        total = int(length) if length.isdigit() and not answer.headers.get("Content-Encoding") else None
        if total is not None and self.file.size is not None and total != self.file.size:
            raise Fault(f"announces {total:,} bytes, the manifest says {self.file.size:,}", lasting=True)
        etag, modified = answer.headers.get("ETag"), answer.headers.get("Last-Modified")
        validator = etag if etag and not etag.startswith("W/") else modified or etag
        try:
            self.part.begin(total, validator)
        except OSError as error:
            raise _unwritable(self.part.path, error) from None

    def write(self, block: bytes) -> None:
        """Append a block; Fault when it is a web page, or more than was announced."""
        part, most = self.part, self.part.total if self.part.total is not None else self.file.size
        if self.position == 0 and block[:256].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_PAGE_STARTS):
            part.discard()
            page = block.decode("utf-8", "replace")
            raise Fault(f"sent a web page instead of the file ('{_summary(page)}')", lasting=True)
        if most is not None and self.position + len(block) > most:
            part.discard()
            raise Fault(f"sends more than the {most:,} bytes that were announced", lasting=True)
        assert self._out is not None  # `begin` comes first
        view = memoryview(block)
        while len(view):  # the system may take a part only
            try:
                view = view[os.write(self._out, view) :]
            except OSError as error:
                raise _unwritable(part.path, error) from None
        self.position += len(block)
        self.progress(self.position, part.total)

    def flush(self) -> None:
        """Nothing is held back: pooch calls it after every block."""

    def close(self) -> None:
        """Let go of the partial file."""
        if self._out is not None:
            os.close(self._out)
            self._out = None

    def finish(self) -> None:
        """The answer has ended: Fault unless that was the end of the file."""
        part = self.part
        if part.total is None:
            if self.file.size is None and not self.chunked:
                part.discard()
                raise Fault("does not say how long the file is, so a cut could not be told from its end", lasting=True)
            part.total = self.position
            write_json(part.note_path, {"total": self.position, "validator": part.validator})
        if self.position < part.total:
            raise Fault(f"was cut after {self.position:,} of {part.total:,} bytes")


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


def _unwritable(path: Path, error: OSError) -> ConcordError:
    return ConcordError(f"{path}: cannot be written ({error.strerror}); free space or give another --cache-dir")


# ------------------------------------------------------------------------------------------------------------- the wire


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
        if unreachable(error):
            raise Fault(f"{UNREACHABLE} ({_short(error)}); is this machine offline?", lasting=True) from None
        stalled = any(isinstance(cause, urllib3.exceptions.TimeoutError) for cause in error.args)
        raise Fault("stalled: nothing more came" if stalled else f"broke the connection ({_short(error)})") from None


UNREACHABLE = "its host cannot be reached"


def unreachable(error: BaseException) -> bool:
    """Whether no way leads to the host: its name is not known, or there is no network. Waiting is no use."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, socket.gaierror):
            return True
        if isinstance(cause, OSError) and cause.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN):
            return True
        if type(cause).__name__ == "NameResolutionError":
            return True
        nested = [one for one in cause.args if isinstance(one, BaseException)]
        nested += [reason] if isinstance(reason := getattr(cause, "reason", None), BaseException) else []
        cause = cause.__cause__ or cause.__context__ or next(iter(nested), None)
    return False


def _short(error: BaseException) -> str:
    """The innermost cause in a few words: the libraries nest them."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return _one_line(getattr(error, "strerror", None) or str(error) or type(error).__name__)[:80]


def _one_line(text: str) -> str:
    return " ".join(html.unescape(text).split())[:120]


_PAGE_STARTS = (b"<!doctype html", b"<html")


def _summary(page: str) -> str:
    """What a web page says, in a few words: Google Drive's refusal, else its title."""
    for pattern in (r'uc-error-subcaption"?>(.*?)</', r"<title[^>]*>(.*?)</title>"):
        if match := re.search(pattern, page, re.DOTALL | re.IGNORECASE):
            return _one_line(re.sub(r"<[^>]*>", " ", match[1]))
    return "no title"


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
