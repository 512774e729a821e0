"""A small seeded search for the parameters of a suite's methods, on validation faces that no table shows.

Guidance strengths have no meaning across models. Every method of a suite gets the same ranges, the same number of
trials, the same faces and seeds, and the same first points; what is looked for is stated in `objective_text`.
Ranges are shares of each method's own values, which are the papers'.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from concord.benchmarks.plan.keys import digest
from concord.benchmarks.plan.requests import RequestSet
from concord.benchmarks.plan.sources import module_sources, versions
from concord.benchmarks.planner import row_sources
from concord.benchmarks.store.provenance import git_commit
from concord.benchmarks.suite import JOINT_SUCCESS, Row, Suite, Tune
from concord.benchmarks.tuned import Search, Trial, Tuned, merge, nested, read_search
from concord.data.errors import ConcordError

if TYPE_CHECKING:
    from torch import Tensor

    from concord.data.networks import Networks
    from concord.metrics.base import SampleMetric
    from concord.metrics.evaluation import ImageBatch

MAHALANOBIS = "mahalanobis-distance"
"""Kept with every trial, but no part of the objective: small models' samples are nearer to the mean than real faces."""
SPREAD = 0.6  # share of the trials that are spread over the whole ranges; the others look around the best
REACH = 0.12  # how far these look at first, as a share of a range's logarithm; it halves towards the last
Evaluate = Callable[[dict[str, float]], Trial]


# ----------------------------------------------------------------------------------------------------------- the search


def search(ranges: Mapping[str, Sequence[float]], trials: int, seed: int, evaluate: Evaluate) -> list[Trial]:
    """Try `trials` settings, in the order tried.

    The first is the ranges' middle, then a Latin hypercube in log space, then normal steps around the best so far. The
    same ranges and seed give the same first points, whatever is evaluated.
    """
    from scipy.stats import qmc

    names = list(ranges)
    low, high = (np.log([ranges[name][end] for name in names]) for end in (0, 1))
    spread = max(1, math.ceil(SPREAD * trials))
    cube = qmc.LatinHypercube(len(names), rng=np.random.default_rng([seed, 0])).random(max(spread - 1, 0))
    first = [np.full(len(names), 0.5), *cube]
    rng = np.random.default_rng([seed, 1])
    done: list[Trial] = []
    places: list[np.ndarray] = []
    for number in range(trials):
        if number < len(first):
            place = first[number]
        else:
            turn = (number - len(first)) / max(trials - len(first) - 1, 1)
            place = places[_best(done)] + REACH * 0.5**turn * rng.standard_normal(len(names))
        place = place.clip(0, 1)
        values = np.exp(low + place * (high - low))
        places.append(place)
        done.append(evaluate({name: _rounded(float(value)) for name, value in zip(names, values, strict=True)}))
    return done


def _best(trials: Sequence[Trial]) -> int:
    return max(range(len(trials)), key=lambda number: trials[number].objective)


