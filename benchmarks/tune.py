"""A small seeded search for the parameters of any method on any suite, on validation items that no table shows.

Every method of a suite gets the same number of trials, the same items and seeds, and the same first points in its
ranges (benchmarks/search.py); what is looked for is stated in `objective_text`. The ranges are those that the fields of
its `Params` state (methods/core/tunable.py), or those of the suite's key `tune`: shares of each method's own values.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from concord.benchmarks.plan.keys import digest
from concord.benchmarks.plan.requests import PlannedRequest, RequestSet
from concord.benchmarks.plan.sources import module_sources, versions
from concord.benchmarks.planner import row_sources
from concord.benchmarks.run.image_source import derangement
from concord.benchmarks.search import SAMPLER, best, search
from concord.benchmarks.store.provenance import git_commit
from concord.benchmarks.suite import JOINT_SUCCESS, Row, Suite, Tune
from concord.benchmarks.tuned import Progress, Search, Trial, Tuned, merge, nested, read_search
from concord.data.errors import ConcordError
from concord.methods.core.tunable import Interval, Value, tune_ranges

if TYPE_CHECKING:
    from torch import Tensor

    from concord.data.datasets.item import Dataset
    from concord.data.networks import Networks
    from concord.metrics.base import SampleMetric
    from concord.metrics.evaluation import ImageBatch

MAHALANOBIS = "mahalanobis-distance"
"""Kept with every trial, but no part of the objective: small models' samples are nearer to the mean than real faces."""
SHUFFLED = "shuffled"
"""The floor where a suite names no row: real images, each for another request."""

# -------------------------------------------------------------------------------------------------------- the objective


def progress_made(value: float, floor: float, ceiling: float, higher: bool) -> float | None:
    """How far `value` has come from the floor (0) to the ceiling (1), within -1 .. 1.

    None where the ceiling is no better than the floor: the metric then cannot say what is good.
    """
    way = ceiling - floor if higher else floor - ceiling
    if not math.isfinite(value) or way < 1e-9:
        return None
    return float(np.clip((value - floor) / (ceiling - floor), -1.0, 1.0))


def objective(
    values: Mapping[str, float],
    floor: Mapping[str, float],
    ceiling: Mapping[str, float],
    groups: Mapping[str, str],
    higher: Mapping[str, bool],
) -> tuple[float, dict[str, float]]:
    """(objective, its parts by metric): the mean over groups of the mean progress of each group's metrics.

    groups: metric -> the condition that it measures, so that a condition with two metrics counts once.
    higher: metric -> whether more of it is better.
    """
    made = {name: progress_made(values[name], floor[name], ceiling[name], higher[name]) for name in groups}
    parts = {name: share for name, share in made.items() if share is not None}
    if not parts:
        raise ConcordError("tune: no metric tells the floor row from real images; choose another floor, or metrics")
    by_group: dict[str, list[float]] = defaultdict(list)
    for name, share in parts.items():
        by_group[groups[name]].append(share)
    return float(np.mean([np.mean(found) for found in by_group.values()])), parts


def objective_text(groups: Mapping[str, str], floor: str, given: Mapping[str, float]) -> str:
    """The objective in words, as it is kept with the search."""
    by_group: dict[str, list[str]] = defaultdict(list)
    for name, group in groups.items():
        by_group[group].append(name)
    listed = "; ".join(f"{group}: {', '.join(names)}" for group, names in by_group.items())
    said = "".join(f", except {name} = {value:g}" for name, value in given.items())
    return (
        f"mean over the conditions ({listed}) of the metrics' means over the images, each as its way from row "
        f"'{floor}' (0) to the real images (1){said}, within -1 and 1"
    )


def mahalanobis_distance(features: np.ndarray, reference: np.ndarray) -> float:
    """Mean over images of the Mahalanobis distance of features (n, D) from (m, D), by the root of D: about 1 for real.

    Unlike FID it has a value for every image, and so compares settings on a few requests; it sees images that are like
    no real one, not images that are too much alike.
    """
    centred = reference.astype(np.float64) - reference.mean(0, dtype=np.float64)
    covariance = centred.T @ centred / (len(reference) - 1)
    covariance += 1e-3 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    off = features.astype(np.float64) - reference.mean(0, dtype=np.float64)
    squared = np.einsum("nd,nd->n", off, np.linalg.solve(covariance, off.T).T)
    return float(np.sqrt(squared / features.shape[1]).mean())


# ------------------------------------------------------------------------------------------------------------ measuring


