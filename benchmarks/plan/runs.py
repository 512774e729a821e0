"""A suite's runs: one row over one request set each, with the key that says whether it is made.

The key is a SHA-256 over everything that can change a run's images: code, parameters, conditions, request ids and
seeds, the bytes of the data. (The device is recorded, not keyed; weights join with the hashes that each shard
recorded.) A finished run with the plan's key is up to date.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from concord.benchmarks.plan.keys import digest
from concord.benchmarks.plan.requests import Options, RequestSet
from concord.benchmarks.plan.sources import Sources, versions
from concord.benchmarks.settings import Profile
from concord.benchmarks.suite import REFERENCES, Row, Suite
from concord.data.errors import ConcordError

if TYPE_CHECKING:
    from concord.benchmarks.external.method import External


@dataclass(frozen=True)
class RunPlan:
    """One row of one request set: what to make, where it goes, and the key that says whether it is made."""

    profile: str
    requests: RequestSet
    row: Row
    conditions: tuple[str, ...]  # what the row's method is given
    params: dict[str, object]  # resolved, defaults included
    sources: Sources
    path: Path
    external: External | None = None  # of a method that lives outside (benchmarks/external/method.py)
    generator: str | None = None  # whose models a method draws from, where the profile has several
    dtype: str | None = None
    suites: Mapping[str, int] = field(default_factory=dict)  # the suites that show it -> version; of scores, not images
    networks: Mapping[str, Mapping[str, object]] = field(default_factory=dict)  # role -> its entry in the profile
    reads: Mapping[str, int] = field(default_factory=dict)  # condition -> side, where it is read finer than the images
    base: str = ""  # the suite's row that --set changed into this one; that row itself where it changed nothing

    @property
    def is_reference(self) -> bool:
        """Whether no network makes it: ground truth, or shuffled conditions."""
        return self.row.name in REFERENCES

    @property
    def names(self) -> set[str]:
        """What a user may call it by: its own name, its method's, and that of the row that --set changed."""
        return {name for name in (self.row.name, self.row.method, self.base) if name}

    @cached_property
    def parts(self) -> dict[str, object]:
        """What the images follow from, by name; `key` is their hash, and run.json keeps them."""
        requests = [(request.id, request.seed) for request in self.requests.requests]
        parts: dict[str, object] = {
            "profile": self.profile,
            "image_size": self.requests.image_size,
            "row": self.row.name if self.is_reference else self.row.method,
            "params": self.params,
            "conditions": list(self.conditions),
            "data": self.requests.content,
            "n": len(requests),
            "requests": digest({"requests": requests}),
        }
        if self.requests.options:
            parts["options"] = self.requests.options
        if self.external is not None:
            return parts | {"external": self.external.digest}
        parts |= {"code": self.sources.code, "files": self.sources.data, "versions": versions()}
        if self.reads:
            parts["reads"] = dict(self.reads)
        parts |= {"dtype": self.dtype, "generator": self.generator, "networks": self.networks}
        return parts

    @cached_property
    def key(self) -> str:
        """SHA-256 of `parts`, 64 hex digits."""
        return digest(self.parts)


@dataclass(frozen=True)
class Plan:
    """Everything that one suite asks for."""

    suite: Suite
    related: tuple[Suite, ...]  # the suites that share the runs, this one among them
    options: Options
    settings: Profile
    root: Path  # where the runs of this plan lie: results/<profile>, or a variant below it
    requests: RequestSet
    runs: tuple[RunPlan, ...]
    skipped: dict[str, str]  # reference row, or row of an external method -> why it is left out
    unchanged: Mapping[str, Sequence[str]] = field(default_factory=dict)  # row -> parameters of --set it does not have
    file: Path | None = None  # of a suite of the user's own

    def run(self, row: str) -> RunPlan:
        """The run of a row; ConcordError where the plan does not have it."""
        for run in self.runs:
            if run.row.name == row:
                return run
        self.suite.row(row)  # raises for a name that the suite does not know
        raise ConcordError(f"row '{row}' of suite '{self.suite.name}' is planned, not built yet: nothing to generate")

    def select(self, rows: Sequence[str] | None) -> list[RunPlan]:
        """The runs of the named rows (or methods), all of them for None; ConcordError for an unknown name."""
        if rows is None:
            return list(self.runs)
        known = {name for run in self.runs for name in run.names}
        for name in rows:
            if name in self.skipped:
                raise ConcordError(f"suite '{self.suite.name}': row '{name}' cannot be made: {self.skipped[name]}")
            if name not in known:
                listed = ", ".join(sorted(known))
                raise ConcordError(f"suite '{self.suite.name}' has no row or method '{name}': expected one of {listed}")
        return [run for run in self.runs if run.names.intersection(rows) or run.is_reference]