def best(trials: Sequence[Trial]) -> Trial:
    """The trial with the highest objective; the earlier one of equals."""
    return trials[_best(trials)]


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")  # more digits would pretend to know more


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
    """The tuning requests of a suite, and what measures images made for them. Nothing is stored."""

    suite: Suite
    requests: RequestSet
    judges: Networks
    reference: np.ndarray  # features (M, D) of real images
    open_bank: Callable[[], Any]
    batch_size: int = 32

    @property
    def tune(self) -> Tune:
        """The suite's key 'tune'; ConcordError where it has none."""
        if self.suite.tune is None:
            raise ConcordError(f"suite '{self.suite.name}' has no key 'tune': expected n, trials, floor and ranges")
        return self.suite.tune

    @cached_property
    def metrics(self) -> list[SampleMetric]:
        """The suite's metrics that have a value for every image."""
        from concord.metrics.base import SampleMetric, get_metric

        found = [get_metric(name) for name in self.suite.metrics if name != JOINT_SUCCESS]
        if self.suite.originals is not None:  # another row's images, which a trial does not make
            found = [metric for metric in found if not metric.needs_originals]
        return [metric for metric in found if isinstance(metric, SampleMetric)]

    @cached_property
    def groups(self) -> dict[str, str]:
        """metric -> the condition that it measures."""
        return {metric.name: metric.condition for metric in self.metrics}

    @cached_property
    def higher(self) -> dict[str, bool]:
        """metric -> whether more of it is better."""
        return {metric.name: metric.higher_is_better for metric in self.metrics}

    def ranges(self, row: Row) -> dict[str, list[float]]:
        """The ranges of the parameters that the row's method has and its conditions use: shares of its own values."""
        from concord.methods.base import get_method, make_params

        assert row.method is not None
        own = make_params(get_method(row.method), row.params).model_dump()
        given = self.suite.row_conditions(row)
        found = {}
        for name, (low, high) in self.tune.ranges.items():
            group, _, condition = name.partition(".")
            value = own.get(group, {}).get(condition) if condition else own.get(group)
            if value and (group != "strengths" or condition in given):
                found[name] = [low * value, high * value]
        if not found:
            raise ConcordError(
                f"row '{row.name}': method '{row.method}' has none of the parameters {', '.join(self.tune.ranges)}"
            )
        return found

    def values(self, images: Tensor) -> dict[str, float]:
        """Means over the images (n, 3, H, W) of every metric, and the images' Mahalanobis distance."""
        from concord.metrics.evaluation import Scores, score_batches

        scores = Scores(len(images))
        for batch in score_batches(self._batches(images), self.metrics, self.judges, kinds=("pool",)):
            scores.add(batch)
        means = {name: float(np.mean(values)) for name, values in scores.values.items()}
        return {**means, MAHALANOBIS: mahalanobis_distance(scores.features["pool"], self.reference)}

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

    def images(self, row: Row, params: dict[str, Any], bank: Any) -> Tensor:
        """What the row's method makes of the requests, rounded to 8 bits as the store keeps them."""
        import torch

        from concord.methods.base import make_method

        assert row.method is not None
        method = make_method(row.method, params, bank)
        given = self.suite.row_conditions(row)
        made = []
        for start in range(0, len(self.requests), self.batch_size):
            batch = [self.requests.request(r, given) for r in self.requests.requests[start : start + self.batch_size]]
            made.append(method.generate(batch))
        return (torch.cat(made) * 255).round() / 255

    @cached_property
    def floor(self) -> dict[str, float]:
        """Metrics of the row that a trial is measured from."""
        row = self.suite.row(self.tune.floor)
        return self.values(self.images(row, row.params, self.open_bank()))

    @cached_property
    def ceiling(self) -> dict[str, float]:
        """Metrics of the items' own images, or what the suite counts as met."""
        from concord.metrics.evaluation import to_tensor

        size = self.requests.image_size
        own = to_tensor(np.stack([request.item.image(size) for request in self.requests.requests]))
        return {**self.values(own), **self.tune.ceiling}

    def search(self, row: Row, seed: int = 0, tell: Callable[[int, Trial], None] | None = None) -> Tuned:
        """The search of one row: `tune.trials` trials over the ranges that it has."""
        assert row.method is not None
        bank = self.open_bank()
        floor, ceiling, groups = self.floor, self.ceiling, self.groups
        count = iter(range(1, self.tune.trials + 1))

        def evaluate(params: dict[str, float]) -> Trial:
            start = time.perf_counter()
            values = self.values(self.images(row, merge(row.params, nested(params)), bank))
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

        trials = search(self.ranges(row), self.tune.trials, seed, evaluate)
        chosen = best(trials)
        return Tuned(
            method=row.method,
            conditions=self.suite.row_conditions(row),
            fixed=row.params,
            chosen=chosen.params,
            objective=chosen.objective,
            seconds=round(sum(trial.seconds for trial in trials), 1),
            weights=dict(getattr(bank, "sha256", {})),
            commit=git_commit() or "unknown",
            trials=trials,
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
            ranges=self.tune.ranges,
            items=f"{self.requests.dataset.name}, {first} to {last}",
            objective=objective_text(self.groups, self.tune.floor, self.tune.ceiling),
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


def tuning_code(suite: Suite, row: Row, profile: str) -> str:
    """SHA-256 of what a row's search follows from: the code of its images and of the metrics, packages' versions."""
    from concord.metrics.base import get_metric

    measured = module_sources(type(get_metric(name)) for name in suite.metrics if name != JOINT_SUCCESS)
    return digest({"code": (row_sources(suite, row, profile) | measured).code, "versions": versions()})


def stale_tunings(suite: Suite, profile: str) -> list[str]:
    """Of the rows that take tuned values those whose search was made by other code, a line each: what to do."""
    search = read_search(suite.request_set) if suite.tune is not None else None
    if search is None or search.profile != profile:
        return []
    found = []
    for row in rows_to_tune(suite, None):
        known = search.rows.get(row.name)
        if known is not None and known.code and known.code != tuning_code(suite, row, profile):
            how = f"`concord tune {row.method} {suite.name}` looks for them again"
            found.append(f"{suite.request_set}/{row.name}: its parameters were tuned by other code than today's; {how}")
    return found


def rows_to_tune(suite: Suite, names: Iterable[str] | None) -> list[Row]:
    """The rows that take tuned values of their own; of these the named ones (rows or methods)."""
    known = [row for row in suite.rows if row.tuned == row.name and row.method is not None]
    if names is None:
        return known
    wanted = set(names)
    found = [row for row in known if row.name in wanted or row.method in wanted]
    if not found:
        listed = ", ".join(row.name for row in known) or "none"
        raise ConcordError(
            f"suite '{suite.name}' has nothing to tune for {', '.join(sorted(wanted))}: its tuned rows are {listed}"
        )
    return found


def _terms(search: Search) -> tuple[Any, ...]:
    """What must be the same for two rows' searches to be fair to each other, and stand in one file."""
    return search.profile, search.seed, search.n, search.budget, search.ranges, search.items, search.floor


def _short(values: Mapping[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.5g}") for name, value in values.items()}
