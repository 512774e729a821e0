"""What an engine costs beside the work: ``python -m concord.benchmarks.profiling.engine_speed ENGINE [--tasks N] ...``.

Tasks sleep instead of computing, so that a machine of two cores can stand for a cluster of eight workers. For `ray` a
cluster of one node with that many CPUs is started here; `local` starts as many processes.

    engine_speed ray --workers 8 --tasks 1000 --seconds 2       efficiency, counted from when all workers are ready
    engine_speed plan --tasks 100000                            memory of the driver for planned tasks
    engine_speed paper --workers 8                              every image of profile paper, a shard a task of 20 ms
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil

from concord.benchmarks.engines.base import Call, Engine, Failed, Given, Parcel, Task, Work
from concord.benchmarks.engines.desk import Desk
from concord.benchmarks.engines.pool import Waiting
from concord.benchmarks.store.shards import SHARD_SIZE


@dataclass(frozen=True)
class Nap(Work):
    """Sleeps, and gives so many bytes."""

    seconds: float
    number: int
    size: int = 0
    threads: int = 1
    blobs: dict[str, str] = field(default_factory=dict)

    def run(self, desk: Desk) -> None:
        time.sleep(self.seconds)
        desk.take(Parcel({"shard": self.number}, {"tar": bytes(self.size)}))


def naps(n: int, seconds: float, size: int = 0, row: Callable[[int], str] = lambda i: f"row {i // 16}") -> list[Task]:
    """Tasks that sleep, in rows of sixteen."""

    def work(number: int) -> Callable[[], Work]:
        return lambda: Nap(seconds, number, size)

    return [Task(f"{row(i)}, shard {i}", row(i), seconds, SHARD_SIZE, work(i)) for i in range(n)]


@contextmanager
def opened(name: str, workers: int) -> Iterator[Engine]:
    """An engine with so many workers, on this machine."""
    if name == "local":
        from concord.benchmarks.engines.local import LocalEngine, LocalSettings

        yield LocalEngine(LocalSettings(), Call(tuple(["cpu"] * workers)))
        return
    import ray
    from ray.cluster_utils import Cluster

    from concord.benchmarks.engines.ray import RayEngine, RaySettings

    head = {"num_cpus": workers, "object_store_memory": 200 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield RayEngine(RaySettings(address=cluster.address, workers=workers))
    finally:
        ray.shutdown()
        cluster.shutdown()


def timed(engine: Engine, tasks: Sequence[Task]) -> tuple[float, float, int]:
    """(seconds until all workers were ready, seconds from then to the end, parcels)."""
    process, start = psutil.Process(), time.monotonic()
    engine.start()
    try:
        while engine.crew.ready < engine.crew.wanted:
            engine.wait(0.2)
        ready, before = time.monotonic(), process.cpu_times().user
        engine.submit(tasks)
        parcels = 0
        while engine.unfinished:
            for event in engine.wait(1.0):
                parcels += isinstance(event, Given)
                assert not isinstance(event, Failed), event
        over = time.monotonic()
        print(f"driver: {process.cpu_times().user - before:.1f} s of CPU, {process.memory_info().rss / 2**20:.0f} MiB")
        return ready - start, over - ready, parcels
    finally:
        engine.close()


def efficiency(name: str, workers: int, n: int, seconds: float, size: int) -> None:
    """Print how near an engine's workers come to sleeping all the time."""
    with opened(name, workers) as engine:
        until, wall, parcels = timed(engine, naps(n, seconds, size))
    ideal = math.ceil(n / workers) * seconds
    each = 1000 * (wall - ideal) * workers / n
    print(
        f"{name}, {workers} workers, {n} tasks of {seconds:g} s: ready after {until:.1f} s, then {wall:.1f} s "
        f"(ideal {ideal:.1f}): efficiency {n * seconds / (workers * wall):.1%}, {each:.1f} ms a task, "
        f"{each / SHARD_SIZE:.2f} ms an image, {parcels} parcels"
    )


def planned(n: int) -> None:
    """Print the memory that planned tasks take."""
    process = psutil.Process()
    before = process.memory_info().rss
    start = time.perf_counter()
    waiting = Waiting()
    tasks = naps(n, 2.0)
    waiting.add(tasks)
    taken = sum(waiting.take(None, "worker", ["worker"]) is not None for _ in range(1000))
    print(
        f"{n} planned tasks: {(process.memory_info().rss - before) / 2**20:.0f} MiB, planned and {taken} handed out in "
        f"{time.perf_counter() - start:.1f} s"
    )


def paper(name: str, workers: int, seconds: float, size: int) -> None:
    """Put as many shards as profile paper has through an engine, row by row of the real plan."""
    from concord.benchmarks.generators import has_models
    from concord.benchmarks.suite import load_suites

    rows: dict[str, int] = {}  # suites of one request set share rows
    for suite in load_suites():
        if has_models(suite, "paper"):
            found = suite.in_profile("paper")
            named = [*found.reference, *(row.name for row in found.rows if row.method is not None)]
            rows |= {f"{found.request_set}/{row}": found.size("default", "paper") for row in named}
    names = [row for row, n in rows.items() for _ in range(math.ceil(n / SHARD_SIZE))]
    print(f"profile paper: {len(rows)} rows, {sum(rows.values()):,} images, {len(names)} shards")
    with opened(name, workers) as engine:
        until, wall, parcels = timed(engine, naps(len(names), seconds, size, lambda i: names[i]))
    print(f"{name}: ready after {until:.1f} s, {parcels} of {len(names)} shards back in {wall:.1f} s")


def main() -> None:
    """Read the command line, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("local", "ray", "plan", "paper"))
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--size", type=int, default=0, help="bytes that a task gives")
    given = parser.parse_args()
    if given.what == "plan":
        planned(given.tasks)
    elif given.what == "paper":
        paper("ray", given.workers, given.seconds, given.size)
    else:
        efficiency(given.what, given.workers, given.tasks, given.seconds, given.size)


if __name__ == "__main__":
    main()
