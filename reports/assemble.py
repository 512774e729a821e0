"""From the store to a table: reads runs, checks that they may share a table, tests them against each other.

Rows may share a table only when they answered the same requests and were scored by the same networks; otherwise the
table is refused, whatever its numbers look like. Tables that no suite answers show what the paper prints.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from concord.data.profile import QUICK, load_profile
from concord.reports import statistics as st
from concord.reports.compare.margins import read_margins
from concord.reports.published import Paper, PublishedTable, load_paper, paper_names, published_table
from concord.reports.registered import RegisteredClaim, registered_claims
from concord.reports.site.cards import method_cards
from concord.reports.tables.comparisons import Comparison
from concord.reports.tables.measured import (
    JOINT,
    Measured,
    MetricFacts,
    add_joint,
    add_levels,
    interval_of,
    metric_facts,
    read_measured,
)
from concord.reports.tables.notes import (
    judge_cards,
    machine_notes,
    missing_judges,
    not_scored_notes,
    notes_for,
    paper_notes,
    provenance_of,
    warnings_for,
)
from concord.reports.tables.pairs import compare_rows, is_many, many_note, mark_rows
from concord.reports.tables.protocol import column_protocol, scored_by_own_guide
from concord.reports.tables.table import MISSING, PAPER_ONLY, Cell, Column, ColumnKind, Cost, Kind, Row, Table
from concord.reports.tables.words import decimals_for
from concord.reports.tables.worst import FACTS as WORST_FACTS
from concord.reports.tables.worst import WORST, add_worst, worst_notes

if TYPE_CHECKING:
    from concord.benchmarks.store.run import Run, Store
    from concord.benchmarks.suite import Suite

REFERENCE_KINDS: dict[str, Kind] = {"ground-truth": "ceiling", "shuffled": "floor"}
REFERENCE_TITLES = {"ground-truth": "Ground truth", "shuffled": "Shuffled conditions"}
SECONDS = "seconds_per_image"  # a paper's key that the costs answer, no metric


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
        if _data(measured.run) != _data(first.run):
            return f"'{name}' and '{first_name}' were made from different data; run both again on the same data"
        ours, theirs = _judges(measured.run), _judges(first.run)
        for network in ours.keys() & theirs.keys():
            if ours[network] != theirs[network]:
                return (
                    f"'{name}' and '{first_name}' were scored by different weights of '{network}'; "
                    "run `concord score` for all rows again"
                )
    return ""


def _data(run: Run) -> tuple[str, str]:
    """The data that a run answered: their files by name and size, and by content where the run kept that."""
    parts = run.manifest.get("key_parts")
    return run.manifest["data"]["fingerprint"], str(parts.get("data", "")) if isinstance(parts, dict) else ""


def _judges(run: Run) -> dict[str, str]:
    return dict(run.score_info.get("networks") or {})


# ------------------------------------------------------------------------------------------------------------ the table


def build_table(suite: Suite, store: Store, profile: str, facts: dict[str, MetricFacts] | None = None) -> Table:
    """The table of a suite from what the store holds; rows without results show the paper's values."""
    suite = suite.in_profile(profile)
    facts = facts or metric_facts(suite.metrics, profile)
    declared = published_table(suite.paper, suite.table)
    unscored = missing_judges(suite, store, profile)
    measured: dict[str, Measured] = {}
    for name in suite.row_names():
        run = store.run(suite.request_set, name)
        if run.scored:
            measured[name] = read_measured(run, facts, unscored)
    refusal = refusal_reason(measured)
    thresholds = add_joint(measured, suite, facts)
    scale = add_worst(measured, suite)
    lacking = not_scored_notes(unscored, measured, facts)  # before metrics give way to their columns by level
    if not refusal:
        facts = add_levels(measured, {name: facts[name] for name in suite.metrics}, declared)
    headline = {WORST: WORST_FACTS} if scale is not None else {}
    facts = headline | facts
    names = list(facts) if not refusal else [*headline, *suite.metrics]
    sizes = {len(m.requests) for m in measured.values()}
    n = sizes.pop() if len(sizes) == 1 else None
    runs = {name: m.run for name, m in measured.items()}
    beside = not {row.name for row in suite.rows} & set(declared.rows)  # it stands beside the paper's table
    on_scale = load_profile(profile).papers_scale
    columns = _columns([facts[name] for name in names], measured, declared, runs, n, beside, on_scale)
    if is_trial(store):  # what the paper prints and nobody measures here belongs to the whole table
        columns = [column for column in columns if not column.name.startswith(PAPER_ONLY)]
    rows = [_row(suite, name, store, measured.get(name), columns, facts, declared, refusal) for name in _order(suite)]
    missing = [name for name in declared.rows if not beside and name not in {row.name for row in rows}]
    rows += _declared_rows(declared, columns, missing, "not run: the suite has no such row")
    if is_trial(store):  # a few images of some rows: those that were not asked for are not missing
        begun = {row.name for row in rows if (store.run(suite.request_set, row.name).path / "images").is_dir()}
        rows = [row for row in rows if not row.absent or row.is_missing or row.name in begun]
    registered = registered_claims(suite, store)
    comparisons = [] if refusal else _compared(rows, columns, measured, declared, profile, registered)
    rows = mark_rows(rows, columns, comparisons)
    methods = sum(row.kind == "method" and row.name in measured for row in rows)
    if is_many(methods):
        lacking["Pairs"] = [many_note(methods)]
    if made_on := machine_notes(runs):
        lacking["Machines"] = made_on
    paper = load_paper(suite.paper) if suite.paper else None
    n_reference = {k: v for m in measured.values() for k, v in m.n_reference.items()}
    titles = {row.name: row.title for row in rows}
    notes = notes_for(suite, profile, n, rows, runs, paper, declared, thresholds, facts, n_reference)
    if said := worst_notes(scale, facts, titles):
        notes["Worst condition"] = said
    return Table(
        name=suite.name,
        title=suite.title,
        profile=profile,
        columns=columns,
        rows=rows,
        comparisons=comparisons,
        n=n,
        paper_title=f"{declared.label} of {paper.title} ({paper.venue})" if paper else "",
        paper_citation=paper.citation if paper else "",
        paper_url=paper.url if paper else "",
        warnings=warnings_for(n, rows, runs, comparisons),
        refusal=refusal,
        notes=lacking | notes,
        provenance=provenance_of(runs),
        judges=judge_cards(runs, facts),
        registered=registered,
        worst={} if scale is None or refusal else scale.worst,
    )