@dataclass
class TuningRun:
    """The tuning requests of a suite, and what measures images made for them. Images are not stored."""

    suite: Suite
    requests: RequestSet
    judges: Networks
    reference: np.ndarray | None  # features (M, D) of real images; None where the profile has no such images
    open_networks: Callable[[Row], Networks]  # of a row's generator
    batch_size: int = 32
    profile: str = "embedded"
    progress: Path | None = None  # folder of unfinished searches; None: they are not kept

    @property
    def tune(self) -> Tune:
        return self.suite.tune or Tune()

    @property
    def floor_name(self) -> str:
        """The row that a trial is measured from, in words."""
        return self.tune.floor or SHUFFLED

    @cached_property
    def metrics(self) -> list[SampleMetric]:
        """The suite's metrics that have a value for every image."""
        from concord.metrics.base import SampleMetric, get_metric

        found = [get_metric(name) for name in self.suite.metrics if name != JOINT_SUCCESS]
        if self.suite.originals is not None:  # another row's images, which a trial does not make
            found = [metric for metric in found if not metric.needs_originals]
        kept = [metric for metric in found if isinstance(metric, SampleMetric)]
        if not kept:
            raise ConcordError(
                f"suite '{self.suite.name}': none of its metrics has a value for every image "
                f"({', '.join(self.suite.metrics)}), and a few images say nothing about a set; tune on another suite"
            )
        return kept

    @cached_property
    def groups(self) -> dict[str, str]:
        """metric -> the condition that it measures."""
        return {metric.name: metric.condition for metric in self.metrics}

    @cached_property
    def higher(self) -> dict[str, bool]:
        """metric -> whether more of it is better."""
        return {metric.name: metric.higher_is_better for metric in self.metrics}

    def ranges(self, row: Row) -> dict[str, Interval]:
        """What is searched: see `row_ranges`."""
        return row_ranges(self.suite, row)

    def values(self, images: Tensor) -> dict[str, float]:
        """Means over the images (n, 3, H, W) of every metric, and their Mahalanobis distance."""
        from concord.metrics.evaluation import Scores, score_batches

        scores, kinds = Scores(len(images)), () if self.reference is None else ("pool",)
        for batch in score_batches(self._batches(images), self.metrics, self.judges, kinds=kinds):
            scores.add(batch)
        weights = {metric.name: self._weights(metric) for metric in self.metrics}
        means = {name: _mean(values, weights[name]) for name, values in scores.values.items()}
        if self.reference is None:
            return means
        return {**means, MAHALANOBIS: mahalanobis_distance(scores.features["pool"], self.reference)}

    def _weights(self, metric: SampleMetric) -> np.ndarray:
        """Of the images in a metric's mean, as a table weighs them: 1, or how many things each image is asked for."""
        if metric.weight_by is None:
            return np.ones(len(self.requests))
        return np.array([float(request.item.facts()[metric.weight_by]) for request in self.requests.requests])

    def _batches(self, images: Tensor) -> Iterator[ImageBatch]:
        """Images of the requests with their conditions and the items' own images."""
        from concord.metrics.evaluation import ImageBatch, to_tensor

        for start in range(0, len(images), self.batch_size):
            planned = self.requests.requests[start : start + self.batch_size]
            yield ImageBatch(
                np.arange(start, start + len(planned)),
                images[start : start + self.batch_size],
                [self.requests.conditions_of(request, self.requests.conditions) for request in planned],
                to_tensor(np.stack([request.item.image(self.requests.image_size) for request in planned])),
            )

    def images(self, row: Row, params: dict[str, object], networks: Networks) -> Tensor:
        """What the row's method makes of the requests, rounded to 8 bits as the store keeps them."""
        import torch

        from concord.methods.base import make_method

        assert row.method is not None
        given = self.suite.row_conditions(row)
        method = make_method(row.method, params, networks, given)
        made = []
        for start in range(0, len(self.requests), self.batch_size):
            batch = [self.requests.request(r, given) for r in self.requests.requests[start : start + self.batch_size]]
            made.append(method.generate(batch))
        return (torch.cat(made) * 255).round() / 255

    @cached_property
    def floor(self) -> dict[str, float]:
        """Metrics of the row that a trial is measured from; of real images of other requests where none is named."""
        if self.tune.floor is None:
            other = derangement(self.requests.requests)
            return self.values(self._own([other[request.id] for request in self.requests.requests]))
        row = self.suite.row(self.tune.floor)
        return self.values(self.images(row, row.params, self.open_networks(row)))

    @cached_property
    def ceiling(self) -> dict[str, float]:
        """Metrics of the items' own images, or what the suite counts as met."""
        return {**self.values(self._own(self.requests.requests)), **self.tune.ceiling}

    def _own(self, requests: Sequence[PlannedRequest]) -> Tensor:
        from concord.metrics.evaluation import to_tensor

        return to_tensor(np.stack([request.item.image(self.requests.image_size) for request in requests]))

    def search(self, row: Row, seed: int = 0, tell: Callable[[int, Trial], None] | None = None) -> Tuned:
        """The search of one row: `tune.trials` trials over its ranges, those of a stopped one among them."""
        assert row.method is not None
        ranges = self.ranges(row)
        networks = self.open_networks(row)
        floor, ceiling, groups = self.floor, self.ceiling, self.groups
        kept = Progress.of(self.progress, self.suite.request_set, row.name, self._search_terms(row, seed, ranges))
        count = iter(range(len(kept.trials) + 1, self.tune.trials + 1))

        def evaluate(params: dict[str, Value]) -> Trial:
            start = time.perf_counter()
            values = self.values(self.images(row, merge(row.params, nested(params)), networks))
            reached, parts = objective(values, floor, ceiling, groups, self.higher)
            trial = Trial(
                params=params,
                objective=round(reached, 4),
                parts=_short(parts),
                values=_short(values),
                seconds=round(time.perf_counter() - start, 1),
            )
            if tell is not None:
                tell(next(count), trial)
            return trial

        trials = search(ranges, self.tune.trials, seed, evaluate, kept.trials, kept.keep)
        chosen = best(trials)
        return Tuned(
            method=row.method,
            conditions=self.suite.row_conditions(row),
            fixed=row.params,
            chosen=chosen.params,
            objective=chosen.objective,
            seconds=round(sum(trial.seconds for trial in trials), 1),
            weights=dict(networks.sha256),
            commit=git_commit() or "unknown",
            ranges={name: [interval.low, interval.high] for name, interval in ranges.items()},
            trials=trials,
        )

    def _search_terms(self, row: Row, seed: int, ranges: Mapping[str, Interval]) -> str:
        """SHA-256 of what a search's trials follow from: a stopped search goes on only where nothing of it changed."""
        return digest(
            {
                "code": tuning_code(self.suite, row, self.profile),
                "row": [row.method, row.params, self.suite.row_conditions(row)],
                "ranges": {name: [each.low, each.high, each.whole] for name, each in ranges.items()},
                "tune": self.tune.model_dump(),
                "metrics": list(self.groups),
                "requests": [self.requests.name, self.requests.content, len(self.requests)],
                "seed": seed,
                "sampler": SAMPLER,
            }
        )

    def result(self, profile: str, seed: int, rows: Mapping[str, Tuned], earlier: Search | None = None) -> Search:
        """The searches of these rows, with those of rows that were tuned before on the same terms."""
        first, last = (self.requests.requests[end].item.id for end in (0, -1))
        found = Search(
            request_set=self.suite.request_set,
            profile=profile,
            seed=seed,
            n=len(self.requests),
            budget=self.tune.trials,
            sampler=SAMPLER,
            ranges=self.tune.ranges,
            items=f"{self.requests.dataset.name}, {first} to {last}",
            objective=objective_text(self.groups, self.floor_name, self.tune.ceiling),
            floor=_short(self.floor),
            ceiling=_short(self.ceiling),
            rows={name: self._with_code(name, row, profile) for name, row in rows.items()},
        )
        if earlier is not None and _terms(earlier) == _terms(found):
            found = found.model_copy(update={"rows": {**earlier.rows, **found.rows}})
        return found

    def _with_code(self, name: str, tuned: Tuned, profile: str) -> Tuned:
        rows = {row.name: row for row in self.suite.rows}
        return (
            tuned.model_copy(update={"code": tuning_code(self.suite, rows[name], profile)}) if name in rows else tuned
        )


