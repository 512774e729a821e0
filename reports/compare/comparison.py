"""The gate: one side's scores against another's, request by request.

For every row and metric that both sides have, the difference (head - base) with its 95 % interval, and a two-sided p:
sign flips over the items for what is measured per image, the paired jackknife for a set metric (reports/statistics.py).
Holm's correction runs over all comparisons of the call in which anything moved at all, so that the whole call raises a
false alarm at most one time in twenty. (Rows that are bit for bit the same are no tests: their p is always 1.)

Verdicts, with a margin m stated for each metric (reports/margins.yaml):

    worse, better     corrected p < 0.05, and the difference is larger than m
    same              the 95 % interval lies inside [-m, m]: two one-sided tests at 2.5 % each
    cannot tell       neither: n is too small. `visible` is the smallest loss that this n finds with 80 % power

Joint success is not compared: it follows from the metrics that are. What rows cost, and why they were made anew, is
told beside the scores (reports/compare/costs.py); more passes of a network than the base took are a loss too.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from concord.data.errors import ConcordError
from concord.reports import statistics as st
from concord.reports.compare.costs import CostChange, cost_changes, why_anew
from concord.reports.compare.margins import Margins
from concord.reports.compare.sides import FIRST, POOL, Side, SideRun, protocol_difference, protocols
from concord.reports.tables.measured import MetricFacts, metric_facts
from concord.reports.tables.pairs import ALPHA

POWER = 0.8
MOST = 5  # samples that are named

Verdict = Literal["identical", "same", "better", "worse", "cannot tell"]


@dataclass(frozen=True)
class Moved:
    """A sample that changed: its values, or for a set metric how far its features moved (base and head None)."""

    request: str
    base: float | None
    head: float | None
    amount: float  # loss > 0 for a value per sample; a distance for features


@dataclass(frozen=True)
class Change:
    """One metric of one row on both sides. Differences are head - base; loss > 0 is worse."""

    run: str
    metric: str
    label: str
    n: int
    before: float
    now: float
    low: float
    high: float
    loss: float
    margin: float
    p: float
    error: float
    df: int
    identical: bool = False
    failed: tuple[int, int] = (0, 0)  # samples that could not be measured
    moved: list[Moved] = field(default_factory=list)  # most changed first
    p_holm: float = 1.0
    visible: float = math.nan  # the smallest true loss that the whole procedure calls worse with 80 % power

    @property
    def difference(self) -> float:
        """Now less before, in the metric's unit."""
        return self.now - self.before

    @property
    def verdict(self) -> Verdict:
        """'worse' or 'better': significant and beyond the margin; 'same': within the margin for sure."""
        if self.identical:
            return "identical"
        if self.p_holm < ALPHA and abs(self.loss) > self.margin:
            return "worse" if self.loss > 0 else "better"
        return "same" if -self.margin <= self.low and self.high <= self.margin else "cannot tell"


@dataclass(frozen=True)
class Incomparable:
    """A row (metric '') or one metric of it that cannot be compared, and why."""

    run: str
    metric: str
    reason: str


@dataclass(frozen=True)
class Result:
    """Everything that a comparison says."""

    base: Side
    head: Side
    changes: list[Change]
    incomparable: list[Incomparable]
    new: list[str]  # runs that the base does not know
    notes: list[str]
    tests: int  # comparisons that Holm's correction covers
    costs: Sequence[CostChange] = ()
    anew: Mapping[str, Sequence[str]] = field(default_factory=dict)  # run -> what its images follow from that differs

    @property
    def worse(self) -> list[Change]:
        return [change for change in self.changes if change.verdict == "worse"]

    @property
    def costlier(self) -> list[CostChange]:
        """Rows that take more passes than before; seconds and memory are told, and decide nothing."""
        return [change for change in self.costs if change.is_exact and change.verdict == "costlier"]

    @property
    def exit_code(self) -> int:
        """1: something is worse, or takes more passes; 3: something, or everything, cannot be compared; 0: neither."""
        return 1 if self.worse or self.costlier else 3 if self.incomparable or not self.changes else 0

    def counts(self) -> dict[str, int]:
        """How many comparisons got each verdict, the gravest first."""
        order: tuple[Verdict, ...] = ("worse", "better", "cannot tell", "same", "identical")
        counted = {verdict: sum(change.verdict == verdict for change in self.changes) for verdict in order}
        return {verdict: count for verdict, count in counted.items() if count}


