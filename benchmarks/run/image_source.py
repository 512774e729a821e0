"""What makes the images of a run: a method, or a reference row (the item's own image, another item's image)."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from concord.benchmarks.plan.requests import PlannedRequest, RequestSet
from concord.benchmarks.run.meter import EvaluationCounter, wait_for
from concord.data.device import number_format

if TYPE_CHECKING:
    import torch

    from concord.methods.base import Method, Trace


@dataclass
class GeneratedBatch:
    """Images uint8 (B, H, W, 3) RGB, and what the method told on the way, each value (B, S, ...)."""

    images: np.ndarray
    steps: dict[str, list[int]] = field(default_factory=dict)
    traces: dict[str, np.ndarray] = field(default_factory=dict)
    parts: dict[str, tuple[str, ...]] = field(default_factory=dict)  # what the parts of (B, S, parts, ...) are called


class ImageSource(ABC):
    """Makes images batch by batch; the runner measures around it."""

    device: torch.device | None = None  # None: no network runs
    traces: tuple[str, ...] = ()

    @abstractmethod
    def prepare(self, batch: Sequence[PlannedRequest]) -> object:
        """Read what the batch needs from the dataset."""

    @abstractmethod
    def make(self, prepared: Any, tell: bool) -> GeneratedBatch:
        """The batch's images; `tell` asks for traces."""

    @property
    def step(self) -> int | None:
        """The sampler's last step of the batch that is being made, where it has told one."""
        return None

    def weights(self) -> dict[str, str]:
        """SHA-256 of the weight files used so far, by network."""
        return {}

    def files(self) -> dict[str, str]:
        """SHA-256 of the files that a plugin has opened so far, by path."""
        return {}

    def evaluations(self) -> dict[str, int]:
        """Network evaluations so far, by network."""
        return {}

    def shard_facts(self, n: int) -> dict[str, Any]:
        """What it knows better than the runner about the shard of n images that it has just made.

        Entries of the shard's JSON; `time` is merged with the measured one.
        """
        return {}

    def close(self) -> None:  # noqa: B027  # most makers attach nothing
        """Let go of what was attached."""


# ---------------------------------------------------------------------------------------------------------- references


class GroundTruthSource(ImageSource):
    """The item's own image: the ceiling of every metric that asks for agreement."""

    def __init__(self, requests: RequestSet) -> None:
        self.size = requests.image_size

    def prepare(self, batch: Sequence[PlannedRequest]) -> np.ndarray:
        return np.stack([request.item.image(self.size) for request in batch])

    def make(self, prepared: np.ndarray, tell: bool) -> GeneratedBatch:
        return GeneratedBatch(prepared)


class ShuffledSource(GroundTruthSource):
    """Another item's image: the floor. Quality is real, agreement with the conditions is chance."""

    def __init__(self, requests: RequestSet) -> None:
        super().__init__(requests)
        self.partner = derangement(requests.requests)

    def prepare(self, batch: Sequence[PlannedRequest]) -> np.ndarray:
        return super().prepare([self.partner[request.id] for request in batch])


def derangement(requests: Sequence[PlannedRequest]) -> dict[str, PlannedRequest]:
    """Each request's partner, of another item: one cycle through those of a seed, in the order of a hash of the ids."""
    by_seed: dict[str, list[PlannedRequest]] = {}
    for request in requests:
        by_seed.setdefault(request.id.rpartition("-")[2], []).append(request)
    partners: dict[str, PlannedRequest] = {}
    for group in by_seed.values():
        cycle = sorted(group, key=lambda request: hashlib.sha256(f"shuffled\x00{request.id}".encode()).digest())
        partners |= {request.id: partner for request, partner in zip(cycle, cycle[1:] + cycle[:1], strict=True)}
    return partners


# ------------------------------------------------------------------------------------------------------------- methods


class MethodSource(ImageSource):
    """A method over its profile's networks, with every network evaluation counted.

    dtype: what it computes in, as `number_format`; None for torch's own settings. reads: condition -> the side at which
    the models read it, where that is above the images'.
    """

    def __init__(
        self,
        method: Method,
        requests: RequestSet,
        conditions: Sequence[str],
        dtype: str | None = None,
        reads: Mapping[str, int] | None = None,
    ) -> None:
        self.method, self.requests, self.conditions, self.dtype = method, requests, tuple(conditions), dtype
        self.reads = dict(reads or {})
        self.device = method.device
        self.traces = tuple(method.traces)
        self.counter = EvaluationCounter(method.denoisers())
        self._trace: Trace | None = None

    def prepare(self, batch: Sequence[PlannedRequest]) -> object:
        return [self.requests.request(planned, self.conditions, self.reads) for planned in batch]

    def make(self, prepared: Any, tell: bool) -> GeneratedBatch:
        from concord.methods.base import Trace

        trace = self._trace = Trace(*self.traces) if tell else Trace()
        with ExitStack() as around:
            if self.dtype is not None:
                around.enter_context(number_format(self.dtype, self.method.device))
            images = self.method.generate(prepared, trace)
        wait_for(self.device)
        made = GeneratedBatch(to_uint8(images))
        for name in trace.values:
            made.steps[name], value = trace.stacked(name)
            made.parts[name] = trace.parts[name]
            made.traces[name] = value.numpy().astype(np.float16)
        return made

    @property
    def step(self) -> int | None:
        return self._trace.step if self._trace is not None else None

    def weights(self) -> dict[str, str]:
        return dict(self.method.networks.sha256)

    def evaluations(self) -> dict[str, int]:
        return dict(self.counter.rows)

    def close(self) -> None:
        self.counter.close()


def to_uint8(images: torch.Tensor) -> np.ndarray:
    """float (B, 3, H, W) in [0, 1] -> uint8 (B, H, W, 3), to the nearest level."""
    return (images * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
