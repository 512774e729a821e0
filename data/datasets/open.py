"""Opening a dataset of either kind: the one place that knows all kinds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from concord.data.datasets.item import Dataset
from concord.data.errors import ConcordError

Kind = Literal["faces", "layouts"]


def open_dataset(kind: str, folder: Path, bench: str | None = None) -> Dataset[Any]:
    """The dataset of that kind in a folder. bench: the published file that its layouts have to be."""
    if kind == "layouts":
        from concord.data.datasets.layouts.dataset import open_layout_items

        return open_layout_items(folder, bench)
    if kind == "faces":
        from concord.data.datasets.faces.open import open_faces

        return open_faces(folder)
    raise ConcordError(f"dataset '{kind}': expected one of faces, layouts")


def kind_of(folder: Path) -> Kind:
    """Which kind of dataset a folder holds, by the names of its files."""
    from concord.data.synthetic.scenes.tree import is_layouts

    return "layouts" if is_layouts(folder) else "faces"
