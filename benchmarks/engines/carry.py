"""What travels to a worker beside the code: requests with their conditions as values, and files by their SHA-256.

Where the workers see this machine's files, requests stay references to a dataset. Where they do not, the driver reads
the conditions and sends values, so that no condition has to say which files it reads; weights, plugins and a user's own
profile go as files by their hash, which a node keeps.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from concord.benchmarks.engines.desk import Desk
from concord.benchmarks.plan.requests import PlannedRequest, RequestSet
from concord.benchmarks.plan.runs import RunPlan
from concord.benchmarks.plan.sources import Sources, method_file
from concord.benchmarks.store.shards import SHARD_SIZE
from concord.data.checkpoints import EMBEDDED, card_path
from concord.data.content import content_hash
from concord.data.datasets.item import Dataset, Item
from concord.data.profile import FOLDER, load_profile
from concord.data.weight_names import locate

if TYPE_CHECKING:
    pass

# ------------------------------------------------------------------------------------------------------------ requests


class NoFiles(Dataset[Item]):
    """The place of a dataset whose items did not come along."""

    def __init__(self, name: str) -> None:
        self.root, self.name, self.items = Path(), name, []

    def __getitem__(self, item: str) -> Item:
        raise KeyError(item)

    @property
    def listing(self) -> str:
        raise NotImplementedError("the driver keeps the records of data")

    @property
    def fingerprint(self) -> str:
        raise NotImplementedError("the driver keeps the records of data")

    def with_items(self, items: Sequence[Item]) -> Self:
        return self


class CarriedItem(Item):
    """An item of which nothing but its id, and perhaps its own picture, came along."""

    __slots__ = ("_image", "id", "text")

    def __init__(self, id: str, image: np.ndarray | None = None) -> None:
        self.id, self.text, self._image = id, None, image

    @property
    def has_image(self) -> bool:
        return self._image is not None

    def image(self, size: int | None = None) -> np.ndarray:
        if self._image is None or size not in (None, len(self._image)):
            raise self._lacks("image of that size here")
        return self._image


@dataclass(frozen=True)
class SomeShards(RequestSet):
    """The requests of some shards, each shard under its own number. values: (condition, request) -> packed value.

    numbers: of the shards, in their order. Without values the conditions are read from the items.
    """

    numbers: tuple[int, ...] = ()
    values: Mapping[tuple[str, str], Mapping[str, np.ndarray]] | None = None

    @cached_property
    def shards(self) -> list[tuple[PlannedRequest, ...]]:
        """As of the whole request set; those that did not come along are empty."""
        found: list[tuple[PlannedRequest, ...]] = [() for _ in range(max(self.numbers) + 1)]
        for place, number in enumerate(self.numbers):
            found[number] = self.requests[place * SHARD_SIZE : (place + 1) * SHARD_SIZE]
        return found

    def _value(self, request: PlannedRequest, name: str) -> Any:
        if self.values is None:
            return super()._value(request, name)
        return self.readers[name].unpack(self.values[name, request.id])


def some_shards(
    requests: RequestSet, numbers: Sequence[int], names: Iterable[str], by_value: bool, images: bool = False
) -> SomeShards:
    """The part of a request set that a work is about.

    names: conditions that it needs. by_value: read here, for a worker that does not see the dataset. images: with the
    items' own pictures.
    """
    chosen = tuple(request for number in numbers for request in requests.shards[number])
    values: dict[tuple[str, str], Mapping[str, np.ndarray]] | None = None
    dataset: Dataset[Any] = requests.dataset.with_items([request.item for request in chosen])
    if by_value:
        values = {}
        for request in chosen:
            conditions = requests.conditions_of(request, names)
            for name in names:
                values[name, request.id] = requests.readers[name].pack(getattr(conditions, name))
        size, dataset = requests.image_size, NoFiles(requests.dataset.name)
        chosen = tuple(
            replace(one, item=CarriedItem(one.item.id, one.item.image(size) if images and one.item.has_image else None))
            for one in chosen
        )
    return SomeShards(
        requests.name,
        dataset,
        requests.conditions,
        requests.image_size,
        chosen,
        {},
        requests.options,
        numbers=tuple(numbers),
        values=values,
    )


# --------------------------------------------------------------------------------------------------------------- files


@dataclass(frozen=True)
class Files:
    """Files that a worker needs, as names -> SHA-256, and where each lies on the driver's machine.

    weights: name of weights -> (what a loader is given, its files). mirror: absolute path here -> SHA-256, of plugins,
    of what they read, and of a user's profile.
    """

    weights: Mapping[str, tuple[str, Mapping[str, str]]] = field(default_factory=dict)
    mirror: Mapping[str, str] = field(default_factory=dict)
    blobs: Mapping[str, str] = field(default_factory=dict)


def files_for(profile: str, weights: Iterable[str], sources: Sources) -> Files:
    """The files behind names of weights and behind the code of others; ConcordError where one is missing."""
    found, blobs = load_profile(profile), dict[str, str]()
    by_name: dict[str, tuple[str, Mapping[str, str]]] = {}
    for name in weights:
        place = locate(name, found)
        if place.is_dir():
            files = {path.relative_to(place.parent).as_posix(): path for path in place.rglob("*") if path.is_file()}
        else:
            beside = [card_path(name)] if place.parent == EMBEDDED else []
            files = {path.name: path for path in [place, *beside] if path.is_file()}
        by_name[name] = (place.name, {inside: _hashed(path, blobs) for inside, path in files.items()})
    others = [*sources.foreign_files, *sources.declared.values()]
    if found.path.parent != FOLDER:
        others.append(found.path)
    mirror = {str(path): _hashed(path, blobs) for path in dict.fromkeys(path.resolve() for path in others)}
    return Files(by_name, mirror, blobs)


def _hashed(path: Path, blobs: dict[str, str]) -> str:
    digest = content_hash(path)
    blobs[digest] = str(path)
    return digest


@dataclass(frozen=True)
class Placed:
    """Where a worker has what came along. root: of the mirror; None where it sees the driver's own files."""

    weights: Mapping[str, Path] | None = None
    root: Path | None = None

    def here(self, path: Path) -> Path:
        """A file of the driver's machine on this one."""
        return path if self.root is None else self.root / str(path).lstrip("/")

    def there(self, name: str) -> str:
        """A file of this machine as the driver's machine calls it."""
        if self.root is None or not Path(name).is_relative_to(self.root):
            return name
        return "/" + Path(name).relative_to(self.root).as_posix()