def compare_sides(
    base: Side,
    head: Side,
    margins: Margins,
    facts: Mapping[str, MetricFacts] | None = None,
    only: Collection[str] | None = None,
) -> Result:
    """Every run of the base (`only` these, where given) against the head's run of the same name.

    facts: of the metrics, where they are not the registered ones.
    """
    names = sorted({metric for run in base.runs.values() for metric in (*run.values, *run.sets)})
    meaning = {metric: fact for side in (head, base) for metric, fact in side.protocols.items()}
    known, unknown = _known_facts(names, facts, meaning)
    today = protocols(names) if facts is None else {}
    then, now = {**today, **base.protocols}, {**today, **head.protocols}
    changes: list[Change] = []
    incomparable: list[Incomparable] = []
    for name, run in base.runs.items():
        if only is not None and name not in only:
            continue
        if reason := _run_reason(base, head, name):
            incomparable.append(Incomparable(name, "", reason))
            continue
        other, pairs = head.runs[name], []
        for metric in names:
            if metric not in run.values and metric not in run.sets:
                continue
            reason = unknown.get(metric) or protocol_difference(then.get(metric, {}), now.get(metric, {}))
            reason = reason or _metric_reason(run, other, known[metric])
            if reason:
                incomparable.append(Incomparable(name, metric, reason))
            else:
                pairs.append(known[metric])
        changes += _changes(name, run, other, pairs, margins)
    return _concluded(base, head, changes, incomparable, only, _notes(base, head, then, now))


def _known_facts(
    names: Sequence[str], facts: Mapping[str, MetricFacts] | None, meaning: Mapping[str, Mapping[str, object]]
) -> tuple[dict[str, MetricFacts], dict[str, str]]:
    """Facts of the metrics, and of those that are not registered here the reason why they cannot be compared."""
    if facts is not None:
        return dict(facts), {name: "the metric is not known here" for name in names if name not in facts}
    found, unknown = {}, {}
    for name in names:
        try:
            found.update(metric_facts([name]))
        except ConcordError:
            unknown[name] = "the metric is not known here any more"
    return found, unknown


# ------------------------------------------------------------------------------------------------- may they be compared


def _run_reason(base: Side, head: Side, name: str) -> str:
    """Why two runs may not be compared at all; '' when they may."""
    then, now = base.runs[name], head.runs.get(name)
    if then.unusable:
        return f"in the base: {then.unusable}"
    if now is None:
        return f"no results of it in {head.label}; run its suite"
    if now.unusable:
        return now.unusable
    profiles = then.facts.get("profile", base.profile), now.facts.get("profile", head.profile)
    if profiles[0] != profiles[1]:
        return f"another profile ('{profiles[1]}', the base has '{profiles[0]}')"
    if then.facts["n"] != now.facts["n"]:
        return f"n = {now.facts['n']}, the base has n = {then.facts['n']}"
    for key, what in (("data", "data"), ("device", "device")):
        if then.facts[key] != now.facts[key]:
            return f"another {what} ('{str(now.facts[key])[:12]}', the base has '{str(then.facts[key])[:12]}')"
    for suite in sorted({*_versions(then, "suites"), *_versions(now, "suites")}):
        before, after = (_versions(run, "suites").get(suite, FIRST) for run in (then, now))
        if before != after:
            return f"suite '{suite}' is {after}, in the base {before}"
    return "" if then.requests == now.requests else "answered other requests than the base"


