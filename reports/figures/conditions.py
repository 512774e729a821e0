"""The conditions of the requests that a sample grid shows: read from the dataset once, then kept beside the report.

A report is made from the store; the store keeps images and scores, not the masks and captions that were asked for.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from concord.benchmarks.store.digests import check_regular, make_way
from concord.data.conditions.base import Condition, get_condition, make_conditions
from concord.data.datasets.item import Dataset, Item
from concord.data.errors import ConcordError
from concord.data.files import atomic_path
from concord.data.notes import note
from concord.data.npz import read_npz
from concord.data.request import Conditions, read_conditions

if TYPE_CHECKING:
    from concord.benchmarks.store.run import Run


class DatasetConditions(dict[str, Conditions]):
    """The conditions of the grid's requests, and, when asked, one after the other, those of every request.

    The grid's are held, and kept beside the report; 3,000 images are not: they go into the viewer's sheets.
    """

    def __init__(self, run: Run, items: Sequence[Item], grid: int, conditions: Mapping[str, Condition[object]]) -> None:
        self.run, self.answered, self.conditions = run, items, conditions
        self.size = int(run.manifest["image_size"])
        super().__init__(
            (request, self._conditions(item)) for request, item in zip(run.ids[:grid], items, strict=False)
        )

    def every(self) -> Iterator[tuple[str, Conditions]]:
        """(request, conditions) in the order of the requests; read as they are asked for."""
        for request, item in zip(self.run.ids, self.answered, strict=True):
            yield request, self.get(request) or self._conditions(item)

    def texts(self) -> list[str]:
        """The caption of every request, '' where there is none."""
        return [item.text or "" for item in self.answered] if "text" in self.conditions else []

    def _conditions(self, item: Item) -> Conditions:
        there = {name: condition for name, condition in self.conditions.items() if condition.has(item)}
        return read_conditions(item, there, self.size)


def dataset_conditions(
    dataset: Dataset[Any],
    run: Run,
    grid: int,
    names: Sequence[str] = ("text", "mask"),
    options: Mapping[str, Mapping[str, object]] | None = None,
) -> DatasetConditions:
    """The conditions of a run's first `grid` requests, where the dataset has them; `every()` gives all.

    names, options: the conditions of the request set, and what its suite says about them. ConcordError when the folder
    is not the one that was answered.
    """
    conditions = make_conditions(names, options)
    parts = {part for condition in conditions.values() for part in condition.reads}
    answered = [dataset[request.rsplit("-", 1)[0]].restricted_to(parts) for request in run.ids]
    now = dataset.with_items(answered)
    made_from = run.manifest.get("key_parts", {}).get("data", "")  # by bytes; older runs know names and sizes alone
    if now.listing != run.manifest["data"]["fingerprint"] or (made_from and now.fingerprint != made_from):
        raise ConcordError(f"{dataset.root}: has changed since the images were made; run the suite again")
    return DatasetConditions(run, answered, grid, conditions)


def keep_conditions(folder: Path, request_set: str, conditions: Mapping[str, Conditions]) -> None:
    """Write <folder>/conditions-<request set>.npz, unless it holds the same already."""
    arrays: dict[str, Any] = {"requests": np.array(list(conditions))}
    for index, given in enumerate(conditions.values()):
        for name, value in given.items():
            packed = get_condition(name).pack(value)
            arrays.update({f"{index}/{name}/{part}": array for part, array in packed.items()})
    content = io.BytesIO()
    np.savez_compressed(content, **arrays, sha256=np.array(_digest(arrays)))
    path = folder / f"conditions-{request_set}.npz"
    make_way(path)
    if path.is_symlink() or not path.is_file() or path.read_bytes() != content.getvalue():
        with atomic_path(path) as temporary:
            temporary.write_bytes(content.getvalue())


def kept_conditions(folder: Path, request_set: str, ids: Sequence[str]) -> Mapping[str, Conditions]:
    """What `keep_conditions` wrote, for these requests; empty when it is missing, broken or about other requests."""
    path = folder / f"conditions-{request_set}.npz"
    if not path.exists():
        return {}
    packed: dict[int, dict[str, dict[str, np.ndarray]]] = {}
    try:
        check_regular(path)
        arrays = read_npz(path)
        if str(arrays.pop("sha256", "")) != _digest(arrays):
            raise ConcordError(f"{path}: another digest")
        requests = [str(request) for request in arrays.pop("requests")]
        for key, array in arrays.items():
            index, name, part = key.split("/")
            packed.setdefault(int(index), {}).setdefault(name, {})[part] = array
        found = {
            requests[index]: Conditions(**{name: get_condition(name).unpack(parts) for name, parts in named.items()})
            for index, named in packed.items()
        }
    except (OSError, ValueError, KeyError, IndexError, TypeError, ConcordError):
        note(f"{path}: was broken; it is made anew where the dataset can be read")
        return {}
    return {request: found[request] for request in ids if request in found}


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, types, shapes and contents."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        found.update(f"{name} {array.dtype.str} {array.shape}\0".encode() + array.tobytes())
    return found.hexdigest()
