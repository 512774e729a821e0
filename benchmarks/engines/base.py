"""What an engine is: tasks in, what they give out, progress, cancellation.

A *task* is a chunk of one row: some shards to be made, or to be scored. Its *work* is what travels to a worker: a value
that can be pickled and that gives parcels, one after another, so that what is finished is never lost with the rest. The
work states threads, batch shape and number format; the engine sets the threads before anything is computed, whatever
the cluster's own rule is, since sums are taken in another order with others.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from concord.data.errors import ConcordError
from concord.data.schema import Strict

if TYPE_CHECKING:
    from concord.benchmarks.engines.desk import Desk

ENTRY_POINTS = "concord.engines"
ATTEMPTS = 3
"""A task that ends this often without what it was to give fails its row."""
NODE_LOSSES = 10
"""A node that goes, or is taken away, is no fault of the task's; so often one is started again all the same."""


class EngineSettings(Strict):
    """What every engine takes, in params.yaml or ~/.config/concord.yaml under `engines: NAME:`."""

    workers: int | None = Field(default=None, ge=1)  # at most so many at once; None: as many as there is room for
    threads: int | None = Field(default=None, ge=1)  # of a task; None: those that one process takes on this machine
    task_seconds: float = Field(default=180, gt=0)  # a task is cut to take about so long


@dataclass(frozen=True)
class Parcel:
    """What a work gives: files by name. about: which part of the work it is, e.g. {'shard': 3}."""

    about: Mapping[str, int]
    files: Mapping[str, bytes]


class Work(ABC):
    """What travels to a worker.

    threads: of the process that does it. blobs: SHA-256 -> where it lies on the driver's machine, of the files that a
    worker needs where no file system is shared.
    """

    threads: int
    blobs: Mapping[str, str]

    @abstractmethod
    def run(self, desk: Desk) -> None:
        """In a worker: give parcels to the desk. ConcordError in one line for what goes wrong."""


@dataclass(frozen=True)
class Task:
    """A piece of work that is planned. row: those of one row share networks, and fail together.

    seconds: what it will take, about. work: called when it is handed over, so that a plan of 100,000 tasks is small;
    None where nothing is left to be done. key: what its parcels follow from; parts: their numbers. With both an engine
    whose tasks outlive the driver knows them again.
    """

    name: str
    row: str
    seconds: float
    images: int
    work: Callable[[], Work | None]
    key: str = ""
    parts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Call:
    """What the command line says beside the settings. folder: of the results. devices: of this machine, for `local`."""

    devices: tuple[str, ...] = ()
    detach: bool = False
    folder: Path = Path("results")


# ---------------------------------------------------------------------------------------------- what an engine tells


@dataclass(frozen=True)
class Given:
    """A worker gave a part of a task."""

    task: Task
    parcel: Parcel
    worker: str


@dataclass(frozen=True)
class Advanced:
    """A worker has computed more images of a task."""

    task: Task
    images: int


@dataclass(frozen=True)
class Ended:
    """A task gave all that it was to give."""

    task: Task


@dataclass(frozen=True)
class Failed:
    """A task ended before. line: why. final: it would end so again, anywhere. node: its machine went.

    tail: the last lines that the worker printed.
    """

    task: Task
    line: str
    worker: str
    final: bool = False
    node: bool = False
    tail: str = ""


Event = Given | Advanced | Ended | Failed


@dataclass
class Crew:
    """The workers of an engine now. gpu_busy: the mean share of time in which their GPUs compute, from NVML."""

    ready: int = 0
    busy: int = 0
    wanted: int = 0
    gpu_busy: float | None = None
    ready_since: float | None = None  # time.monotonic() of the moment at which all that are wanted were ready


class Engine(ABC):
    """Runs works somewhere.

        engine.start()
        engine.submit(tasks)                 # any time, also between two waits
        while engine.unfinished:
            for event in engine.wait(1.0): ...
        engine.close()

    Raises ConcordError in one line for what makes all work impossible: an address that does not answer, more GPUs than
    there are. What befalls one task is a `Failed`; the engine does not start it again, unless it is submitted again.
    """

    name: ClassVar[str]
    Settings: ClassVar[type[EngineSettings]] = EngineSettings
    shares_files: ClassVar[bool] = True  # the workers see this machine's files under the same names
    detaches: ClassVar[bool] = False  # tasks go on after this process

    def __init__(self, settings: EngineSettings, call: Call | None = None) -> None:
        self.settings, self.call = settings, call or Call()
        self.crew = Crew()
        if self.call.detach and not self.detaches:
            raise ConcordError(
                f"--detach: tasks of engine '{self.name}' end with this command; leave it out, or use --engine slurm"
            )

    @property
    def threads(self) -> int:
        """Of a task: as its settings say, else as many as one process takes on this machine."""
        return self.settings.threads or own_threads()

    @abstractmethod
    def start(self) -> None:
        """Reach the workers' machines; ConcordError where they cannot be reached or lack what is asked for."""

    @abstractmethod
    def submit(self, tasks: Sequence[Task]) -> None:
        """Take tasks on; the longest are begun first."""

    @property
    @abstractmethod
    def unfinished(self) -> int:
        """Tasks that have neither ended nor failed."""

    @abstractmethod
    def wait(self, seconds: float) -> list[Event]:
        """What has happened, after so many seconds at most."""

    @abstractmethod
    def cancel(self, row: str | None = None) -> None:
        """Give up what is not finished of a row, or all of it; what runs is ended."""

    @abstractmethod
    def close(self) -> None:
        """Let the workers go; called once, whatever happened."""


def own_threads() -> int:
    """The threads that one process computes with on this machine."""
    from concord.data.device import usable_cores

    try:
        return max(1, int(os.environ["OMP_NUM_THREADS"]))
    except (KeyError, ValueError):
        return usable_cores()


# ------------------------------------------------------------------------------------------------------- the registry


@dataclass
class _Registry:
    engines: dict[str, type[Engine]] = field(default_factory=dict)


_REGISTRY = _Registry()


def register(engine: type[Engine]) -> type[Engine]:
    """Class decorator: make an engine known by its name."""
    other = _REGISTRY.engines.get(engine.name)
    if other is not None and other.__module__ != engine.__module__:
        raise ConcordError(
            f"two engines are named '{engine.name}': {other.__module__} and {engine.__module__}; rename one"
        )
    _REGISTRY.engines[engine.name] = engine
    return engine


def all_engines() -> dict[str, type[Engine]]:
    """Every engine, by name: the files of this folder, and the entry points `concord.engines`."""
    from concord.benchmarks import engines

    for module in iter_modules(engines.__path__):
        import_module(f"concord.benchmarks.engines.{module.name}")
    for entry in entry_points(group=ENTRY_POINTS):
        package = entry.dist.name if entry.dist is not None else "?"
        try:
            register(entry.load())
        except Exception as error:
            raise ConcordError(
                f"installed package '{package}', entry point '{entry.name} = {entry.value}': {error}; "
                "fix or uninstall it"
            ) from None
    return dict(sorted(_REGISTRY.engines.items()))
