"""Training on an engine's workers: the same weights as in one process, in the order of what is built on what."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from concord.benchmarks.engines.base import Ended, Engine, EngineSettings, Event, Failed, Given, Parcel, Task
from concord.benchmarks.engines.local import LocalEngine, LocalSettings
from concord.benchmarks.engines.training import CARDS, How, train_by
from concord.data.checkpoints import weight_path
from concord.data.errors import ConcordError
from concord.methods.training import get_task
from concord.methods.training.trainer import Task as Training
from concord.methods.training.trainer import train


@pytest.mark.long
def test_a_worker_trains_the_weights_of_one_process(tmp_path: Path) -> None:
    kind = get_task("faces-parser-judge")
    train(kind(torch.device("cpu"), tmp_path / "alone"), 2, False, tmp_path / "checkpoints", progress=False)
    cards: list[dict[str, Any]] = []
    engine = LocalEngine(LocalSettings(devices=["cpu"]))
    train_by(engine, [kind], How(tmp_path / "spread", 2, restart=True), cards.append)
    (card,) = cards
    first, second = (weight_path(card["name"], tmp_path / name).read_bytes() for name in ("alone", "spread"))
    assert first == second


class Recorded(Engine):
    """Does nothing, and ends tasks in the order in which they came; `bad` ones fail."""

    name = "recorded"

    def __init__(self, bad: Sequence[str] = ()) -> None:
        super().__init__(EngineSettings())
        self.tasks: list[Task] = []
        self.order: list[list[str]] = []
        self.bad = set(bad)

    def start(self) -> None:
        pass

    def submit(self, tasks: Sequence[Task]) -> None:
        self.tasks += tasks

    @property
    def unfinished(self) -> int:
        return len(self.tasks)

    def wait(self, seconds: float) -> list[Event]:
        together, self.tasks = self.tasks, []
        self.order.append([task.name.removeprefix("train ") for task in together])
        events: list[Event] = []
        for task in together:
            if task.name.removeprefix("train ") in self.bad:
                events.append(Failed(task, "no memory", "worker 1"))
            else:
                events += [Given(task, Parcel({"shard": 0}, {CARDS: b"[]"}), "worker 1"), Ended(task)]
        return events

    def cancel(self, row: str | None = None) -> None:
        self.tasks.clear()

    def close(self) -> None:
        pass


def kinds(**needs: tuple[str, ...]) -> list[type[Training]]:
    recipe = get_task("faces-parser-judge").recipe
    return [type(name, (), {"name": name, "depends_on": own, "recipe": recipe}) for name, own in needs.items()]


def test_what_is_built_on_another_waits_for_it_and_others_go_side_by_side(tmp_path: Path) -> None:
    engine = Recorded()
    train_by(engine, kinds(c=("a", "b"), a=(), b=("a",), d=()), How(tmp_path), lambda card: None)
    assert [sorted(names) for names in engine.order] == [["a", "d"], ["b"], ["c"]]


def test_what_fails_three_times_is_named_with_what_is_built_on_it(tmp_path: Path) -> None:
    engine = Recorded(bad=["a"])
    with pytest.raises(ConcordError, match="not trained: a: worker 1: no memory; b: it is built on a") as error:
        train_by(engine, kinds(a=(), b=("a",), d=()), How(tmp_path), lambda card: None)
    assert str(error.value).count(": ") == 4  # nothing of 'd', which was trained
    assert sum(names.count("a") for names in engine.order) == 3
