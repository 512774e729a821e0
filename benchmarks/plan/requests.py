"""The requests of a suite: one image each, a seed and the conditions of one item of a dataset.

A *request set* is a list of requests over the items of a dataset. Values only: which dataset a suite reads is decided
in benchmarks/planner.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from concord.benchmarks.store.shards import SHARD_SIZE
from concord.data.conditions.base import Condition, make_conditions
from concord.data.datasets.item import Dataset, Item
from concord.data.errors import ConcordError
from concord.data.request import Conditions, Request, request_seed


class NothingToAskError(ConcordError):
    """No item of the dataset has all the conditions that a suite asks for."""


@dataclass(frozen=True)
class Options:
    """What the command line can choose about a plan."""

    profile: str = "embedded"
    size: str = "default"
    limit: int | None = None  # at most so many requests, in a results folder of its own
    data: Path | None = None  # a folder of the user's instead of the profile's
    seed_set: int = 0  # another seed for every request (repetition number), in a results folder of its own
    results: Path = Path("results")
    seeds: int = 1  # images of every item, under so many seeds, pooled in one row in a results folder of their own


@dataclass(frozen=True)
class PlannedRequest:
    """One image to be made, its conditions not yet read."""

    id: str
    seed: int
    item: Item

    def facts(self) -> dict[str, object]:
        """What run.json says of it: of a layout also its number of instances and of interactions."""
        return {"id": self.id, "seed": self.seed, **self.item.facts()}


@dataclass(frozen=True)
class RequestSet:
    """The requests of one name over one dataset, and their conditions, read once when first needed."""

    name: str
    dataset: Dataset[Any]
    conditions: tuple[str, ...]
    image_size: int
    requests: tuple[PlannedRequest, ...]
    left_out: dict[str, int] = field(default_factory=dict)  # reason -> how many items
    options: Mapping[str, Mapping[str, object]] = field(default_factory=dict)  # condition -> what the suite says

    def __len__(self) -> int:
        return len(self.requests)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the names and sizes of the files, and the captions, that these requests read.

        A tree may grow without changing it.
        """
        return self._read_items.listing

    @cached_property
    def content(self) -> str:
        """SHA-256 of the bytes of the files, and the captions, that these requests read."""
        return self._read_items.fingerprint

    @property
    def _read_items(self) -> Dataset[Any]:
        """The items of the requests, without the files that only other conditions read."""
        parts = {part for condition in self.readers.values() for part in condition.reads}
        return self.dataset.with_items([request.item.restricted_to(parts) for request in self.requests])

    @cached_property
    def readers(self) -> dict[str, Condition[object]]:
        """The conditions, ready to read items."""
        return make_conditions(self.conditions, self.options)

    @property
    def has_images(self) -> bool:
        return all(request.item.has_image for request in self.requests)

    @cached_property
    def shards(self) -> list[tuple[PlannedRequest, ...]]:
        """The requests in lots of 64."""
        return [self.requests[start : start + SHARD_SIZE] for start in range(0, len(self), SHARD_SIZE)]

    @cached_property
    def _packed(self) -> dict[tuple[str, str], dict[str, np.ndarray]]:
        """(condition, request) -> values of conditions that are read once."""
        return {}

    def conditions_of(self, request: PlannedRequest, names: Iterable[str]) -> Conditions:
        """The named conditions of a request, at the profile's image size."""
        return Conditions(**{name: self._value(request, name) for name in names})

    def _value(self, request: PlannedRequest, name: str) -> object:
        condition = self.readers.get(name)
        if condition is None:
            raise ConcordError(f"request set '{self.name}': dataset '{self.dataset.name}' gives no condition '{name}'")
        if not condition.cached:
            return condition.read(request.item, self.image_size)
        packed = self._packed.get((name, request.id))
        if packed is None:
            packed = condition.pack(condition.read(request.item, self.image_size))
            self._packed[name, request.id] = packed
        return condition.unpack(packed)

    def check(self) -> None:
        """Read the conditions of the requests once: bad input is known in seconds, not after an hour."""
        self.conditions_of(self.requests[0], self.conditions)
        for name, condition in self.readers.items():
            if condition.checked_first:
                for request in self.requests:
                    self.conditions_of(request, [name])

    def request(self, planned: PlannedRequest, names: Iterable[str], reads: Mapping[str, int] | None = None) -> Request:
        """The request as a method is given it, with these of its conditions.

        reads: condition -> the side at which it is read instead, where that is above the image's.
        """
        conditions = self.conditions_of(planned, names)
        finer = {
            name: self.readers[name].read_finer(planned.item, self.image_size, side)
            for name, side in (reads or {}).items()
            if name in conditions.names() and side > self.image_size
        }
        return Request(planned.id, planned.seed, conditions.replace(**finer) if finer else conditions)


LONGEST_ID = 96  # bytes of UTF-8: a shard's tar holds names of 100


def check_id(request: str, item: Item, dataset: Dataset[Any]) -> None:
    """Raise ConcordError for an item whose name is too long, or no text, to be that of an image in a shard."""
    try:
        length = len(request.encode())
    except UnicodeEncodeError:
        raise ConcordError(f"{dataset.root}: item '{item.id}': its name is no UTF-8; rename its files") from None
    if length > LONGEST_ID:
        shown = item.id if len(item.id) <= 60 else f"{item.id[:57]}..."
        raise ConcordError(
            f"{dataset.root}: item '{shown}': its name has {length} bytes; expected {LONGEST_ID} at most: rename it"
        )


def make_request_set(
    name: str,
    dataset: Dataset[Any],
    conditions: Sequence[str],
    image_size: int,
    n: int,
    seed_set: int = 0,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    seeds: int = 1,
) -> RequestSet:
    """The first `n` items that have every condition, in the dataset's order; each once for every seed.

    seeds: all items under one seed, then all under the next, so that the next request is of another item.

    Where some items have an image, items without one are left out too, so that all rows of the table, the
    ground truth included, answer the same requests. What was left out is counted by reason.
    """
    readers = make_conditions(conditions, options)
    left_out: Counter[str] = Counter()
    with_images = any(item.has_image for item in dataset.items)
    kept: list[Item] = []
    for item in dataset.items:
        if len(kept) == n:
            break
        lacks = [name for name, condition in readers.items() if not condition.has(item)]
        if lacks or (with_images and not item.has_image):
            left_out[f"no {lacks[0] if lacks else 'image'}"] += 1
            continue
        check_id(f"{item.id}-{seed_set + seeds - 1}", item, dataset)
        kept.append(item)
    if not kept:
        reasons = "; ".join(f"{count} have {reason}" for reason, count in left_out.items()) or "the folder has no items"
        raise NothingToAskError(f"{dataset.root}: no item has {' and '.join(conditions)} ({reasons})")
    asked = tuple(
        PlannedRequest(f"{item.id}-{seed}", request_seed(name, item.id, seed), item)
        for seed in range(seed_set, seed_set + seeds)
        for item in kept
    )
    return RequestSet(name, dataset, tuple(conditions), image_size, asked, dict(left_out), options or {})
