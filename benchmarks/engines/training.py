"""The work of training a network, and the driver that trains several, each when those it is built on are there."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from concord.benchmarks.engines.base import ATTEMPTS, NODE_LOSSES, Ended, Engine, Failed, Given, Parcel, Task, Work
from concord.benchmarks.engines.carry import Files, files_for
from concord.benchmarks.engines.desk import Desk
from concord.benchmarks.plan.sources import Sources
from concord.data.checkpoints import EMBEDDED, card_path, weight_path
from concord.data.device import resolve_device
from concord.data.errors import ConcordError
from concord.data.files import atomic_path, parse_json, sha256_file

if TYPE_CHECKING:
    from concord.methods.training.trainer import Task as Training

CARDS = "cards.json"


@dataclass(frozen=True)
class How:
    """What `concord train` says of a training. folder: of the weights."""

    folder: Path
    steps: int | None = None
    restart: bool = False
    further: bool = False
    lr: float | None = None


@dataclass(frozen=True)
class TrainNetwork(Work):
    """A training from its last checkpoint to its weights, in one process.

    Where the worker sees the driver's files it writes checkpoints and weights in their places; elsewhere the weights
    travel back, and a training that is lost begins anew.
    """

    name: str
    how: How
    threads: int
    files: Files
    blobs: Mapping[str, str]

    def run(self, desk: Desk) -> None:
        from concord.methods.training import get_task
        from concord.methods.training.trainer import train

        desk.drop()
        how, kind, device = self.how, get_task(self.name), resolve_device(desk.device)
        if desk.node is None:
            cards = train(
                kind(device, how.folder), how.steps, not how.restart, progress=False, further=how.further, lr=how.lr
            )
            desk.take(Parcel({"shard": 0}, {CARDS: json.dumps(cards).encode()}))
            return
        for name, (first, inside) in self.files.weights.items():
            _put(desk.node.tree(inside) / first, weight_path(name))
        with tempfile.TemporaryDirectory(prefix="concord-training-") as text:
            folder = Path(text)
            cards = train(
                kind(device, folder / "weights"),
                how.steps,
                False,
                folder / "checkpoints",
                progress=False,
                further=how.further,
                lr=how.lr,
            )
            files = {path.name: path.read_bytes() for path in sorted((folder / "weights").iterdir()) if path.is_file()}
            desk.take(Parcel({"shard": 0}, {**files, CARDS: json.dumps(cards).encode()}))


def _put(source: Path, place: Path) -> None:
    """Weights where a training looks for them, in the package that came to the node without any."""
    if place.is_file():
        return
    temporary = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        with contextlib.suppress(FileExistsError):
            shutil.copyfile(source, temporary)
        os.replace(temporary, place)
    except OSError as error:
        raise ConcordError(f"{place}: cannot be written there ({error.strerror})") from None


def train_by(engine: Engine, kinds: Sequence[type[Training]], how: How, tell: Callable[[dict[str, Any]], None]) -> None:
    """Train these on an engine's workers, side by side where none is built on another; `tell` is given each card.

    ConcordError at the end naming those that were not trained, and why; the others were.
    """
    waiting = {kind.name: kind for kind in kinds}
    failed: dict[str, str] = {}
    ends: Counter[tuple[str, bool]] = Counter()

    def work(kind: type[Training]) -> Work:
        needs = [name for name in kind.depends_on if weight_path(name).is_file()]
        if how.further:
            needs += [name for name in kind.output_names or (kind.name,) if weight_path(name).is_file()]
        files = Files() if engine.shares_files else files_for("embedded", needs, Sources())
        return TrainNetwork(kind.name, how, engine.threads, files, files.blobs)

    def submit() -> None:
        """Those whose networks are all there."""
        ready = [kind for kind in waiting.values() if not set(kind.depends_on) & (set(waiting) | running)]
        for kind in ready:
            del waiting[kind.name]
            if lost := set(kind.depends_on) & set(failed):
                failed[kind.name] = f"it is built on {', '.join(sorted(lost))}"
                continue
            running.add(kind.name)
            steps = how.steps or kind.recipe.steps
            engine.submit([Task(f"train {kind.name}", f"train {kind.name}", steps, 0, partial(work, kind))])

    running: set[str] = set()
    engine.start()
    try:
        submit()
        while engine.unfinished or waiting:
            for event in engine.wait(1.0):
                name = event.task.name.removeprefix("train ")
                if isinstance(event, Given):
                    for card in _kept(event.parcel, how.folder, f"train {name} on {event.worker}"):
                        tell(card)
                elif isinstance(event, Failed):
                    ends[name, event.node] += 1
                    if not event.final and ends[name, event.node] < (NODE_LOSSES if event.node else ATTEMPTS):
                        engine.submit([event.task])
                        continue
                    failed[name] = f"{event.worker}: {event.line}"
                    running.discard(name)
                elif isinstance(event, Ended):
                    running.discard(name)
            submit()
    except BaseException:
        engine.cancel()
        raise
    finally:
        engine.close()
    if failed:
        raise ConcordError("not trained: " + "; ".join(f"{name}: {line}" for name, line in failed.items()))


def _kept(parcel: Parcel, folder: Path, where: str) -> list[dict[str, Any]]:
    """The cards of a training, its weights written where they came along; ConcordError where they are others."""
    cards: list[dict[str, Any]] = parse_json(parcel.files[CARDS].decode(), where)
    for card in cards:
        for path in (weight_path(card["name"], folder), card_path(card["name"], folder)):
            if path.name in parcel.files:
                with atomic_path(path) as temporary:
                    temporary.write_bytes(parcel.files[path.name])
        if sha256_file(weight_path(card["name"], folder)) != card["sha256"]:
            raise ConcordError(f"{where}: its weights are not those that its card names (SHA-256)")
    return cards


def out_folder(out: Path | None) -> Path:
    """Where weights go, as a worker finds it from any folder."""
    return (out or EMBEDDED).resolve()
