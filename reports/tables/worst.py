"""The headline column of a suite with several conditions: the mean over images of the worst normalised condition.

Joint success asks whether an image passes thresholds that nearly all real images pass; where no method comes near them
it ranks by luck, and it can put a method first that ignores a condition. The worst condition (metrics/joint.py) is on a
scale from the shuffled row to the ground truth, and counts how far every image comes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from concord.metrics.joint import area, worst_condition
from concord.reports.tables.measured import Measured, MetricFacts

if TYPE_CHECKING:
    from concord.benchmarks.suite import Suite

WORST = "worst-condition"
FACTS = MetricFacts(WORST, "Worst condition", True, is_set=False, bounds=(-np.inf, np.inf))
FLOOR, CEILING = "shuffled", "ground-truth"


@dataclass(frozen=True)
class Scale:
    """floors, ceilings: metric -> where 0 and 1 lie. worst: row -> per image (n,). refused: why there is none."""

    floors: dict[str, float] = field(default_factory=dict)
    ceilings: dict[str, float] = field(default_factory=dict)
    worst: dict[str, np.ndarray] = field(default_factory=dict)
    refused: str = ""

    @property
    def areas(self) -> dict[str, float]:
        """row -> the area under its curve."""
        return {row: area(values) for row, values in self.worst.items()}


def add_worst(rows: dict[str, Measured], suite: Suite) -> Scale | None:
    """Derive the worst condition of every row; None where the suite joins no conditions or has no floor to scale by."""
    joint = suite.joint
    if joint is None or not {FLOOR, CEILING} <= set(suite.reference):
        return None
    if lost := [name for name in (FLOOR, CEILING) if name not in rows]:
        return _refuse(rows, f"no row '{lost[0]}' to scale by")
    ends = [
        {name: float(rows[row].values[name].mean()) for name in joint.metrics if name in rows[row].values}
        for row in (FLOOR, CEILING)
    ]
    if lost := [name for name in joint.metrics if any(name not in end for end in ends)]:
        return _refuse(rows, f"'{lost[0]}' has no floor or no ceiling")
    scale = Scale(floors=ends[0], ceilings=ends[1])
    for name, measured in rows.items():
        if any(metric not in measured.values for metric in joint.metrics):
            measured.refused[WORST] = "not all of its metrics were measured"
            continue
        try:
            values = worst_condition({metric: measured.values[metric] for metric in joint.metrics}, *ends)
        except ValueError as error:
            return _refuse(rows, str(error))
        scale.worst[name] = measured.values[WORST] = values
    return scale


def _refuse(rows: dict[str, Measured], reason: str) -> Scale:
    for measured in rows.values():
        measured.refused[WORST] = reason
        measured.values.pop(WORST, None)
    return Scale(refused=reason)


def worst_notes(scale: Scale | None, facts: dict[str, MetricFacts], titles: dict[str, str]) -> list[str]:
    """What stands below the table: the scale, and every row's area."""
    if scale is None or scale.refused or not scale.worst:
        return []
    ends = ", ".join(
        f"{facts[name].label} {floor:.4g} to {scale.ceilings[name]:.4g}" for name, floor in scale.floors.items()
    )
    areas = ", ".join(
        f"{titles.get(row, row)} {value:.3f}" for row, value in sorted(scale.areas.items(), key=lambda item: -item[1])
    )
    return [
        f"Of each image, the condition that it meets worst, on a scale from 0 (the mean of the shuffled row) to 1 (the "
        f"mean of the ground truth): {ends}. The mean over images is the table's headline: a method that ignores a "
        "condition is near 0, however well it meets the others.",
        f"Share of images that meet all conditions to the degree L, for L from 0 to 1: the area under that curve is "
        f"{areas}.",
    ]
