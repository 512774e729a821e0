"""Metrics: one file each, and the networks that they measure with. `concord.metrics.evaluate(...)` scores any two
folders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concord.metrics.evaluation import evaluate

__all__ = ["evaluate"]


def __getattr__(name: str) -> Any:
    """`evaluate`, imported when it is first used: every command imports this package."""
    if name == "evaluate":
        from concord.metrics.evaluation import evaluate

        return evaluate
    raise AttributeError(f"module 'metrics' has no attribute '{name}'")
