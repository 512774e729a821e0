"""What is to be done, decided before anything runs: the same inputs give the same plan on every machine.

A *request set* is a list of requests over the items of a dataset. A *run* is one row answered for one request set. Its
key is a SHA-256 over everything that can change its images: method source, parameters, conditions, request ids and
seeds, data. (The device is recorded, not keyed; weights join with the hashes that each shard recorded.) A finished run
with the plan's key is up to date.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.settings import ROOT, Profile, Settings
from benchmarks.suite import REFERENCES, SHARD_SIZE, Row, Suite
from benchmarks.tuned import merge, nested, tuned_row
from data.errors import ConcordError
from data.files import sha256_file
from data.requests import Conditions, Request, request_seed

if TYPE_CHECKING:
    from benchmarks.external import External
    from data.faces import FaceDataset, FaceItem

READERS = ("data/faces.py", "data/labels.py", "data/pictures.py", "data/captions.py", "data/requests.py")
"""Source that turns files into conditions; it is part of every run's key."""
STYLE_READERS = ("data/synthetic/styles.py", "data/synthetic/draw.py")
"""Source that draws style references; part of the key of a run that is given one."""
SHARED = ("methods/base.py", "methods/core", "methods/networks")
"""Source that methods stand on; it is part of every method's key."""


@dataclass(frozen=True)
class Options:
    """What the command line can choose about a plan."""

    profile: str = "embedded"
    size: str = "default"
    limit: int | None = None  # at most so many requests, in a results folder of its own
    data: Path | None = None  # a folder of the user's instead of the profile's
    seed_set: int = 0  # another seed for every request (repetition number), in a results folder of its own
    results: Path = Path("results")


@dataclass(frozen=True)
class PlannedRequest:
    """One image to be made, its conditions not yet read."""

    id: str
    seed: int
    item: FaceItem


# -------------------------------------------------------------------------------------------------------- request sets


@dataclass(frozen=True)
class RequestSet:
    """The requests of one name over one dataset, and their conditions, read once when first needed."""

    name: str
    dataset: FaceDataset
    conditions: tuple[str, ...]
    image_size: int
    requests: tuple[PlannedRequest, ...]
    left_out: dict[str, int] = field(default_factory=dict)  # reason -> how many items

    def __len__(self) -> int:
        return len(self.requests)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the files and captions that these requests read: a tree may grow without changing a run's key."""
        items = [request.item.kept_for(self.conditions) for request in self.requests]
        return replace(self.dataset, items=items).fingerprint

    @property
    def has_images(self) -> bool:
        return all(request.item.has_image for request in self.requests)

    @cached_property
    def shards(self) -> list[tuple[PlannedRequest, ...]]:
        """The requests in lots of 64."""
        return [self.requests[start : start + SHARD_SIZE] for start in range(0, len(self), SHARD_SIZE)]

    @cached_property
    def _masks(self) -> dict[str, np.ndarray]:
        """uint8 masks by request; all are read at once so that a bad one is known before any image is made."""
        if "mask" not in self.conditions:
            return {}
        return {request.id: request.item.mask(self.image_size).astype(np.uint8) for request in self.requests}

    def conditions_of(self, request: PlannedRequest, names: Iterable[str]) -> Conditions:
        """The named conditions of a request, at the profile's image size."""
        values: dict[str, Any] = {}
        for name in names:
            if name == "text":
                values["text"] = request.item.text
            elif name == "mask":
                values["mask"] = self._masks[request.id].astype(np.int64)
            elif name in ("identity", "landmarks"):
                values[name] = getattr(request.item, name)(self.image_size)
            elif name == "style":
                values["style"] = self._style(request)
            else:
                raise ConcordError(f"request set '{self.name}': dataset 'faces' gives no condition '{name}'")
        return Conditions(**values)

    def _style(self, request: PlannedRequest) -> np.ndarray:
        if request.id not in self._styles:  # drawing one takes longer than looking at it
            self._styles[request.id] = request.item.style(self.image_size)
        return self._styles[request.id]

    @cached_property
    def _styles(self) -> dict[str, np.ndarray]:
        return {}

    def check(self) -> None:
        """Read every condition of every request once: bad input is known in seconds, not after an hour."""
        self.conditions_of(self.requests[0], self.conditions)
        for name in ("identity", "landmarks"):
            if name in self.conditions:
                for request in self.requests:
                    self.conditions_of(request, [name])

    def request(self, planned: PlannedRequest, names: Iterable[str]) -> Request:
        return Request(planned.id, planned.seed, self.conditions_of(planned, names))


