"""A real Slurm cluster of this machine (support/slurm_cluster.sh): arrays, requeues, time limits, dead drivers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import toy_world
from engine_world import Sleep, alone, check_same, plan, sleeping, spread, tars

from concord.benchmarks.engines.base import Call, Ended, Event, Failed, Given, Task
from concord.benchmarks.engines.slurm import SlurmEngine, SlurmSettings, job_states
from concord.benchmarks.engines.spool import spooled
from concord.data.errors import ConcordError

SCRIPT = Path(__file__).resolve().parents[1] / "support" / "slurm_cluster.sh"
SBIN = os.environ["PATH"] + os.pathsep + "/usr/sbin"
LACKING = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(name, path=SBIN) is None]
pytestmark = [
    pytest.mark.skipif(bool(LACKING), reason=f"Slurm is not installed (no {', '.join(LACKING)})"),
    pytest.mark.skipif(os.geteuid() != 0, reason="a cluster of this machine is started by root alone"),
    *([] if os.geteuid() == 0 else [pytest.mark.root]),  # who is not root may skip, also where CI is set
]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_world.write_tree(tmp_path_factory.mktemp("large") / "tree", 140)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two nodes of one CPU each."""
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run(["bash", str(SCRIPT), "start", str(folder), "2"], check=True, timeout=120)
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # jobs know the works of tests
    yield folder
    subprocess.run(["scancel", "-u", str(os.getuid())], check=False)
    subprocess.run(["bash", str(SCRIPT), "stop", str(folder)], check=False, timeout=60)
    del os.environ["SLURM_CONF"], os.environ["PYTHONPATH"]


def engine_of(results: Path, detach: bool = False, **settings: Any) -> SlurmEngine:
    own = SlurmSettings.model_validate({"poll_seconds": 0.3, "minutes": 10, **settings})
    return SlurmEngine(own, Call(detach=detach, folder=results))


def drained(engine: SlurmEngine, tasks: list[Task], during: Callable[[], None] = lambda: None) -> list[Event]:
    events: list[Event] = []
    engine.start()
    try:
        engine.submit(tasks)
        while engine.unfinished:
            events += engine.wait(0.5)
            during()
    except BaseException:
        engine.cancel()
        raise
    finally:
        engine.close()
    return events


def test_an_array_of_real_jobs(cluster: Path, tmp_path: Path) -> None:
    engine = engine_of(tmp_path)
    tasks = [*sleeping(3), Task("bad, 0", "bad", 1, 1, lambda: Sleep(0, line="no such thing"))]
    events = drained(engine, tasks)
    assert sorted(event.parcel.about["shard"] for event in events if isinstance(event, Given)) == [0, 1, 2]
    assert sum(isinstance(event, Ended) for event in events) == 3
    (failed,) = (event for event in events if isinstance(event, Failed))
    assert (failed.line, failed.final) == ("no such thing", True)
    assert failed.worker.startswith("job ")
    assert not list(spooled(tmp_path))  # all of it was taken


@pytest.mark.long
def test_jobs_make_and_score_as_one_process(
    toy: str, toy_suite: Path, tree: Path, tmp_path: Path, cluster: Path
) -> None:
    first, second = (plan(tree, toy_suite, tmp_path / name) for name in ("alone", "spread"))
    outcome = spread(second, engine_of(tmp_path / "spread"))
    assert outcome.failed == {}
    alone(first)
    check_same(first, second)
    assert not (tmp_path / "spread" / ".slurm").exists()


