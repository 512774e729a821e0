"""What is printed around a table: warnings above it, and below it all that one must know to read it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from concord.benchmarks.calibrate import calibration_notes
from concord.reports.tables.protocol import guidance_notes, guided_notes
from concord.reports.tables.sensitivity import sensitivity_notes
from concord.reports.tables.table import NOT_SCORED, TINY, Comparison, Row
from concord.reports.tables.trainings import with_budgets
from concord.reports.tables.tuning import tuning_notes

if TYPE_CHECKING:
    from concord.benchmarks.store.run import Run, Store
    from concord.benchmarks.suite import Suite
    from concord.reports.published import Paper, PublishedTable
    from concord.reports.tables.measured import Measured, MetricFacts

EMBEDDED = (
    "Profile 'embedded': small networks trained on 64x64 drawn faces (SynthFaces) and scenes of objects (SynthScenes) "
    "make the images and score them. "
    "Its numbers are never comparable with the paper's in absolute terms; what can be compared is the order of the "
    "rows, and whether a difference is there."
)
INTERVALS = (
    "95 % intervals over the requests: Student's t for means of per-image values (where 5 images or more failed, the "
    "bootstrap over items), Wilson for rates (of several things in one image: of as many as their likeness "
    "leaves), the influence function of FID, KID and IS, and halves of the images for recall (these "
    "do not cover the choice of the reference images, which all rows share; FID is biased upwards by about 1/n, so "
    "it compares only at equal n)."
)
TESTS = (
    "Tests are paired over the same requests and seeds: sign flips for per-image values, McNemar for joint success, "
    "t for FID and other set metrics; two-sided. Holm-corrected in three families: what the paper claims, what else "
    "its table states, and all pairs and columns of the table, which nobody asked about."
)


def warnings_for(
    n: int | None, rows: list[Row], runs: Mapping[str, Run], comparisons: Sequence[Comparison] = ()
) -> list[str]:
    """Sentences that stand above the table."""
    warnings = []
    if n is not None and n < TINY:
        warnings.append(
            f"n = {n}: far too few images to say which method is better in general. Intervals are wide or missing, set "
            f"metrics such as FID are refused.{_least_p(n, len(comparisons))} Read this as a check that everything "
            "runs."
        )
    for key, what in (("device", "devices"), ("git_commit", "commits"), ("dtype", "number formats")):
        found = Counter(str(_provenance(run).get(key)) for name, run in runs.items() if _is_method(run))
        if len(found) > 1:
            listed = ", ".join(f"{_short(value)} ({count} rows)" for value, count in found.most_common())
            warnings.append(f"The rows were made on different {what}: {listed}.")
    missing = [f"{row.title} ({row.absent})" for row in rows if row.is_missing]
    if missing:
        warnings.append(
            f"Results that were made are missing: {', '.join(missing)}. Marks and corrected p values are those of the "
            "other rows alone."
        )
    failed = {row.title: row.failures for row in rows if row.failures}
    if failed:
        listed = ", ".join(f"{title} {count}" for title, count in failed.items())
        warnings.append(f"Images on which a metric failed count with the metric's worst value: {listed}.")
    return warnings


def _least_p(items: int, comparisons: int) -> str:
    """What the paired tests can find with so many items: sign flips and McNemar's test give 2^(1 - items) at least."""
    if not comparisons:
        return ""
    least = 2.0 ** (1 - items)
    corrected = min(1.0, comparisons * least)
    if corrected >= 0.05:
        return (
            f" The smallest p that a paired test over {items} image{'s' if items > 1 else ''} can give is {least:.2g}, "
            f"{corrected:.2g} once corrected for the table's {comparisons} comparisons: none can be marked as a "
            "difference."
        )
    return (
        f" The smallest p that a paired test over {items} images can give is {least:.2g}, {corrected:.2g} once "
        f"corrected for the table's {comparisons} comparisons: a difference is found only where nearly every image "
        "shows it."
    )


