"""A plugin's method as a source of images: what it opens while it makes them is part of what they follow from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from concord.benchmarks.plan.requests import RequestSet
from concord.benchmarks.run.image_source import GeneratedBatch, MethodSource
from concord.data.content import content_hash
from concord.data.request import Request
from concord.methods.base import Method
from concord.methods.plugins import watch_files


class PluginSource(MethodSource):
    """opened: files that the plugin read when it was made ready."""

    def __init__(
        self,
        method: Method,
        requests: RequestSet,
        conditions: Sequence[str],
        dtype: str | None = None,
        opened: dict[Path, None] | None = None,
        reads: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(method, requests, conditions, dtype, reads)
        self.opened = {} if opened is None else opened

    def make(self, prepared: Sequence[Request], tell: bool) -> GeneratedBatch:
        with watch_files(self.opened):
            return super().make(prepared, tell)

    def files(self) -> dict[str, str]:
        return {str(path): content_hash(path) for path in sorted(self.opened)}
