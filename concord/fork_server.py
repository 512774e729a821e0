"""`concord warm COMMAND`: run a command whose stages start at once.

`make bench` lets DVC start one process a stage. Each would import torch and diffusers again, seconds that add up in a
small benchmark. Here one process imports them, when the first stage asks, and every `concord generate` and
`concord score` that the command starts is a fork of it: a process of its own, in its own folder, environment and
terminal, that ends with its own exit code. All of them end with this process, however
it ends. Without the server (another system, a plain shell) the same
commands import what they need themselves.

The fork happens before any thread pool or device is in use: the server imports and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from concord.console import SECONDS
from concord.guardian import UNDER, end_with_parent, guarded

SOCKET = "CONCORD_WARM"
VERBS = ("run", "keys", "generate", "score", "report")
LONGEST = 1 << 20  # bytes of arguments and environment


# ---------------------------------------------------------------------------------------------------------- the client


def submit(arguments: Sequence[str]) -> int | None:
    """Have the server that this process was started under run the command; its exit code, or None without a server."""
    path = os.environ.get(SOCKET)
    if not path or not arguments or arguments[0] not in VERBS:
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        try:
            link.connect(path)
        except OSError:
            return None
        request = json.dumps({"arguments": list(arguments), "folder": os.getcwd(), "environment": dict(os.environ)})
        data = request.encode()
        if len(data) > LONGEST:
            return None
        socket.send_fds(link, [len(data).to_bytes(4, "big")], [0, 1, 2])
        link.sendall(data)
        answer = b""
        while len(answer) < 4:
            part = link.recv(4 - len(answer))
            if not part:
                return None  # the server is gone before it began
            answer += part
        return int.from_bytes(answer, "big")


# ---------------------------------------------------------------------------------------------------------- the server


def serve(command: Sequence[str]) -> int:
    """Run a command and serve the stages that it starts; its exit code."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="concord-") as folder:
        path, seconds = Path(folder) / "warm", Path(folder) / "seconds"
        with _listening(path) as server, _interrupts_are_the_commands():
            environment = {**os.environ, SOCKET: str(path), SECONDS: str(seconds)}
            environment.pop(UNDER, None)
            with guarded(SOCKET, str(path), Path(folder)) as lifeline:
                with subprocess.Popen(command, env=environment, preexec_fn=_default_interrupts) as process:
                    while process.poll() is None:
                        if select.select([server], [], [], 0.05)[0]:
                            _serve(server, lifeline)
                code = process.returncode
        _print_timing(seconds, time.perf_counter() - began)
    return code if code >= 0 else 128 - code


@contextlib.contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen()
        yield server


@contextlib.contextmanager
def _interrupts_are_the_commands() -> Iterator[None]:
    """Ctrl-C reaches the command and its stages; this process waits for them to end."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _default_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _serve(server: socket.socket, lifeline: int) -> None:
    """One stage: fork, wait, answer. A client that dies takes its stage with it."""
    link, _ = server.accept()
    with link:
        try:
            head, handles, _, _ = socket.recv_fds(link, 4, 3)
            data = _receive(link, int.from_bytes(head, "big"))
        except OSError:
            return
        if data is None or len(handles) != 3:
            return
        request = json.loads(data)
        _preload()
        sys.stdout.flush()
        sys.stderr.flush()
        own = os.getpid()
        child = os.fork()
        if child == 0:
            server.close()
            os.close(lifeline)
            end_with_parent(own)
            _run(request, handles)
        for handle in handles:
            os.close(handle)
        code = _wait(child, link)
        with contextlib.suppress(OSError):
            link.sendall(code.to_bytes(4, "big"))


def _receive(link: socket.socket, length: int) -> bytes | None:
    data = b""
    while len(data) < length:
        part = link.recv(min(65536, length - len(data)))
        if not part:
            return None
        data += part
    return data


def _wait(child: int, link: socket.socket) -> int:
    """The exit code of the child; killed when the client that it works for is gone."""
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        if select.select([link], [], [], 0.02)[0]:  # a client says nothing more: readable means that it is gone
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            return 137


def _run(request: dict[str, object], handles: Sequence[int]) -> None:
    """In the child: become the command."""
    code = 1
    try:
        for number, handle in enumerate(handles):
            os.dup2(handle, number)
            os.close(handle)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(str(request["folder"]))
        environment = request["environment"]
        assert isinstance(environment, dict)
        os.environ.clear()
        os.environ.update(environment)
        arguments = request["arguments"]
        assert isinstance(arguments, list)
        sys.argv = ["concord", *arguments]
        from concord.cli import main

        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:  # what Python would print for a process of its own
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _preload() -> None:
    """Import what stages import on their way; nothing is computed, so that no thread pool starts before a fork."""
    import importlib

    for name in (
        "concord.benchmarks.run.score",
        "concord.benchmarks.session",
        "concord.cli",
        "concord.commands.stages",
        "concord.data.datasets.faces.dataset",
        "pyarrow.parquet",
        "concord.data.networks",
        "concord.methods.networks.experts",
        "concord.metrics.networks.judges",
        "rich.progress",
        "rich.table",
    ):
        importlib.import_module(name)
    from concord.methods.base import all_methods
    from concord.metrics.base import all_metrics

    all_methods()
    all_metrics()


def _print_timing(path: Path, wall: float) -> None:
    """Where the command's seconds went, where any stage ran."""
    if not path.is_file():
        return
    from concord.benchmarks.session import NETWORKS

    total: dict[str, float] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        for kind, value in json.loads(line).items():
            total[kind] = total.get(kind, 0.0) + value
    networks = sum(total.get(kind, 0.0) for kind in NETWORKS)
    parts = ", ".join(f"{kind} {total[kind]:.0f}" for kind in NETWORKS if kind in total)
    print(f"{wall:.0f} s in all: {parts}; {1 - networks / max(wall, 1e-9):.0%} outside methods and networks")
