"""The engine `ray`: workers on any Ray cluster; no file system has to be shared.

A worker is an actor that stays, with its networks, while there are tasks. Code goes as a package (the checkout's, or
the installed one of the node), weights by their hash into a folder of the node, conditions as values; shards come back
one by one as they are finished. A worker that is lost takes with it the shard that it was at; another begins there.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import socket
import threading
import time
from collections import defaultdict, deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from concord.benchmarks.engines.base import (
    Advanced,
    Call,
    Ended,
    EngineSettings,
    Event,
    Given,
    Parcel,
    Work,
    register,
)
from concord.benchmarks.engines.desk import (
    Desk,
    NodeFiles,
    Trouble,
    check_versions,
    do,
    gpu_busy,
    node_folder,
    node_name,
    own_versions,
)
from concord.benchmarks.engines.pool import PoolEngine
from concord.data.errors import ConcordError

CHUNK = 64 * 2**20
"""Bytes of a file in one object: a checkpoint of gigabytes passes through a small object store."""
HEARTBEAT = 10.0  # seconds between two looks at the GPU
GROW = 2.0  # seconds between two looks at the cluster
LEFT_OUT = ["*.safetensors", "**/__pycache__", "*.pyc"]
"""Not sent with the code: weights go by their hash, to nodes that lack them."""


class RaySettings(EngineSettings):
    """engines: ray: of params.yaml or ~/.config/concord.yaml."""

    address: str = "auto"  # host:port of the head, as `ray start --head` prints it; auto: the one started here
    cpus: float = Field(default=1, ge=0)  # of a worker
    gpus: float | None = Field(default=None, ge=0)  # of a worker; None: one where the cluster has any
    memory_gib: float | None = Field(default=None, gt=0)  # of a worker
    code: Literal["checkout", "installed"] = "checkout"  # what a worker imports: this package, or that of its node
    image: str | None = None  # a container image that workers run in
    environment: dict[str, str] = Field(default_factory=dict)  # variables of the workers
    connect_seconds: float = Field(default=20, gt=0)  # until an address counts as one that does not answer
    start_seconds: float = Field(default=300, gt=0)  # until the first worker has to be ready
    allow_versions: bool = False  # workers with other versions of what makes numbers


@dataclass
class _Actor:
    """A worker as the driver sees it. stream: of what it is at. digests: files that went with it."""

    handle: Any
    hello: Any
    name: str
    pid: int = 0
    stream: Any = None
    digests: tuple[str, ...] = ()
    gpu: float | None = None


@register
class RayEngine(PoolEngine):
    """Workers on a Ray cluster."""

    name = "ray"
    Settings: ClassVar[type[EngineSettings]] = RaySettings
    shares_files = False

    def __init__(self, settings: EngineSettings, call: Call | None = None) -> None:
        super().__init__(settings, call)
        assert isinstance(settings, RaySettings)
        self.own = settings
        self._starting: list[_Actor] = []
        self._actors: dict[str, _Actor] = {}
        self._blobs: dict[str, list[Any]] = {}
        self._printed: dict[int, deque[str]] = defaultdict(lambda: deque(maxlen=8))
        self._looked = self._began = 0.0
        self._count = 0

    # ------------------------------------------------------------------------------------------------- the cluster

    def start(self) -> None:
        try:
            import ray
        except ImportError:
            raise ConcordError("engine 'ray': the package ray is not installed; install concord[ray]") from None
        self._ray = ray
        self._reach(self.own.address)
        logging.getLogger("ray").setLevel(logging.ERROR)
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            ray.init(
                address=self.own.address,
                namespace="concord",
                logging_level=logging.ERROR,
                runtime_env=self._environment(),
            )
        except ConnectionError as error:
            raise ConcordError(self._no_cluster(str(error))) from None
        except (RuntimeError, ValueError, OSError) as error:
            raise ConcordError(f"engine 'ray': {self.own.address}: {' '.join(str(error).split())[:400]}") from None
        self._listen()
        self._check_size()
        self._began = time.monotonic()
        self._grow()

    def _reach(self, address: str) -> None:
        """Raise ConcordError where nobody answers: Ray itself would try for a minute and then print pages."""
        host, _, port = address.removeprefix("ray://").rpartition(":")
        if address in ("auto", "local") or not host:
            return
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=self.own.connect_seconds):
                return
        except ValueError:
            raise ConcordError(f"engine 'ray': address '{address}': expected auto or host:port") from None
        except OSError as error:
            raise ConcordError(self._no_cluster(str(error))) from None

    def _no_cluster(self, reason: str) -> str:
        return (
            f"engine 'ray': no cluster answers at address '{self.own.address}' within {self.own.connect_seconds:g} s "
            f"({' '.join(reason.split())[:120]}); start one with `ray start --head`, or set engines.ray.address"
        )

    def _environment(self) -> dict[str, Any]:
        """What workers find: the code, and the threads that the driver has, since Ray sets others by itself."""
        import concord

        threads = str(self.threads)
        found: dict[str, Any] = {
            "env_vars": {
                "OMP_NUM_THREADS": threads,
                "MKL_NUM_THREADS": threads,
                "OMP_WAIT_POLICY": "PASSIVE",
                "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
                **self.own.environment,
            }
        }
        if self.own.code == "checkout":
            found |= {"py_modules": [str(Path(concord.__file__).parent)], "excludes": LEFT_OUT}
        if self.own.image is not None:
            found["image_uri"] = self.own.image
        return found

    def _nodes(self) -> list[Mapping[str, float]]:
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    @property
    def gpus(self) -> float:
        """Of a worker."""
        if self.own.gpus is not None:
            return self.own.gpus
        return 1.0 if any(node.get("GPU", 0) >= 1 for node in self._nodes()) else 0.0

    def _needs(self) -> dict[str, float]:
        needs = {"CPU": self.own.cpus, "GPU": self.gpus}
        if self.own.memory_gib is not None:
            needs["memory"] = self.own.memory_gib * 2**30
        return {name: value for name, value in needs.items() if value}

    def _slots(self) -> int:
        """Workers that the cluster has room for."""
        needs = self._needs()
        found = 0
        for node in self._nodes():
            room = [int(node.get(name, 0) / value + 1e-9) for name, value in needs.items()]
            found += min(room, default=1)
        return found

    def _check_size(self) -> None:
        """Raise ConcordError where no node can ever hold a worker, saying what there is."""
        nodes = self._nodes()
        if self._slots():
            return
        said = {"CPU": "CPUs", "GPU": "GPUs", "memory": "bytes of memory"}
        wanted = " and ".join(f"{value:g} {said[name]}" for name, value in self._needs().items())
        there = "; ".join(
            f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs, {node.get('memory', 0) / 2**30:.1f} GiB"
            for node in nodes[:8]
        )
        raise ConcordError(
            f"engine 'ray': a worker is to have {wanted}; the cluster has {len(nodes)} "
            f"node{'s' if len(nodes) > 1 else ''} ({there}); ask for less, or add a node"
        )

    def _grow(self) -> None:
        """Begin workers where there is room: at the start, for those that were lost, on nodes that join."""
        self._looked = time.monotonic()
        wanted = min(self._slots(), self.settings.workers or 10**6)
        self.crew.wanted = wanted
        needs = self._needs()
        kind = self._ray.remote(_Worker)
        for _ in range(wanted - len(self._actors) - len(self._starting)):
            self._count += 1
            handle = kind.options(
                num_cpus=needs.get("CPU", 0),
                num_gpus=needs.get("GPU", 0),
                memory=needs.get("memory"),
                max_restarts=0,
                max_task_retries=0,
            ).remote("cuda" if self.gpus else "cpu")
            self._starting.append(_Actor(handle, handle.hello.remote(), f"worker {self._count}"))

    def _greet(self) -> None:
        """Take on the workers that have said who they are."""
        if not self._starting:
            return
        ready, _ = self._ray.wait([actor.hello for actor in self._starting], num_returns=len(self._starting), timeout=0)
        for actor in [actor for actor in self._starting if actor.hello in ready]:
            self._starting.remove(actor)
            try:
                told = self._ray.get(actor.hello)
            except self._ray.exceptions.RuntimeEnvSetupError as error:
                raise ConcordError(f"engine 'ray': a worker's environment cannot be set up: {_short(error)}") from None
            except self._ray.exceptions.RayError as error:
                if isinstance(error, self._ray.exceptions.RayTaskError) or "creation task" in str(error):
                    raise ConcordError(f"engine 'ray': a worker cannot import Concord: {_short(error)}") from None
                if time.monotonic() - self._began > self.own.start_seconds and not self._actors:
                    raise ConcordError(f"engine 'ray': no worker can be started: {_short(error)}") from None
                continue  # its node went, or it was killed while it started: `_grow` begins another
            actor.name, actor.pid = f"{actor.name} on {told['node']}", told["pid"]
            check_versions(own_versions(), told["versions"], f"engine 'ray': {actor.name}", self.own.allow_versions)
            self._actors[actor.name] = actor

    # ----------------------------------------------------------------------------------------------------- the pool

    def _workers(self) -> Collection[str]:
        return list(self._actors)

    def _hand(self, worker: str, work: Work) -> None:
        actor = self._actors[worker]
        lacks: list[str] = []
        if work.blobs:
            try:
                lacks = self._ray.get(actor.handle.lacks.remote(list(work.blobs)), timeout=60)
            except self._ray.exceptions.RayError:
                lacks = []  # it is gone, which its stream says in a moment
        for digest in lacks:
            if digest not in self._blobs:
                self._blobs[digest] = [self._ray.put(chunk) for chunk in _chunks(Path(work.blobs[digest]))]
        actor.digests = tuple(lacks)
        files = {digest: self._blobs[digest] for digest in lacks}
        actor.stream = actor.handle.work.options(num_returns="streaming").remote(work, files)

    def _hear(self, seconds: float) -> list[Event]:
        if time.monotonic() - self._looked > GROW:
            self._grow()
        self._greet()
        if not self._actors:
            self._nobody(seconds)
            return []
        streams = {actor.stream: name for name, actor in self._actors.items() if actor.stream is not None}
        if not streams:
            time.sleep(min(seconds, 0.05))
            return []
        ready, _ = self._ray.wait(list(streams), num_returns=1, timeout=min(seconds, GROW), fetch_local=False)
        if ready:
            ready, _ = self._ray.wait(list(streams), num_returns=len(streams), timeout=0, fetch_local=False)
        events: list[Event] = []
        for stream in ready:
            events += self._next(streams[stream])
        busy = [actor.gpu for actor in self._actors.values() if actor.gpu is not None]
        self.crew.gpu_busy = sum(busy) / len(busy) if busy else None
        return events

    def _nobody(self, seconds: float) -> None:
        """No worker is ready: wait, but not for ever."""
        if time.monotonic() - self._began > self.own.start_seconds:
            free = self._ray.available_resources()
            raise ConcordError(
                f"engine 'ray': no worker was ready within {self.own.start_seconds:g} s; free in the cluster: "
                f"{free.get('CPU', 0):g} CPUs, {free.get('GPU', 0):g} GPUs: others use it, or its nodes are gone"
            )
        time.sleep(min(seconds, 0.2))

    def _next(self, name: str) -> list[Event]:
        """What a worker says next."""
        actor, task = self._actors[name], self.running[name]
        self._began = time.monotonic()  # workers live
        try:
            reference = next(actor.stream)
            kind, value = self._ray.get(reference)
            del reference
        except StopIteration:
            return self._over(name, [Ended(task)])
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, Trouble):
                return self._over(name, self._lost(name, cause.line, final=cause.final))
            return self._over(name, self._lost(name, f"{type(cause).__name__}: {_short(cause)}"))
        except self._ray.exceptions.RayActorError as error:
            return self._gone(name, str(error))
        except self._ray.exceptions.RayError as error:  # its answer was lost with the node that held it
            return self._gone(name, str(error))
        if kind == "parcel":
            return [Given(task, value, name)]
        if kind == "step":
            return [Advanced(task, value)]
        actor.gpu = value
        return []

    def _over(self, name: str, events: list[Event]) -> list[Event]:
        actor = self._actors[name]
        self.running.pop(name, None)
        actor.stream, actor.digests = None, ()
        used = {digest for other in self._actors.values() for digest in other.digests}
        self._blobs = {digest: chunks for digest, chunks in self._blobs.items() if digest in used}
        return events

    def _gone(self, name: str, told: str) -> list[Event]:
        """A worker that is no more."""
        actor = self._actors[name]
        node = any(sign in told for sign in ("node has died", "preempted", "unavailable", "node failure", "Node "))
        line = "its node was lost" if node else _death(told)
        for _ in range(20):  # its last lines come by another way, a moment later
            if node or self._printed[actor.pid]:
                break
            time.sleep(0.1)
        events = self._lost(name, line, node=node, tail="\n".join(self._printed[actor.pid]))
        self._over(name, [])
        self._stop(name)
        self._looked = 0.0
        return events

    def _stop(self, worker: str) -> None:
        actor = self._actors.pop(worker)
        self.holds.pop(worker, None)
        with contextlib.suppress(Exception):  # it may be gone already
            self._ray.kill(actor.handle)

    def close(self) -> None:
        ray = getattr(self, "_ray", None)
        if ray is None or not ray.is_initialized():
            return
        for actor in [*self._actors.values(), *self._starting]:
            with contextlib.suppress(Exception):
                ray.kill(actor.handle)
        self._actors.clear()
        self._blobs.clear()
        ray.shutdown()

    # -------------------------------------------------------------------------------------------------- last lines

    def _listen(self) -> None:
        """Keep the last lines that each worker prints; Ray would print all of them here."""
        try:
            from ray._private.ray_logging import global_worker_stdstream_dispatcher as dispatcher
        except ImportError:  # no part of Ray's public interface: without it errors lack these lines
            return
        dispatcher.remove_handler("ray_print_logs")
        dispatcher.add_handler("concord", self._on_lines)

    def _on_lines(self, data: Mapping[str, Any]) -> None:
        with contextlib.suppress(KeyError, TypeError, ValueError):
            self._printed[int(data["pid"])].extend(str(line) for line in data["lines"])


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[-300:]


def _death(told: str) -> str:
    """How a worker ended, out of Ray's paragraph."""
    if "low on memory" in told:  # as its monitor of memory says; "OOM" alone stands in every guess of Ray's
        return "was killed as its node ran out of memory"
    for line in told.splitlines():
        if "exit" in line.lower() or "SIG" in line:
            return f"its process ended ({' '.join(line.split())[:160]})"
    return f"its process ended ({' '.join(told.split())[:160]})"


