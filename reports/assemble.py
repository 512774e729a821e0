"""From the store to a table: reads runs, checks that they may share a table, tests them against each other.

Rows may share a table only when they answered the same requests and were scored by the same networks; otherwise the
table is refused, whatever its numbers look like.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from data.errors import ConcordError
from reports import statistics as st
from reports.declared import DeclaredTable, declared_table, load_paper
from reports.notes import judge_cards, notes_for, provenance_of, warnings_for
from reports.tables import BEST, TIED, Cell, Column, ColumnKind, Comparison, Cost, Kind, Row, Table, decimals_for

if TYPE_CHECKING:
    from pandas import DataFrame

    from benchmarks.store import Run, Store
    from benchmarks.suite import Suite

ALPHA = 0.05
JOINT = "joint-success"
REFERENCE_KINDS: dict[str, Kind] = {"ground-truth": "ceiling", "shuffled": "floor"}
REFERENCE_TITLES = {"ground-truth": "Ground truth", "shuffled": "Shuffled conditions"}
REFUSED = "refused"


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


def metric_facts(names: list[str]) -> dict[str, MetricFacts]:
    """Facts of the suite's metrics, from the registry; joint success is derived here and has its own."""
    from metrics.base import SetMetric, get_metric

    facts = {}
    for name in names:
        if name == JOINT:
            facts[name] = MetricFacts(JOINT, "Joint success (%)", True, is_set=False, bounds=(0, 100))
            continue
        metric = get_metric(name)
        facts[name] = MetricFacts(
            name, metric.label, metric.higher_is_better, isinstance(metric, SetMetric), metric.bounds,
            metric.paper_key, metric.networks,
        )  # fmt: skip
    return facts


@dataclass
class Measured:
    """One scored run in memory. values: metric -> (n,) in request order; `refused`: metric -> reason."""

    run: Run
    requests: list[str]
    values: dict[str, np.ndarray] = field(default_factory=dict)
    failed: dict[str, np.ndarray] = field(default_factory=dict)  # metric -> bool (n,), where its status is not 'ok'
    sets: dict[str, tuple[float, np.ndarray]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    n_reference: dict[str, int] = field(default_factory=dict)

    @property
    def items(self) -> list[str]:
        """The item of each request: its images under several seeds are one unit of sampling."""
        return [request.rsplit("-", 1)[0] for request in self.requests]


# ------------------------------------------------------------------------------------------------------------ reading


def read_measured(run: Run, facts: dict[str, MetricFacts]) -> Measured:
    """The scores of one run, aligned with its requests; what is missing or refused is kept with its reason."""
    measured = Measured(run, run.ids)
    scores, sets = run.scores(), run.sets()
    by_metric = dict(iter(scores.groupby("metric", sort=False)))
    for name, fact in facts.items():
        if name == JOINT:
            continue
        if fact.is_set:
            _read_set(measured, name, sets[sets["metric"] == name])
        else:
            _read_samples(measured, name, by_metric.get(name))
    return measured


def _read_samples(measured: Measured, name: str, rows: DataFrame | None) -> None:
    run = measured.run
    if rows is None:
        measured.refused[name] = "not scored; run `concord score` again"
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
        measured.values[name] = values
        measured.failed[name] = (status != "ok").to_numpy(dtype=bool)


def _read_set(measured: Measured, name: str, rows: DataFrame) -> None:
    if rows.empty:
        measured.refused[name] = "not scored; run `concord score` again"
        return
    row = rows.iloc[0]
    measured.n_reference[name] = int(row["n_reference"])
    if str(row["status"]) != "ok" or not math.isfinite(row["value"]):
        measured.refused[name] = _reason(str(row["status"]))
    else:
        replicates = row["replicates"]
        measured.sets[name] = (
            float(row["value"]),
            np.asarray([] if replicates is None else replicates, dtype=np.float64),
        )


def _reason(status: str) -> str:
    return status.removeprefix(REFUSED).lstrip(": ") or "no reason recorded"


def add_joint(rows: dict[str, Measured], suite: Suite, facts: dict[str, MetricFacts]) -> dict[str, float]:
    """Derive joint success (0 or 100 an image) for every row; returns the thresholds used.

    The thresholds are the ground-truth row's quantile: what real images that meet the conditions reach.
    """
    from metrics.joint import joint_success, joint_thresholds

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
        reason = f"no thresholds ({truth.refused.get(bad, 'not scored')})" if bad else ""
    thresholds: dict[str, float] = {}
    if truth is not None and not reason:
        try:
            values = {name: truth.values[name] for name in joint.metrics}
            thresholds = joint_thresholds(values, directions, joint.quantile, truth.failed)
        except ValueError as error:  # every measurement of the ground truth failed
            reason = str(error)
    for measured in rows.values():
        lacking = next((name for name in joint.metrics if name not in measured.values), None)
        if reason or lacking:
            measured.refused[JOINT] = reason or f"{lacking} {REFUSED}"
            continue
        values = {name: measured.values[name] for name in joint.metrics}
        measured.values[JOINT] = 100.0 * joint_success(values, thresholds, directions, measured.failed)
    return thresholds


# ------------------------------------------------------------------------------------------ may they share a table


def refusal_reason(rows: dict[str, Measured]) -> str:
    """Why these rows may not share a table: unequal n, other requests, other scoring networks; '' when they may."""
    if not rows:
        return ""
    sizes = {name: len(measured.requests) for name, measured in rows.items()}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} {n}" for name, n in sizes.items())
        return f"unequal n in one table ({listed}); run all rows with the same --limit or size"
    first_name, first = next(iter(rows.items()))
    for name, measured in rows.items():
        if measured.requests != first.requests:
            return f"'{name}' and '{first_name}' answered different requests; run both again on the same data"
        ours, theirs = _judges(measured.run), _judges(first.run)
        for network in ours.keys() & theirs.keys():
            if ours[network] != theirs[network]:
                return (
                    f"'{name}' and '{first_name}' were scored by different weights of '{network}'; "
                    "run `concord score` for all rows again"
                )
    return ""


