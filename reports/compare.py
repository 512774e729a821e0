"""The gate: stored results against the committed baseline, request by request.

A loss counts when the paired, Holm-corrected test finds it (p < 0.05 over all comparisons of the call) and it is larger
than the stated tolerance. Both directions are reported. Joint success is not compared: it follows from the metrics
that are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from data.errors import ConcordError
from data.files import atomic_path, read_json, write_json
from reports import statistics as st
from reports.assemble import ALPHA, Measured, MetricFacts, metric_facts, read_measured
from reports.tables import decimals_for, format_p

if TYPE_CHECKING:
    from benchmarks.store import Store

BASELINE = Path(__file__).parent / "baseline"
TOLERANCE = 0.01
FILES = ("scores.parquet", "sets.parquet", "baseline.json")

Verdict = Literal["identical", "same", "better", "worse", "worse within tolerance", "cannot tell"]


@dataclass(frozen=True)
class Baseline:
    """Committed scores of one profile. Run names are '<request set>/<row>'."""

    folder: Path
    info: dict[str, Any]  # 'runs': name -> facts that must agree (n, requests' hash, networks, data), 'commit'
    values: dict[tuple[str, str], np.ndarray]  # (run, metric) -> (n,) in request order
    requests: dict[str, list[str]]
    sets: dict[tuple[str, str], tuple[float, np.ndarray]]


@dataclass(frozen=True)
class Change:
    """One metric of one row, then and now. difference = now - then; loss > 0 is worse."""

    run: str
    metric: str
    label: str
    before: float
    now: float
    low: float
    high: float
    loss: float
    tolerance: float
    p: float
    visible: float  # the smallest true difference that this n would have shown with 80 % power, before correction
    p_holm: float = math.nan
    changed: list[str] = field(default_factory=list)  # the requests that lost most

    @property
    def verdict(self) -> Verdict:
        if self.before == self.now and self.low == self.high == 0:
            return "identical"
        if self.p_holm < ALPHA:
            if self.loss <= 0:
                return "better"
            return "worse" if self.loss > self.tolerance else "worse within tolerance"
        inside = -self.tolerance <= self.low and self.high <= self.tolerance
        return "same" if inside else "cannot tell"


@dataclass(frozen=True)
class Result:
    """Everything that a comparison says."""

    changes: list[Change]
    incomparable: dict[str, str]  # run -> why
    new: list[str]  # runs that the baseline does not know
    tolerance: float
    baseline_commit: str

    @property
    def worse(self) -> list[Change]:
        return [change for change in self.changes if change.verdict == "worse"]

    @property
    def exit_code(self) -> int:
        """1: something is worse; 3: something cannot be compared; 0: neither."""
        return 1 if self.worse else 3 if self.incomparable else 0


# ------------------------------------------------------------------------------------------------------------ baseline


def accept(store: Store, profile: str, folder: Path) -> list[str]:
    """Write the stored scores of every request set as the new baseline; returns the names of its runs."""
    import pandas as pd

    scores, sets, runs = [], [], {}
    for name, run in _stored(store).items():
        scores.append(run.scores().assign(run=name)[["run", "request", "metric", "value", "status"]])
        sets.append(run.sets().assign(run=name)[["run", "metric", "value", "n", "n_reference", "status", "replicates"]])
        runs[name] = _facts(run)
    if not runs:
        raise ConcordError(f"{store.root}: no scored runs to accept; run `concord run SUITE` first")
    target = folder / profile
    for file, parts in (("scores.parquet", scores), ("sets.parquet", sets)):
        frame = pd.concat(parts, ignore_index=True)
        for column in ("run", "metric", "request", "status"):
            if column in frame:
                frame[column] = frame[column].astype("category")  # a few names many times over: stored once
        with atomic_path(target / file) as temporary:
            frame.to_parquet(temporary, index=False, compression="zstd")
    commits = sorted({str(run.manifest.get("provenance", {}).get("git_commit")) for run in _stored(store).values()})
    write_json(target / "baseline.json", {"profile": profile, "commit": ", ".join(commits), "runs": runs})
    return list(runs)


def _stored(store: Store) -> dict[str, Any]:
    found = {}
    for path in sorted(store.root.glob("*/*/score.json")):
        run = store.run(path.parents[1].name, path.parent.name)
        # A method that lives outside is not this repository's to keep a baseline of.
        if run.scored and run.row not in ("ground-truth", "shuffled") and not run.manifest.get("external"):
            found[f"{run.request_set}/{run.row}"] = run
    return found


def _facts(run: Any) -> dict[str, Any]:
    """What must agree before two runs may be compared."""
    return {
        "n": len(run.ids),
        "data": run.manifest["data"]["fingerprint"],
        "device": run.manifest.get("device", "").partition(":")[0],
        "networks": dict(run.score_info.get("networks") or {}),
    }


def read_baseline(profile: str, folder: Path) -> Baseline:
    """The committed baseline of a profile; ConcordError when there is none or it is damaged."""
    import pandas as pd

    target = folder / profile
    if not (target / "baseline.json").is_file():
        raise ConcordError(f"{target}: no baseline yet: run `concord compare --accept`")
    info = read_json(target / "baseline.json")
    try:
        scores, sets = pd.read_parquet(target / "scores.parquet"), pd.read_parquet(target / "sets.parquet")
        values = {
            (str(run), str(metric)): part["value"].to_numpy(np.float64)
            for (run, metric), part in scores.groupby(["run", "metric"], sort=False, observed=True)
        }
        requests = {
            str(run): [str(name) for name in part["request"].unique()]
            for run, part in scores.groupby("run", sort=False, observed=True)
        }
        kept = {
            (str(row["run"]), str(row["metric"])): (
                float(row["value"]),
                np.asarray(row["replicates"], dtype=np.float64),
            )
            for row in sets.to_dict("records")
            if row["status"] == "ok"
        }
        runs = dict(info["runs"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConcordError(f"{target}: damaged baseline ({error}); renew it with `concord compare --accept`") from None
    return Baseline(target, {**info, "runs": runs}, values, requests, kept)


# ---------------------------------------------------------------------------------------------------------- comparison


def compare_with_baseline(
    store: Store,
    profile: str,
    folder: Path,
    tolerance: float = TOLERANCE,
    facts: Mapping[str, MetricFacts] | None = None,
    only: Collection[str] | None = None,
) -> Result:
    """Every run of the baseline (`only` these, where given) against the stored one; Holm over all their metrics."""
    baseline = read_baseline(profile, folder)
    stored = _stored(store)
    names = sorted({metric for _, metric in [*baseline.values, *baseline.sets]})
    known = dict(facts) if facts is not None else metric_facts(names)
    changes: list[Change] = []
    incomparable = {}
    wanted = {name: then for name, then in baseline.info["runs"].items() if only is None or name in only}
    for name, then in wanted.items():
        reason = _incomparable(then, baseline.requests.get(name, []), stored.get(name))
        if reason:
            incomparable[name] = reason
            continue
        measured = read_measured(
            stored[name], {m: known[m] for m in names if (name, m) in {*baseline.values, *baseline.sets}}
        )
        for metric in names:
            if metric in measured.refused:
                incomparable[f"{name}, {metric}"] = measured.refused[metric]
            elif (name, metric) in baseline.values or (name, metric) in baseline.sets:
                changes.append(_change(name, known[metric], baseline, measured, tolerance))
    adjusted = st.holm([change.p for change in changes])
    changes = [replace(change, p_holm=float(p)) for change, p in zip(changes, adjusted, strict=True)]
    new = sorted(name for name in set(stored) - set(baseline.info["runs"]) if only is None or name in only)
    return Result(changes, incomparable, new, tolerance, str(baseline.info.get("commit", "unknown")))


def _incomparable(then: Mapping[str, Any], requests: list[str], run: Any) -> str:
    if run is None:
        return "no scored results now; run its suite"
    now = _facts(run)
    if now["n"] != then["n"]:
        return f"n = {now['n']}, the baseline has {then['n']}"
    if run.ids != requests:
        return "answered other requests than the baseline"
    for key, what in (("data", "the data"), ("device", "the device")):
        if now[key] != then[key]:
            return f"{what} is another ('{str(now[key])[:12]}', the baseline has '{str(then[key])[:12]}')"
    for network in now["networks"].keys() & then["networks"].keys():
        if now["networks"][network] != then["networks"][network]:
            return f"scored by other weights of '{network}' than the baseline"
    return ""


def _change(name: str, fact: MetricFacts, baseline: Baseline, measured: Measured, tolerance: float) -> Change:
    metric, changed = fact.name, []
    if fact.is_set:
        before, old = baseline.sets[name, metric]
        now, new = measured.sets[metric]
        tested = st.paired_jackknife(now, new, before, old)
        low, high, p, error, df = tested.low, tested.high, tested.p, tested.error, tested.df
        if now == before and np.array_equal(old, new):
            low = high = error = 0.0
    else:
        then = baseline.values[name, metric]
        difference = measured.values[metric] - then
        before, now = float(then.mean()), float(measured.values[metric].mean())
        _, low, high = st.mean_interval(difference, measured.items)
        p = float(st.sign_flip(difference, measured.items)[0])
        error, df = st.standard_error(difference, measured.items)
        losses = -difference if fact.higher_is_better else difference
        changed = [measured.requests[i] for i in np.argsort(-losses, kind="stable")[:3] if losses[i] > 0]
    loss = before - now if fact.higher_is_better else now - before
    visible = st.smallest_visible_effect(error, df)
    return Change(
        name, metric, fact.label, before, now, low, high, loss, tolerance * abs(before), p, visible, changed=changed
    )


# --------------------------------------------------------------------------------------------------------------- words


def to_markdown(result: Result) -> str:
    """The comparison as Markdown: verdict first, then every number."""
    counts: dict[str, int] = {}
    for change in result.changes:
        counts[change.verdict] = counts.get(change.verdict, 0) + 1
    said = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())) or "nothing compared"
    head = (
        "WORSE THAN THE BASELINE" if result.worse else "CANNOT BE COMPARED" if result.incomparable else "no loss found"
    )
    lines = [
        f"# Against the baseline: {head}",
        "",
        f"{len(result.changes)} comparisons, paired by request, Holm-corrected together: {said}. A loss counts when "
        f"p < {ALPHA} and it exceeds {result.tolerance:.1%} of the baseline's value. Baseline of commit "
        f"{result.baseline_commit[:12]}.",
        "",
        "| Row | Metric | Baseline | Now | Difference [95 %] | Corrected p | Verdict |",
        "|:---|:---|---:|---:|---:|---:|:---|",
    ]
    for change in sorted(result.changes, key=lambda c: (c.verdict == "identical", -c.loss / (c.tolerance or 1))):
        decimals = decimals_for([(change.high - change.low) / 2], [change.before])
        lines.append(
            f"| {change.run} | {change.label} | {change.before:.{decimals}f} | {change.now:.{decimals}f} "
            f"| {change.now - change.before:+.{decimals}f} [{change.low:+.{decimals}f}, {change.high:+.{decimals}f}] "
            f"| {format_p(change.p_holm)} | {_verdict(change, decimals)} |"
        )
    lines += [""] + [f"- Cannot be compared: {name}: {reason}" for name, reason in result.incomparable.items()]
    lines += [f"- New, not in the baseline: {name} (`concord compare --accept` takes it in)" for name in result.new]
    return "\n".join(lines).rstrip() + "\n"


def _verdict(change: Change, decimals: int) -> str:
    verdict = change.verdict
    if verdict in ("worse", "better"):
        worst = f" (most: {', '.join(change.changed)})" if verdict == "worse" and change.changed else ""
        return f"**{verdict}**{worst}"
    if verdict == "cannot tell" and math.isfinite(change.visible):
        return f"cannot tell (would have seen {change.visible:.{decimals}f})"
    return verdict


def to_json(result: Result) -> str:
    """The comparison for programs."""
    return json.dumps(
        {
            "exit_code": result.exit_code,
            "baseline_commit": result.baseline_commit,
            "tolerance": result.tolerance,
            "changes": [
                {
                    "run": c.run, "metric": c.metric, "baseline": c.before, "now": c.now, "low": c.low, "high": c.high,
                    "p": c.p, "p_holm": c.p_holm, "verdict": c.verdict, "smallest_visible": c.visible,
                    "most": c.changed,
                }
                for c in result.changes
            ],
            "incomparable": result.incomparable,
            "new": result.new,
        },
        indent=1,
    )  # fmt: skip
