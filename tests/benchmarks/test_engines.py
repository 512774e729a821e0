"""What every engine keeps to, and the driver around them: order, retries, settings, what comes back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import toy_world
from engine_world import Sleep, alone, check_same, plan, sleeping, spread, tars

from concord.benchmarks.engines import base
from concord.benchmarks.engines.base import Ended, Engine, Event, Failed, Given, Parcel, Task, all_engines
from concord.benchmarks.engines.carry import some_shards
from concord.benchmarks.engines.desk import NodeFiles, check_versions
from concord.benchmarks.engines.local import LocalEngine, LocalSettings
from concord.benchmarks.engines.making import MakingRow
from concord.benchmarks.engines.opening import open_engine
from concord.benchmarks.engines.pool import Waiting
from concord.benchmarks.store.run import Run
from concord.data.conditions.base import all_conditions
from concord.data.errors import ConcordError


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_world.write_tree(tmp_path_factory.mktemp("large") / "tree", 140)


def local(*devices: str) -> LocalEngine:
    return LocalEngine(LocalSettings(devices=list(devices)))


def drained(engine: Engine, tasks: list[Task]) -> list[Event]:
    """All that happens until every task has ended or failed."""
    events: list[Event] = []
    engine.start()
    try:
        engine.submit(tasks)
        while engine.unfinished:
            events += engine.wait(1.0)
    finally:
        engine.close()
    return events


def test_local_workers_make_and_score_as_one_process(toy: str, toy_suite: Path, tree: Path, tmp_path: Path) -> None:
    first, second = (plan(tree, toy_suite, tmp_path / name, 70) for name in ("alone", "spread"))
    alone(first)
    outcome = spread(second, local("cpu", "cpu"))
    assert outcome.failed == {}
    assert len(outcome.scored) == len(second.runs)
    check_same(first, second)
    info = json.loads((second.run("toy").path / "images" / "00001.json").read_text())
    assert info["provenance"]["node"]
    assert info["provenance"]["device"] == "cpu"
    assert Run(second.run("toy").path).trace() is not None
    assert spread(second, local("cpu")).made == []  # nothing is left to do, and no worker starts


def test_longest_first_but_the_row_that_is_loaded_before_others() -> None:
    waiting = Waiting()
    tasks = {
        name: Task(name, name[0], seconds, 1, lambda: None)
        for name, seconds in {"a1": 1.0, "a2": 5.0, "b1": 3.0, "b2": 9.0}.items()
    }
    waiting.add(list(tasks.values()))
    taken = []
    row: str | None = None
    while (task := waiting.take(row, "w", ["w"])) is not None:
        taken.append(task.name)
        row = task.row
    assert taken == ["b2", "b1", "a2", "a1"]
    assert len(waiting) == 0


def test_a_task_that_failed_goes_to_another_worker_where_there_is_one() -> None:
    waiting, task = Waiting(), Task("t", "r", 1, 1, lambda: None)
    waiting.failed(task, "first")
    waiting.add([task])
    assert waiting.take(None, "first", ["first", "second"]) is None
    assert waiting.take(None, "second", ["first", "second"]) is task
    waiting.add([task])
    waiting.failed(task, "second")
    assert waiting.take(None, "first", ["first", "second"]) is task  # it failed everywhere: anywhere will do


def test_a_worker_that_is_killed_is_replaced_and_named_with_its_last_words(tmp_path: Path) -> None:
    died = tmp_path / "died"
    tasks = [Task(f"row, {i}", "row", 1, 1, lambda i=i: Sleep(0, i, die=str(died))) for i in range(3)]
    engine = local("cpu")
    events = drained(engine, tasks)
    (failed,) = (event for event in events if isinstance(event, Failed))
    assert "was killed by SIGKILL" in failed.line
    assert "the worker's last words" in failed.tail
    assert not failed.final
    assert sum(isinstance(event, Ended) for event in events) == 2
    assert sum(isinstance(event, Given) for event in events) == 2


def test_a_row_fails_alone_after_three_ends_of_a_task(
    toy: str, toy_suite: Path, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that ends whenever it comes to shard 1: the other shards, and the other rows, are made."""
    made = plan(tree, toy_suite, tmp_path / "results")
    work, begun = MakingRow.work, []

    def deadly(self: MakingRow, chunk: tuple[int, ...]) -> object:
        asked = work(self, chunk)
        if asked is not None and chunk == (1,):
            begun.append(chunk)
            return Sleep(0, 1, die=str(tmp_path / f"died-{len(begun)}"))
        return asked

    monkeypatch.setattr(MakingRow, "work", deadly)
    outcome = spread(made, local("cpu", "cpu"), score=False)
    (line,) = outcome.failed.values()
    assert list(outcome.failed) == ["toys/toy"]
    assert "was killed by SIGKILL (3 times)" in line
    assert "its last lines: the worker's last words" in line
    assert "\n" not in line
    assert {path for path in tars(made) if "toy/images" in path} == {
        f"toys/toy/images/{shard:05d}.tar" for shard in (0, 2)
    }
    assert {run.row.name for run in outcome.made} == {"ground-truth", "shuffled"}
    assert not Run(made.run("toy").path).finished


