"""The conditions of the requests that a sample grid shows: read from the dataset once, then kept beside the report.

A report is made from the store; the store keeps images and scores, not the masks and captions that were asked for.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.errors import ConcordError
from data.files import atomic_path
from data.requests import Conditions

if TYPE_CHECKING:
    from benchmarks.store import Run
    from data.faces import FaceDataset

Shown = dict[str, Conditions]
PICTURED = ("identity", "landmarks", "style")
"""Conditions, besides text and mask, that a sample grid can show."""


def read_conditions(dataset: FaceDataset, run: Run, grid: int, names: Sequence[str] = ("text", "mask")) -> Shown:
    """The conditions of a run's first `grid` requests, where the dataset has them.

    names: the conditions of the request set. ConcordError when the folder is not the one that was answered.
    """
    answered = [dataset[request.rsplit("-", 1)[0]].kept_for(names) for request in run.ids]
    if replace(dataset, items=answered).fingerprint != run.manifest["data"]["fingerprint"]:
        raise ConcordError(f"{dataset.root}: has changed since the images were made; run the suite again")
    size = int(run.manifest["image_size"])
    found = {}
    for request, item in zip(run.ids[:grid], answered, strict=False):
        found[request] = Conditions(
            text=item.text,
            mask=item.mask(size) if item.has_mask and "mask" in names else None,
            **{name: getattr(item, name)(size) for name in PICTURED if name in names and getattr(item, f"has_{name}")},
        )
    return found


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
                    **{name: file[f"{name}-{index}"] for name in PICTURED if f"{name}-{index}" in file},
                )
                for index, (request, text) in enumerate(zip(file["requests"], file["text"], strict=True))
            }
    except (OSError, ValueError, KeyError):
        return {}
    return {request: found[request] for request in ids if request in found}