def row_ranges(suite: Suite, row: Row) -> dict[str, Interval]:
    """The intervals that a row's search draws from; ConcordError where nothing states any.

    Those of the suite's key `tune`, shares of the method's own values, where the method has such parameters; else those
    that the fields of its `Params` state.
    """
    from concord.methods.base import get_method, make_params

    assert row.method is not None
    method = get_method(row.method)
    params = make_params(method, row.params)
    own, given = params.model_dump(), suite.row_conditions(row)
    found = {}
    for name, (low, high) in (suite.tune or Tune()).ranges.items():
        group, _, condition = name.partition(".")
        value = own.get(group, {}).get(condition) if condition else own.get(group)
        if value and (group != "strengths" or condition in given):
            found[name] = Interval(low * value, high * value)
    found = found or tune_ranges(method, params, given)
    if not found:
        raise ConcordError(
            f"row '{row.name}': no parameter of method '{row.method}' that has an effect here states a range; "
            "give a field of its Params one, Annotated[float, TuneRange(low, high)]"
        )
    return found


def tuning_code(suite: Suite, row: Row, profile: str) -> str:
    """SHA-256 of what a row's search follows from: the code of its images and of the metrics, packages' versions."""
    from concord.metrics.base import get_metric

    measured = module_sources(type(get_metric(name)) for name in suite.metrics if name != JOINT_SUCCESS)
    return digest({"code": (row_sources(suite, row, profile) | measured).code, "versions": versions()})