def notes_for(
    suite: Suite,
    profile: str,
    n: int | None,
    rows: list[Row],
    runs: Mapping[str, Run],
    paper: Paper | None,
    declared: PublishedTable,
    thresholds: Mapping[str, float],
    facts: Mapping[str, MetricFacts],
    n_reference: Mapping[str, int],
) -> dict[str, list[str]]:
    """Heading -> sentences, in the order in which they are printed."""
    notes: dict[str, list[str]] = {}
    size = [f"n = {n} requests in every row."] if n is not None else ["No row has been run yet."]
    size += [
        f"{facts[name].label}: {n} generated against {count} reference images."
        for name, count in n_reference.items()
        if count
    ]
    if profile == "embedded":
        size.append(EMBEDDED)
    for run in list(runs.values())[:1]:
        size += [*_reference(run), *_left_out(run)]
    notes["Size and profile"] = size
    differences = [with_budgets(sentence) for sentence in suite.differences]
    notes["Differences from the paper's protocol"] = differences or ["none stated in the suite file"] * bool(paper)
    notes["Levels"] = level_notes(facts)
    notes["Guidance"] = guidance_notes(rows)
    labels = {name: fact.label for name, fact in facts.items()}
    notes["Scored by their own guide"] = guided_notes(rows, labels)
    notes["Tuning"] = tuning_notes(suite, profile, runs)
    notes["Sensitivity"] = sensitivity_notes(suite, profile)
    if profile == "paper" and runs:
        titles = {row.name: row.title for row in rows}
        used = [(titles.get(name, name), run.manifest.get("weights") or {}) for name, run in runs.items()]
        notes["Calibration"] = calibration_notes(used, next(iter(runs.values())).path.parents[1])
    answered = {fact.paper_key: fact.label for fact in facts.values() if fact.paper_key}
    notes["The paper"] = paper_notes(paper, declared, answered) if paper else []
    if thresholds and suite.joint:
        limits = ", ".join(
            f"{facts[name].label} {'>=' if facts[name].higher_is_better else '<='} {value:.4g}"
            for name, value in thresholds.items()
        )
        notes["Joint success"] = [
            f"An image succeeds when it meets all of: {limits}. Thresholds: where {suite.joint.quantile:.0%} of the "
            "ground-truth images, metric by metric, do worse. The ground-truth row's own rate follows from that choice."
        ]
    failures = [
        f"{row.title}, {facts[name].label}: {cell.failures} of {row.n} images"
        for row in rows
        for name, cell in row.cells.items()
        if cell.failures
    ]
    notes["Failures"] = failures or ["Every metric gave a value on every image."]
    refused = sorted(
        {
            f"{facts[name].label}: {cell.refused}"
            for row in rows
            for name, cell in row.cells.items()
            if cell.refused and not cell.refused.startswith(f"{NOT_SCORED}:")
        }
    )
    if refused:
        notes["Refused"] = refused
    notes["External rows"] = external_notes(rows, runs)
    notes["Intervals and tests"] = [INTERVALS, TESTS]
    notes["Reference rows"] = (
        [f"Ceiling: the item's own image. Floor: another item's image{_floors(rows)}. {_method_count(rows)}".rstrip()]
        if any(row.role for row in rows)
        else []
    )
    return {heading: sentences for heading, sentences in notes.items() if sentences}


def missing_judges(suite: Suite, store: Store, profile: str) -> dict[str, str]:
    """metric -> why it cannot be scored here: which file is missing and what supplies it, or which row is not made."""
    from concord.benchmarks.generators import metric_reason, unmade_original

    original = None if suite.originals is None else store.run(suite.request_set, suite.originals)
    found: dict[str, str | None] = dict(unmade_original(suite.metrics, original, suite.name))
    found |= {name: metric_reason(name, profile) or found.get(name) for name in suite.metrics}
    return {name: reason for name, reason in found.items() if reason is not None}


def not_scored_notes(
    missing: Mapping[str, str], rows: Mapping[str, Measured], facts: Mapping[str, MetricFacts]
) -> dict[str, list[str]]:
    """One sentence a metric that some row lacks, or all of them where there is no row yet; none where nothing lacks."""
    found = [
        f"{facts[name].label} ({name}): {reason}"
        for name, reason in missing.items()
        if not rows or any(name not in row.values and name not in row.sets for row in rows.values())
    ]
    return {"Not scored": found} if found else {}


