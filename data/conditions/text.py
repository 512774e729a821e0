"""A caption."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from concord.data.conditions.base import Condition, entry_file, register
from concord.data.datasets.item import Item
from concord.data.errors import ConcordError


@register
class Text(Condition[str]):
    """A caption, never empty."""

    name, title, order = "text", "Caption", 10
    datasets = frozenset({"faces", "layouts"})
    reads = frozenset({"text"})
    format = "`text/<id>.txt`: the caption, UTF-8; also inline, as `value`."
    drawing = "none"

    @classmethod
    def has(cls, item: Item) -> bool:
        return item.text is not None

    def read(self, item: Item, size: int) -> str:
        if item.text is None:
            raise ConcordError(f"item {item.id}: has no caption; expected one in the dataset's caption file")
        return item.text

    @classmethod
    def check(cls, value: str) -> None:
        if not isinstance(value, str):
            raise ConcordError(f"condition 'text' is a {type(value).__name__}: expected a caption, a string")
        if not value.strip():
            raise ConcordError("condition 'text' is empty: expected a caption, or leave the condition out")

    @classmethod
    def pack(cls, value: str) -> dict[str, np.ndarray]:
        return {"utf8": np.frombuffer(value.encode("utf-8", "surrogatepass"), np.uint8)}

    @classmethod
    def unpack(cls, arrays: Mapping[str, np.ndarray]) -> str:
        return arrays["utf8"].tobytes().decode("utf-8", "surrogatepass")

    @classmethod
    def write(cls, value: str, folder: Path, stem: str) -> dict[str, Any]:
        (folder / f"{stem}.txt").write_text(value, encoding="utf-8", newline="")
        return {"file": f"{stem}.txt", "value": value}

    @classmethod
    def parse(cls, entry: Mapping[str, object], folder: Path) -> str:
        path = entry_file(entry, folder, cls.name)
        try:
            return path.read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConcordError(f"{path}: cannot be read ({error}); export the suite again") from None

    @classmethod
    def example(cls, index: int) -> str:
        from concord.data.synthetic import face

        return face(index).captions.beard_and_age
