"""Renewing the committed baseline, and the small files that `dvc metrics` and `dvc plots` read."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from concord.data.errors import ConcordError
from concord.data.files import atomic_path, read_json, write_json
from concord.data.own_files import refuse_links, remove_own
from concord.reports import statistics as st
from concord.reports.compare.comparison import Result, compare_sides
from concord.reports.compare.costs import packed
from concord.reports.compare.margins import Margins
from concord.reports.compare.sides import FILES, FORMAT, Side, SideRun, baseline_folder, protocols, seal
from concord.reports.tables.measured import MetricFacts

if TYPE_CHECKING:
    from concord.benchmarks.store.run import Store

DIGITS = 6
UNEQUAL = "="  # in the name of a row that --set made: a trial, nothing to measure others against


@dataclass(frozen=True)
class Renewal:
    """What became of a baseline. result: old against new; None where there was no readable old one."""

    side: Side
    result: Result | None
    kept: list[str]  # rows without results now, kept as they were
    dropped: list[str]
    sizes: dict[str, tuple[int, int]]  # file -> bytes before and after
    written: bool
    damage: str = ""  # of the old baseline, which is replaced


def renew(
    found: Side,
    folder: Path,
    margins: Margins,
    *,
    only: Collection[str] | None = None,
    prune: bool = False,
    facts: Mapping[str, MetricFacts] | None = None,
) -> Renewal:
    """Take the scored rows of a side (`only` these) as the baseline in `folder`.

    Rows of the old baseline that have no results now stay as they were, unless `prune` drops them. Nothing is written
    where nothing changed. Raises ConcordError where the side has no scored row.
    """
    fresh = {
        name: run
        for name, run in found.runs.items()
        if not run.unusable and UNEQUAL not in name and (only is None or name in only)
    }
    if not fresh:
        raise ConcordError(f"{found.label}: no scored runs to accept; run `concord run SUITE` first")
    old, damage = _old(folder)
    names = sorted({metric for run in fresh.values() for metric in (*run.values, *run.sets)})
    before = old.runs if old else {}
    kept = [] if prune else [name for name in before if name not in fresh]
    runs = {name: fresh.get(name) or before[name] for name in sorted({*fresh, *kept})}
    commits = {part for run in runs.values() for part in [str(run.facts.get("commit") or found.commit)]}
    today = {**(old.protocols if old else {}), **protocols(names)}
    side = Side("renewed baseline", found.profile, runs, ", ".join(sorted(commits)), today)
    result = compare_sides(old, side, margins, facts, only=set(fresh)) if old else None
    dropped = sorted(before.keys() - runs.keys())
    sizes = {name: _size(folder / name) for name in FILES}
    written = not (result and old and _nothing_new(result, old, side, folder, dropped))
    if written:
        write_side(side, folder)
    return Renewal(
        side, result, kept, dropped, {name: (was, _size(folder / name)) for name, was in sizes.items()}, written, damage
    )


def _old(folder: Path) -> tuple[Side | None, str]:
    if not (folder / "baseline.json").is_file():
        return None, ""
    try:
        return baseline_folder(folder, "old baseline"), ""
    except ConcordError as error:
        return None, str(error)


def _nothing_new(result: Result, old: Side, new: Side, folder: Path, dropped: list[str]) -> bool:
    def facts(run: SideRun) -> dict[str, Any]:
        """What has to be the same: of the costs what was counted, of the code nothing, as it made the same images."""
        kept = {key: value for key, value in run.facts.items() if key not in ("commit", "cost", "made")}
        return {**kept, "passes": (run.facts.get("cost") or {}).get("passes"), "made": bool(run.facts.get("made"))}

    same = all(change.identical for change in result.changes) and not result.incomparable and not dropped
    whole = all((folder / name).is_file() for name in FILES) and old.protocols == new.protocols
    same = same and read_json(folder / "baseline.json").get("format") == FORMAT
    return same and whole and {n: facts(r) for n, r in old.runs.items()} == {n: facts(r) for n, r in new.runs.items()}


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def write_side(side: Side, folder: Path) -> None:
    """Write a side as a baseline: every file under a temporary name first, baseline.json last."""
    import pandas as pd

    samples = [
        pd.DataFrame(
            {
                "run": name,
                "request": run.requests,
                "metric": metric,
                "value": values,
                "status": np.where(run.failed[metric], "failed", "ok"),
            }
        )
        for name, run in side.runs.items()
        for metric, values in run.values.items()
    ]
    sets = [
        {
            "run": name,
            "metric": metric,
            "value": value,
            "n": len(run.requests),
            "n_reference": run.n_reference.get(metric, 0),
            "status": "ok",
            "replicates": list(map(float, replicates)),
        }
        for name, run in side.runs.items()
        for metric, (value, replicates) in run.sets.items()
    ]
    columns = ["run", "metric", "value", "n", "n_reference", "status", "replicates"]
    frame = pd.concat(samples, ignore_index=True) if samples else pd.DataFrame(columns=["run", "request", "metric"])
    for name, table in (("scores.parquet", frame), ("sets.parquet", pd.DataFrame(sets, columns=columns))):
        for column in {"run", "metric", "request", "status"} & set(table.columns):
            table[column] = table[column].astype("category")  # a few names many times over: stored once
        with atomic_path(folder / name) as temporary:
            table.to_parquet(temporary, index=False, compression="zstd")
    arrays: dict[str, Any] = {
        name: run.features.astype(np.float16) for name, run in side.runs.items() if run.features is not None
    }
    with atomic_path(folder / "features.npz") as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)
    write_json(folder / "metrics.json", means(side))
    runs, code = packed({name: run.facts for name, run in side.runs.items()})
    content = {
        "format": FORMAT,
        "profile": side.profile,
        "commit": side.commit,
        "protocols": side.protocols,
        "runs": runs,
        "code": code,  # module -> digest; a run's `made.code` lists places in it
        # whose scores are of whole sets, so that no score of theirs names a request
        "requests": {name: list(map(str, run.requests)) for name, run in side.runs.items() if not run.values},
    }
    files = {name: (folder / name).read_bytes() for name in FILES[1:]}
    write_json(folder / "baseline.json", seal(content, files))


# --------------------------------------------------------------------------------------------- dvc metrics, dvc plots


def means(side: Side) -> dict[str, dict[str, dict[str, float]]]:
    """request set -> row -> metric -> value, to six digits: what `dvc metrics show` and `diff` print."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, run in side.runs.items():
        if run.unusable:
            continue
        suite, _, row = name.partition("/")
        values = {metric: float(v.mean()) for metric, v in run.values.items()}
        values |= {metric: value for metric, (value, _) in run.sets.items()}
        found.setdefault(suite, {})[row] = {m: float(f"{v:.{DIGITS}g}") for m, v in sorted(values.items())}
    return found


