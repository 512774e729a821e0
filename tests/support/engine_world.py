"""A toy row over a few shards, made and scored by an engine and in this process: what tests of engines compare."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from concord.benchmarks.engines.base import Engine, Parcel, Task, Work
from concord.benchmarks.engines.desk import Desk
from concord.benchmarks.engines.spread import Outcome, Spread
from concord.benchmarks.plan.requests import Options
from concord.benchmarks.plan.runs import Plan
from concord.benchmarks.planner import make_plan
from concord.benchmarks.session import Session
from concord.benchmarks.settings import load_settings
from concord.benchmarks.store.run import Run
from concord.benchmarks.suite import load_suite

N = 140  # requests: three shards


def plan(tree: Path, suite: Path, results: Path, n: int = N, **changes: object) -> Plan:
    return make_plan(
        load_suite(str(suite)), load_settings(), Options(data=tree, limit=n, results=results), dict(changes) or None
    )


def alone(made: Plan, score: bool = True) -> Session:
    """Made and scored in this process."""
    session = Session(made, "cpu")
    session.generate(made.runs)
    if score:
        session.score(made.runs)
    return session


def spread(made: Plan, engine: Engine, score: bool = True) -> Outcome:
    """Made and scored by an engine's workers."""
    return Spread(engine, [(Session(made, "cpu"), made.runs)], score=score, show=False).run()


def tars(made: Plan) -> dict[str, bytes]:
    return {str(path.relative_to(made.root)): path.read_bytes() for path in sorted(made.root.glob("*/*/images/*.tar"))}


def score_files(made: Plan) -> dict[str, bytes]:
    return {
        str(path.relative_to(made.root)): path.read_bytes()
        for name in ("scores.parquet", "sets.parquet", "features.npz")
        for path in sorted(made.root.glob(f"*/*/{name}"))
    }


def check_same(first: Plan, second: Plan) -> None:
    """The same images, scores and traces, and every row whole."""
    assert len(tars(first)) >= 2 * len(first.runs)
    assert tars(first) == tars(second)
    assert score_files(first) == score_files(second)
    for run, other in zip(first.runs, second.runs, strict=True):
        one, two = Run(run.path), Run(other.path)
        for fact in ("shards", "requests", "key", "evaluations_per_image", "weights"):
            assert one.manifest[fact] == two.manifest[fact]
        assert one.score_info["key"] == two.score_info["key"]
        assert one.score_info["networks"] == two.score_info["networks"]
        assert one.digests.get("trace.npz") == two.digests.get("trace.npz")


# ------------------------------------------------------------------------------------------- works that compute nothing


@dataclass(frozen=True)
class Sleep(Work):
    """Waits instead of computing. fails: a file that counts how often it was begun; it fails before `times`."""

    seconds: float
    number: int = 0
    die: str = ""  # a file: where it is not there yet, it is made and the process ends
    line: str = ""  # an error to end with
    threads: int = 1
    blobs: dict[str, str] = field(default_factory=dict)

    def run(self, desk: Desk) -> None:
        import os

        from concord.data.errors import ConcordError

        if self.die and not Path(self.die).exists():
            Path(self.die).touch()
            os.write(2, b"the worker's last words\n")
            os.kill(os.getpid(), 9)
        time.sleep(self.seconds)
        if self.line:
            raise ConcordError(self.line)
        desk.step(1)
        desk.take(Parcel({"shard": self.number}, {"pid": str(os.getpid()).encode()}))


def sleeping(n: int, seconds: float = 0.0, row: Callable[[int], str] = lambda i: "row", **more: str) -> list[Task]:
    """Tasks that wait."""
    return [Task(f"{row(i)}, {i}", row(i), seconds, 1, lambda i=i: Sleep(seconds, i, **more)) for i in range(n)]


@dataclass(frozen=True)
class Big(Sleep):
    """Gives 20 MiB."""

    def run(self, desk: Desk) -> None:
        desk.take(Parcel({"shard": self.number}, {"big": bytes(20 * 2**20)}))


@dataclass(frozen=True)
class Steps(Sleep):
    """Gives three parts, a wait before each; those that were given before it was begun again are left out."""

    def run(self, desk: Desk) -> None:
        import os

        for number in sorted({0, 1, 2} - set(desk.done)):
            time.sleep(self.seconds if number else 0)
            desk.take(Parcel({"shard": number}, {"pid": str(os.getpid()).encode()}))
