"""What makes the images of a planned run: a reference row, a method over its profile's networks, a command outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from concord.benchmarks.generators import why_not
from concord.benchmarks.run.foreign import plugin_file
from concord.benchmarks.run.image_source import (
    GroundTruthSource,
    ImageSource,
    MethodSource,
    ShuffledSource,
)
from concord.data.device import use_all_cores
from concord.data.errors import ConcordError

if TYPE_CHECKING:
    from concord.benchmarks.plan.runs import RunPlan
    from concord.data.networks import Networks, Pool
    from concord.methods.base import Method


def open_image_source(run: RunPlan, device: str = "auto", pool: Pool | None = None) -> ImageSource:
    """What makes a run's images, in any profile, its networks loaded.

    pool: networks that are loaded already, and that are kept for the next run.
    Raises ConcordError before anything is written.
    """
    if run.row.name == "ground-truth":
        return GroundTruthSource(run.requests)
    if run.row.name == "shuffled":
        return ShuffledSource(run.requests)
    if run.external is not None:
        from concord.benchmarks.external.command import open_external

        return open_external(run)
    return open_method(run, device, pool=pool)


def open_method(
    run: RunPlan, device: str = "auto", paths: Mapping[str, Path] | None = None, pool: Pool | None = None
) -> MethodSource:
    """A method over the networks of its profile. paths: weight files by name, where they are not in their place."""
    from concord.data.device import resolve_device
    from concord.data.networks import Networks

    if run.generator is None:
        raise ConcordError(f"row '{run.row.name}': {why_not(run)}")
    generator, chosen = run.generator, resolve_device(device)
    use_all_cores()
    return _method_source(run, lambda: Networks(run.profile, generator, chosen, paths, pool=pool), run.dtype)


def _method_source(run: RunPlan, networks: Callable[[], Networks], dtype: str | None = None) -> MethodSource:
    """networks: a function that gives them. dtype: as `number_format`, None for torch's own settings."""
    from concord.methods.base import make_method

    def opened() -> Method:
        assert run.row.method is not None
        method = make_method(run.row.method, run.row.params, networks, run.conditions)
        method.networks.trim()
        return method

    if run.row.method is None or plugin_file(run.row.method) is None:
        return MethodSource(opened(), run.requests, run.conditions, dtype, run.reads)
    from concord.benchmarks.run.plugin_source import PluginSource
    from concord.methods.plugins import watch_files

    files: dict[Path, None] = {}
    with watch_files(files):
        method = opened()
    return PluginSource(method, run.requests, run.conditions, dtype, files, run.reads)
