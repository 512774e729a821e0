"""A real Ray cluster of several nodes on this machine: the same images and scores as one process, whatever goes."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import toy_world
from engine_world import Sleep, alone, check_same, plan, sleeping, spread, tars

from concord.benchmarks.engines.base import Ended, Failed, Given, Task
from concord.benchmarks.engines.desk import own_versions
from concord.benchmarks.engines.ray import RayEngine, RaySettings
from concord.benchmarks.store.run import Run
from concord.data.errors import ConcordError

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the package ray is not installed")
STORE = 80 * 2**20  # bytes of a node's object store: the least that Ray takes


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_world.write_tree(tmp_path_factory.mktemp("large") / "tree", 140)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Call it with a number of nodes of one CPU each; the head computes nothing."""
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    monkeypatch.setenv("RAY_DEDUP_LOGS", "0")
    monkeypatch.setenv("CONCORD_NODE_FILES", str(tmp_path / "node"))  # of this test: no node has any weights
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # workers know the works of tests
    from ray.cluster_utils import Cluster

    made: list[Any] = []

    def make(nodes: int) -> Any:
        head = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False}
        found = Cluster(initialize_head=True, head_node_args=head)
        made.append(found)
        for _ in range(nodes):
            found.add_node(num_cpus=1, object_store_memory=STORE)
        return found

    yield make
    import ray

    ray.shutdown()
    for one in made:
        one.shutdown()


def engine_of(found: Any, **settings: Any) -> RayEngine:
    return RayEngine(RaySettings(address=found.address, **settings))


def test_two_nodes_make_what_one_process_makes(
    toy: str, toy_suite: Path, tree: Path, tmp_path: Path, cluster: Callable[..., Any]
) -> None:
    first, second = (plan(tree, toy_suite, tmp_path / name, 70) for name in ("alone", "spread"))
    outcome = spread(second, engine_of(cluster(2)), score=False)
    assert outcome.failed == {}
    alone(first, score=False)
    assert tars(first) == tars(second)
    assert len(tars(second)) == 6


@pytest.mark.long
def test_three_nodes_make_and_score_as_one_process(
    toy: str, toy_suite: Path, tree: Path, tmp_path: Path, cluster: Callable[..., Any]
) -> None:
    """Weights of the judges go by their hash: the code that is sent holds none."""
    first, second = (plan(tree, toy_suite, tmp_path / name) for name in ("alone", "spread"))
    outcome = spread(second, engine_of(cluster(3)))
    assert outcome.failed == {}
    alone(first)
    check_same(first, second)
    assert list((tmp_path / "node" / "blobs").iterdir())


def drained(engine: RayEngine, tasks: list[Task], during: Callable[[], None] = lambda: None) -> list[Any]:
    events: list[Any] = []
    engine.start()
    try:
        engine.submit(tasks)
        while engine.unfinished:
            events += engine.wait(1.0)
            during()
    finally:
        engine.close()
    return events


@pytest.mark.long
def test_what_befalls_workers(tmp_path: Path, cluster: Callable[..., Any]) -> None:
    """A worker that is killed is named with its last words; a task that fails says why; the others are done."""
    found = cluster(2)
    died = tmp_path / "died"
    tasks = [
        Task("a, 0", "a", 9, 1, lambda: Sleep(0, 0, die=str(died))),
        Task("b, 0", "b", 8, 1, lambda: Sleep(0, 0, line="no such thing")),
        *sleeping(4, 0.1, lambda i: "c"),
    ]
    events = drained(engine_of(found), tasks)
    failed = {event.task.row: event for event in events if isinstance(event, Failed)}
    assert set(failed) == {"a", "b"}
    assert "process ended" in failed["a"].line
    assert not failed["a"].final
    assert "the worker's last words" in failed["a"].tail
    assert (failed["b"].line, failed["b"].final) == ("no such thing", True)
    assert sum(isinstance(event, Ended) for event in events) == 4


@pytest.mark.long
def test_results_larger_than_the_object_store(cluster: Callable[..., Any]) -> None:
    """240 MiB come back through stores of 80 MiB."""
    events = drained(engine_of(cluster(2)), [Task(f"big, {i}", "big", 1, 1, lambda i=i: _big(i)) for i in range(12)])
    sizes = [len(event.parcel.files["big"]) for event in events if isinstance(event, Given)]
    assert sizes == [20 * 2**20] * 12
    assert not [event for event in events if isinstance(event, Failed)]


def _big(number: int) -> Sleep:
    from engine_world import Big

    return Big(0, number)


@pytest.mark.long
def test_a_node_that_is_killed_at_random_moments_loses_nothing(
    toy: str, toy_suite: Path, tree: Path, tmp_path: Path, cluster: Callable[..., Any]
) -> None:
    """Ten times: a node goes while rows are made, and another one joins."""
    found, rng = cluster(3), random.Random(7)
    first = plan(tree, toy_suite, tmp_path / "alone", sleep=0.4)
    alone(first, score=False)
    killed = 0
    while killed < 10:
        made = plan(tree, toy_suite, tmp_path / f"spread-{killed}", sleep=0.4)
        killer = Killer(found, rng, 10 - killed)
        killer.start()
        try:
            outcome = spread(made, engine_of(found), score=False)
        finally:
            killer.over.set()
            killer.join()
        assert outcome.failed == {}
        assert tars(made) == tars(first)
        killed += killer.killed


