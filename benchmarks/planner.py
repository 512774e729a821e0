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

from concord.benchmarks.plan.sources import SHARED, borrowed, method_file, readers_of, source_hash, unread
from concord.benchmarks.restoration import masked_image
from concord.benchmarks.settings import ROOT, Profile, Settings
from concord.benchmarks.suite import REFERENCES, SHARD_SIZE, Row, Suite
from concord.benchmarks.tuned import merge, nested, tuned_row
from concord.data.errors import ConcordError
from concord.data.request import Conditions, Request, request_seed

if TYPE_CHECKING:
    from concord.benchmarks.external.method import External
    from concord.data.datasets.faces.dataset import FaceDataset, FaceItem
    from concord.data.datasets.layouts.dataset import LayoutDataset, LayoutItem

    Dataset = FaceDataset | LayoutDataset


class NothingToAskError(ConcordError):
    """No item of the dataset has all the conditions that a suite asks for."""


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
    item: FaceItem | LayoutItem

    def facts(self) -> dict[str, Any]:
        """What run.json says of it: of a layout also its number of instances and of interactions."""
        layout = getattr(self.item, "layout", None)
        known = {} if layout is None else {"level": layout.level, "interactions": len(layout.interactions)}
        return {"id": self.id, "seed": self.seed, **known}


# -------------------------------------------------------------------------------------------------------- request sets


@dataclass(frozen=True)
class RequestSet:
    """The requests of one name over one dataset, and their conditions, read once when first needed."""

    name: str
    dataset: Dataset
    conditions: tuple[str, ...]
    image_size: int
    requests: tuple[PlannedRequest, ...]
    left_out: dict[str, int] = field(default_factory=dict)  # reason -> how many items
    patches: int | None = None  # hidden from a masked image

    def __len__(self) -> int:
        return len(self.requests)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the files and captions that these requests read: a tree may grow without changing a run's key."""
        dataset: Any = self.dataset  # of either kind, its items are of the same
        whole = replace(dataset, items=[request.item.kept_for(self.conditions) for request in self.requests])
        return str(whole.fingerprint)

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
        return {request.id: self._face(request).mask(self.image_size).astype(np.uint8) for request in self.requests}

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
            elif name == "masked_image" and self.patches is not None:
                values[name] = masked_image(self._face(request), self.patches, self.image_size)
            elif name == "source_image":
                values[name] = request.item.image(self.image_size).copy()
            elif name == "layout" and hasattr(request.item, "layout"):
                values[name] = request.item.layout
            else:
                raise ConcordError(
                    f"request set '{self.name}': dataset '{self.dataset.name}' gives no condition '{name}'"
                )
        return Conditions(**values)

    @staticmethod
    def _face(request: PlannedRequest) -> FaceItem:
        item: Any = request.item
        return item  # a suite whose dataset is another one asks for no such condition

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
    name: str, dataset: Dataset, conditions: Sequence[str], image_size: int, n: int, seed_set: int = 0,
    patches: int | None = None,
) -> RequestSet:  # fmt: skip
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
        raise NothingToAskError(f"{dataset.root}: no item has {' and '.join(conditions)} ({reasons})")
    return RequestSet(name, dataset, tuple(conditions), image_size, tuple(kept), dict(left_out), patches)


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
    external: External | None = None  # of a method that lives outside (benchmarks/external/method.py)
    generator: str | None = None  # whose models a method draws from, where the profile has several
    dtype: str = "fp32"
    unread: frozenset[Path] = frozenset()  # of `source`: files that cannot change its images

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
            "source": source_hash(self.source, self.unread),
            "data": self.requests.fingerprint,
            "requests": [(request.id, request.seed) for request in self.requests.requests],
        }
        if self.requests.patches is not None:
            facts["patches"] = self.requests.patches
        if self.external is not None:
            facts["external"] = self.external.digest
        if self.generator is not None:
            facts |= {"generator": self.generator, "dtype": self.dtype}
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


def results_root(options: Options, dataset: Dataset) -> Path:
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


