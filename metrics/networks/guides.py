"""The networks of FreeDoM's own distances, for the metrics named after them."""

from __future__ import annotations

from typing import Any


def guide_networks(perception: Any) -> Any:
    """FreeDoM's networks at the papers' scale, where they are others than the judges; the judges elsewhere."""
    return getattr(perception, "freedom", perception)