def test_a_shard_that_was_changed_on_its_way_is_refused(toy: str, toy_suite: Path, tree: Path, tmp_path: Path) -> None:
    made = plan(tree, toy_suite, tmp_path / "results")
    engine = local("cpu")
    row = MakingRow(made.run("toy"), 32, 4, engine)
    try:
        tasks = row.tasks([], 1)
        (given, *_) = (event for event in drained(engine, tasks[:1]) if isinstance(event, Given))
        files = dict(given.parcel.files)
        tar = next(name for name in files if name.endswith(".tar"))
        about, told = given.parcel.about, tar.replace("tar", "json")
        for broken, said in (
            ({**files, tar: files[tar][:-1] + b"x"}, "SHA-256"),
            (
                {**files, told: files[told].replace(b"cpu", b"gpu")},
                "record",
            ),
            ({tar: files[tar]}, "expected"),
        ):
            with pytest.raises(ConcordError, match=said):
                row.take(Parcel(about, broken), "a worker")
        other = (about["shard"] + 1) % 3
        with pytest.raises(ConcordError, match="expected"):
            row.take(Parcel({"shard": other}, files), "a worker")
        assert row.take(given.parcel, "a worker") == len(made.requests.shards[about["shard"]])
        assert row.take(given.parcel, "a worker") == 0  # twice is once
    finally:
        row.close()


def test_conditions_travel_as_values_and_are_those_that_are_read(toy: str, toy_suite: Path, tree: Path) -> None:
    """Without a file of the dataset: its root does not come along."""
    import pickle

    made = plan(tree, toy_suite, Path("results"))
    there = pickle.loads(pickle.dumps(some_shards(made.requests, (1,), made.requests.conditions, True, images=True)))
    assert str(tree).encode() not in pickle.dumps(there)
    kinds = all_conditions()
    for request, planned in zip(made.requests.shards[1], there.shards[1], strict=True):
        here, carried = (
            one.conditions_of(asked, one.conditions) for one, asked in ((made.requests, request), (there, planned))
        )
        for name in made.requests.conditions:
            assert kinds[name].digest(getattr(here, name)) == kinds[name].digest(getattr(carried, name))
        assert (planned.item.image(64) == request.item.image(64)).all()
        assert (planned.id, planned.seed) == (request.id, request.seed)


def test_files_by_hash_are_kept_once_and_checked(tmp_path: Path) -> None:
    import hashlib

    node, content = NodeFiles(tmp_path), [b"weights ", b"of a network"]
    digest = hashlib.sha256(b"".join(content)).hexdigest()
    assert node.lacks([digest]) == [digest]
    with pytest.raises(ConcordError, match="arrived with SHA-256"):
        node.put(digest, lambda: [b"other"])
    assert node.lacks([digest]) == [digest]  # what arrived wrong is not kept
    node.put(digest, lambda: content)
    assert node.lacks([digest]) == []
    assert (node.tree({"a/one.bin": digest}) / "a" / "one.bin").read_bytes() == b"weights of a network"
    assert node.tree({"a/one.bin": digest}) == node.tree({"a/one.bin": digest})


def test_another_version_is_named_and_refused_unless_allowed() -> None:
    own, other = {"torch": "2.15.0", "python": "3.11"}, {"torch": "2.14.0", "python": "3.11"}
    check_versions(own, dict(own), "the worker", False)
    with pytest.raises(ConcordError, match=r"the worker has torch 2\.14\.0 \(here 2\.15\.0\): .*allow_versions: true"):
        check_versions(own, other, "the worker", False)
    with pytest.raises(ConcordError, match="python missing"):
        check_versions(own, {"torch": "2.15.0"}, "the worker", False)
    check_versions(own, other, "the worker", True)


# ------------------------------------------------------------------------------------------------------------ settings


def test_engines_are_found_by_looking() -> None:
    assert {"local", "ray", "slurm"} <= set(all_engines())