def _judges(run: Run) -> dict[str, str]:
    return dict(run.score_info.get("networks") or {})


# ------------------------------------------------------------------------------------------------------------ the table


def build_table(suite: Suite, store: Store, profile: str, facts: dict[str, MetricFacts] | None = None) -> Table:
    """The table of a suite from what the store holds; rows without results show the paper's values."""
    facts = facts or metric_facts(suite.metrics)
    declared = declared_table(suite.paper, suite.table)
    measured: dict[str, Measured] = {}
    for name in suite.row_names():
        run = store.run(suite.request_set, name)
        if run.scored:
            measured[name] = read_measured(run, facts)
    refusal = refusal_reason(measured)
    thresholds = add_joint(measured, suite, facts)
    columns = [_column(facts[name], measured, declared) for name in suite.metrics]
    rows = [_row(suite, name, measured.get(name), columns, facts, declared, refusal) for name in _order(suite)]
    comparisons = [] if refusal else compare_rows(rows, columns, measured, declared, facts)
    rows = mark_rows(rows, columns, comparisons)
    sizes = {len(m.requests) for m in measured.values()}
    n = sizes.pop() if len(sizes) == 1 else None
    paper = load_paper(suite.paper)
    runs = {name: m.run for name, m in measured.items()}
    n_reference = {k: v for m in measured.values() for k, v in m.n_reference.items()}
    return Table(
        name=suite.name,
        title=suite.title,
        profile=profile,
        columns=columns,
        rows=rows,
        comparisons=comparisons,
        n=n,
        paper_title=f"{declared.label} of {paper.title} ({paper.venue})",
        paper_citation=paper.citation,
        paper_url=paper.url,
        warnings=warnings_for(n, rows, runs),
        refusal=refusal,
        notes=notes_for(suite, profile, n, rows, runs, paper, declared, thresholds, facts, n_reference),
        provenance=provenance_of(runs),
        judges=judge_cards(runs, facts),
    )


def _order(suite: Suite) -> list[str]:
    return [*(row.name for row in suite.rows), *suite.reference]


def _column(fact: MetricFacts, measured: dict[str, Measured], declared: DeclaredTable) -> Column:
    intervals = [i for m in measured.values() if (i := interval_of(fact, m)) is not None]
    decimals = decimals_for([i.half_width for i in intervals], [i.value for i in intervals])
    kind: ColumnKind = "set" if fact.is_set else "rate" if fact.name == JOINT else "sample"
    paper_label = fact.paper_key if fact.paper_key in declared.metrics else ""
    return Column(fact.name, fact.label, fact.higher_is_better, decimals, kind, paper_label or "")


def interval_of(fact: MetricFacts, measured: Measured) -> st.Interval | None:
    """Value and 95 % interval of one row in one metric; None where it is refused."""
    if fact.name in measured.refused:
        return None
    if fact.is_set:
        value, replicates = measured.sets[fact.name]
        return st.jackknife_interval(value, replicates, fact.bounds)
    values = measured.values[fact.name]
    if fact.name == JOINT:
        rate = st.rate_interval(values / 100, measured.items)
        return st.Interval(*(100 * end for end in rate))
    return st.mean_interval(values, measured.items, fact.bounds)