class Killer(threading.Thread):
    """Takes a node away at random moments, and puts another in its place."""

    def __init__(self, cluster: Any, rng: random.Random, at_most: int) -> None:
        super().__init__()
        self.cluster, self.rng, self.at_most = cluster, rng, at_most
        self.over, self.killed = threading.Event(), 0

    def run(self) -> None:
        while self.killed < self.at_most and not self.over.wait(self.rng.uniform(0.5, 6)):
            nodes = sorted(self.cluster.worker_nodes, key=lambda node: node.unique_id)
            self.cluster.remove_node(self.rng.choice(nodes), allow_graceful=False)
            self.killed += 1
            self.cluster.add_node(num_cpus=1, object_store_memory=STORE)


DRIVER = """
import sys, engine_world, toy_world
from pathlib import Path
from concord.benchmarks.engines.ray import RayEngine, RaySettings
from concord.methods.plugins import load_plugin
load_plugin(toy_world.TOY)
tree, suite, results, address = sys.argv[1:]
made = engine_world.plan(Path(tree), Path(suite), Path(results), sleep=1.0)
outcome = engine_world.spread(made, RayEngine(RaySettings(address=address)), score=False)
assert not outcome.failed, outcome.failed
"""


@pytest.mark.long
def test_a_driver_that_is_killed_goes_on_where_it_was(
    toy: str, toy_suite: Path, tree: Path, tmp_path: Path, cluster: Callable[..., Any]
) -> None:
    found = cluster(1)
    first = plan(tree, toy_suite, tmp_path / "alone", sleep=1.0)
    second = plan(tree, toy_suite, tmp_path / "spread", sleep=1.0)
    alone(first, score=False)
    command = [sys.executable, "-c", DRIVER, *map(str, (tree, toy_suite, tmp_path / "spread", found.address))]
    driver = subprocess.Popen(command)
    row = next(run for run in second.runs if not run.is_reference)
    images = row.path / "images"
    deadline = time.monotonic() + 240
    while not list(images.glob("*.json")) and time.monotonic() < deadline:
        assert driver.poll() is None
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in images.glob("*.json")}
    assert 1 <= len(kept) < 3
    assert not Run(row.path).finished
    subprocess.run(command, check=True, timeout=300)
    assert tars(first) == tars(second)
    assert {name: (images / name).stat().st_mtime_ns for name in kept} == kept  # what was there was not made again


# ----------------------------------------------------------------------------------------------------------- bad input


def test_an_address_that_does_not_answer_is_one_line_with_the_time_that_was_waited() -> None:
    engine = RayEngine(RaySettings(address="127.0.0.1:9", connect_seconds=2))
    with pytest.raises(ConcordError, match=r"no cluster answers at address '127\.0\.0\.1:9' within 2 s .*ray start"):
        engine.start()


def test_an_address_that_is_none_is_one_line() -> None:
    with pytest.raises(ConcordError, match="address 'head:port': expected auto or host:port"):
        RayEngine(RaySettings(address="head:port")).start()


def test_detach_is_refused() -> None:
    from concord.benchmarks.engines.base import Call

    with pytest.raises(ConcordError, match="--detach: tasks of engine 'ray' end with this command"):
        RayEngine(RaySettings(), Call(detach=True))


@pytest.mark.long
def test_more_than_the_cluster_has_is_one_line_that_says_what_it_has(cluster: Callable[..., Any]) -> None:
    found = cluster(1)
    engine = engine_of(found, gpus=8)
    with pytest.raises(
        ConcordError, match=r"a worker is to have 1 CPUs and 8 GPUs; the cluster has 2 nodes \(.*0 GPUs"
    ):
        engine.start()
    engine.close()


@pytest.mark.long
def test_a_worker_with_another_torch_is_named_and_refused_unless_allowed(
    tmp_path: Path, cluster: Callable[..., Any]
) -> None:
    """The node's packages say another version than the driver's."""
    own = own_versions()["torch"]
    info = tmp_path / "other" / "torch-9.9.9.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 9.9.9\n")
    found = cluster(0)
    found.add_node(
        num_cpus=1,
        object_store_memory=STORE,
        env_vars={"PYTHONPATH": os.pathsep.join([str(info.parent), *sys.path])},
    )
    with pytest.raises(ConcordError, match=rf"worker 1 on .* has torch 9\.9\.9 \(here {own}"):
        drained(engine_of(found), sleeping(1))
    events = drained(engine_of(found, allow_versions=True), sleeping(1))
    assert [type(event) for event in events if isinstance(event, Ended | Failed)] == [Ended]


@pytest.mark.long
def test_a_plugin_that_workers_cannot_import_fails_its_row_in_one_line(
    toy_suite: Path, toy_tree: Path, tmp_path: Path, cluster: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It imports a module that is on the driver's path alone."""
    from concord.methods import base, plugins

    before = base.all_methods()
    found = cluster(1)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "only_here.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path / "here")
    (tmp_path / "there").mkdir()
    plugin = tmp_path / "there" / "toy_there.py"
    plugin.write_text("import only_here\n" + toy_world.TOY.read_text())
    plugins.load_plugin(plugin)
    try:
        made = plan(toy_tree, toy_suite, tmp_path / "results", 6)
        outcome = spread(made, engine_of(found), score=False)
    finally:
        base._REGISTRY.methods.clear()
        base._REGISTRY.methods.update(before)
    (line,) = outcome.failed.values()
    assert "No module named 'only_here'" in line
    assert "\n" not in line
    assert {run.row.name for run in outcome.made} == {"ground-truth", "shuffled"}