def stale_tunings(suite: Suite, profile: str) -> list[str]:
    """Which rows take values that a search by other code found, or by code that was not noted, and what to do."""
    search = read_search(suite.request_set)
    if search is None or search.profile != profile:
        return []
    found: dict[str, list[Row]] = defaultdict(list)
    for row in tuned_rows(suite):
        known = search.rows.get(row.name)
        if known is not None and not known.code:
            found["by code that was not noted"].append(row)
        elif known is not None and known.code != tuning_code(suite, row, profile):
            found["by other code than today's"].append(row)
    lines = []
    for code, rows in found.items():
        name = rows[0].name if len(rows) == 1 else "all"
        how = f"`concord tune {name} {suite.name}` looks for them again"
        names = ", ".join(row.name for row in rows)
        lines.append(f"{suite.request_set}: the parameters of {names} were tuned {code}; {how}")
    return lines


def tuned_rows(suite: Suite) -> list[Row]:
    """The rows that take tuned values of their own."""
    return [row for row in suite.rows if row.tuned == row.name and row.method is not None]


def rows_to_tune(suite: Suite, name: str | None) -> list[Row]:
    """The row of that name, or the rows of that method, those that take tuned values first; else a row for the method.

    None: all rows that take tuned values of their own. A method that the suite does not name gets those of the suite's
    conditions that it takes. ConcordError for a name that is neither, and where the conditions do not fit.
    """
    from concord.methods.base import all_methods

    tuned = tuned_rows(suite)
    if name is None:
        if not tuned:
            raise ConcordError(f"suite '{suite.name}': no row takes tuned values; name a method or a row to tune")
        return tuned
    own = [row for row in suite.rows if row.name == name and row.method is not None]
    of_method = [row for row in suite.rows if row.method == name]
    for found in (
        [row for row in own if row in tuned],
        [row for row in of_method if row in tuned],
        own,
        of_method[:1],
    ):
        if found:
            return found
    method = all_methods().get(name)
    if method is None:
        known = ", ".join([*(row.name for row in suite.rows if row.method), *all_methods()])
        raise ConcordError(f"'{name}' is no row of suite '{suite.name}' and no method: expected one of {known}")
    given = [condition for condition in suite.conditions if condition in method.conditions]
    if len(given) < max(method.minimum_conditions, min(len(method.conditions), 1)):
        raise ConcordError(
            f"suite '{suite.name}' gives {', '.join(suite.conditions)}; method '{name}' needs at least "
            f"{max(method.minimum_conditions, 1)} of {', '.join(sorted(method.conditions))}"
        )
    return [Row(name=name, method=name, conditions=given)]


def check_unseen(requests: RequestSet, shown: Dataset[Any]) -> None:
    """Raise ConcordError where an item to tune on is, by name and image, one of those that the tables show."""
    known = {item.id: item for item in shown.items}
    for request in requests.requests:
        other = known.get(request.item.id)
        if other is None or not (request.item.has_image and other.has_image):
            continue
        size = requests.image_size
        if np.array_equal(request.item.image(size), other.image(size)):
            raise ConcordError(
                f"{requests.dataset.root}: item '{request.item.id}' is one of {shown.root}, which the tables show; "
                "tune on other items"
            )


def _terms(search: Search) -> tuple[object, ...]:
    """What must be the same for two rows' searches to be fair to each other, and stand in one file."""
    how = search.sampler, search.seed, search.n, search.budget
    return search.profile, *how, search.ranges, search.items, search.floor


def _mean(values: np.ndarray, weights: np.ndarray) -> float:
    """Weighted mean (n,); an image of weight 0 has no part in it, and no value."""
    counted = weights > 0
    return float(np.average(values[counted], weights=weights[counted])) if counted.any() else math.nan


def _short(values: Mapping[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.5g}") for name, value in values.items()}
