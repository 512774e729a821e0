"""A file that one process holds: with the system's locks, and on file systems that have none."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from fetch_world import make, manifest, refusal

from concord.benchmarks.store.lock import run_lock
from concord.data.errors import ConcordError
from concord.data.lock import WITHOUT_LOCKS, Held, hold

HOLDER = """
import errno, fcntl, sys, time
from pathlib import Path
from concord.data.lock import hold

def refuse(*_):
    raise OSError(errno.ENOLCK, "No locks available")

if sys.argv[2] == "without":
    fcntl.flock = refuse
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def other(path: Path, locks: str) -> subprocess.Popen[str]:
    """Another process that holds `path`."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path), locks], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.fixture(params=["with", "without"])
def locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether the file system has locks."""
    if request.param == "without":
        refuse_locks(monkeypatch, errno.ENOLCK)
    return str(request.param)


def refuse_locks(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_another_process_that_lives_is_named_and_a_killed_one_is_taken_over(tmp_path: Path, locks: str) -> None:
    process = other(tmp_path / "x", locks)
    try:
        with pytest.raises(Held) as held, hold(tmp_path / "x"):
            pass
        assert held.value.holder == f"process {process.pid} on {socket.gethostname()}"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    for _ in range(2):  # and it is let go
        with hold(tmp_path / "x"), pytest.raises(Held), hold(tmp_path / "x"):
            pass


@pytest.mark.parametrize("code", sorted(WITHOUT_LOCKS))
def test_every_answer_of_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    refuse_locks(monkeypatch, code)
    with run_lock(tmp_path / "run"):
        pid, host, *_ = (tmp_path / "run" / ".lock.holder").read_text().splitlines()
        assert (int(pid), host.partition("?")[0]) == (os.getpid(), socket.gethostname())
        with pytest.raises(ConcordError, match=f"process {os.getpid()} on .* is writing this run"):
            run_lock(tmp_path / "run").__enter__()
    assert not (tmp_path / "run" / ".lock.holder").exists()
    what = manifest("http://127.0.0.1:9/a")
    fetcher, _, _ = make(tmp_path)
    with fetcher._claim(what):
        assert f"another process is fetching it (process {os.getpid()} on" in refusal(fetcher, what)


def test_a_holder_on_another_machine_is_named_and_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_locks(monkeypatch, errno.ENOSYS)
    marker = tmp_path / "x.holder"
    marker.write_text("4321\nfar-away\n")
    before = marker.read_text()
    with pytest.raises(Held) as held, hold(tmp_path / "x"):
        pass
    assert held.value.holder == "process 4321 on far-away"
    assert marker.read_text() == before


def test_what_is_no_lack_of_locks_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_locks(monkeypatch, errno.EIO)
    with pytest.raises(ConcordError, match=r"cannot be written .*--results"), run_lock(tmp_path / "run"):
        pass
    assert not (tmp_path / "run" / ".lock.holder").exists()


def test_a_note_of_the_holder_that_cannot_be_read(tmp_path: Path) -> None:
    with hold(tmp_path / "x"):
        (tmp_path / "x").write_text(json.dumps({"pid": 1}))
        with pytest.raises(Held) as held, hold(tmp_path / "x"):
            pass
    assert held.value.holder == "another process"