def _row(
    suite: Suite,
    name: str,
    measured: Measured | None,
    columns: list[Column],
    facts: dict[str, MetricFacts],
    declared: DeclaredTable,
    refusal: str,
) -> Row:
    spec = next((row for row in suite.rows if row.name == name), None)
    cells = {}
    for column in columns:
        fact = facts[column.name]
        paper = declared.value(name, column.paper_label)
        if measured is None:
            cells[column.name] = Cell(paper=paper)
            continue
        interval = interval_of(fact, measured)
        if refusal or interval is None:
            reason = measured.refused.get(column.name, "") or "the table is refused, see above"
            cells[column.name] = Cell(paper=paper, refused=reason)
        else:
            failures = int(measured.failed[column.name].sum()) if column.name in measured.failed else 0
            cells[column.name] = Cell(interval.value, interval.low, interval.high, paper, failures=failures)
    manifest = measured.run.manifest if measured else {}
    external = manifest.get("external") or {}
    title = REFERENCE_TITLES.get(name) or declared.titles.get(name) or external.get("title")
    title = title or name.replace("-", " ").capitalize()
    absent = ""
    if measured is None:
        absent = spec.planned if spec and spec.planned else f"not run yet: concord run {suite.name}"
    return Row(
        name=name,
        title=f"{title} (external)" if external else title,
        kind=REFERENCE_KINDS.get(name, "method"),
        cells=cells,
        n=len(measured.requests) if measured else None,
        cost=cost_of(manifest),
        absent=absent,
        method=str(manifest.get("method") or (spec.method if spec else "") or ""),
        params=dict(manifest.get("params") or (spec.params if spec else {})),
        conditions=tuple(manifest.get("conditions") or (suite.row_conditions(spec) if spec else ())),
        citation=". ".join(str(external[key]).rstrip(".") for key in ("citation", "paper") if external.get(key)),
    )


def cost_of(manifest: dict[str, Any]) -> Cost:
    """What the runner measured; empty for rows that no network made."""
    evaluations = {str(k): float(v) for k, v in (manifest.get("evaluations_per_image") or {}).items()}
    if not evaluations and not manifest.get("external"):
        return Cost()
    return Cost(manifest.get("seconds_per_image"), manifest.get("peak_memory_bytes"), evaluations)


# ---------------------------------------------------------------------------------------------------------- comparisons


def compare_rows(
    rows: list[Row],
    columns: list[Column],
    measured: dict[str, Measured],
    declared: DeclaredTable,
    facts: dict[str, MetricFacts],
) -> list[Comparison]:
    """Every pair of methods in every column, paired over requests; Holm over all of them together."""
    names = [row.name for row in rows if row.kind == "method" and row.name in measured]
    found: list[Comparison] = []
    for column in columns:
        pairs = [
            (a, b)
            for a, b in combinations(names, 2)
            if column.name not in measured[a].refused and column.name not in measured[b].refused
        ]
        for (a, b), (value, low, high, p, test) in zip(pairs, _test_pairs(column, pairs, measured), strict=True):
            first, second = declared.value(a, column.paper_label), declared.value(b, column.paper_label)
            paper = first - second if first is not None and second is not None else None
            found.append(Comparison(column.name, a, b, value, low, high, p, math.nan, test, paper))
    adjusted = st.holm([c.p for c in found])
    return [replace(c, p_holm=float(p)) for c, p in zip(found, adjusted, strict=True)]


Tested = tuple[float, float, float, float, str]


def _test_pairs(column: Column, pairs: list[tuple[str, str]], measured: dict[str, Measured]) -> list[Tested]:
    if not pairs:
        return []
    name = column.name
    if column.kind == "set":
        tested = [st.paired_jackknife(*measured[a].sets[name], *measured[b].sets[name]) for a, b in pairs]
        return [(t.value, t.low, t.high, t.p, "paired jackknife t") for t in tested]
    items = measured[pairs[0][0]].items
    differences = np.stack([measured[a].values[name] - measured[b].values[name] for a, b in pairs], axis=1)
    intervals = [st.mean_interval(differences[:, k], items) for k in range(len(pairs))]
    if column.kind == "rate":
        p_values = [st.paired_rate(measured[a].values[name], measured[b].values[name], items) for a, b in pairs]
        test = "McNemar, exact" if len(set(items)) == len(items) else "sign flips over items"
    else:
        p_values = [float(p) for p in st.sign_flip(differences, items)]
        test = "sign flips"
    return [(i.value, i.low, i.high, p, test) for i, p in zip(intervals, p_values, strict=True)]


def mark_rows(rows: list[Row], columns: list[Column], comparisons: list[Comparison]) -> list[Row]:
    """Mark a column's best row where it beats every other method; otherwise its leader and those tied with it."""
    marks: dict[tuple[str, str], str] = {}
    for column in columns:
        values = {
            row.name: cell.value
            for row in rows
            if row.kind == "method" and (cell := row.cells[column.name]).value is not None
        }
        if len(values) < 2:
            continue
        leader = (max if column.higher_is_better else min)(values, key=lambda name: values[name])
        tied = [
            c.second if c.first == leader else c.first
            for c in comparisons
            if c.column == column.name and leader in (c.first, c.second)
            and c.winner(column.higher_is_better, ALPHA) != leader
        ]  # fmt: skip
        if tied:
            marks.update({(name, column.name): TIED for name in [leader, *tied]})
        else:
            marks[leader, column.name] = BEST
    return [
        replace(row, cells={c: replace(cell, mark=marks.get((row.name, c), "")) for c, cell in row.cells.items()})
        for row in rows
    ]