def test_an_engine_of_an_installed_package_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_engine.py").write_text(
        "from concord.benchmarks.engines.local import LocalEngine\n\n\n"
        "class Theirs(LocalEngine):\n    name = 'theirs'\n"
    )
    info = tmp_path / "their_engine-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-engine\nVersion: 1\n")
    entry = info / "entry_points.txt"
    entry.write_text("[concord.engines]\ntheirs = their_engine:Theirs\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(base._REGISTRY, "engines", dict(base._REGISTRY.engines))
    assert open_engine("theirs").name == "theirs"
    entry.write_text("[concord.engines]\ntheirs = their_engine:Missing\n")
    with pytest.raises(ConcordError, match=r"package 'their-engine', entry point 'theirs = .*': .*uninstall it"):
        all_engines()


def test_an_unknown_engine_is_named_with_the_known_ones() -> None:
    with pytest.raises(ConcordError, match=r"unknown engine 'kubernetes': expected one of .*local.*ray.*slurm"):
        open_engine("kubernetes")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("engines: {local: {devises: [cpu]}}", "engines.local: unknown key 'devises'; known keys: .*devices"),
        ("engines: {local: {workers: 0}}", "engines.local: 'workers': .*greater than or equal to 1"),
        ("engine: {}", "unknown key 'engine'; known keys: engines"),
        ("engines: [local]", "'engines'"),
    ],
)
def test_a_wrong_setting_is_one_line_with_file_and_key(
    text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "concord.yaml"
    path.write_text(text)
    monkeypatch.setenv("CONCORD_CONFIG", str(path))
    with pytest.raises(ConcordError, match=said) as error:
        open_engine("local")
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_settings_of_the_user_stand_below_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "concord.yaml"
    path.write_text("engines: {local: {devices: [cpu, cpu], threads: 3, task_seconds: 60}}")
    monkeypatch.setenv("CONCORD_CONFIG", str(path))
    engine = open_engine("local", threads=2)
    assert isinstance(engine.settings, LocalSettings)
    assert (engine.settings.devices, engine.threads, engine.settings.task_seconds) == (["cpu", "cpu"], 2, 60)


def test_a_cancelled_row_ends_at_once_and_the_others_go_on() -> None:
    engine = local("cpu", "cpu")
    engine.start()
    try:
        engine.submit([*sleeping(2, 60, lambda i: "long"), *sleeping(3, 0.01, lambda i: "short")])
        engine.wait(0.1)
        engine.cancel("long")
        ended = []
        while engine.unfinished:
            ended += [event.task.row for event in engine.wait(1.0) if isinstance(event, Ended)]
        assert ended == ["short"] * 3
    finally:
        engine.close()


def test_tasks_of_known_seconds_are_cut_to_take_minutes(toy: str, toy_suite: Path, tree: Path, tmp_path: Path) -> None:
    made = plan(tree, toy_suite, tmp_path / "results")
    engine = local("cpu")
    row = MakingRow(replace(made.run("toy")), 32, 0, engine)
    try:
        assert [task.images for task in row.tasks([], 2)] == [64, 64, 12]  # nobody knows: a shard each
        path = made.run("toy").path / "run.json"
        facts = {
            "method": "toy",
            "generator": row.plan.generator,
            "n": 4,
            "device": "cpu",
            "seconds_per_image": 1.0,
            "evaluations_per_image": {"mixer": 2},
        }
        path.write_text(json.dumps(facts))
        assert sum(task.images for task in row.tasks([], 1)) == 140
    finally:
        row.close()


# ---------------------------------------------------------------------------------------------------- the command line


def test_the_command_line_spreads_rows_and_says_what_failed(
    concord: Callable[..., Any], toy_suite: Path, toy_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [str(toy_suite), "--data", toy_tree, "--limit", "6", "--plugin", toy_world.TOY]
    alone, spread = (["--results", tmp_path / name] for name in ("alone", "spread"))
    assert concord("generate", *given, *alone).exit_code == 0
    done = concord("generate", *given, *spread, "--engine", "local", "--devices", "cpu")
    assert done.exit_code == 0, done.output
    found, other = (
        {path.relative_to(tmp_path / name): path.read_bytes() for path in sorted((tmp_path / name).rglob("*.tar"))}
        for name in ("alone", "spread")
    )
    assert found == other
    assert len(found) == 3
    assert "up to date" in concord("generate", *given, *spread, "--engine", "local", "--devices", "cpu").output

    monkeypatch.setattr(MakingRow, "work", lambda self, chunk: Sleep(0, line="the disk of its node is full"))
    failed = concord("generate", *given, "--results", tmp_path / "failed", "--engine", "local", "--devices", "cpu")
    assert failed.exit_code == 2
    (line,) = (line for line in failed.output.splitlines() if line.startswith("error: "))
    assert "toys/toy" in line
    assert "the disk of its node is full" in line


def test_detach_without_an_engine_that_can_is_one_line(concord: Callable[..., Any], toy_suite: Path) -> None:
    for more, said in (([], "add --engine slurm"), (["--engine", "local"], "end with this command")):
        done = concord("generate", toy_suite, "--plugin", toy_world.TOY, "--limit", "2", "--detach", *more)
        assert done.exit_code == 2
        assert said in done.output
