"""kill -9 at random moments of `concord run`: what is finished is kept, and the scores end up the same to the bit."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import toy_world

N = 70  # two shards
SLEEP = 0.1  # seconds a batch: the ten kills then fall into every kind of work

Start = Callable[[Path], BaseProcess]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts `concord run` into a results folder, in a process forked from one that has imported everything."""
    folder = tmp_path_factory.mktemp("kill")
    tree, suite = toy_world.write_tree(folder / "tree", N), toy_world.write_suite(folder)
    text = suite.read_text().replace("method: toy}", f"method: toy, params: {{sleep: {SLEEP}}}}}")
    suite.write_text(text.replace("grid: 4", "grid: 1"))  # figures are the slowest part of so small a run
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["toy_preload"])
    patch = pytest.MonkeyPatch()
    patch.setenv("OMP_NUM_THREADS", "1")
    patch.setenv("PYTHONPATH", f"{toy_world.HERE}{os.pathsep}{toy_world.ROOT}")  # the server starts from these alone

    def begin(results: Path) -> BaseProcess:
        arguments = [
            "run",
            str(suite),
            "--data",
            str(tree),
            "--limit",
            str(N),
            "--results",
            str(results),
            "--plugin",
            str(toy_world.TOY),
            "--batch-size",
            "22",
        ]
        process = server.Process(target=toy_world.run_concord, args=(arguments, str(folder / "output.txt")))
        process.start()
        return process

    first = server.Process(target=toy_world.preload)  # the server's imports are no part of anything's time
    first.start()
    finish(first)
    yield begin
    patch.undo()


@pytest.fixture(scope="module")
def undisturbed(start: Start, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """The results of a run that nothing disturbs, and the seconds that it took."""
    folder, begun = tmp_path_factory.mktemp("undisturbed"), time.monotonic()
    finish(start(folder))
    return folder, time.monotonic() - begun


def finish(process: BaseProcess, seconds: float = 120) -> None:
    process.join(seconds)
    assert process.exitcode == 0, f"exit code {process.exitcode}"


def only(results: Path) -> Path:
    """The folder of the toy suite's runs."""
    (folder,) = results.glob("embedded/*/toys")
    return folder


def assert_same(results: Path, undisturbed: Path) -> None:
    """The same images, traces, features and scores, to the bit."""
    for row in ("ground-truth", "shuffled", "toy"):
        ours, theirs = only(results) / row, only(undisturbed) / row
        for path in sorted((theirs / "images").glob("*.tar")):
            assert (ours / "images" / path.name).read_bytes() == path.read_bytes(), f"{row} {path.name}"
        for name in ("scores.parquet", "sets.parquet"):
            pd.testing.assert_frame_equal(
                pd.read_parquet(ours / name), pd.read_parquet(theirs / name), check_exact=True
            )
        for name in ("features.npz", "trace.npz"):
            if (theirs / name).is_file():
                with np.load(ours / name) as a, np.load(theirs / name) as b:
                    for key in b.files:
                        np.testing.assert_array_equal(a[key], b[key])
    assert not list(only(results).rglob("*.part"))


def assert_gone(family: list[psutil.Process]) -> None:
    """Workers, and the server that they are forks of, end with their parent; in two seconds where nothing else runs."""
    _, alive = psutil.wait_procs(family, timeout=10)
    assert [one for one in alive if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.parametrize("kills", [2, pytest.param(50, marks=pytest.mark.long)])
def test_kills_change_nothing(start: Start, undisturbed: tuple[Path, float], tmp_path: Path, kills: int) -> None:
    whole, duration = undisturbed
    moments = random.Random(20)
    killed, folders = 0, 1
    results = tmp_path / "0"
    while killed < kills:
        begun = time.monotonic()
        process = start(results)
        process.join(moments.uniform(0, 0.6) * duration)
        if process.is_alive():
            assert process.pid is not None
            family = psutil.Process(process.pid).children(recursive=True)
            os.kill(process.pid, signal.SIGTERM if killed % 3 == 2 else signal.SIGKILL)
            process.join()
            killed += 1
            assert_gone(family)
        else:  # done between two kills: compare it, and go on in a fresh folder with less patience
            finish(process)
            assert_same(results, whole)
            duration = min(duration, time.monotonic() - begun)
            results, folders = tmp_path / str(folders), folders + 1
    finish(start(results))
    assert_same(results, whole)


def test_two_at_once_do_no_harm(start: Start, undisturbed: tuple[Path, float], tmp_path: Path) -> None:
    """The second one is told who is writing, or comes when all is done; what stands in the end is whole."""
    first, second = start(tmp_path / "both"), start(tmp_path / "both")
    first.join(120)
    second.join(120)
    codes = sorted([first.exitcode, second.exitcode])  # type: ignore[type-var]
    assert codes in ([0, 0], [0, 2]), codes
    finish(start(tmp_path / "both"))
    assert_same(tmp_path / "both", undisturbed[0])


def test_interrupt_says_that_work_is_kept(start: Start, tmp_path: Path) -> None:
    process = start(tmp_path / "results")
    deadline = time.monotonic() + 60
    while not list((tmp_path / "results").rglob("toy/images/00000.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130
    assert not list((tmp_path / "results").rglob("*.part"))
    finish(start(tmp_path / "results"))