def level_notes(facts: Mapping[str, MetricFacts]) -> list[str]:
    """How columns by level are averaged, or that the rows do not say their levels."""
    if any("@" in name for name in facts):
        said = [
            "L2 to L6: the images whose layout has so many instances, each image alike. avg: every instance alike, so "
            "that an image of six counts three times an image of two, as COCO-MIG's evaluator averages. The levels are "
            "parts of avg and are not tested by themselves."
        ]
        for fact in facts.values():
            if fact.weight_by is not None and fact.per_level is None:
                thing = fact.weight_by.removesuffix("s")
                said.append(f"{fact.label}: every {thing} alike; images whose layout names none do not enter it.")
        return said
    plain = [fact.label for fact in facts.values() if fact.per_level is not None]
    return [f"{', '.join(plain)}: means over images; the stored rows do not say their levels."] if plain else []


def paper_notes(paper: Paper, declared: PublishedTable, labels: Mapping[str, str]) -> list[str]:
    """Citation, protocol, n, and what in the paper's print is unclear. labels: the paper's key -> our column's head."""
    about = [f"{declared.label} of {paper.citation}", *paper.protocol]
    about += [
        f"The paper's {labels.get(key) or declared.head(key)} has n = {count}." for key, count in declared.n.items()
    ]
    if declared.note:
        about.append(declared.note)
    for place, why in declared.unclear.items():
        row, _, key = place.rpartition(".")
        where = f"{labels.get(key) or declared.head(key)} of {declared.titles[row]}"
        about.append(f"The paper's {where} cannot be read for certain: {why}.")
    return about


def _method_count(rows: list[Row]) -> str:
    absent = [row.title for row in rows if row.absent]
    return f"Without results: {', '.join(absent)}." if absent else ""


def _floors(rows: list[Row]) -> str:
    methods = [row.title for row in rows if row.floor]
    return f"; a method that is given no condition ({', '.join(methods)}), which does not compete" if methods else ""


def _reference(run: Run) -> list[str]:
    """Where the reference images are the requests' own folder, the ground truth is compared with itself."""
    reference = run.score_info.get("reference") or {}
    if not reference.get("own"):
        return []
    return [
        f"FID and KID compare with the {reference.get('n')} images of the very folder that the requests come from: the "
        "ground-truth row is part of its own reference, its values are no ceiling."
    ]


def _left_out(run: Run) -> list[str]:
    left_out = run.manifest.get("left_out") or {}
    return [f"{count} items were left out: {reason}." for reason, count in left_out.items()]


def external_notes(rows: list[Row], runs: Mapping[str, Run]) -> list[str]:
    """For each row that was made outside Concord: by what, where, and how its costs are known."""
    sentences = []
    for row in rows:
        manifest = runs[row.name].manifest if row.name in runs else {}
        external = manifest.get("external")
        if not external:
            continue
        origin, made = external["origin"], _provenance(runs[row.name])
        how = (
            f"images imported from {origin['folder']}"
            if external["kind"] == "folder"
            else (f"made by the command `{origin['command']}`")
        )
        costs = ", ".join(f"{name.replace('_', ' ')} {known}" for name, known in external["costs"].items())
        where = f"device {made.get('device')}, code {made.get('code')}"
        sentences.append(f"{row.title}: {how}; {costs}; {where}.")
    if sentences:
        sentences.append(
            "Seconds that Concord measured of a command hold its start and the loading of its models; its memory is "
            "that of its processes, sampled, without a GPU's. What is declared, nobody measured here."
        )
    return sentences


def _is_method(run: Run) -> bool:
    return bool(run.manifest.get("evaluations_per_image")) and not run.manifest.get("external")


def _provenance(run: Run) -> dict[str, Any]:
    return dict(run.manifest.get("provenance") or {})