def open_items(suite: Suite, settings: Settings, options: Options) -> Dataset:
    """The dataset that the suite's items come from: the user's folder, or the profile's."""
    if options.data is not None:
        return open_dataset(suite.dataset, options.data)
    profile = settings.profile(options.profile)
    if suite.dataset not in profile.datasets:
        raise ConcordError(
            f"params.yaml: profile '{options.profile}' names no folder for dataset '{suite.dataset}'; "
            "give one with --data"
        )
    named = profile.datasets[suite.dataset]
    if not named.items_folder.is_dir():
        fetched = " ".join(named.sources)
        how = "`concord data make`" if suite.dataset == "faces" else "`concord data scenes`"
        if fetched:
            prepared = f" and `concord data prepare {named.sources[0]}`" if suite.dataset == "faces" else ""
            how = f"`concord data fetch {fetched}`{prepared}"
        raise ConcordError(f"{named.items_folder}: no such folder; make it with {how}, or give one with --data")
    if suite.dataset == "layouts":
        return open_dataset(suite.dataset, named.items_folder, next(iter(named.sources), None))
    return with_landmarks(open_dataset(suite.dataset, named.items_folder))


def open_dataset(kind: str, folder: Path, bench: str | None = None) -> Any:
    """The dataset of that kind in a folder. bench: the published file that its layouts have to be."""
    if kind == "layouts":
        from concord.data.datasets.layouts.dataset import open_layout_items

        return open_layout_items(folder, bench)
    from concord.data.datasets.faces.dataset import open_faces

    return open_faces(folder)


def with_landmarks(dataset: FaceDataset) -> FaceDataset:
    """The dataset with the landmarks that lie beside prepared shards (`concord data landmarks`), where they do."""
    from concord.data.datasets.faces.dataset import landmark_rows

    rows = {} if any(item.has_landmarks for item in dataset.items) else landmark_rows(dataset.root)
    if not rows:
        return dataset
    return replace(dataset, items=[replace(item, landmark_row=rows.get(item.id)) for item in dataset.items])


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
    from concord.benchmarks.external.method import external_runs

    suite, related = suite.in_profile(options.profile), [other.in_profile(options.profile) for other in related]
    if options.limit is not None and options.limit < 1:
        raise ConcordError(f"--limit {options.limit}: expected at least 1")
    if options.seed_set < 0:
        raise ConcordError(f"--seed-set {options.seed_set}: expected 0 or more")
    profile = settings.profile(options.profile)
    n = options.limit or settings.size(suite.request_set, options.size, options.profile)
    if size := suite.part(options.profile).image_size:
        profile = profile.model_copy(update={"image_size": size})
    dataset = open_items(suite, settings, options)
    requests = make_request_set(
        suite.request_set, dataset, suite.conditions, profile.image_size, n, options.seed_set, suite.patches
    )  # fmt: skip
    root = results_root(options, dataset)
    skipped: dict[str, str] = {name: reason for name in suite.reference if (reason := _cannot(name, requests))}
    runs = [_reference_run(name, requests, root, options.profile, suite.dataset)
            for name in suite.reference if name not in skipped]  # fmt: skip
    for row in suite.rows:
        if row.method is not None:
            settled = tuned_row(row, suite.request_set, options.profile)
            changed = row_with(settled, changes) if changes else settled
            runs.append(_method_run(suite, changed, requests, root, options.profile, profile.dtype))
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


def _reference_run(name: str, requests: RequestSet, root: Path, profile: str, dataset: str = "faces") -> RunPlan:
    source = tuple(
        ROOT / file for file in ("benchmarks/run/image_source.py", *readers_of(requests.conditions, dataset))
    )
    row = Row.model_construct(name=name, method=None, planned=None, conditions=None, params={})
    return RunPlan(profile, requests, row, requests.conditions, {}, source, root / requests.name / name)


def _method_run(
    suite: Suite, row: Row, requests: RequestSet, root: Path, profile: str, dtype: str = "fp32"
) -> RunPlan:  # fmt: skip
    from concord.benchmarks.generators import generator_of
    from concord.methods.base import get_method, make_params

    assert row.method is not None
    method = get_method(row.method)
    params = make_params(method, row.params).model_dump(mode="json")
    conditions = tuple(suite.row_conditions(row))
    file = method_file(row.method)
    readers = (ROOT / name for name in (*SHARED, *readers_of(conditions, suite.dataset)))
    source = (file, *readers, *borrowed(file))
    path = root / requests.name / row.name
    return RunPlan(
        profile, requests, row, conditions, params, source, path, generator=generator_of(suite, row, profile),
        dtype=dtype, unread=unread(source[0], profile),
    )  # fmt: skip