def is_trial(store: Store) -> bool:
    """Whether a results folder is one of `--limit`, or of size 'quick': its tables show what was run, nothing else."""
    return "limit-" in store.root.name or QUICK in store.root.name.split("+")


def _compared(
    rows: list[Row],
    columns: list[Column],
    measured: dict[str, Measured],
    declared: PublishedTable,
    profile: str,
    registered: Sequence[RegisteredClaim],
) -> Sequence[Comparison]:
    """The tests of all pairs; claims that came after the results join no family."""
    before = [one.claim for one in registered if not one.post_hoc]
    return compare_rows(rows, columns, measured, declared, read_margins(profile), before)


def _order(suite: Suite) -> list[str]:
    return [*(row.name for row in suite.rows), *suite.reference]


def _columns(
    facts: list[MetricFacts],
    measured: dict[str, Measured],
    declared: PublishedTable,
    runs: Mapping[str, Run],
    n: int | None,
    beside: bool,
    on_scale: bool,
) -> list[Column]:
    """The suite's metrics, then what the paper prints and no metric of the suite answers.

    beside: the suite has no row of the paper's, so that nothing of the paper's table belongs to its own.
    on_scale: whether the profile's numbers stand on the papers' scale at all.
    """
    keys = {} if beside else declared.keys_of({fact.name: fact.paper_key for fact in facts})
    columns = []
    for fact in facts:
        shown = {name: m for name, m in measured.items() if name not in REFERENCE_KINDS} or measured
        intervals = [i for m in shown.values() if (i := _interval(fact, m)) is not None]
        decimals = decimals_for([i.half_width for i in intervals], [i.value for i in intervals])
        kind: ColumnKind = "set" if fact.is_set else "rate" if fact.is_rate or fact.name == JOINT else "sample"
        key = keys.get(fact.name, "")
        protocol = column_protocol(fact, key, declared, runs, _entering(fact.name, measured, n))
        columns.append(
            Column(
                fact.name,
                fact.label,
                fact.higher_is_better,
                decimals,
                kind,
                key,
                fact.unit,
                protocol,
                declared.decimals(key) if key else None,
                "@L" in fact.name,
                on_scale and bool(key) and key not in declared.other_scale,
            )
        )
    unanswered = [key for key in declared.metrics if not beside and key not in keys.values() and key != SECONDS]
    return columns + [_paper_column(key, declared, runs) for key in unanswered]