def provenance_of(runs: Mapping[str, Run]) -> dict[str, str]:
    """What made the rows, one line a fact; facts that differ between rows are listed with their rows."""
    methods = {name: run for name, run in runs.items() if _is_method(run)} or dict(runs)
    facts = {label: _each(found) for label in MADE_ON if (found := _by_value(methods, label))}
    weights: dict[str, dict[str, None]] = {}
    for run in methods.values():
        for name, digest in (run.manifest.get("weights") or {}).items():
            weights.setdefault(str(name), {})[str(digest)[:12]] = None
    if weights:
        facts["Generator weights (SHA-256)"] = ", ".join(
            f"{name} {' and '.join(digests)}" for name, digests in sorted(weights.items())
        )
    judges: dict[str, str] = {}
    for run in runs.values():
        judges.update(run.score_info.get("networks") or {})
    if judges:
        facts["Scoring weights (SHA-256)"] = ", ".join(
            f"{name} {digest[:12]}" for name, digest in sorted(judges.items())
        )
    for run in list(runs.values())[:1]:
        data = run.manifest.get("data") or {}
        if data:
            facts["Data"] = f"{data.get('name', '')} (fingerprint {str(data.get('fingerprint', ''))[:12]})".strip()
    return facts


MADE_ON: dict[str, Callable[[Run], object]] = {
    "Commit": lambda run: _provenance(run).get("git_commit"),
    "Device": lambda run: _provenance(run).get("device"),
    "GPU": lambda run: _provenance(run).get("gpu"),
    "Processor": lambda run: _provenance(run).get("cpu"),
    "Threads": lambda run: _provenance(run).get("threads"),
    "Batch size": lambda run: run.manifest.get("batch_size"),
    "Number format": lambda run: run.manifest.get("dtype") or _provenance(run).get("dtype"),
    "Python": lambda run: _provenance(run).get("python"),
    "Platform": lambda run: _provenance(run).get("platform"),
    "Packages": lambda run: ", ".join(
        f"{name} {number}" for name, number in (_provenance(run).get("packages") or {}).items()
    ),
}
"""What a row was made on, by what it is called."""
CHANGE_ROUNDING = ("Device", "GPU", "Processor", "Threads", "Batch size", "Number format", "Packages")


def _by_value(runs: Mapping[str, Run], label: str) -> dict[str, list[str]]:
    """Value of a fact -> the rows that have it; rows that do not know it are left out."""
    found: dict[str, list[str]] = {}
    for name, run in runs.items():
        value = MADE_ON[label](run)
        if value not in (None, ""):
            found.setdefault(_short(str(value)), []).append(name)
    return found


def _each(by_value: Mapping[str, Sequence[str]]) -> str:
    """One value as it is; several with the rows of each."""
    if len(by_value) == 1:
        return next(iter(by_value))
    return "; ".join(f"{value} ({', '.join(names)})" for value, names in by_value.items())


def machine_notes(runs: Mapping[str, Run]) -> list[str]:
    """What a table says whose rows were not all made on one machine, with equal threads and batches."""
    methods = {name: run for name, run in runs.items() if _is_method(run)}
    unlike = [label.lower() for label in CHANGE_ROUNDING if len(_by_value(methods, label)) > 1]
    if not unlike:
        return []
    return [
        f"The rows differ in {', '.join(unlike)} (see Provenance). An image follows from its request alone up to the "
        "rounding of the machine: beside one with other threads, batches or processors it is off by at most one grey "
        "level here and there."
    ]


def judge_cards(runs: Mapping[str, Run], facts: Mapping[str, MetricFacts]) -> list[dict[str, object]]:
    """One dict a scoring network: name, its measured error against the exact truth, and the columns it scores."""
    cards: dict[str, dict[str, object]] = {}
    for run in runs.values():
        cards.update(run.score_info.get("cards") or {})
    judges = []
    for kind, card in sorted(cards.items()):
        used = [fact.label for fact in facts.values() if kind in fact.networks]
        name = str(card.get("name", kind))
        shown = name if kind in name else f"{kind} ({name})"
        judges.append({"name": shown, "held_out": card.get("held_out"), "columns": used})
    return judges


def _short(value: str) -> str:
    """A commit by its first 12 digits, '+dirty' kept; anything else as it is."""
    commit, sign, dirty = value.partition("+")
    is_commit = len(commit) == 40 and set(commit) <= set("0123456789abcdef")
    return commit[:12] + sign + dirty if is_commit else value