def _versions(run: SideRun, kind: str) -> Mapping[str, str]:
    """'suites' or 'metrics': name -> version, where that is not the first."""
    found: Mapping[str, str] = (run.facts.get("versions") or {}).get(kind, {})
    return found


def _metric_reason(then: SideRun, now: SideRun, fact: MetricFacts) -> str:
    """Why one metric of two runs may not be compared; '' when it may."""
    metric = fact.name
    if metric in now.refused:
        return f"refused now: {now.refused[metric]}"
    if metric not in (now.sets if metric in then.sets else now.values):
        return "not scored now; run `concord score` again"
    before, after = (_versions(run, "metrics").get(metric, FIRST) for run in (then, now))
    if before != after:
        return f"the metric is {after}, in the base {before}"
    ours, theirs = now.facts["networks"], then.facts["networks"]
    for network in fact.networks:
        if network in ours and network in theirs and ours[network] != theirs[network]:
            return f"scored by other weights of '{network}' than the base"
    if metric in then.sets:
        references = then.facts.get("reference"), now.facts.get("reference")
        if then.n_reference.get(metric) != now.n_reference.get(metric) or (all(references) and len({*references}) > 1):
            counts = f"{now.n_reference.get(metric)} images, the base has {then.n_reference.get(metric)}"
            return f"measured against another reference set ({counts})"
        if len(then.sets[metric][1]) != len(now.sets[metric][1]):
            return "its jackknife was grouped otherwise than the base's"
    return ""


