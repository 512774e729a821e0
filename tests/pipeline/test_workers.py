"""Several workers on one machine: the same images whatever their number; one that dies costs its own shards."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import toy_world

from concord.benchmarks.image_sources import open_image_source
from concord.benchmarks.plan.requests import Options
from concord.benchmarks.plan.runs import Plan
from concord.benchmarks.planner import make_plan
from concord.benchmarks.run.generate import generate_run, is_current, run_status
from concord.benchmarks.run.row_workers import generate_rows, row_job
from concord.benchmarks.run.workers import generate_with_workers, resolve_devices
from concord.benchmarks.settings import load_settings
from concord.benchmarks.store.run import Run
from concord.benchmarks.suite import load_suite
from concord.data.errors import ConcordError

GRID = 4


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough faces for three shards."""
    return toy_world.write_tree(tmp_path_factory.mktemp("large") / "tree", 140)


def planned(tree: Path, suite: Path, results: Path) -> Plan:
    return make_plan(load_suite(str(suite)), load_settings(), Options(data=tree, limit=140, results=results))


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((path / "images").glob("*.tar"))}


def test_two_workers_make_the_images_of_one(toy: str, toy_suite: Path, tree: Path, tmp_path: Path) -> None:
    alone, shared = (planned(tree, toy_suite, tmp_path / name).run("toy") for name in ("alone", "shared"))
    assert alone.key == shared.key
    generate_run(alone, lambda: open_image_source(alone, "cpu"), 32, GRID)
    told: list[tuple[int, int]] = []
    outcome = generate_with_workers(shared, ["cpu", "cpu"], 32, GRID, lambda done, of: told.append((done, of)))
    assert outcome.ran
    assert contents(alone.path) == contents(shared.path)
    assert len(contents(shared.path)) == 3
    assert told[-1] == (140, 140)
    assert is_current(shared, GRID)
    first, second = Run(alone.path).manifest, Run(shared.path).manifest
    for fact in ("shards", "requests", "key", "evaluations_per_image", "weights"):
        assert first[fact] == second[fact], fact
    trace, other = Run(alone.path).trace(), Run(shared.path).trace()
    assert trace is not None
    assert other is not None
    assert (trace["influence"] == other["influence"]).all()
    assert not generate_with_workers(shared, ["cpu", "cpu"], 32, GRID).ran


