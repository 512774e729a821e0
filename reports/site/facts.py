"""What ran, on what, when, from which commit, with which weights: read from the manifests of every row shown."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concord.benchmarks.store.run import Run, Store
    from concord.benchmarks.suite import Suite

FACTS = (
    ("git_commit", "Commit"), ("device", "Device"), ("gpu", "GPU"), ("cuda", "CUDA"), ("cpu", "Processor"),
    ("cores", "Cores"), ("threads", "Threads"), ("dtype", "Number format"), ("platform", "Platform"),
    ("python", "Python"), ("packages", "Packages"),
)  # fmt: skip  # a table


@dataclass
class Weights:
    """One weight file. rows: the rows that it made or scored."""

    name: str
    sha256: str
    role: str  # 'makes images' or 'scores'
    rows: list[str] = field(default_factory=list)


def runs_of(suites: Sequence[Suite], store: Store) -> list[Run]:
    """Every finished run that the suites show, once each."""
    named = dict.fromkeys((suite.request_set, name) for suite in suites for name in suite.row_names())
    runs = (store.run(*one) for one in named)
    return [run for run in runs if run.finished]


def machine_facts(runs: Sequence[Run]) -> dict[str, str]:
    """One line a fact, of generation and of scoring together; values that differ stand side by side."""
    manifests = [manifest for run in runs for manifest in _manifests(run)]
    provenances = [manifest.get("provenance") or {} for manifest in manifests]
    facts = {}
    for key, label in FACTS:
        values = _each(_text(provenance.get(key)) for provenance in provenances)
        if values:
            facts[label] = "; ".join(values)
    data = _each(
        f"{run.manifest['data'].get('name', '')} ({str(run.manifest['data'].get('fingerprint', ''))[:12]})"
        for run in runs
        if run.manifest.get("data")
    )
    if data:
        facts["Data (fingerprint)"] = "; ".join(data)
    sizes = _each(_text(run.manifest.get("batch_size")) for run in runs)
    if sizes:
        facts["Batch size"] = "; ".join(sizes)
    if runs:
        facts["Images made"] = _span(run.path / "run.json" for run in runs)
        scored = [run.path / "score.json" for run in runs if run.scored]
        if scored:
            facts["Scored"] = _span(scored)
        facts["Seconds of generation"] = f"{sum(float(run.manifest.get('seconds_total') or 0) for run in runs):,.0f}"
    return facts


def weights_of(runs: Sequence[Run]) -> list[Weights]:
    """Every weight file by name and SHA-256, generators first."""
    found: dict[tuple[str, str, str], Weights] = {}
    for run in runs:
        used = [("makes images", run.manifest.get("weights") or {})]
        if run.scored:
            info = run.score_info
            used.append(("scores", info.get("weights") or info.get("networks") or {}))
        for role, weights in used:
            for name, digest in weights.items():
                one = found.setdefault((role, name, digest), Weights(name, digest, role))
                if run.row not in one.rows:
                    one.rows.append(run.row)
    return [found[key] for key in sorted(found)]


def _manifests(run: Run) -> list[dict[str, Any]]:
    return [run.manifest, *([run.score_info] if run.scored else [])]


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {number}" for name, number in value.items())
    return "" if value is None else str(value)


def _each(values: Iterable[str]) -> list[str]:
    return [value for value in dict.fromkeys(values) if value]


def _span(paths: Iterable[Any]) -> str:
    """When these files were written: 'day time' or 'first to last'."""
    times = sorted(path.stat().st_mtime for path in paths)
    ends = [datetime.datetime.fromtimestamp(t).astimezone().strftime("%Y-%m-%d %H:%M") for t in (times[0], times[-1])]
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"