def _arriving(chunks: list[Any]) -> Iterator[bytes]:
    """A file out of the object store, chunk by chunk."""
    import ray

    for chunk in chunks:
        yield ray.get(chunk)


def _chunks(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


# ----------------------------------------------------------------------------------------------------------- the worker


@dataclass
class _Messages:
    """What a work's thread says, for the stream."""

    said: queue.SimpleQueue[tuple[str, Any]] = field(default_factory=queue.SimpleQueue)

    def parcel(self, parcel: Parcel) -> None:
        self.said.put(("parcel", parcel))

    def step(self, images: int) -> None:
        self.said.put(("step", images))


class _Worker:
    """An actor. A work runs in a thread of its own, so that what it says goes out at once, and the GPU is looked at."""

    def __init__(self, device: str) -> None:
        self.messages = _Messages()
        self.node = NodeFiles(node_folder())
        self.desk = Desk(self.messages.parcel, self.messages.step, self.node, device)
        self.jobs: queue.SimpleQueue[Work] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="works", daemon=True).start()  # one for all: threads keep their OpenMP

    def _run(self) -> None:
        while True:
            work = self.jobs.get()
            try:
                do(work, self.desk)
                self.messages.said.put(("end", None))
            except Trouble as trouble:
                self.messages.said.put(("trouble", trouble))

    def hello(self) -> dict[str, Any]:
        """Who it is."""
        return {"node": node_name(), "pid": os.getpid(), "versions": own_versions()}

    def lacks(self, digests: list[str]) -> list[str]:
        """The files that its node does not have."""
        return self.node.lacks(digests)

    def work(self, work: Work, files: Mapping[str, list[Any]]) -> Iterator[tuple[str, Any]]:
        """Do a work; what it says, as it comes."""
        for digest, chunks in files.items():
            try:
                self.node.put(digest, partial(_arriving, chunks))
            except OSError as error:
                raise Trouble(f"{self.node.folder}: {error.strerror}; free space on the node", False) from None
            except ConcordError as error:
                raise Trouble(str(error), False) from None
        self.jobs.put(work)
        while True:
            try:
                kind, value = self.messages.said.get(timeout=HEARTBEAT)
            except queue.Empty:
                kind, value = "gpu", gpu_busy() if self.desk.device != "cpu" else None
            if kind == "end":
                return
            if kind == "trouble":
                raise value
            yield kind, value
