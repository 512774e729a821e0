"""A local HTTP server that misbehaves as told: cuts, stalls, wrong bytes, refusals, web pages, no ranges.

with FaultServer() as server:
    server.add("/file", content, Answer(cut=1000), Answer())      # the last answer is given again and again
    ... fetch server.url("/file") ...
    assert server.ranges("/file") == [None, "bytes=1000-"]
"""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

BLOCK = 1 << 14


@dataclass(frozen=True)
class Answer:
    """How one request is answered. `body` None: the content of the path. `fields`: only to requests with this query."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    kind: str = "application/octet-stream"
    cut: int | None = None  # the connection is closed after so many bytes of the body
    stall: int | None = None  # nothing more comes after so many bytes
    pause: float = 0.0  # seconds between blocks of 16 KiB
    ranges: bool = True  # False: the whole is sent whatever Range says
    shifted: int = 0  # bytes by which a 206 begins too late, which its header admits
    length: bool = True  # whether Content-Length is sent
    chunked: bool = False
    tag: str | None = "content"  # 'content': a hash of the body; None: no ETag
    fields: dict[str, str] | None = None


@dataclass(frozen=True)
class Seen:
    """A request that came."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]


class FaultServer:
    """Serves on a free port of this machine until the block ends."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.answers: dict[str, list[Answer]] = {}
        self.seen: list[Seen] = []
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        handler = type("Handler", (_Handler,), {"faults": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> FaultServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def url(self, path: str) -> str:
        return self.root + path

    def add(self, path: str, content: bytes, *answers: Answer) -> str:
        """Serve a path; its URL."""
        self.content[path], self.answers[path] = content, list(answers) or [Answer()]
        return self.url(path)

    def ranges(self, path: str) -> list[str | None]:
        """The Range headers of the requests for a path, in their order."""
        return [seen.headers.get("range") for seen in self.seen if seen.path == path]

    def next_answer(self, seen: Seen) -> Answer | None:
        with self.lock:
            self.seen.append(seen)
            answers = self.answers.get(seen.path, [])
            fitting = [a for a in answers if a.fields is None or a.fields.items() <= seen.query.items()]
            if fitting and fitting[0] is not answers[-1] and fitting[0].fields is None:
                answers.remove(fitting[0])
            return fitting[0] if fitting else None


class _Handler(BaseHTTPRequestHandler):
    faults: FaultServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Silence: the tests read `seen`."""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        headers = {key.lower(): value for key, value in self.headers.items()}
        answer = self.faults.next_answer(Seen(parts.path, dict(parse_qsl(parts.query)), headers))
        self.close_connection = True
        if answer is None:
            self.send_error(404)
            return
        whole = self.faults.content[parts.path] if answer.body is None else answer.body
        tag = f'"{hashlib.md5(whole).hexdigest()}"' if answer.tag == "content" else answer.tag
        status, body, extra = answer.status, whole, dict(answer.headers)
        start = self._start(headers, answer, tag)
        if status == 200 and start:
            if start >= len(whole):
                status, body, extra["Content-Range"] = 416, b"", f"bytes */{len(whole)}"
            else:
                start += answer.shifted
                status, body = 206, whole[start:]
                extra["Content-Range"] = f"bytes {start}-{len(whole) - 1}/{len(whole)}"
        self._send(status, body, extra, tag, answer)

    def _start(self, headers: dict[str, str], answer: Answer, tag: str | None) -> int:
        """The first byte that is asked for; 0 where the whole is to be sent."""
        wanted = headers.get("range", "")
        if not answer.ranges or not wanted.startswith("bytes=") or headers.get("if-range", tag) != tag:
            return 0
        return int(wanted[6:].partition("-")[0])

    def _send(self, status: int, body: bytes, extra: dict[str, str], tag: str | None, answer: Answer) -> None:
        self.send_response(status)
        self.send_header("Content-Type", answer.kind)
        if tag is not None:
            self.send_header("ETag", tag)
        if answer.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif answer.length:
            self.send_header("Content-Length", str(len(body)))
        for key, value in extra.items():
            self.send_header(key, value)
        self.end_headers()
        ends = [end for end in (answer.cut, answer.stall) if end is not None]
        last = min([len(body), *ends])
        try:
            for begin in range(0, last, BLOCK):
                block = body[begin : min(begin + BLOCK, last)]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(block), block) if answer.chunked else block)
                if answer.pause:
                    time.sleep(answer.pause)
            if answer.stall is not None:
                self.wfile.flush()
                self.faults.stopping.wait(20)
            elif answer.chunked and answer.cut is None:
                self.wfile.write(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client was killed, or had enough
