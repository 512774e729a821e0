"""The conditions of the requests that a sample grid shows: read from the dataset once, then kept beside the report.

A report is made from the store; the store keeps images and scores, not the masks and captions that were asked for.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from concord.data.errors import ConcordError
from concord.data.files import atomic_path
from concord.data.request import Conditions

if TYPE_CHECKING:
    from concord.benchmarks.store.run import Run
    from concord.data.datasets.faces.dataset import FaceDataset
    from concord.data.datasets.layouts.dataset import LayoutDataset
    from concord.data.datasets.layouts.layout import Layout

Shown = Mapping[str, Conditions]
PICTURED = ("identity", "landmarks", "style", "source_image")
"""Conditions, besides text, mask, masked image and layout, that a sample grid can show."""


class DatasetConditions(dict[str, Conditions]):
    """The conditions of the grid's requests, and, when asked, one after the other, those of every request.

    The grid's are held, and kept beside the report; 3,000 pictures of people are not: they go into the viewer's sheets.
    """

    def __init__(
        self, run: Run, items: Sequence[Any], grid: int, names: Sequence[str], patches: int | None = None
    ) -> None:
        self.run, self.faces, self.names, self.patches = run, items, names, patches
        self.size = int(run.manifest["image_size"])
        super().__init__(
            (request, self._conditions(item)) for request, item in zip(run.ids[:grid], items, strict=False)
        )

    def every(self) -> Iterator[tuple[str, Conditions]]:
        """(request, conditions) in the order of the requests; read as they are asked for."""
        for request, item in zip(self.run.ids, self.faces, strict=True):
            yield request, self.get(request) or self._conditions(item)

    def texts(self) -> list[str]:
        """The caption of every request, '' where there is none."""
        return [item.text or "" for item in self.faces] if "text" in self.names else []

    def _conditions(self, item: Any) -> Conditions:
        from concord.benchmarks.restoration import masked_image

        found: dict[str, Any] = {"text": item.text}
        for name in self.names:
            if name == "text" or not getattr(item, f"has_{name}", False):
                continue
            if name == "masked_image":
                found[name] = masked_image(item, self.patches, self.size) if self.patches else None
            elif name == "source_image":
                found[name] = item.image(self.size)
            elif name == "layout":
                found[name] = item.layout
            else:
                found[name] = getattr(item, name)(self.size)
        return Conditions(**found)


def read_conditions(
    dataset: FaceDataset | LayoutDataset,
    run: Run,
    grid: int,
    names: Sequence[str] = ("text", "mask"),
    patches: int | None = None,
) -> DatasetConditions:
    """The conditions of a run's first `grid` requests, where the dataset has them; `every()` gives all.

    names: the conditions of the request set. patches: how many its masked images hide. ConcordError when the folder is
    not the one that was answered.
    """
    whole: Any = dataset
    answered = [dataset[request.rsplit("-", 1)[0]].kept_for(names) for request in run.ids]
    if replace(whole, items=answered).fingerprint != run.manifest["data"]["fingerprint"]:
        raise ConcordError(f"{dataset.root}: has changed since the images were made; run the suite again")
    return DatasetConditions(run, answered, grid, names, patches)


def keep_conditions(folder: Path, request_set: str, conditions: Mapping[str, Conditions]) -> None:
    """Write <folder>/conditions-<request set>.npz, unless it holds the same already."""
    arrays: dict[str, Any] = {
        "requests": np.array(list(conditions)),
        "text": np.array([given.text or "" for given in conditions.values()]),
    }
    for index, given in enumerate(conditions.values()):
        if given.mask is not None:
            arrays[f"mask-{index}"] = given.mask.astype(np.uint8)
        for name in PICTURED:
            if getattr(given, name) is not None:
                arrays[f"{name}-{index}"] = getattr(given, name)
        if given.masked_image is not None:
            arrays[f"masked-{index}"], arrays[f"known-{index}"] = given.masked_image
        if given.layout is not None:
            arrays[f"boxes-{index}"] = given.layout.boxes
            arrays[f"labels-{index}"] = np.array([given.layout.caption, *given.layout.labels])
            if given.layout.interactions:
                arrays[f"interactions-{index}"] = np.array([[str(x) for x in one] for one in given.layout.interactions])
            triples = [[str(part) for part in triple] for triple in given.layout.interactions]
            arrays[f"interactions-{index}"] = np.array(triples, dtype=np.str_).reshape(-1, 3)
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    path = folder / f"conditions-{request_set}.npz"
    if not path.is_file() or path.read_bytes() != content.getvalue():
        with atomic_path(path) as temporary:
            temporary.write_bytes(content.getvalue())


def kept_conditions(folder: Path, request_set: str, ids: Sequence[str]) -> Shown:
    """What `keep_conditions` wrote, for these requests; empty when it is missing or about other requests."""
    try:
        with np.load(folder / f"conditions-{request_set}.npz", allow_pickle=False) as file:
            found = {
                str(request): Conditions(
                    text=str(text) or None,
                    mask=file[f"mask-{index}"].astype(np.int64) if f"mask-{index}" in file else None,
                    layout=_layout(file, index),
                    masked_image=_masked_image(file, index),
                    **{name: file[f"{name}-{index}"] for name in PICTURED if f"{name}-{index}" in file},
                )
                for index, (request, text) in enumerate(zip(file["requests"], file["text"], strict=True))
            }
    except (OSError, ValueError, KeyError):
        return {}
    return {request: found[request] for request in ids if request in found}


def _layout(file: Any, index: int) -> Layout | None:
    if f"boxes-{index}" not in file:
        return None
    from concord.data.datasets.layouts.layout import Layout

    caption, *labels = (str(text) for text in file[f"labels-{index}"])
    triples = file[f"interactions-{index}"].tolist() if f"interactions-{index}" in file else []
    return Layout.of(caption, file[f"boxes-{index}"], labels, "", [(int(s), str(k), int(o)) for s, k, o in triples])


def _masked_image(file: Any, index: int) -> tuple[np.ndarray, np.ndarray] | None:
    return (file[f"masked-{index}"], file[f"known-{index}"]) if f"masked-{index}" in file else None