def test_a_worker_that_dies_is_named_and_the_others_shards_stay(
    toy: str, toy_suite: Path, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from concord.benchmarks.run import workers

    run = planned(tree, toy_suite, tmp_path / "results").run("toy")
    start: Callable[..., Any] = workers._start
    killed: list[int] = []

    def start_and_kill_the_second(*args: Any) -> Any:
        found = start(*args)
        os.kill(found[1].process.pid, signal.SIGKILL)
        killed.append(found[1].process.pid)
        return found

    monkeypatch.setattr(workers, "_start", start_and_kill_the_second)
    with pytest.raises(ConcordError) as error:
        generate_with_workers(run, ["cpu", "cpu"], 32, GRID)
    message = str(error.value)
    assert "\n" not in message
    assert f"the worker on cpu (process {killed[0]}): was killed by SIGKILL" in message
    assert "2 of 3 shards were finished and stay, 1 are missing" in message
    assert run_status(run, GRID).shards_done == 2
    monkeypatch.undo()
    generate_with_workers(run, ["cpu", "cpu"], 32, GRID)  # one shard is left: no worker is started for it
    other = planned(tree, toy_suite, tmp_path / "other").run("toy")
    generate_run(other, lambda: open_image_source(other, "cpu"), 32, GRID)
    assert contents(run.path) == contents(other.path)


def test_rows_side_by_side_are_the_rows_one_after_another(
    toy: str, toy_suite: Path, tree: Path, tmp_path: Path
) -> None:
    """And what one of them cannot do costs the others nothing."""
    toy_suite.write_text(
        toy_suite.read_text().replace(
            "  - {name: awaited", "  - {name: more, method: toy, params: {steps: 3}}\n  - {name: awaited"
        )
    )
    alone, shared = (planned(tree, toy_suite, tmp_path / name) for name in ("alone", "shared"))
    for row in ("toy", "more"):
        run = alone.run(row)
        generate_run(run, partial(open_image_source, run, "cpu"), 32, GRID)
    broken = replace(
        shared.run("toy"),
        path=tmp_path / "broken",
        row=shared.run("toy").row.model_copy(update={"name": "broken", "params": {"steps": "many"}}),
    )
    jobs = [row_job(run, 32, GRID) for run in (broken, shared.run("toy"), shared.run("more"))]
    made: list[str] = []
    problems = generate_rows(jobs, ["cpu", "cpu"], lambda run, result: made.append(run.row.name))
    assert set(made) == {"toy", "more"}
    assert list(problems) == ["toys/broken"]
    assert "parameter 'steps'" in str(problems["toys/broken"])
    for row in ("toy", "more"):
        assert contents(alone.run(row).path) == contents(shared.run(row).path)
        assert is_current(shared.run(row), GRID)
    assert contents(alone.run("toy").path) != contents(alone.run("more").path)


def test_a_row_worker_that_dies_is_named(toy: str, toy_suite: Path, tree: Path, tmp_path: Path) -> None:
    toy_suite.write_text(
        toy_suite.read_text().replace("{name: toy, method: toy}", "{name: toy, method: toy, params: {sleep: 30}}")
    )
    run = planned(tree, toy_suite, tmp_path / "results").run("toy")

    def kill() -> None:
        while not (found := multiprocessing.active_children()):
            time.sleep(0.1)
        time.sleep(0.5)
        os.kill(int(found[0].pid or 0), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    problems = generate_rows([row_job(run, 32, GRID)], ["cpu"], lambda run, result: pytest.fail("it was killed"))
    killer.join()
    assert "was killed by SIGKILL while it" in str(problems["toys/toy"])
    assert not is_current(run, GRID)


def test_what_a_method_did_is_said_with_its_request(toy_suite: Path, tree: Path, tmp_path: Path, toy: str) -> None:
    """By workers of one row, where two fail alike, and by workers of many rows."""
    from concord.methods.plugins import load_plugin

    plugin = tmp_path / "bad.py"
    text = (
        toy_world.TOY.read_text()
        .replace('"toy"', '"bad"')
        .replace("def sample(", "def sample(*_):\n        1 / 0\n\n    def other(")
    )
    plugin.write_text(text)
    load_plugin(plugin)
    toy_suite.write_text(toy_suite.read_text().replace("{name: toy, method: toy}", "{name: bad, method: bad}"))
    run = planned(tree, toy_suite, tmp_path / "results").run("bad")
    with pytest.raises(ConcordError) as error:
        generate_with_workers(run, ["cpu", "cpu"], 32, GRID)
    said = str(error.value)
    assert said.count("ZeroDivisionError") == 1, said
    assert said.startswith(f"method 'bad' ({plugin}), request ")
    (problem,) = generate_rows([row_job(run, 32, GRID)], ["cpu"], lambda run, result: None).values()
    assert str(problem).startswith(f"method 'bad' ({plugin}), request {run.requests.shards[0][0].id} and 31 more")
    assert "ZeroDivisionError" in str(problem)
    assert "Traceback" in problem.details


def test_what_a_worker_cannot_do_is_its_line(toy: str, toy_suite: Path, tree: Path, tmp_path: Path) -> None:
    run = planned(tree, toy_suite, tmp_path / "results").run("toy")
    broken = replace(run, row=run.row.model_copy(update={"params": {"steps": "many"}}))
    with pytest.raises(ConcordError, match=r"^method 'toy', parameter 'steps'"):
        generate_with_workers(broken, ["cpu", "cpu"], 32, GRID)
    assert not contents(run.path)


def test_devices_are_checked_before_anything_starts() -> None:
    import torch

    assert resolve_devices("cpu,cpu") == ["cpu", "cpu"]
    with pytest.raises(ConcordError, match="--devices ' ': expected names separated by commas"):
        resolve_devices(" ")
    with pytest.raises(ConcordError, match="expected auto, cpu, cuda"):
        resolve_devices("cpu,toaster")
    if not torch.cuda.is_available():
        assert resolve_devices("all") == ["cpu"]
        with pytest.raises(ConcordError, match="no GPU was found"):
            resolve_devices("cuda:0,cuda:1")
        with pytest.raises(ConcordError, match="'cuda:0' is named twice"):
            resolve_devices("cuda:0,cuda:0")


def test_the_command_line_takes_devices(
    concord: Callable[..., Any], toy_suite: Path, tree: Path, tmp_path: Path
) -> None:
    rest = ["--data", tree, "--limit", 130]
    for name, devices in (("one", []), ("two", ["--devices", "cpu,cpu"])):
        result = concord("generate", toy_suite, "toy", *rest, "--results", tmp_path / name, *devices)
        assert result.exit_code == 0, result.output
    (first,), (second,) = (list((tmp_path / name).glob("embedded/*/toys/toy")) for name in ("one", "two"))
    assert contents(first) == contents(second)
