"""What a report says about parameters that were found by a search (`concord tune`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from concord.benchmarks.tune import stale_tunings
from concord.benchmarks.tuned import read_search, tuned_path

if TYPE_CHECKING:
    from concord.benchmarks.store.run import Run
    from concord.benchmarks.suite import Suite


def tuning_notes(suite: Suite, profile: str, runs: Mapping[str, Run]) -> list[str]:
    """How much was tuned, for which rows, with what in view; which rows kept the papers' values."""
    tuned = {row.name: row.tuned for row in suite.rows if row.tuned is not None}
    if not tuned:
        return []
    search = read_search(suite.request_set)
    if search is None or search.profile != profile:
        return [
            f"Nothing was tuned: {', '.join(tuned)} take the papers' values (`concord tune all {suite.name}` tunes)."
        ]
    seconds = sum(search.rows[name].seconds for name in set(tuned.values()) if name in search.rows)
    ranges = ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in search.ranges.items())
    notes = [
        f"Tuned: {search.budget} trials for each method, each of {search.n} images of validation faces "
        f"({search.items}) with seeds that no table has; search seed {search.seed}, {seconds:.0f} s in all. Tried, as "
        f"shares of the papers' values: {ranges}.",
        f"Objective: {search.objective}.",
    ]
    for name, entry in tuned.items():
        if entry not in search.rows:
            notes.append(f"{name}: not tuned.")
            continue
        found = search.rows[entry]
        chosen = ", ".join(f"{key} = {value:g}" for key, value in found.chosen.items())
        notes.append(
            f"{name}: {chosen} (objective {found.objective:.3f}{'' if entry == name else f', found for {entry}'})."
        )
        if name in runs and (changed := _changed_weights(found.weights, runs[name].manifest)):
            notes.append(f"{name}: {', '.join(changed)} had other weights when it was tuned; tune it again.")
    notes += stale_tunings(suite, profile)
    kept = [row.name for row in suite.rows if row.method is not None and row.tuned is None]
    if kept:
        notes.append(f"Not tuned: {', '.join(kept)}.")
    notes.append(f"Every trial is in {tuned_path(suite.request_set).parent.name}/{tuned_path(suite.request_set).name}.")
    return notes


def _changed_weights(then: Mapping[str, str], manifest: Mapping[str, Any]) -> list[str]:
    now = manifest.get("weights") or {}
    return sorted(name for name in then.keys() & now.keys() if then[name] != now[name])