def _entering(column: str, measured: dict[str, Measured], n: int | None) -> int | None:
    """How many images enter a column: those of its level, or all."""
    weights = next((one.weights[column] for one in measured.values() if column in one.weights), None)
    return n if weights is None else int((weights > 0).sum())


def _paper_column(key: str, declared: PublishedTable, runs: Mapping[str, Run]) -> Column:
    """A column of the paper that we do not measure."""
    higher, head = declared.metrics[key] == "higher", declared.head(key)
    protocol = column_protocol(None, key, declared, runs, None)
    return Column(
        f"{PAPER_ONLY}{key}",
        head,
        higher,
        paper_label=key,
        unit="%" if "%" in head else "",
        protocol=protocol,
        paper_decimals=declared.decimals(key),
    )


def _interval(fact: MetricFacts, measured: Measured) -> st.Interval | None:
    """The interval of a cell, computed once: by the bootstrap it is not free."""
    if fact.name not in measured.intervals:
        measured.intervals[fact.name] = interval_of(fact, measured)
    return measured.intervals[fact.name]


def _row(
    suite: Suite,
    name: str,
    store: Store,
    measured: Measured | None,
    columns: list[Column],
    facts: dict[str, MetricFacts],
    declared: PublishedTable,
    refusal: str,
) -> Row:
    spec = next((row for row in suite.rows if row.name == name), None)
    cells = {}
    for column in columns:
        fact, blank = facts.get(column.name), _paper_cell(declared, name, column)
        cells[column.name] = blank if measured is None or fact is None else _cell(fact, measured, blank, refusal)
    manifest = measured.run.manifest if measured else {}
    external = manifest.get("external") or {}
    about = external or manifest.get("about") or {}  # a method that is not Concord's: what it said of itself
    method = str(manifest.get("method") or (spec.method if spec else "") or "")
    title = REFERENCE_TITLES.get(name) or declared.titles.get(name) or _told_title(name, method, about)
    title = title or _title(name, method)
    conditions = tuple(manifest.get("conditions") or (suite.row_conditions(spec) if spec else ()))
    return Row(
        name=name,
        title=f"{title} (external)" if external else title,
        kind=REFERENCE_KINDS.get(name, "method"),
        cells=cells,
        n=len(measured.requests) if measured else None,
        cost=cost_of(manifest, declared.value(name, SECONDS)),
        absent="" if measured else _absent(suite, name, store),
        method=method,
        params=dict(manifest.get("params") or (spec.params if spec else {})),
        conditions=conditions,
        citation=". ".join(str(about[key]).rstrip(".") for key in ("citation", "paper") if about.get(key)),
        description=str(about.get("description") or ""),
        floor=bool(spec and spec.method and not conditions and _guides(suite)),
    )


def _told_title(name: str, method: str, about: Mapping[str, object]) -> str:
    """The title that a method outside of Concord gave, with what its row's name adds: 'Mine', 'Mine, steps=20'."""
    title = str(about.get("title") or "")
    rest = name.removeprefix(method).lstrip("+").replace("+", ", ")
    return f"{title}, {rest}" if title and method and name != method and name.startswith(f"{method}+") else title


def _title(name: str, method: str) -> str:
    """What a row is called that neither the paper nor its maker names: as its method calls itself, else by its name.

    'amdm-slerp' of 'amdm' is 'AMDM, slerp', 'mt-diffusion-pasted' of 'mt-diffusion-x' is 'MT-Diffusion-X, pasted'.
    """
    method = method or name  # a planned row waits for the method of its name
    card = method_cards().get(method)
    if card and name == method:
        return card.title
    words, own = name.split("-"), method.split("-")
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(words, own, strict=False)))
    if card and words[shared:] and (shared == len(own) or shared > 1):
        return f"{card.title}, {' '.join(words[shared:])}"
    return name.replace("-", " ").capitalize()


def _guides(suite: Suite) -> bool:
    """Whether the suite gives any of its methods a condition."""
    return any(suite.row_conditions(row) for row in suite.rows if row.method)


