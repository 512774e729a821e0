"""kill -9 of `make bench` at random moments: nothing of it lives on or is left over, and the next one ends alike."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("benchmarks", "data", "methods", "metrics", "reports", "concord")
SUITE = "mask-from-image"
MARK = "CONCORD_TEST_BENCH"
KILLS = int(os.environ.get("CONCORD_KILLS", "20"))

pytestmark = pytest.mark.long


def link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A checkout with one small suite."""
    root = tmp_path / "project"
    root.mkdir()
    for name in ("dvc.yaml", "params.yaml", ".dvcignore", "Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, root / name)
    for name in SOURCES:
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, root / name, symlinks=True, ignore=skip, copy_function=link)
    for path in (root / "benchmarks/suites").glob("*.yaml"):
        text = path.read_text()
        path.unlink()  # a hard link: never to be written through
        if path.stem == SUITE:
            lines = ["n: {default: 8, full: 8}" if line.startswith("n:") else line for line in text.splitlines()]
            path.write_text("\n".join(lines) + "\n")
    profile = root / "benchmarks/profiles/embedded.yaml"
    text = profile.read_text()
    profile.unlink()
    profile.write_text(text.replace("reference_n: 1000", "reference_n: 66"))
    (root / ".dvc").mkdir()
    (root / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n    check_update = false\n")
    (root / "temporary").mkdir()
    (root / "bin").mkdir()
    (root / "bin/concord").write_text(f'#!/bin/sh\nexec {sys.executable} -m concord "$@"\n')
    (root / "bin/concord").chmod(0o755)
    (root / "stamp").write_text(f"{root}\n")
    return root


def start(project: Path, output: Path) -> subprocess.Popen[bytes]:
    """`make bench SUITE=...`, its environment taken as set up."""
    environment = {
        **os.environ,
        "PATH": f"{project / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(project),
        "TMPDIR": str(project / "temporary"),
        "DVC_SITE_CACHE_DIR": str(project / "site"),
        "CONCORD_HASHES": str(project / "hashes"),
        MARK: str(project),
    }
    given = ["READY=stamp", f"CONCORD={project / 'bin/concord'}", f"PYTHON={sys.executable}"]
    with output.open("ab") as file:
        return subprocess.Popen(
            ["make", "bench", f"SUITE={SUITE}", *given], cwd=project, env=environment, stdout=file, stderr=file
        )


def living(project: Path) -> list[psutil.Process]:
    """Every process of the bench, whoever is its parent by now."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(project) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def bench_of(project: Path) -> psutil.Process | None:
    for process in living(project):
        try:
            if "bench" in process.cmdline()[1:5] and "make" not in process.cmdline()[0]:
                return process
        except psutil.Error:
            continue
    return None


def kill_make(project: Path, make: subprocess.Popen[bytes]) -> None:
    make.kill()


def kill_bench(project: Path, make: subprocess.Popen[bytes]) -> None:
    bench = bench_of(project)
    (bench or psutil.Process(make.pid)).kill()


def end_bench(project: Path, make: subprocess.Popen[bytes]) -> None:
    bench = bench_of(project)
    (bench or psutil.Process(make.pid)).terminate()


WAYS: tuple[Callable[[Path, subprocess.Popen[bytes]], None], ...] = (kill_make, kill_bench, end_bench)


def contents(project: Path) -> dict[str, object]:
    """Images, scores and means of a finished bench."""
    root = project / "results/embedded" / SUITE
    found: dict[str, object] = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.tar")}
    for name in ("scores.parquet", "sets.parquet"):
        found |= {
            str(path.relative_to(root)): pd.read_parquet(path).to_json(double_precision=15) for path in root.rglob(name)
        }
    found["metrics"] = json.loads((project / "results/metrics/embedded/metrics.json").read_text())
    return found


def finish(project: Path, output: Path) -> dict[str, object]:
    make = start(project, output)
    assert make.wait(1200) == 0, output.read_text()[-2000:]
    assert not living(project)
    litter = [path for place in ("results", "benchmarks", "temporary") for path in (project / place).rglob("*.part")]
    assert litter == []
    assert list((project / "temporary").glob("concord-*")) == []
    return contents(project)


def test_kills_of_make_bench_change_nothing(project: Path, tmp_path: Path) -> None:
    output = tmp_path / "output.txt"
    begun = time.monotonic()
    whole = finish(project, output)
    duration = time.monotonic() - begun
    assert len(whole) > 5
    moments, killed = random.Random(7), 0
    while killed < KILLS:
        shutil.rmtree(project / "results")
        if killed % 2:
            shutil.rmtree(project / "datasets")
        for _ in range(2):  # twice in a row, so that a resumed one is killed too
            if killed == KILLS:
                break
            make = start(project, output)
            time.sleep(moments.uniform(0, 0.9) * duration)
            if make.poll() is not None:
                break
            WAYS[killed % len(WAYS)](project, make)
            killed += 1
            end = time.monotonic() + 2
            while living(project) and time.monotonic() < end:
                time.sleep(0.05)
            left = [(one.pid, one.cmdline()) for one in living(project)]
            make.kill()
            make.wait()
            assert left == [], f"kill {killed}"
        assert finish(project, output) == whole


def test_two_at_once_are_one_line(project: Path, tmp_path: Path) -> None:
    first = start(project, tmp_path / "first.txt")
    end = time.monotonic() + 120
    while not (project / ".dvc/tmp/bench.json").is_file() and time.monotonic() < end:
        time.sleep(0.1)
    second = start(project, tmp_path / "second.txt")
    assert second.wait(120) == 2
    (line,) = [one for one in (tmp_path / "second.txt").read_text().splitlines() if one.startswith("error: ")]
    assert "another `make bench` (process" in line
    assert f"suite {SUITE}) is running" in line
    first.send_signal(signal.SIGTERM)
    first.wait(30)
