"""The identity that an image has to show."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from concord.data.conditions.base import Condition, entry_file, read_png, register, write_png
from concord.data.datasets.item import Item
from concord.data.errors import ConcordError


@register
class Identity(Condition[np.ndarray]):
    """float32 (D,) identity vector, or uint8 (H, W, 3) RGB image of the person."""

    name, title, order = "identity", "Identity", 30
    reads = frozenset({"identity"})
    format = "`identity/<id>.png`: an image of the person, RGB; or `identity/<id>.npy`: a vector, float32 `(D,)`."
    checked_first = True

    @classmethod
    def has(cls, item: Item) -> bool:
        return item.has_identity

    def read(self, item: Item, size: int) -> np.ndarray:
        return item.identity(size)

    @classmethod
    def write(cls, value: np.ndarray, folder: Path, stem: str) -> dict[str, Any]:
        if value.ndim == 1:
            np.save(folder / f"{stem}.npy", np.asarray(value, np.float32), allow_pickle=False)
            return {"file": f"{stem}.npy"}
        write_png(folder / f"{stem}.png", value)
        return {"file": f"{stem}.png"}

    @classmethod
    def parse(cls, entry: Mapping[str, object], folder: Path) -> np.ndarray:
        path = entry_file(entry, folder, cls.name)
        if path.suffix == ".png":
            return read_png(path, "RGB")
        try:
            return np.asarray(np.load(path, allow_pickle=False), np.float32)
        except (OSError, ValueError, EOFError) as error:
            raise ConcordError(f"{path}: cannot be read ({error}); export the suite again") from None

    @classmethod
    def draw(cls, value: np.ndarray, truth: np.ndarray | None, side: int) -> np.ndarray | None:
        return np.asarray(value) if np.ndim(value) == 3 else None

    @classmethod
    def example(cls, index: int) -> np.ndarray:
        from concord.data.synthetic import face

        return face(index).image
