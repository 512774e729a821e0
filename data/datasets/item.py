"""What every dataset's items offer, and every dataset: a condition reads from these and knows no format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import numpy as np

from concord.data.errors import ConcordError

if TYPE_CHECKING:
    from concord.data.datasets.layouts.layout import Layout

PARTS = ("image", "text", "mask", "identity", "landmarks", "style", "layout")
"""What an item may have; a condition states which of them it reads (`Condition.reads`)."""


class Item(ABC):
    """One item of a dataset. What its dataset does not know of is absent; asking for it all the same is an error."""

    __slots__ = ()

    id: str
    text: str | None  # a caption

    @property
    def has_image(self) -> bool:
        return False

    @property
    def has_mask(self) -> bool:
        return False

    @property
    def has_identity(self) -> bool:
        return False

    @property
    def has_landmarks(self) -> bool:
        return False

    @property
    def has_layout(self) -> bool:
        return False

    def image(self, size: int | None = None) -> np.ndarray:
        """The item's own image, uint8 (size, size, 3) RGB; in its own size where none is given."""
        raise self._lacks("image")

    def mask(self, size: int | None = None) -> np.ndarray:
        """Classes, int64 (size, size), CelebAMask-HQ order."""
        raise self._lacks("mask")

    def identity(self, size: int | None = None) -> np.ndarray:
        """An image of the person, uint8 (size, size, 3) RGB."""
        raise self._lacks("image of its person")

    def landmarks(self, size: int | None = None) -> np.ndarray:
        """68 points in iBUG order, float32 (68, 2), in pixels of an image of that size (pixel centres at .5)."""
        raise self._lacks("landmarks")

    def layout_of(self) -> Layout:
        """Boxes with their labels."""
        raise self._lacks("layout")

    def style(self, size: int) -> np.ndarray | None:
        """The item's own style reference, uint8 (size, size, 3) RGB; None where it has none."""
        return None

    def facts(self) -> dict[str, Any]:
        """What a run's record says of the item beside its id."""
        return {}

    def restricted_to(self, parts: Collection[str]) -> Self:
        """The item without the files that only other parts than these read; those of a table's rows stay."""
        return self

    def _lacks(self, what: str) -> ConcordError:
        return ConcordError(f"item {self.id}: its dataset has no {what}; leave the condition out")


I = TypeVar("I", bound=Item)


class Dataset(ABC, Generic[I]):
    """Items in an order, read from `root`. `name` is what results of a user's own folder are called after."""

    root: Path
    name: str
    items: list[I]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[I]:
        return iter(self.items)

    @abstractmethod
    def __getitem__(self, item: str) -> I:
        """The item of that id; ConcordError when there is none."""

    @property
    @abstractmethod
    def listing(self) -> str:
        """SHA-256 over what the items are called and say, and the names and sizes of their files: nothing is read."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 over the listing and the bytes of every file that the items read."""

    @abstractmethod
    def with_items(self, items: Sequence[I]) -> Self:
        """The dataset with these of its items."""
