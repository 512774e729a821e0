"""A segmentation mask of a face."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from concord.data.conditions.base import Condition, entry_file, read_png, register, write_png
from concord.data.datasets.item import Item
from concord.data.errors import ConcordError
from concord.data.images import reduce_labels
from concord.data.labels import CELEBAMASK_HQ, CLASSES, HUMAN_NAMES, PALETTE, colourise


@register
class Mask(Condition[np.ndarray]):
    """Classes, int64 (H, W), 0..18 in the CelebAMask-HQ order (data/labels.py)."""

    name, title, order = "mask", "Mask", 20
    reads = frozenset({"mask"})
    format = f"`mask/<id>.png`: 8-bit grey, the grey level *is* the class, 0 to {CLASSES - 1} (list below)."
    note = "Classes of a mask (CelebAMask-HQ order): {}.".format(
        ", ".join(f"{number} {name}" for number, name in enumerate(CELEBAMASK_HQ))
    )
    drawing = "classes"
    checked_first = cached = True

    @classmethod
    def has(cls, item: Item) -> bool:
        return item.has_mask

    def read(self, item: Item, size: int) -> np.ndarray:
        return item.mask(size)

    def read_finer(self, item: Item, size: int, side: int) -> np.ndarray:
        own = item.mask()
        return reduce_labels(own, side) if len(own) >= side else self.read(item, size)

    @classmethod
    def check(cls, value: np.ndarray) -> None:
        if not isinstance(value, np.ndarray) or value.ndim != 2 or not np.issubdtype(value.dtype, np.integer):
            what = f"shape {np.shape(value)} and type {getattr(value, 'dtype', type(value).__name__)}"
            raise ConcordError(f"condition 'mask' has {what}: expected integer class labels of shape (H, W)")
        if not value.size:
            raise ConcordError(f"condition 'mask' has shape {value.shape}: expected at least one pixel")
        low, high = int(value.min()), int(value.max())
        if low < 0 or high >= CLASSES:
            raise ConcordError(
                f"condition 'mask' holds class {high if high >= CLASSES else low}: expected 0..{CLASSES - 1} "
                "(data/labels.py)"
            )

    @classmethod
    def pack(cls, value: np.ndarray) -> dict[str, np.ndarray]:
        return {"classes": value.astype(np.uint8)}

    @classmethod
    def unpack(cls, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        return arrays["classes"].astype(np.int64)

    @classmethod
    def write(cls, value: np.ndarray, folder: Path, stem: str) -> dict[str, Any]:
        write_png(folder / f"{stem}.png", value.astype(np.uint8))
        return {"file": f"{stem}.png"}

    @classmethod
    def parse(cls, entry: Mapping[str, object], folder: Path) -> np.ndarray:
        return read_png(entry_file(entry, folder, cls.name), "L").astype(np.int64)

    @classmethod
    def draw(cls, value: np.ndarray, truth: np.ndarray | None, side: int) -> np.ndarray:
        return colourise(value)

    @classmethod
    def legend(cls, values: Sequence[np.ndarray]) -> list[tuple[str, str]]:
        """The classes that occur in these masks."""
        occurring = sorted({int(number) for mask in values for number in np.unique(mask)})
        return [
            (HUMAN_NAMES[CELEBAMASK_HQ[number]], "#" + "".join(f"{int(part):02x}" for part in PALETTE[number]))
            for number in occurring
        ]

    @classmethod
    def example(cls, index: int) -> np.ndarray:
        from concord.data.synthetic import face

        return face(index).mask.astype(np.int64)
