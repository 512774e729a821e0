"""Metrics: one file each, and the networks that they measure with. `metrics.evaluate(...)` scores any two folders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metrics.evaluation import evaluate

__all__ = ["evaluate"]


def __getattr__(name: str) -> Any:
    """`evaluate`, imported when it is first used: every command imports this package."""
    if name == "evaluate":
        from metrics.evaluation import evaluate

        return evaluate
    raise AttributeError(f"module 'metrics' has no attribute '{name}'")