def _notes(base: Side, head: Side, then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is no reason to refuse, but should be known to whoever reads a difference."""
    found = []
    for metric in sorted(then.keys() & now.keys()):
        codes = then[metric].get("code"), now[metric].get("code")
        if all(codes) and codes[0] != codes[1]:
            found.append(f"the code of metric '{metric}' has changed since the base: a difference may be its own")
    for side in (base, head):
        sizes: dict[str, set[int]] = {}
        for name, run in side.runs.items():
            if not run.unusable:
                sizes.setdefault(name.partition("/")[0], set()).add(int(run.facts["n"]))
        uneven = {name: sorted(found) for name, found in sizes.items() if len(found) > 1}
        found += [
            f"{side.label}: the methods of '{name}' have unequal n ({', '.join(map(str, several))}); each is "
            "compared with itself alone"
            for name, several in uneven.items()
        ]
    return found


# --------------------------------------------------------------------------------------------------------- the numbers


def _changes(name: str, then: SideRun, now: SideRun, pairs: Sequence[MetricFacts], margins: Margins) -> list[Change]:
    return [
        _set_change(name, fact, then, now, margins)
        if fact.name in then.sets
        else _sample_change(name, fact, then, now, margins)
        for fact in pairs
    ]


def _sample_change(name: str, fact: MetricFacts, then: SideRun, now: SideRun, margins: Margins) -> Change:
    """p stays open (NaN) until the sign flips of all metrics run together."""
    metric = fact.name
    old, new = then.values[metric], now.values[metric]
    difference = new - old
    before, value = float(old.mean()), float(new.mean())
    interval = st.mean_interval(difference, now.items)
    error, df = st.standard_error(difference, now.items)
    losses = -difference if fact.higher_is_better else difference
    order = np.argsort(-np.abs(losses), kind="stable")[:MOST]
    moved = [Moved(now.requests[i], float(old[i]), float(new[i]), float(losses[i])) for i in order if losses[i] != 0]
    loss = before - value if fact.higher_is_better else value - before
    return Change(
        name,
        metric,
        fact.label,
        len(old),
        before,
        value,
        interval.low,
        interval.high,
        loss,
        margins.of(metric).at(before),
        math.nan,
        error,
        df,
        identical=not moved,
        failed=(int(then.failed[metric].sum()), int(now.failed[metric].sum())),
        moved=moved,
    )


def _set_change(name: str, fact: MetricFacts, then: SideRun, now: SideRun, margins: Margins) -> Change:
    (before, old), (value, new) = then.sets[fact.name], now.sets[fact.name]
    tested = st.paired_jackknife(value, new, before, old)
    loss = before - value if fact.higher_is_better else value - before
    return Change(
        name,
        fact.name,
        fact.label,
        len(now.requests),
        before,
        value,
        tested.low,
        tested.high,
        loss,
        margins.of(fact.name).at(before),
        tested.p,
        tested.error,
        tested.df,
        identical=value == before and np.array_equal(old, new),
        moved=_feature_moves(fact, then, now),
    )


def _feature_moves(fact: MetricFacts, then: SideRun, now: SideRun) -> list[Moved]:
    """The images whose features moved farthest: what a set metric has instead of values per sample."""
    ours, theirs = now.features, then.features
    if ours is None or theirs is None or ours.shape != theirs.shape or _kind(fact) != POOL:
        return []
    # The base's features are kept in half precision: what they hide is no movement.
    distance = np.linalg.norm(ours.astype(np.float16).astype(np.float64) - theirs.astype(np.float64), axis=1)
    distance[distance <= 1e-3 * np.linalg.norm(theirs, axis=1)] = 0.0
    order = np.argsort(-distance, kind="stable")[:MOST]
    return [Moved(now.requests[i], None, None, float(distance[i])) for i in order if distance[i] > 0]


def _kind(fact: MetricFacts) -> str:
    from concord.metrics.base import all_metrics

    return str(getattr(all_metrics().get(fact.name), "features", POOL))


def _concluded(
    base: Side,
    head: Side,
    changes: list[Change],
    incomparable: list[Incomparable],
    only: Collection[str] | None,
    notes: list[str],
) -> Result:
    """The p values, corrected over all comparisons in which anything moved, and what could have been seen."""
    moving = [change for change in changes if not change.identical]
    tested = iter(_with_p(moving, base, head))
    changes = [change if change.identical else next(tested) for change in changes]
    adjusted = iter(st.holm([change.p for change in changes if not change.identical]) if moving else ())
    changes = [
        replace(change, p=1.0, visible=0.0)
        if change.identical
        else replace(change, p_holm=float(next(adjusted)), visible=smallest_loss(change, len(moving)))
        for change in changes
    ]
    new = sorted(name for name in head.runs.keys() - base.runs.keys() if only is None or name in only)
    both = [name for name in base.runs if name in head.runs and (only is None or name in only)]
    usable = [name for name in both if not base.runs[name].unusable and not head.runs[name].unusable]
    costs, left = cost_changes(base, head, usable)
    anew = why_anew(base, head, usable)
    return Result(base, head, changes, incomparable, new, [*notes, *left], len(moving), costs, anew)


def _with_p(changes: Sequence[Change], base: Side, head: Side) -> list[Change]:
    """Sign flips of all metrics of all runs over the same items at once."""
    columns: dict[tuple[str, ...], list[int]] = {}
    for position, change in enumerate(changes):
        if math.isnan(change.p):
            columns.setdefault(tuple(head.runs[change.run].items), []).append(position)
    found = list(changes)
    for items, positions in columns.items():
        parts = [
            (head.runs[c.run].values[c.metric] - base.runs[c.run].values[c.metric])
            for c in map(changes.__getitem__, positions)
        ]
        for position, p in zip(positions, st.sign_flip(np.stack(parts, axis=1), items), strict=True):
            found[position] = replace(changes[position], p=float(p))
    return found


def smallest_loss(change: Change, tests: int) -> float:
    """The true loss that the gate calls worse with 80 % power: beyond the margin, at 5 % shared among the tests.

    Holm's first step: where other comparisons are found too, less is enough. NaN where there is no standard error.
    """
    if change.df < 1 or not math.isfinite(change.error):
        return math.nan
    critical = st.t_quantile(change.df, 1 - ALPHA / max(1, tests)) * change.error
    return max(critical, change.margin) + st.t_quantile(change.df, 2 * POWER - 1) * change.error
