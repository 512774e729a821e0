"""What a stored run measured: values aligned with its requests, what is missing or refused, and their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from concord.data.errors import ConcordError
from concord.reports import statistics as st
from concord.reports.tables.table import NOT_SCORED

if TYPE_CHECKING:
    from pandas import DataFrame

    from concord.benchmarks.store.run import Run
    from concord.benchmarks.suite import Suite
    from concord.reports.published import PublishedTable

JOINT = "joint-success"
REFUSED = "refused"
AGAIN = f"{NOT_SCORED}; run `concord score` again"
SLACK = 1e-6
"""How far beyond its metric's bounds a stored value may lie by rounding, in units of the bound or 1."""
BOOTSTRAP_UNITS = (8, 1000)
BOOTSTRAP_FAILURES = 5
LEAST_FOR_SETS = 64  # two images for each of the jackknife's 32 groups; below, KID's intervals reach into the thousands
"""Where the cluster bootstrap takes the place of Student's t: so many items, and so many failures or more.

Values at the metric's worst lie far from the others, so that t misses on one side until there are some hundred images;
on fewer failures than 5 the bootstrap itself is five to ten times too wide (50 images, 1 or 2 failures: a width of 78
to 90 of 100, where t has 9 to 10)."""


@dataclass(frozen=True)
class MetricFacts:
    """What a table needs to know of a metric (metrics/base.py)."""

    name: str
    label: str
    higher_is_better: bool
    is_set: bool
    bounds: tuple[float, float] = (-math.inf, math.inf)
    paper_key: str | None = None
    networks: tuple[str, ...] = ()
    unit: str = ""
    is_rate: bool = False
    through_guide: bool = False
    weight_by: str | None = None
    counts: bool = False
    per_level: tuple[str, str] | None = None

    def check(self, values: np.ndarray, path: Path) -> None:
        """Raise ConcordError where stored values, finite, lie outside of the metric's bounds."""
        low, high = (
            end if math.isinf(end) else end + sign * SLACK * max(abs(end), 1.0)
            for end, sign in zip(self.bounds, (-1, 1), strict=True)
        )
        outside = values[(values < low) | (values > high)]
        if len(outside):
            raise ConcordError(
                f"{path}: '{self.name}' has the value {outside[0]:g}, expected {self.bounds[0]:g} to "
                f"{self.bounds[1]:g}: the file was changed, or another version wrote it; run `concord score` again"
            )


def metric_facts(names: list[str], profile: str = "embedded") -> dict[str, MetricFacts]:
    """Facts of the suite's metrics, from the registry; joint success is derived here and has its own."""
    from concord.metrics.base import SetMetric, get_metric

    facts = {}
    for name in names:
        if name == JOINT:
            facts[name] = MetricFacts(
                JOINT, "Joint success (%)", True, is_set=False, bounds=(0, 100), unit="%", is_rate=True
            )
            continue
        metric = get_metric(name)
        facts[name] = MetricFacts(
            name,
            metric.profile_labels.get(profile, metric.label),
            metric.higher_is_better,
            isinstance(metric, SetMetric),
            metric.bounds,
            metric.paper_key,
            metric.networks,
            metric.unit,
            metric.is_rate,
            metric.through_guide,
            metric.weight_by,
            metric.counts,
            metric.per_level,
        )
    return facts