def _paper_cell(declared: PublishedTable, row: str, column: Column) -> Cell:
    """What the paper prints there."""
    unclear = f"{row}.{column.paper_label}" in declared.unclear
    return Cell(paper=declared.value(row, column.paper_label), unclear=unclear, one_scale=column.one_scale)


def _cell(fact: MetricFacts, measured: Measured, blank: Cell, refusal: str) -> Cell:
    interval = _interval(fact, measured)
    if refusal or interval is None:
        reason = measured.refused.get(fact.name, "") or "the table is refused, see above"
        return replace(blank, refused=reason)
    weights = measured.weights.get(fact.name)
    return Cell(
        *interval,
        blank.paper,
        failures=measured.failures(fact.name),
        unclear=blank.unclear,
        own_guide=scored_by_own_guide(fact, measured.run),
        n=None if weights is None else int((weights > 0).sum()),
        one_scale=blank.one_scale,
    )


def _absent(suite: Suite, name: str, store: Store) -> str:
    """Why a row has no results, and what to do."""
    spec = next((row for row in suite.rows if row.name == name), None)
    run = store.run(suite.request_set, name)
    if lost := run.lost:
        return f"{MISSING}{lost}; `concord run {suite.name}` makes it again"
    if run.finished:
        return f"made, not scored yet: concord score {suite.name} {name}"
    if (run.path / "images").is_dir():
        return f"half-made, goes on where it stopped: concord run {suite.name}"
    if spec and spec.planned:
        return spec.planned
    sizes = spec.sizes if spec else None
    asked = f" --size {sizes[0]}" if sizes and "default" not in sizes else ""
    return f"not run yet: concord run {suite.name}{asked}"


def cost_of(manifest: dict[str, Any], paper_seconds: float | None = None) -> Cost:
    """What the runner measured; empty for rows that no network made."""
    evaluations = {str(k): float(v) for k, v in (manifest.get("evaluations_per_image") or {}).items()}
    of_others = bool(manifest.get("method")) and manifest["method"] not in method_cards()  # a plugin may count nothing
    if not evaluations and not manifest.get("external") and not of_others:
        return Cost(paper_seconds=paper_seconds)
    return Cost(manifest.get("seconds_per_image"), manifest.get("peak_memory_bytes"), evaluations, paper_seconds)


# --------------------------------------------------------------------------------------------- tables without a suite


def unanswered_tables(profile: str, suites: Iterable[Suite] | None = None) -> list[Table]:
    """Every declared table and figure that no suite answers: the paper's values, and why nothing was run.

    suites: those that may answer; the suites of the repo if absent. The tables are named '<paper>-<table>'.
    """
    if suites is None:
        from concord.benchmarks.suite import read_suite, suite_names

        suites = [read_suite(name) for name in suite_names()]
    answered = {(suite.paper, suite.table) for suite in suites}
    papers = [load_paper(name) for name in paper_names()]
    return [
        _paper_table(paper, declared, profile)
        for paper in papers
        for key, declared in paper.tables.items()
        if (paper.name, key) not in answered
    ]


def _paper_table(paper: Paper, declared: PublishedTable, profile: str) -> Table:
    reason = declared.not_run or "not run: no suite answers this table"
    columns = [_paper_column(key, declared, {}) for key in declared.metrics if key != SECONDS]
    return Table(
        name=f"{paper.name}-{declared.name}",
        title=f"{declared.title} ({paper.title.partition(':')[0]}, {declared.label})",
        profile=profile,
        columns=columns,
        rows=_declared_rows(declared, columns, list(declared.rows), reason),
        paper_title=f"{declared.label} of {paper.title} ({paper.venue})",
        paper_citation=paper.citation,
        paper_url=paper.url,
        notes={"Not run": [f"{reason[0].upper()}{reason[1:]}."], "The paper": paper_notes(paper, declared, {})},
    )


def _declared_rows(declared: PublishedTable, columns: list[Column], names: list[str], absent: str) -> list[Row]:
    """Rows of the paper with the paper's values alone."""
    return [
        Row(
            name=name,
            title=declared.titles[name],
            kind=REFERENCE_KINDS.get(name, "method"),
            absent=absent,
            cells={column.name: _paper_cell(declared, name, column) for column in columns},
            cost=Cost(paper_seconds=declared.value(name, SECONDS)),
        )
        for name in names
    ]
