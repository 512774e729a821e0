"""`concord warm`: stages that are forks behave as processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from concord.fork_server import SOCKET, VERBS, submit
from concord.guardian import UNDER

ROOT = Path(__file__).resolve().parents[2]
CONCORD = f"{sys.executable} -m concord"
PLUGIN = """
import os, pathlib, time
pathlib.Path("pid").write_text(str(os.getpid()))
pathlib.Path("parent").write_text(str(os.getppid()))
time.sleep({seconds})
"""


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}


def run_warm(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "concord", "warm", "sh", "-c", script]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_a_stage_is_as_a_process_of_its_own_and_ends_with_the_client_that_asked_for_it(tmp_path: Path) -> None:
    """Both at one server, which takes its time to import everything."""
    deep = tmp_path / "deep"
    deep.mkdir()
    (deep / "plugin.py").write_text(PLUGIN.format(seconds=0))
    (tmp_path / "plugin.py").write_text(PLUGIN.format(seconds=100))
    first = f"(cd deep; {CONCORD} generate no-such-suite --plugin plugin.py 2> errors; echo stage ended with $?)"
    second = f"{CONCORD} generate x --plugin plugin.py & echo $! > client; wait $!; echo client ended with $?"
    command = [sys.executable, "-m", "concord", "warm", "sh", "-c", f"echo $PPID > server; {first}; {second}; exit 5"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        stage = int(wait_for_text(tmp_path / "pid"))
        os.kill(int((tmp_path / "client").read_text()), signal.SIGKILL)
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 5  # the script's
    assert "stage ended with 2" in out
    (line,) = (deep / "errors").read_text().splitlines()
    assert "no method was registered" in line  # read in the stage's folder: the plugin's path is relative
    assert (deep / "parent").read_text() == (tmp_path / "server").read_text().strip()  # a fork
    assert "client ended with 137" in out
    with pytest.raises(ProcessLookupError):
        os.kill(stage, 0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_all_that_it_started_ends_with_it(tmp_path: Path, number: signal.Signals) -> None:
    """Also what left its group, as a daemon does; and nothing is left in the temporary folder."""
    (tmp_path / "plugin.py").write_text(PLUGIN.format(seconds=100))
    call = f"{CONCORD} generate x --plugin plugin.py"
    script = (
        f"setsid sleep 100 & echo $! > away; ls -d {tmp_path}/temporary/concord-* > folder; echo $$ > shell; {call}"
    )
    command = [sys.executable, "-m", "concord", "warm", "sh", "-c", script]
    (tmp_path / "temporary").mkdir()
    given = {**environment(), "TMPDIR": str(tmp_path / "temporary")}
    with subprocess.Popen(command, cwd=tmp_path, env=given, stdout=subprocess.DEVNULL) as process:
        ids = [int(wait_for_text(tmp_path / name)) for name in ("pid", "away", "shell")]
        assert Path((tmp_path / "folder").read_text().strip()).is_dir()
        process.send_signal(number)
        process.wait(10)
        end = time.monotonic() + 2
        while any(map(is_alive, ids)) and time.monotonic() < end:
            time.sleep(0.05)
        assert [is_alive(one) for one in ids] == [False] * 3
    end = time.monotonic() + 5
    while list((tmp_path / "temporary").glob("concord-*")) and time.monotonic() < end:
        time.sleep(0.05)
    assert not list((tmp_path / "temporary").glob("concord-*"))


def is_alive(process: int) -> bool:
    import psutil

    return psutil.pid_exists(process) and psutil.Process(process).status() != psutil.STATUS_ZOMBIE


def test_a_bench_ends_with_the_make_that_started_it(tmp_path: Path) -> None:
    code = (
        f"import os, time; from concord.guardian import end_with; end_with(int(os.environ['{UNDER}'])); time.sleep(60)"
    )
    with subprocess.Popen(["sleep", "60"]) as make:
        given = {**environment(), UNDER: str(make.pid)}
        with subprocess.Popen([sys.executable, "-c", code], env=given) as bench:
            with pytest.raises(subprocess.TimeoutExpired):
                bench.wait(3)
            make.kill()
            make.wait()
            assert bench.wait(2) == 137


def wait_for_text(path: Path, seconds: float = 90) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if path.is_file() and path.read_text():
            return path.read_text()
        time.sleep(0.05)
    raise AssertionError(f"{path.name} was not written")


def test_without_a_server_a_command_runs_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SOCKET, raising=False)
    assert submit(["generate", "x"]) is None
    monkeypatch.setenv(SOCKET, str(tmp_path / "gone"))
    assert submit(["generate", "x"]) is None
    assert submit(["data", "make"]) is None
    assert "data" not in VERBS  # it starts processes of its own, which would import the server's script


def test_the_exit_code_is_the_commands(tmp_path: Path) -> None:
    assert run_warm("exit 3", tmp_path).returncode == 3
    assert run_warm("true", tmp_path).stdout == ""  # nothing ran, nothing is told
    assert run_warm("kill -9 $$", tmp_path).returncode == 137