def place(files: Files, desk: Desk, profile: str) -> Placed:
    """Lay out what came along; nothing on a machine that sees the driver's files."""
    if desk.node is None:
        return Placed()
    weights = {name: desk.node.tree(inside) / first for name, (first, inside) in files.weights.items()}
    root = desk.node.tree({path.lstrip("/"): digest for path, digest in files.mirror.items()})
    for path in files.mirror:
        if path.endswith((".yaml", ".yml")) and Path(path).stem == profile:
            load_profile(root / path.lstrip("/"))
    return Placed(weights, root.resolve())


def plugin_path(run: RunPlan) -> Path | None:
    """The file of a row's method where it is none of Concord's own."""
    from concord.benchmarks.run.foreign import plugin_file

    if run.row.method is None or plugin_file(run.row.method) is None:
        return None
    return method_file(run.row.method).resolve()


def load_method(name: str, plugin: Path | None, placed: Placed) -> None:
    """Register a row's method in this process."""
    from concord.methods.base import all_methods
    from concord.methods.plugins import load_plugin

    if name not in all_methods():
        load_plugin(placed.here(plugin or Path(f"{name}.py")))


def in_chunks(numbers: Collection[int], size: int) -> Iterator[tuple[int, ...]]:
    """Numbers in lots of that size."""
    ordered = sorted(numbers)
    for start in range(0, len(ordered), size):
        yield tuple(ordered[start : start + size])


def named(chunk: Sequence[int]) -> str:
    """Shards in words."""
    return f"shard {chunk[0]}" if len(chunk) == 1 else f"shards {chunk[0]} to {chunk[-1]}"