@pytest.mark.long
def test_detached_rows_go_on_and_are_picked_up(
    toy: str, toy_suite: Path, tree: Path, tmp_path: Path, cluster: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from concord.commands.status import status

    results = tmp_path / "spread"
    first, second = plan(tree, toy_suite, tmp_path / "alone"), plan(tree, toy_suite, results)
    outcome = spread(second, engine_of(results, detach=True))
    assert outcome.detached == 3
    assert not tars(second).get("toys/toy/images/00000.tar")
    status(results)
    told = capsys.readouterr().out
    assert "toys/toy, shard 1" in told
    assert "queued" in told or "running" in told
    jobs = {one.job for one in spooled(results)}
    assert len(jobs) == 3
    while any(one.end is None for one in spooled(results)):
        time.sleep(0.2)
    status(results)
    assert "3 done" in capsys.readouterr().out
    outcome = spread(second, engine_of(results))
    assert outcome.failed == {}
    alone(first)
    check_same(first, second)


DRIVER = """
import sys, engine_world, toy_world
from pathlib import Path
from concord.benchmarks.engines.base import Call
from concord.benchmarks.engines.slurm import SlurmEngine, SlurmSettings
from concord.methods.plugins import load_plugin
load_plugin(toy_world.TOY)
tree, suite, results = map(Path, sys.argv[1:])
made = engine_world.plan(tree, suite, results, sleep=1.0)
engine = SlurmEngine(SlurmSettings(poll_seconds=0.3, minutes=10), Call(folder=results))
outcome = engine_world.spread(made, engine, score=False)
assert not outcome.failed, outcome.failed
"""


@pytest.mark.long
def test_a_driver_that_is_killed_finds_its_jobs_again(
    toy: str, toy_suite: Path, tree: Path, tmp_path: Path, cluster: Path
) -> None:
    results = tmp_path / "spread"
    first, second = (plan(tree, toy_suite, path, sleep=1.0) for path in (tmp_path / "alone", results))
    command = [sys.executable, "-c", DRIVER, *map(str, (tree, toy_suite, results))]
    driver = subprocess.Popen(command)
    while len(submitted := [one.job for one in spooled(results)]) < 3:
        assert driver.poll() is None
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    before = set(job_states())
    subprocess.run(command, check=True, timeout=400)
    assert set(job_states()) == before  # nothing was submitted twice
    assert len(submitted) == 3
    alone(first, score=False)
    assert tars(first) == tars(second)


@pytest.mark.long
def test_a_requeued_job_goes_on_with_what_it_lacks(cluster: Path, tmp_path: Path) -> None:
    """`scontrol requeue` while it runs, as preemption does."""
    engine, requeued = engine_of(tmp_path), []

    def requeue() -> None:
        for one in spooled(tmp_path):
            if one.given and not requeued:
                subprocess.run(["scontrol", "requeue", one.job], check=True)
                requeued.append(one.job)

    events = drained(engine, [Task("row, 0", "row", 1, 1, _steps, "key", (0, 1, 2))], requeue)
    assert requeued
    parcels = {event.parcel.about["shard"]: event.parcel.files for event in events if isinstance(event, Given)}
    assert sorted(parcels) == [0, 1, 2]
    assert parcels[0]["pid"] != parcels[2]["pid"]  # the second process began behind what the first had given
    assert isinstance(events[-1], Ended)


def _steps(seconds: float = 3.0) -> Sleep:
    from engine_world import Steps

    return Steps(seconds)


@pytest.mark.long
def test_a_time_limit_is_named_after_the_requeues(cluster: Path, tmp_path: Path) -> None:
    engine = engine_of(tmp_path, minutes=1, requeues=0, signal_seconds=5)
    (failed,) = (one for one in drained(engine, sleeping(1, 300)) if isinstance(one, Failed))
    assert failed.line.startswith("ran into its time limit; set engines.slurm.minutes higher")
    assert not failed.final


@pytest.mark.long
def test_a_job_that_nears_its_time_limit_is_requeued_and_goes_on(cluster: Path, tmp_path: Path) -> None:
    """Half of a minute's limit is given as the warning; three parts take longer than a minute."""
    engine = engine_of(tmp_path, minutes=1, requeues=3, signal_seconds=30)
    events = drained(engine, [Task("row, 0", "row", 1, 1, lambda: _steps(22.0), "key", (0, 1, 2))])
    assert not [event for event in events if isinstance(event, Failed)]
    parcels = {event.parcel.about["shard"]: event.parcel.files for event in events if isinstance(event, Given)}
    assert sorted(parcels) == [0, 1, 2]
    assert parcels[0]["pid"] != parcels[2]["pid"]


@pytest.mark.long
def test_cancelling_ends_the_jobs_and_keeps_what_they_gave(cluster: Path, tmp_path: Path) -> None:
    engine = engine_of(tmp_path)
    engine.start()
    engine.submit([Task("row, 0", "row", 1, 1, _steps, "key", (0, 1, 2))])
    while not any(one.given for one in spooled(tmp_path)):
        time.sleep(0.1)
    (job,) = [one.job for one in spooled(tmp_path)]
    engine.cancel()
    engine.close()
    deadline = time.monotonic() + 30
    while job_states().get(job, ("CANCELLED", ""))[0] in ("RUNNING", "COMPLETING") and time.monotonic() < deadline:
        time.sleep(0.2)
    assert job_states()[job][0] == "CANCELLED"
    again = engine_of(tmp_path)
    parcels = drained(again, [Task("row, 0", "row", 1, 1, _steps, "key", (0, 1, 2))])
    given = [one for one in parcels if isinstance(one, Given)]
    assert given[0].worker.startswith(f"job {job}")  # of the cancelled one
    assert {one.parcel.about["shard"] for one in given} == {0, 1, 2}


# ----------------------------------------------------------------------------------------------------------- bad input


def test_a_partition_that_is_none_is_one_line_with_those_that_are(cluster: Path, tmp_path: Path) -> None:
    with pytest.raises(ConcordError, match=r"partition: no 'gpu'; expected one of main, one$"):
        engine_of(tmp_path, partition="gpu").start()


def test_more_gpus_than_a_node_has_is_one_line_that_says_what_it_has(cluster: Path, tmp_path: Path) -> None:
    with pytest.raises(ConcordError, match=r"asks for 1 CPUs, 4 GPUs, 0 GiB; .* 'main' has 1 CPUs, 0 GPUs"):
        engine_of(tmp_path, partition="main", gpus=4).start()


def test_a_controller_that_does_not_answer_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = tmp_path / "slurm.conf"
    conf.write_text(
        "ClusterName=none\nSlurmctldHost=localhost\nSlurmctldPort=1\nAuthType=auth/munge\nMessageTimeout=2\n"
    )
    monkeypatch.setenv("SLURM_CONF", str(conf))
    with pytest.raises(ConcordError, match="engine 'slurm': `sinfo`: ") as error:
        engine_of(tmp_path, answer_seconds=5).start()
    assert "\n" not in str(error.value)


@pytest.mark.long
def test_a_results_folder_that_a_node_does_not_see_is_one_line(
    cluster: Path, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    """The second node runs in a mount namespace in which the folder is another, empty one."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    folder = tmp_path_factory.mktemp("blind")
    subprocess.run(["bash", str(SCRIPT), "start", str(folder), "1"], check=True, timeout=120)
    conf, kept = folder / "slurm.conf", os.environ["SLURM_CONF"]
    os.environ["SLURM_CONF"] = str(conf)
    try:
        os.kill(int((folder / "slurmd-n1.pid").read_text()), signal.SIGTERM)
        time.sleep(1)
        blind = f"mount -t tmpfs none {hidden} && slurmd -f {conf} -N n1"
        subprocess.run(["unshare", "-m", "sh", "-c", blind], check=True, env={**os.environ, "PATH": SBIN})
        (failed,) = (one for one in drained(engine_of(hidden), sleeping(1)) if isinstance(one, Failed))
        assert "does not see that folder; choose a --results on the shared" in failed.line
        assert failed.final
    finally:
        os.environ["SLURM_CONF"] = kept
        subprocess.run(["bash", str(SCRIPT), "stop", str(folder)], check=False, timeout=60)


def test_detach_inside_a_dvc_stage_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from concord.arguments import MachineOptions
    from concord.arguments import spread as command

    monkeypatch.setenv("DVC_STAGE", "generate@toys")
    with pytest.raises(ConcordError, match="--detach in DVC's stage 'generate@toys'"):
        command(MachineOptions(engine="slurm", detach=True), [])
