"""A plan carried out: rows generated, reference features made, rows scored, each only where it is not up to date."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

from concord.benchmarks.generators import metric_reason, unmade_original, why_not
from concord.benchmarks.image_sources import open_image_source
from concord.benchmarks.plan.runs import Plan, RunPlan
from concord.benchmarks.run.foreign import plugin_file
from concord.benchmarks.run.generate import Progress, RunResult, generate_run, is_current
from concord.benchmarks.run.meter import process_started
from concord.benchmarks.run.row_workers import RowJob, missing_shards, row_job
from concord.benchmarks.run.score import Reference, score_run, stale_score_reasons
from concord.benchmarks.run.workers import generate_with_workers
from concord.benchmarks.store.run import Run
from concord.benchmarks.store.shards import SHARD_SIZE
from concord.benchmarks.suite import metrics_of
from concord.data.device import exact_float32, use_all_cores
from concord.data.networks import Networks, Pool
from concord.data.user_code import UserCodeError
from concord.metrics.base import SetMetric, get_metric
from concord.metrics.evaluation import Bars, no_bars, set_metrics

if TYPE_CHECKING:
    import numpy as np

    from concord.metrics.distribution.reference_moments import ReferenceMoments

NETWORKS = ("generate", "observe")
"""Kinds of seconds in which methods and networks run; everything else is overhead."""


@dataclass
class Session:
    """One plan on one device. `open_judges` gives the judges; they load once, when first needed."""

    plan: Plan
    device: str = "auto"
    batch_size: int | None = None
    bars: Bars = no_bars
    open_judges: Callable[[], Networks] | None = None
    devices: Sequence[str] = ()  # two or more: a worker process on each, for the rows of methods
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    started: float = field(default_factory=process_started)
    not_run: dict[str, str] = field(default_factory=dict)  # row -> why it cannot be made here; the others are
    failed: dict[str, UserCodeError] = field(default_factory=dict)  # row -> what its code did; the others went on
    apart: bool = False  # run plugins in a process of their own, which they may end without harm
    pool: Pool = field(default_factory=Pool)  # networks that one row leaves to the next

    # ------------------------------------------------------------------------------------------------------ generate

    def generate(self, runs: Iterable[RunPlan]) -> list[RunPlan]:
        """Make what is missing; returns the runs that had to be worked on."""
        pending = [run for run in runs if not is_current(run, self.grid)]
        self.not_run |= {run.row.name: reason for run in pending if (reason := why_not(run)) is not None}
        pending = [run for run in pending if run.row.name not in self.not_run]
        if any(not run.is_reference for run in pending):
            self.check_conditions()
        for run in pending:
            with self.bars(f"generate {run.row.name}") as progress:
                batch_size = self.plan.settings.batch_size if self.batch_size is None else self.batch_size
                if run.external is not None:  # a command is started once a shard: it loads its models every time
                    batch_size = SHARD_SIZE
                try:
                    self._account(self._generate(run, batch_size, progress))
                except UserCodeError as error:
                    # a new one: the traceback of the old holds on to the tensors that filled the memory
                    self.failed[run.row.name] = UserCodeError(str(error), error.details)
        if pending:  # a row that others are compared with may have been among them
            for name in ("metrics", "metrics_not_run", "feature_kinds"):
                self.__dict__.pop(name, None)
        return [run for run in pending if run.row.name not in self.failed]

    def _generate(self, run: RunPlan, batch_size: int, progress: Progress) -> RunResult:
        from concord.data.device import resolve_device

        own = run.is_reference or run.external is not None  # no code of a method runs
        apart = self.apart and not own and run.row.method is not None and plugin_file(run.row.method) is not None
        if not own and (apart or len(self.devices) > 1):
            devices = self.devices or [str(resolve_device(self.device))]
            return generate_with_workers(run, devices, batch_size, self.grid, progress, apart)
        opener = partial(open_image_source, run, self.devices[0] if self.devices else self.device, self.pool)
        return generate_run(run, opener, batch_size, self.grid, progress)

    def check_conditions(self) -> None:
        """Read them once: bad input is known before anything is made."""
        with self.measure("decode"):
            self.plan.requests.check()

    @cached_property
    def grid(self) -> int:
        """Requests whose traces are kept: the largest grid of the suites that share the runs."""
        return max(suite.grid for suite in self.plan.related)

    def small_rows(self, runs: Iterable[RunPlan]) -> list[RowJob]:
        """The rows that have to be made and have fewer shards to make than there are devices; see `generate_rows`."""
        rows = [run for run in runs if not run.is_reference and run.external is None and not is_current(run, self.grid)]
        rows = [run for run in rows if missing_shards(run) < len(self.devices) and why_not(run) is None]
        if rows:
            self.check_conditions()
        batch_size = self.plan.settings.batch_size if self.batch_size is None else self.batch_size
        return [row_job(run, batch_size, self.grid) for run in rows]

    # --------------------------------------------------------------------------------------------------------- score

    def score(self, runs: Iterable[RunPlan]) -> list[RunPlan]:
        """Score what is not scored; returns the runs that had to be worked on."""
        pending = [run for run in runs if run.row.name not in self.failed and not self.has_scores(run)]
        # What cannot be made here has no score, and the others have.
        pending = [run for run in pending if Run(run.path).finished or why_not(run) is None]
        if pending and self.reference is not None:
            self.make_reference()
        for run in pending:
            with self.bars(f"score {run.row.name}") as progress, exact_float32():
                self._account(
                    score_run(run, self.metrics, lambda: self.judges, self.reference, progress, self.originals)
                )
        return pending

    def has_scores(self, run: RunPlan) -> bool:
        """Whether a run is scored by all that can score it here; what was scored where more files are stays."""
        return not self.stale_score_reasons(run)

    def stale_score_reasons(self, run: RunPlan) -> list[str]:
        """Why a run is to be scored, a line each; none where `has_scores`."""
        metrics = set(self.metrics)
        if self.metrics_not_run and Run(run.path).scored:
            metrics |= set(Run(run.path).score_info.get("metrics") or []) & set(self.metrics_not_run)
        return stale_score_reasons(run, sorted(metrics), self.reference, self.originals)

    def share_judges(self, other: Session) -> None:
        """Use another session's judges, which load once."""
        self.open_judges = lambda: other.judges

    def reference_features(self) -> dict[str, np.ndarray | ReferenceMoments]:
        """What each set metric compares with, by its name; none where there is nothing to compare with."""
        self.make_reference()
        return self.reference.compared(self.judges, self.compared) if self.reference is not None else {}

    def make_reference(self) -> None:
        """Make these features, where they are not kept yet."""
        if self.reference is None:
            return
        with self.measure("load"):
            judges = self.judges
        with self.measure("reference"), self.bars("reference features") as progress, exact_float32():
            self.reference.compared(judges, self.compared, progress)

    @cached_property
    def metrics(self) -> list[str]:
        """Of all suites that share the request set, so that a shared row is scored once; but for `metrics_not_run`."""
        return [name for name in metrics_of(self.plan.related) if name not in self.metrics_not_run]

    @cached_property
    def metrics_not_run(self) -> dict[str, str]:
        """metric -> why it cannot be scored now: what is missing for it, and what supplies it.

        In profile 'paper' files may be missing; in any, the row that metrics of pairs compare with.
        """
        names, found = metrics_of(self.plan.related), dict[str, str | None]()
        if self.open_judges is None:
            found = {name: metric_reason(name, self.plan.options.profile) for name in names}
        waiting = unmade_original(names, self.originals, self.plan.suite.name)
        found |= {name: found.get(name) or reason for name, reason in waiting.items()}
        return {name: f"not scored: {reason}" for name, reason in found.items() if reason is not None}

    @property
    def originals(self) -> Run | None:
        """The run whose images metrics of pairs compare with; None where those are the items' own images."""
        named = [suite.originals for suite in self.plan.related if suite.originals is not None]
        return Run(self.plan.root / self.plan.requests.name / named[0]) if named else None

    @property
    def compared(self) -> list[SetMetric]:
        """The metrics that compare the images with the reference's, as a set."""
        return set_metrics([get_metric(name) for name in self.metrics], compared=True)

    @cached_property
    def judges(self) -> Networks:
        """The networks that score, loaded when first asked for."""
        if self.open_judges is not None:
            return self.open_judges()
        from concord.data.device import resolve_device
        from concord.metrics.networks import judges

        use_all_cores()
        return judges.open_judges(self.plan.options.profile, resolve_device(self.device))

    @cached_property
    def reference(self) -> Reference | None:
        """The user's own images with --data, else the profile's reference folder; None where there are no images.

        The embedded feature network is of faces: layouts have no reference.
        """
        from concord.data.datasets.faces.dataset import FaceDataset
        from concord.data.datasets.faces.open import open_faces

        plan = self.plan
        if not isinstance(plan.requests.dataset, FaceDataset):
            return None
        if plan.options.data is not None:
            with_images = any(item.has_image for item in plan.requests.dataset.items)
            folder = plan.root / "reference"
            return Reference(plan.requests.dataset, folder, plan.settings.image_size, own=True) if with_images else None
        dataset = plan.settings.datasets[plan.suite.dataset]
        named = [get_metric(name) for name in metrics_of(plan.related)]  # whether or not they can be scored here
        if dataset.reference_folder is None or not set_metrics(named, compared=True):
            return None
        real = open_faces(dataset.reference_folder, split="all")
        if dataset.reference_folder == dataset.items_folder:  # one dataset: its faces outside the test split
            asked = {item.id for item in open_faces(dataset.items_folder).items}
            real = replace(real, items=[item for item in real.items if item.id not in asked])
            if not real.items:  # a small tree is a test split as a whole
                return None
        folder = plan.options.results / plan.options.profile / "reference"
        return Reference(real, folder, plan.settings.image_size, dataset.reference_n, moments=dataset.moments_file)

    # ---------------------------------------------------------------------------------------------------------- costs

    @contextlib.contextmanager
    def measure(self, kind: str) -> Iterator[None]:
        """Count what happens inside as seconds of that kind."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[kind] += time.perf_counter() - start

    def _account(self, outcome: RunResult) -> None:
        for kind, seconds in outcome.seconds.items():
            self.seconds[kind] += seconds

    def split(self) -> dict[str, float]:
        """Seconds since the process began, by kind; 'other' is what no kind covers, the first imports among it."""
        return split_of([self])

    def overhead(self) -> float:
        """The share of these seconds in which no method and no network ran."""
        return overhead_of(self.split())


def split_of(sessions: Sequence[Session]) -> dict[str, float]:
    """Seconds by kind of all sessions of this process, 'other' included."""
    known: dict[str, float] = defaultdict(float)
    for session in sessions:
        for kind, seconds in session.seconds.items():
            if kind != "other":
                known[kind] += seconds
    total = time.perf_counter() - min(session.started for session in sessions)
    return {**known, "other": max(0.0, total - sum(known.values()))}


def overhead_of(split: Mapping[str, float]) -> float:
    """The share of seconds by kind in which no method and no network ran."""
    return 1 - sum(split.get(kind, 0.0) for kind in NETWORKS) / max(sum(split.values()), 1e-9)
