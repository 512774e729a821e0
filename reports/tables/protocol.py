"""How a number was measured, here and in the paper, in words; and which rows were scored by their own guide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from concord.reports.tables.table import Row

if TYPE_CHECKING:
    from concord.benchmarks.store.run import Run
    from concord.reports.published import PublishedTable
    from concord.reports.tables.measured import MetricFacts


def scoring_networks(fact: MetricFacts, run: Run) -> list[str]:
    """The kinds of networks that scored a run in a metric, as score.json names them."""
    stored = run.score_info.get("networks") or {}
    if fact.through_guide and any(f"freedom-{kind}" in stored for kind in fact.networks):
        return [f"freedom-{kind}" for kind in fact.networks if f"freedom-{kind}" in stored]
    return [kind for kind in fact.networks if kind in stored]


def scored_by_own_guide(fact: MetricFacts, run: Run) -> bool:
    """Whether one of the networks that scored is among those that made the images: the same weight file, by SHA-256."""
    judges = run.score_info.get("networks") or {}
    used = set((run.manifest.get("weights") or {}).values())
    return any(judges[kind] in used for kind in scoring_networks(fact, run))


def column_protocol(
    fact: MetricFacts | None, key: str, declared: PublishedTable, runs: Mapping[str, Run], n: int | None
) -> str:
    """'paper: how, n = ...; here: networks, image size, n = ...'; '' where the paper has no such column."""
    if not key:
        return ""
    words, count = declared.measured.get(key, ""), declared.n.get(key)
    stated = "n not stated" if count is None else "" if str(count) in words else f"n = {count}"
    paper = f"paper: {', '.join(part for part in (words, stated) if part)}"
    if fact is None:
        return f"{paper}; here: not measured"
    run = next(iter(runs.values()), None)
    if run is None:
        return f"{paper}; here: no row yet"
    cards: dict[str, Any] = {}
    for one in runs.values():
        cards.update(one.score_info.get("cards") or {})
    names = [str((cards.get(kind) or {}).get("name", kind)) for kind in scoring_networks(fact, run)]
    size = run.manifest.get("image_size")
    here = [*names, f"{size}x{size} pixels" if size else "", f"n = {n}" if n is not None else ""]
    return f"{paper}; here: {', '.join(part for part in here if part)}"


def guidance_notes(rows: Sequence[Row]) -> list[str]:
    """What guided rows did with Hessian products, and how many steps each took, from the stored parameters."""
    said: dict[str, list[str]] = {}
    for row in rows:
        if row.absent or "hvp" not in row.params:
            continue
        kind = str(row.params["hvp"])
        step = row.params.get("hvp_step")
        words = f"{kind}, h = {step:g}" if kind == "finite-difference" and step is not None else kind
        said.setdefault(f"hvp: {words}", []).append(row.title)
    return [f"{words} ({', '.join(titles)})." for words, titles in said.items()]


def guided_notes(rows: Sequence[Row], labels: Mapping[str, str]) -> list[str]:
    """Which rows were scored by their own guide, column by column."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for name, cell in row.cells.items():
            if cell.own_guide:
                found.setdefault(labels.get(name, name), []).append(row.title)
    return [f"{label}: {', '.join(titles)} scored by the network that guided." for label, titles in found.items()]
