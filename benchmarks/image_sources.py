"""What makes the images of a planned run: a reference row, a method over its profile's networks, a command outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from concord.benchmarks.generators import why_not
from concord.benchmarks.run.image_source import (
    GroundTruthSource,
    ImageSource,
    MethodSource,
    ShuffledSource,
    use_all_cores,
)
from concord.data.errors import ConcordError

if TYPE_CHECKING:
    from concord.benchmarks.plan.runs import RunPlan
    from concord.methods.networks.bank import Bank


def open_image_source(run: RunPlan, device: str = "auto") -> ImageSource:
    """What makes a run's images, in any profile, its networks loaded.

    Raises ConcordError before anything is written.
    """
    if run.row.name == "ground-truth":
        return GroundTruthSource(run.requests)
    if run.row.name == "shuffled":
        return ShuffledSource(run.requests)
    if run.external is not None:
        from concord.benchmarks.external.command import open_external

        return open_external(run)
    return open_method(run, device)


def open_method(run: RunPlan, device: str = "auto", paths: Mapping[str, Path] | None = None) -> MethodSource:
    """A method over the networks of its profile. paths: weight files by name, where they are not in their place."""
    from concord.data.device import resolve_device
    from concord.methods.networks.bank import Bank

    if run.generator is None:
        raise ConcordError(f"row '{run.row.name}': {why_not(run)}")
    generator, chosen = run.generator, resolve_device(device)
    use_all_cores()
    return _method_source(run, lambda: Bank(chosen, run.profile, generator, paths), run.dtype)


def _method_source(run: RunPlan, bank: Callable[[], Bank], dtype: str | None = None) -> MethodSource:
    """bank: a function that gives the networks. dtype: as `number_format`, None for torch's own settings."""
    from concord.methods.base import make_method
    from concord.methods.plugins import watch_files

    assert run.row.method is not None
    opened: dict[Path, None] = {}
    with watch_files(opened):
        method = make_method(run.row.method, run.row.params, bank)
    return MethodSource(method, run.requests, run.conditions, dtype, opened, run.reads)
