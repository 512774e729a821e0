"""The requests of a suite: one image each, a seed and the conditions of one item of a dataset.

A *request set* is a list of requests over the items of a dataset. Values only: which dataset a suite reads is decided
in benchmarks/planner.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from concord.benchmarks.restoration import masked_image
from concord.benchmarks.store.shards import SHARD_SIZE
from concord.data.errors import ConcordError
from concord.data.request import Conditions, Request, request_seed

if TYPE_CHECKING:
    from concord.data.datasets.faces.dataset import FaceDataset, FaceItem
    from concord.data.datasets.layouts.dataset import LayoutDataset, LayoutItem

    Dataset = FaceDataset | LayoutDataset


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


@dataclass(frozen=True)
class PlannedRequest:
    """One image to be made, its conditions not yet read."""

    id: str
    seed: int
    item: FaceItem | LayoutItem

    def facts(self) -> dict[str, Any]:
        """What run.json says of it: of a layout also its number of instances and of interactions."""
        layout = getattr(self.item, "layout", None)
        known = {} if layout is None else {"level": layout.level, "interactions": len(layout.interactions)}
        return {"id": self.id, "seed": self.seed, **known}


@dataclass(frozen=True)
class RequestSet:
    """The requests of one name over one dataset, and their conditions, read once when first needed."""

    name: str
    dataset: Dataset
    conditions: tuple[str, ...]
    image_size: int
    requests: tuple[PlannedRequest, ...]
    left_out: dict[str, int] = field(default_factory=dict)  # reason -> how many items
    patches: int | None = None  # hidden from a masked image

    def __len__(self) -> int:
        return len(self.requests)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the files and captions that these requests read: a tree may grow without changing a run's key."""
        dataset: Any = self.dataset  # of either kind, its items are of the same
        whole = replace(dataset, items=[request.item.kept_for(self.conditions) for request in self.requests])
        return str(whole.fingerprint)

    @cached_property
    def content(self) -> str:
        """SHA-256 of the bytes of the files, and the captions, that these requests read."""
        dataset: Any = self.dataset
        whole = replace(dataset, items=[request.item.kept_for(self.conditions) for request in self.requests])
        return str(whole.content)

    @property
    def has_images(self) -> bool:
        return all(request.item.has_image for request in self.requests)

    @cached_property
    def shards(self) -> list[tuple[PlannedRequest, ...]]:
        """The requests in lots of 64."""
        return [self.requests[start : start + SHARD_SIZE] for start in range(0, len(self), SHARD_SIZE)]

    @cached_property
    def _masks(self) -> dict[str, np.ndarray]:
        """uint8 masks by request; all are read at once so that a bad one is known before any image is made."""
        if "mask" not in self.conditions:
            return {}
        return {request.id: self._face(request).mask(self.image_size).astype(np.uint8) for request in self.requests}

    def conditions_of(self, request: PlannedRequest, names: Iterable[str]) -> Conditions:
        """The named conditions of a request, at the profile's image size."""
        values: dict[str, Any] = {}
        for name in names:
            if name == "text":
                values["text"] = request.item.text
            elif name == "mask":
                values["mask"] = self._masks[request.id].astype(np.int64)
            elif name in ("identity", "landmarks"):
                values[name] = getattr(request.item, name)(self.image_size)
            elif name == "style":
                values["style"] = self._style(request)
            elif name == "masked_image" and self.patches is not None:
                values[name] = masked_image(self._face(request), self.patches, self.image_size)
            elif name == "source_image":
                values[name] = request.item.image(self.image_size).copy()
            elif name == "layout" and hasattr(request.item, "layout"):
                values[name] = request.item.layout
            else:
                raise ConcordError(
                    f"request set '{self.name}': dataset '{self.dataset.name}' gives no condition '{name}'"
                )
        return Conditions(**values)

    @staticmethod
    def _face(request: PlannedRequest) -> FaceItem:
        item: Any = request.item
        return item  # a suite whose dataset is another one asks for no such condition

    def _style(self, request: PlannedRequest) -> np.ndarray:
        if request.id not in self._styles:  # drawing one takes longer than looking at it
            self._styles[request.id] = request.item.style(self.image_size)
        return self._styles[request.id]

    @cached_property
    def _styles(self) -> dict[str, np.ndarray]:
        return {}

    def check(self) -> None:
        """Read every condition of every request once: bad input is known in seconds, not after an hour."""
        self.conditions_of(self.requests[0], self.conditions)
        for name in ("identity", "landmarks"):
            if name in self.conditions:
                for request in self.requests:
                    self.conditions_of(request, [name])

    def request(self, planned: PlannedRequest, names: Iterable[str]) -> Request:
        return Request(planned.id, planned.seed, self.conditions_of(planned, names))


def make_request_set(
    name: str, dataset: Dataset, conditions: Sequence[str], image_size: int, n: int, seed_set: int = 0,
    patches: int | None = None,
) -> RequestSet:  # fmt: skip
    """The first `n` items that have every condition, in the dataset's order.

    Where some items have a picture, items without one are left out too, so that all rows of the table, the
    ground truth included, answer the same requests. What was left out is counted by reason.
    """
    left_out: Counter[str] = Counter()
    with_images = any(item.has_image for item in dataset.items)
    kept: list[PlannedRequest] = []
    for item in dataset.items:
        if len(kept) == n:
            break
        lacks = [c for c in conditions if not getattr(item, f"has_{c}", False)]
        if lacks or (with_images and not item.has_image):
            left_out[f"no {lacks[0] if lacks else 'image'}"] += 1
            continue
        kept.append(PlannedRequest(f"{item.id}-{seed_set}", request_seed(name, item.id, seed_set), item))
    if not kept:
        reasons = "; ".join(f"{count} have {reason}" for reason, count in left_out.items()) or "the folder has no items"
        raise NothingToAskError(f"{dataset.root}: no item has {' and '.join(conditions)} ({reasons})")
    return RequestSet(name, dataset, tuple(conditions), image_size, tuple(kept), dict(left_out), patches)