def make_request_set(
    name: str, dataset: FaceDataset, conditions: Sequence[str], image_size: int, n: int, seed_set: int = 0
) -> RequestSet:
    """The first `n` items that have every condition, in the dataset's order.

    Where some items have a picture, items without one are left out too, so that all rows of the table, the
    ground truth included, answer the same requests. What was left out is counted by reason.
    """
    left_out: Counter[str] = Counter()
    with_images = any(item.has_image for item in dataset.items)
    kept: list[PlannedRequest] = []
    for item in dataset.items:
        if len(kept) == n:
            break
        lacks = [c for c in conditions if not getattr(item, f"has_{c}", False)]
        if lacks or (with_images and not item.has_image):
            left_out[f"no {lacks[0] if lacks else 'image'}"] += 1
            continue
        kept.append(PlannedRequest(f"{item.id}-{seed_set}", request_seed(name, item.id, seed_set), item))
    if not kept:
        reasons = "; ".join(f"{count} have {reason}" for reason, count in left_out.items()) or "the folder has no items"
        raise ConcordError(f"{dataset.root}: no item has {' and '.join(conditions)} ({reasons})")
    return RequestSet(name, dataset, tuple(conditions), image_size, tuple(kept), dict(left_out))


# ---------------------------------------------------------------------------------------------------------------- runs


@dataclass(frozen=True)
class RunPlan:
    """One row of one request set: what to make, where it goes, and the key that says whether it is made."""

    profile: str
    requests: RequestSet
    row: Row
    conditions: tuple[str, ...]  # what the row's method is given
    params: dict[str, Any]  # resolved, defaults included
    source: tuple[Path, ...]
    path: Path
    external: External | None = None  # of a method that lives outside (benchmarks/external.py)

    @property
    def is_reference(self) -> bool:
        return self.row.name in REFERENCES

    @cached_property
    def key(self) -> str:
        """SHA-256, 64 hex digits."""
        facts = {
            "profile": self.profile,
            "image_size": self.requests.image_size,
            "row": self.row.name if self.is_reference else self.row.method,
            "params": self.params,
            "conditions": self.conditions,
            "source": source_hash(self.source),
            "data": self.requests.fingerprint,
            "requests": [(request.id, request.seed) for request in self.requests.requests],
        }
        if self.external is not None:
            facts["external"] = self.external.digest
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


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

    def run(self, row: str) -> RunPlan:
        for run in self.runs:
            if run.row.name == row:
                return run
        self.suite.row(row)  # raises for a name that the suite does not know
        raise ConcordError(f"row '{row}' of suite '{self.suite.name}' is planned, not built yet: nothing to generate")

    def select(self, rows: Sequence[str] | None) -> list[RunPlan]:
        """The runs of the named rows (or methods), all of them for None; ConcordError for an unknown name."""
        if rows is None:
            return list(self.runs)
        known = {run.row.name for run in self.runs} | {run.row.method for run in self.runs if run.row.method}
        for name in rows:
            if name in self.skipped:
                raise ConcordError(f"suite '{self.suite.name}': row '{name}' cannot be made: {self.skipped[name]}")
            if name not in known:
                listed = ", ".join(sorted(known))
                raise ConcordError(f"suite '{self.suite.name}' has no row or method '{name}': expected one of {listed}")
        return [run for run in self.runs if run.row.name in rows or run.row.method in rows or run.is_reference]


def results_root(options: Options, dataset: FaceDataset) -> Path:
    """results/<profile>, or below it a folder for what must not mix with the benchmark's own results."""
    parts = []
    if options.data is not None:
        parts.append(f"data-{dataset.name}-{dataset.fingerprint[:8]}")
    if options.limit is not None:
        parts.append(f"limit-{options.limit}")
    if options.seed_set:
        parts.append(f"seeds-{options.seed_set}")
    root = options.results / options.profile
    return root / "+".join(parts) if parts else root


def open_items(suite: Suite, settings: Settings, options: Options) -> FaceDataset:
    """The dataset that the suite's items come from: the user's folder, or the profile's."""
    from data.faces import open_faces

    if options.data is not None:
        return open_faces(options.data)
    profile = settings.profile(options.profile)
    if suite.dataset not in profile.datasets:
        raise ConcordError(
            f"params.yaml: profile '{options.profile}' names no folder for dataset '{suite.dataset}'; "
            "give one with --data"
        )
    folder = ROOT / profile.datasets[suite.dataset].items
    if not folder.is_dir():
        raise ConcordError(f"{folder}: no such folder; make it with `concord data make`, or give one with --data")
    return open_faces(folder)