@dataclass
class Measured:
    """One scored run in memory. values: metric -> (n,) in request order; `refused`: metric -> reason.

    weights: column -> (n,), 0 for images that do not enter it; such a column is the weighted mean of its values.
    """

    run: Run
    requests: list[str]
    values: dict[str, np.ndarray] = field(default_factory=dict)
    failed: dict[str, np.ndarray] = field(default_factory=dict)  # metric -> bool (n,), where its status is not 'ok'
    sets: dict[str, tuple[float, np.ndarray]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    n_reference: dict[str, int] = field(default_factory=dict)
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    intervals: dict[str, st.Interval | None] = field(default_factory=dict)  # those computed so far

    @property
    def items(self) -> list[str]:
        """The item of each request: its images under several seeds are one unit of sampling."""
        return [request.rsplit("-", 1)[0] for request in self.requests]

    def failures(self, column: str) -> int:
        """Images on which the metric failed; they count with the worst value."""
        return int(self.failed[column].sum()) if column in self.failed else 0


# ------------------------------------------------------------------------------------------------------------ reading


def read_measured(run: Run, facts: dict[str, MetricFacts], missing: Mapping[str, str] | None = None) -> Measured:
    """The scores of one run, aligned with its requests; what is missing or refused is kept with its reason.

    missing: metric -> why it cannot be scored here, for those that the run has no score of.

    Raises ConcordError that names the file where it is half-written or of another version.
    """
    try:
        measured = Measured(run, run.ids)
        scores, sets = run.scores(), run.sets()
        by_metric = dict(iter(scores.groupby("metric", sort=False)))
        for name, fact in facts.items():
            if name == JOINT:
                continue
            if fact.is_set:
                _read_set(measured, fact, sets[sets["metric"] == name])
            else:
                _read_samples(measured, fact, by_metric.get(name))
            if measured.refused.get(name) == AGAIN and missing and name in missing:
                measured.refused[name] = f"{NOT_SCORED}: {missing[name]}"
    except (KeyError, TypeError) as error:
        lacking = f"no {error}" if isinstance(error, KeyError) else "entries of another kind"
        raise ConcordError(
            f"{run.path}: run.json, scores.parquet or sets.parquet has {lacking}: written by another version of "
            f"concord; remove the folder and run `concord run {run.request_set}` again"
        ) from None
    return measured


def _read_samples(measured: Measured, fact: MetricFacts, rows: DataFrame | None) -> None:
    run, name = measured.run, fact.name
    if rows is None:
        measured.refused[name] = AGAIN
        return
    if rows["request"].duplicated().any():
        raise ConcordError(
            f"{run.path / 'scores.parquet'}: a request is scored twice for '{name}'; run `concord score` again"
        )
    aligned = rows.set_index("request").reindex(measured.requests)
    if aligned["status"].isna().any():
        missing = int(aligned["status"].isna().sum())
        raise ConcordError(
            f"{run.path / 'scores.parquet'}: {missing} of {len(aligned)} requests have no '{name}'; "
            "run `concord score` again"
        )
    status, values = aligned["status"].astype(str), aligned["value"].to_numpy(np.float64)
    turned_down = status.str.startswith(REFUSED)
    if turned_down.any():
        measured.refused[name] = _reason(status[turned_down].iloc[0])
    elif not np.isfinite(values).all():
        measured.refused[name] = f"{int((~np.isfinite(values)).sum())} of {len(values)} values are not finite"
    else:
        fact.check(values, run.path / "scores.parquet")
        measured.values[name] = values
        measured.failed[name] = (status != "ok").to_numpy(dtype=bool)


def _read_set(measured: Measured, fact: MetricFacts, rows: DataFrame) -> None:
    name = fact.name
    if rows.empty:
        measured.refused[name] = AGAIN
        return
    row = rows.iloc[0]
    measured.n_reference[name] = int(row["n_reference"])
    if str(row["status"]) != "ok" or not math.isfinite(row["value"]):
        measured.refused[name] = _reason(str(row["status"]))
    else:
        fact.check(np.array([row["value"]]), measured.run.path / "sets.parquet")
        replicates = row["replicates"]
        measured.sets[name] = (
            float(row["value"]),
            np.asarray([] if replicates is None else replicates, dtype=np.float64),
        )


def _reason(status: str) -> str:
    return status.removeprefix(REFUSED).lstrip(": ") or "no reason recorded"


# ------------------------------------------------------------------------------------------------------ joint success


def add_joint(rows: dict[str, Measured], suite: Suite, facts: dict[str, MetricFacts]) -> dict[str, float]:
    """Derive joint success (0 or 100 an image) for every row; returns the thresholds used.

    The thresholds are the ground-truth row's quantile: what real images that meet the conditions reach.
    """
    from concord.metrics.joint import joint_success, joint_thresholds

    joint = suite.joint
    if joint is None:
        return {}
    directions = {name: facts[name].higher_is_better for name in joint.metrics}
    truth = rows.get("ground-truth")
    reason = ""
    if truth is None:
        reason = "no ground-truth row to take thresholds from"
    else:
        bad = next((name for name in joint.metrics if name not in truth.values), None)
        reason = f"no thresholds ({_without(facts[bad], truth.refused.get(bad, NOT_SCORED))})" if bad else ""
    thresholds: dict[str, float] = {}
    if truth is not None and not reason:
        try:
            values = {name: truth.values[name] for name in joint.metrics}
            thresholds = joint_thresholds(values, directions, joint.quantile, truth.failed)
        except ValueError as error:  # every measurement of the ground truth failed
            reason = str(error)
    for measured in rows.values():
        lacking = [name for name in joint.metrics if name not in measured.values]
        if reason or lacking:
            measured.refused[JOINT] = reason or _without(facts[lacking[0]], measured.refused.get(lacking[0], REFUSED))
            continue
        values = {name: measured.values[name] for name in joint.metrics}
        measured.values[JOINT] = 100.0 * joint_success(values, thresholds, directions, measured.failed)
    return thresholds


def _without(fact: MetricFacts, reason: str) -> str:
    """What joint success says of a metric that it lacks."""
    return f"{fact.label} {NOT_SCORED if reason.startswith(NOT_SCORED) else reason}"


# ------------------------------------------------------------------------------------------------------------- levels


def request_levels(run: Run, key: str = "level") -> np.ndarray | None:
    """Instances of each request's layout, int (n,), as run.json has them under 'level'; None where it has none.

    key: 'interactions' for the number of those.
    """
    levels = [request.get(key) for request in run.manifest["requests"]]
    return np.array(levels, dtype=np.int64) if levels and None not in levels else None


def add_levels(
    rows: dict[str, Measured], facts: dict[str, MetricFacts], declared: PublishedTable
) -> dict[str, MetricFacts]:
    """The facts with every metric that is printed by level replaced by its columns by level and over all instances.

    A level's column is the mean over its images, 'avg' weighs every instance alike, as COCO-MIG prints them
    (`concord.metrics.layout.instances.by_level`). Rows that do not say their levels keep the mean over images. Other
    metrics with `weight_by` keep their one column, in which every counted thing weighs alike.
    """
    for name, fact in facts.items():
        if fact.weight_by is not None and fact.per_level is None:
            for one in rows.values():
                _weigh(one, name, fact.weight_by)
    known = {name: levels for name, one in rows.items() if (levels := request_levels(one.run)) is not None}
    expanded: dict[str, MetricFacts] = {}
    for name, fact in facts.items():
        if fact.per_level is None or len(known) < len(rows):
            expanded[name] = fact
            continue
        prefix, head = fact.per_level
        found = {int(n) for levels in known.values() for n in np.unique(levels)}
        printed = {int(key.rpartition("_L")[2]) for key in declared.metrics if key.startswith(f"{prefix}_L")}
        columns: dict[str, int | None] = {f"L{n}": n for n in sorted(found or printed)}
        for label, level in {**columns, "avg": None}.items():
            column = f"{name}@{label}"
            key = f"{prefix}_{label}"
            expanded[column] = replace(
                fact, name=column, label=f"{head} {label} (%)", paper_key=key if key in declared.metrics else None
            )
            for row, levels in known.items():
                _add_level(rows[row], name, column, levels, level)
    return expanded


def _weigh(measured: Measured, metric: str, things: str) -> None:
    """Give every counted thing the same weight; an image without one does not enter."""
    counts = request_levels(measured.run, things)
    if metric in measured.refused or counts is None:
        return
    if not counts.any():
        measured.refused[metric] = f"no layout of these requests has {things}"
        return
    measured.weights[metric] = counts.astype(np.float64)


def _add_level(measured: Measured, metric: str, column: str, levels: np.ndarray, level: int | None) -> None:
    if metric in measured.refused:
        measured.refused[column] = measured.refused[metric]
        return
    inside = np.ones(len(levels), dtype=bool) if level is None else levels == level
    measured.values[column] = measured.values[metric]
    measured.weights[column] = np.where(inside, levels, 0).astype(np.float64)
    measured.failed[column] = measured.failed[metric] & inside


# ---------------------------------------------------------------------------------------------------------- intervals


def interval_of(fact: MetricFacts, measured: Measured) -> st.Interval | None:
    """Value and 95 % interval of one row in one metric; None where it is refused."""
    name = fact.name
    if name in measured.refused:
        return None
    if fact.is_set:
        value, replicates = measured.sets[name]
        if len(measured.requests) < LEAST_FOR_SETS:
            return st.Interval(value, math.nan, math.nan)
        return st.jackknife_interval(value, replicates, fact.bounds)
    if fact.is_rate or name == JOINT:
        rate = st.rate_interval(measured.values[name] / 100, measured.items)
        return st.Interval(*(100 * end for end in rate))
    if fact.counts and name in measured.weights:
        rate = st.rate_interval(*counted(measured.values[name], measured.weights[name], measured.items))
        return st.Interval(*(100 * end for end in rate))
    return sample_interval(
        measured.values[name], measured.items, fact.bounds, measured.failed.get(name), measured.weights.get(name)
    )


def sample_interval(
    values: np.ndarray,
    items: Sequence[str],
    bounds: tuple[float, float] = (-np.inf, np.inf),
    failed: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> st.Interval:
    """Interval of a mean of per-image values: by the bootstrap over items where many failed, else by Student's t."""
    if weights is not None:
        values, items, failed = spread(values, weights), *_kept(items, failed, weights)
    units = len(set(items))
    many = failed is not None and failed.sum() >= BOOTSTRAP_FAILURES
    if many and BOOTSTRAP_UNITS[0] <= units <= BOOTSTRAP_UNITS[1]:
        return st.cluster_bootstrap(values, items, bounds)
    return st.mean_interval(values, items, bounds)


def counted(values: np.ndarray, counts: np.ndarray, items: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Every thing of every image: whether it succeeds, 0 or 1, and which item it is of.

    values: shares of each image's `counts` things, %.
    """
    numbers = counts.astype(np.int64)
    hits = np.round(values * numbers / 100).astype(np.int64)
    each = [np.arange(number) < hit for number, hit in zip(numbers, hits, strict=True)]
    return np.concatenate(each).astype(np.float64), [str(item) for item in np.repeat(np.asarray(items), numbers)]


def spread(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Values of the images with a weight, whose plain mean is the weighted mean and whose spread is that mean's.

    m + w (x - m) with weights of mean 1: the linearised ratio of sums, so that its t interval is the ratio's.
    """
    inside = weights > 0
    x, w = values[inside], weights[inside] / weights[inside].mean()
    mean = float((w * x).mean())
    return np.asarray(mean + w * (x - mean))


def _kept(items: Sequence[str], failed: np.ndarray | None, weights: np.ndarray) -> tuple[list[str], np.ndarray | None]:
    inside = weights > 0
    return [item for item, keep in zip(items, inside, strict=True) if keep], None if failed is None else failed[inside]
