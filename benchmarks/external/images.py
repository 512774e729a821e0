"""Images that somebody else's program made: what folders and commands share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from concord.benchmarks.external.exchange import COSTS, Declared, read_answer
from concord.benchmarks.run.image_source import GeneratedBatch, ImageSource

if TYPE_CHECKING:
    from concord.benchmarks.plan.requests import PlannedRequest


class ExternalSource(ImageSource):
    """What both kinds share: the costs that were declared, and those that Concord measured itself."""

    declared = Declared()
    measured: Mapping[str, float]

    def shard_facts(self, n: int) -> dict[str, object]:
        """Costs of the shard of n images: declared where they were, else measured, else not known."""
        declared, measured = self.declared, self.measured
        values: dict[str, float] = {}
        costs = {}
        for cost in COSTS:
            said = getattr(declared, cost)
            costs[cost] = "declared" if said is not None else "measured" if cost in measured else "not known"
            values[cost] = said if said is not None else measured.get(cost, 0)
        return {
            "time": {"generate": round(values["seconds_per_image"] * n, 4)},
            "peak_memory_bytes": int(values["peak_memory_bytes"]),
            "evaluations": {name: count * n for name, count in declared.evaluations_per_image.items()},
            "costs": costs,
            "provenance": {
                "device": declared.device or "not declared",
                "code": declared.code or "not declared",
                "weights": declared.weights,
            },
        }


class FolderSource(ExternalSource):
    """Images that somebody else made."""

    measured: Mapping[str, float] = {}

    def __init__(self, paths: Mapping[str, Path], size: int, declared: Declared) -> None:
        self.paths, self.size, self.declared = paths, size, declared

    def prepare(self, batch: Sequence[PlannedRequest]) -> object:
        import numpy as np

        return np.stack([read_answer(self.paths[request.id], self.size) for request in batch])

    def make(self, prepared: Any, tell: bool) -> GeneratedBatch:
        return GeneratedBatch(prepared)