def make_plan(
    suite: Suite,
    settings: Settings,
    options: Options,
    changes: dict[str, Any] | None = None,
    related: Sequence[Suite] = (),
    external: Sequence[External] = (),
) -> Plan:
    """The plan of a suite.

    changes: parameters given by --set; rows that they change get a name of their own.
    related: the suites that share its request set; their metrics and grids count too.
    external: methods that live outside and are to be run; those that the store holds join by themselves.
    """
    from benchmarks.external import external_runs

    if options.limit is not None and options.limit < 1:
        raise ConcordError(f"--limit {options.limit}: expected at least 1")
    if options.seed_set < 0:
        raise ConcordError(f"--seed-set {options.seed_set}: expected 0 or more")
    n = options.limit or settings.size(suite.request_set, options.size)
    profile = settings.profile(options.profile)
    dataset = open_items(suite, settings, options)
    requests = make_request_set(
        suite.request_set, dataset, suite.conditions, profile.image_size, n, options.seed_set
    )  # fmt: skip
    root = results_root(options, dataset)
    skipped: dict[str, str] = {name: reason for name in suite.reference if (reason := _cannot(name, requests))}
    runs = [_reference_run(name, requests, root, options.profile) for name in suite.reference if name not in skipped]
    for row in suite.rows:
        if row.method is not None:
            settled = tuned_row(row, suite.request_set, options.profile)
            changed = row_with(settled, changes) if changes else settled
            runs.append(_method_run(suite, changed, requests, root, options.profile))
    outside, left = external_runs(suite, requests, root, options.profile, external)
    runs, skipped = runs + outside, skipped | left
    return Plan(suite, tuple(related) or (suite,), options, profile, root, requests, tuple(runs), skipped)


def row_with(row: Row, changes: dict[str, Any]) -> Row:
    """The row under changed parameters, named after them ('collaborative+steps=10') so that results never mix."""
    suffix = "".join(f"+{name}={value}" for name, value in sorted(changes.items()))
    name = "".join(letter if letter.isalnum() or letter in "._=+,-" else "_" for letter in row.name + suffix)
    return row.model_copy(update={"name": name, "params": merge(row.params, nested(changes))})


def _cannot(reference: str, requests: RequestSet) -> str | None:
    """Why a reference row cannot be made, or None."""
    if not requests.has_images:
        return "the dataset has no images"
    if reference == "shuffled" and len(requests) < 2:
        return "one item cannot be exchanged for another"
    return None


def _reference_run(name: str, requests: RequestSet, root: Path, profile: str) -> RunPlan:
    source = tuple(ROOT / file for file in ("benchmarks/makers.py", *readers_of(requests.conditions)))
    row = Row.model_construct(name=name, method=None, planned=None, conditions=None, params={})
    return RunPlan(profile, requests, row, requests.conditions, {}, source, root / requests.name / name)


def _method_run(suite: Suite, row: Row, requests: RequestSet, root: Path, profile: str) -> RunPlan:
    from methods.base import get_method, make_params

    assert row.method is not None
    method = get_method(row.method)
    params = make_params(method, row.params).model_dump(mode="json")
    conditions = tuple(suite.row_conditions(row))
    source = (method_file(row.method), *(ROOT / file for file in (*SHARED, *readers_of(conditions))))
    path = root / requests.name / row.name
    return RunPlan(profile, requests, row, conditions, params, source, path)


def readers_of(conditions: Sequence[str]) -> tuple[str, ...]:
    """Source that turns files into these conditions."""
    return (*READERS, *STYLE_READERS) if "style" in conditions else READERS


def method_file(name: str) -> Path:
    """The file that a method is written in."""
    import inspect

    from methods.base import get_method

    return Path(str(inspect.getsourcefile(get_method(name))))


def source_hash(files: Iterable[Path]) -> str:
    """SHA-256 over Python files and the Python files of folders, by name and content."""
    digest = hashlib.sha256()
    for entry in files:
        for path in sorted(entry.rglob("*.py")) if entry.is_dir() else [entry]:
            if path.is_file():
                digest.update(f"{path.relative_to(entry.parent)}\x00{sha256_file(path)}\n".encode())
    return digest.hexdigest()


def weights_current(weights: dict[str, str]) -> bool:
    """Whether the weight files still have the hashes that a shard or a score recorded."""
    from data.checkpoints import weight_path

    return all(_file_hash(weight_path(name)) in (digest, None) for name, digest in weights.items())


_HASHES: dict[tuple[str, int, int], str] = {}


def _file_hash(path: Path) -> str | None:
    """The file's SHA-256, computed once while it does not change; None where there is no such file (a plugin's own)."""
    if not path.is_file():
        return None
    stat = path.stat()
    key = (str(path), stat.st_mtime_ns, stat.st_size)
    if key not in _HASHES:
        _HASHES[key] = sha256_file(path)
    return _HASHES[key]