def write_summary(store: Store, profile: str, folder: Path) -> None:
    """metrics.json and plots/<metric>.csv of the stored results; empty ones where nothing can be read yet.

    A line of a csv: row ('<request set>/<row>'), value, low, high, n.
    """
    from concord.reports.compare.sides import store_side

    try:
        side = store_side(store, profile)
    except ConcordError:  # the report itself says what is wrong with the results
        side = Side("", profile, {})
    write_json(folder / "metrics.json", means(side))
    plots: dict[str, list[str]] = {}
    for name, run in side.runs.items():
        for metric, interval in intervals(run).items():
            numbers = ",".join("" if not np.isfinite(end) else f"{end:.{DIGITS}g}" for end in interval)
            plots.setdefault(metric, []).append(f"{name},{numbers},{len(run.requests)}")
    refuse_links(folder, folder / "plots")
    (folder / "plots").mkdir(exist_ok=True)
    remove_own(folder / "plots", re.compile(r"[a-z0-9-]+(@\w+)?\.csv"), {f"{metric}.csv" for metric in plots})
    for metric, lines in plots.items():
        with atomic_path(folder / "plots" / f"{metric}.csv") as temporary:
            temporary.write_text("\n".join(["row,value,low,high,n", *lines]) + "\n", encoding="utf-8")


def intervals(run: SideRun) -> dict[str, st.Interval]:
    """Value and 95 % interval of every metric of a run."""
    found = {metric: st.mean_interval(values, run.items) for metric, values in run.values.items()}
    return found | {metric: st.jackknife_interval(value, parts) for metric, (value, parts) in run.sets.items()}


# ----------------------------------------------------------------------------------------------------------- in words


def renewal_markdown(renewal: Renewal, folder: Path) -> str:
    """What changed: a table of old and new values, rows that came and went, and the sizes of the files."""
    from concord.reports.compare.render import by_suite, cells, escape, reasons

    total = [sum(pair[side] for pair in renewal.sizes.values()) for side in (0, 1)]
    if not renewal.written:
        return f"{folder}: nothing has changed; the baseline stays as it is ({kib(total[1])})\n"
    lines = [f"# Baseline of {len(renewal.side.runs)} rows written to {escape(str(folder))}", ""]
    if renewal.damage:
        lines += [f"The old one could not be read and is replaced: {escape(renewal.damage)}", ""]
    result = renewal.result
    if result is not None:
        moved = [change for change in result.changes if not change.identical]
        for suite, changes in by_suite(moved):
            lines += [f"## {escape(suite)}", "", "| Row | Metric | Old | New | Difference [95 %] | Verdict |"]
            lines += ["|:---|:---|---:|---:|---:|:---|"]
            for change in changes:
                row = cells(change)
                lines.append("| " + " | ".join(escape(row[k]) for k in (0, 1, 3, 4, 5, 8)) + " |")
            lines += [""]
        still = len(result.changes) - len(moved)
        lines += [f"- {still} of {len(result.changes)} values are bit for bit the same"]
        lines += [
            f"- Renewed without a comparison: {escape(why)}: {escape(what)}"
            for why, what in reasons(result.incomparable)
        ]
        if result.new:
            lines += [f"- New: {escape(', '.join(result.new))}"]
    if renewal.kept:
        lines += [f"- Kept as they were, without results now (--prune drops them): {escape(', '.join(renewal.kept))}"]
    if renewal.dropped:
        lines += [f"- Dropped: {escape(', '.join(renewal.dropped))}"]
    files = ", ".join(f"{name} {kib(was)} → {kib(now)}" for name, (was, now) in renewal.sizes.items())
    lines += [
        f"- Size: {kib(total[0])} → {kib(total[1])} ({files})",
        "",
        "Commit it with the change that it belongs to.",
    ]
    return "\n".join(lines) + "\n"


def kib(size: int) -> str:
    """Bytes in words, in KiB."""
    return f"{size / 1024:.0f} KiB"
