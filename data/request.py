"""What is asked of a method: conditions, and requests that carry their own seed.

A sample depends on its own request alone (never on rank, batch size or order): the seed is a hash of what the
request is, and noise is drawn from it by a generator of its own (methods/core/noise.py).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from concord.data.errors import ConcordError


@dataclass(frozen=True)
class Conditions:
    """What one image has to agree with; None where a condition is absent.

    text: a caption, never empty.
    mask: int64 (H, W), classes 0..18 in the CelebAMask-HQ order (data/labels.py).
    identity: float32 (D,) identity vector, or uint8 (H, W, 3) RGB image of the person.
    landmarks: float32 (68, 2), x and y in pixels, pixel centres at .5, iBUG order.
    style: uint8 (H, W, 3) RGB reference image.
    layout: boxes with labels (data/datasets/layouts/layout.py).
    masked_image: uint8 (H, W, 3) RGB with a bool (H, W) array of what is known, as a pair.
    source_image: uint8 (H, W, 3) RGB image to be edited.
    """

    text: str | None = None
    mask: np.ndarray | None = None
    identity: np.ndarray | None = None
    landmarks: np.ndarray | None = None
    style: np.ndarray | None = None
    layout: Any | None = None
    masked_image: tuple[np.ndarray, np.ndarray] | None = None
    source_image: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.text is not None and not self.text.strip():
            raise ConcordError("condition 'text' is empty: expected a caption, or leave the condition out")
        if self.mask is not None:
            if self.mask.ndim != 2 or not np.issubdtype(self.mask.dtype, np.integer):
                raise ConcordError(
                    f"condition 'mask' has shape {self.mask.shape} and type {self.mask.dtype}: "
                    "expected integer class labels of shape (H, W)"
                )
            low, high = int(self.mask.min()), int(self.mask.max())
            if low < 0 or high > 18:
                raise ConcordError(
                    f"condition 'mask' holds class {high if high > 18 else low}: expected 0..18 (data/labels.py)"
                )

    def names(self) -> tuple[str, ...]:
        """The conditions that are present, in the order of `CONDITION_NAMES`."""
        return tuple(name for name in CONDITION_NAMES if getattr(self, name) is not None)


CONDITION_NAMES: tuple[str, ...] = tuple(field.name for field in fields(Conditions))


@dataclass(frozen=True)
class Request:
    """One image to be made. `id` is unique within its request set: '<item>-<repetition>'."""

    id: str
    seed: int
    conditions: Conditions

    @classmethod
    def make(cls, suite: str, item: str, repetition: int, conditions: Conditions) -> Request:
        """The request for one item of a suite; the seed follows from (suite, item, repetition)."""
        return cls(f"{item}-{repetition}", request_seed(suite, item, repetition), conditions)


def request_seed(suite: str, item: str, repetition: int) -> int:
    """A 63-bit seed: the first 8 bytes of SHA-256 over (suite, item, repetition), sign bit cleared."""
    digest = hashlib.sha256(f"{suite}\x00{item}\x00{repetition}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
