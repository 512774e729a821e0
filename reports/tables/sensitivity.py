"""What a report says about which known failures a suite's metrics find (`make sensitivity`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from concord.metrics.base import SampleMetric, all_metrics
from concord.reports.validation.sensitivity import SEEN, TABLE, read_sensitivity

if TYPE_CHECKING:
    from concord.benchmarks.suite import Suite


def sensitivity_notes(suite: Suite, profile: str, path: Path = TABLE) -> list[str]:
    """The share of seed sets in which each known failure was found, by metric; metrics that find none of their own."""
    table = read_sensitivity(path)
    if table is None or table.profile != profile or suite.name not in table.suites:
        return []
    one, metrics = table.suites[suite.name], all_metrics()
    labels = {name: metrics[name].label for found in one.found.values() for name in found if name in metrics}
    sees = {name: issubclass(metrics[name], SampleMetric) for name in labels}
    notes = [
        f"Known failures of row {one.row}, in what share of {one.trials} seed sets of n = {one.n} they are found "
        f"(`make sensitivity`, {one.pool} requests, commit {one.commit[:7]})."
    ]
    for effect, found in one.found.items():
        listed = ", ".join(f"{labels.get(name, name)} {100 * share:.0f} %" for name, share in found.items())
        notes.append(f"{effect[0].upper()}{effect[1:]}: {listed}.")
    blind = [labels.get(name, name) for name in one.blind(sees)]
    if blind:
        notes.append(f"Find none of their own failures in {100 * SEEN:.0f} % of the seed sets: {', '.join(blind)}.")
    return notes
