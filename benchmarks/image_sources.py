"""What makes the images of a planned run: a reference row, a method over its profile's networks, a command outside."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from concord.benchmarks.generators import PROFILE, why_not
from concord.benchmarks.run.image_source import (
    GeneratedBatch,
    GroundTruthSource,
    ImageSource,
    MethodSource,
    ShuffledSource,
    use_all_cores,
)
from concord.data.errors import ConcordError

if TYPE_CHECKING:
    import torch

    from concord.benchmarks.plan.requests import RequestSet
    from concord.benchmarks.plan.runs import RunPlan
    from concord.methods.base import Method


def open_image_source(run: RunPlan, device: str = "auto") -> ImageSource:
    """What makes a run's images, in any profile, its networks loaded.

    Raises ConcordError before anything is written.
    """
    if run.profile == PROFILE and run.external is None:
        return open_paper_source(run, device)
    if run.row.name == "ground-truth":
        return GroundTruthSource(run.requests)
    if run.row.name == "shuffled":
        return ShuffledSource(run.requests)
    if run.external is not None:
        from concord.benchmarks.external.command import open_external

        return open_external(run)
    from concord.data.device import resolve_device
    from concord.methods.base import make_method
    from concord.methods.networks.bank import Bank

    assert run.row.method is not None
    chosen = resolve_device(device)
    use_all_cores()
    method = make_method(run.row.method, run.row.params, lambda: Bank.load(run.profile, chosen))
    return MethodSource(method, run.requests, run.conditions)


def open_paper_source(
    run: RunPlan, device: str = "auto", paths: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> ImageSource:  # fmt: skip
    """What makes a run's images of profile 'paper', its networks loaded.

    paths, options: as `PaperBank` takes them.
    """
    if run.is_reference:
        kind = GroundTruthSource if run.row.name == "ground-truth" else ShuffledSource
        return kind(run.requests)
    from concord.data.device import resolve_device
    from concord.methods.base import make_method
    from concord.methods.networks.paper_bank import PaperBank

    assert run.row.method is not None
    if run.generator is None:
        raise ConcordError(f"row '{run.row.name}': {why_not(run)}")
    generator, chosen = run.generator, resolve_device(device)
    use_all_cores()
    bank: Any = lambda: PaperBank(generator, chosen, paths, options)  # noqa: E731
    return PaperSource(make_method(run.row.method, run.row.params, bank), run.requests, run.conditions, run.dtype)


class PaperSource(MethodSource):
    """A method over the papers' networks. dtype: 'fp32' computes without TF32, 'bf16' under autocast."""

    def __init__(self, method: Method, requests: RequestSet, conditions: Sequence[str], dtype: str = "fp32") -> None:
        super().__init__(method, requests, conditions)
        self.dtype = dtype

    def make(self, prepared: Any, tell: bool) -> GeneratedBatch:
        assert self.device is not None
        with number_format(self.dtype, self.device):
            return super().make(prepared, tell)


@contextlib.contextmanager
def number_format(dtype: str, device: torch.device) -> Iterator[None]:
    """What generators compute in: exact float32, or bfloat16 where autocast takes it."""
    import torch

    from concord.metrics.evaluation import exact_float32

    if dtype == "fp32":
        with exact_float32():
            yield
    elif dtype == "bf16":
        with torch.autocast(device.type, torch.bfloat16):
            yield
    else:
        raise ConcordError(f"dtype '{dtype}': expected fp32 or bf16")
