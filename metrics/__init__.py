"""Metrics: one file each, in folders by what they look at, and the networks that they measure with.

`concord.metrics.evaluate(...)` scores any two folders of images. `base` has the contract (`SampleMetric`,
`SetMetric`, `Observation`, `register`) and the registry; a folder's shared step (parsing, embedding, landmarks)
stands in one of its modules. May import `concord.data` alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concord.metrics.api import evaluate

__all__ = ["evaluate"]


def __getattr__(name: str) -> Any:
    """`evaluate`, imported when it is first used: every command imports this package."""
    if name == "evaluate":
        from concord.metrics.api import evaluate

        return evaluate
    raise AttributeError(f"module 'metrics' has no attribute '{name}'")
