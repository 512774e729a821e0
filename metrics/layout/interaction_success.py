"""Interaction success: whether the named interactions are there, each between the right pair
(metrics/layout/instances.py).

No paper prints it: COCO-MIG's layouts have no interactions. An interaction that is there between instances which are
not in their boxes does not count, nor one in the other direction.
"""

from __future__ import annotations

from concord.metrics.base import Observation, SampleMetric, Score, register
from concord.metrics.layout.instances import observed_interactions


@register
class InteractionSuccess(SampleMetric):
    """Share of the layout's interactions that are there, per image; 100 where it names none.

    A table weighs every interaction alike, so that images whose layouts name none do not enter it.
    """

    name = "interaction-success"
    label = "Interaction success (%)"
    unit = "%"
    higher_is_better = True
    bounds = (0.0, 100.0)
    needs = frozenset({"layout"})
    networks = ("detector", "segmenter", "interactions")
    weight_by = "interactions"
    counts = True

    def score(self, observation: Observation) -> list[Score]:
        self.require_conditions(observation)
        images = observation.memo(observed_interactions)
        return [Score(100 * sum(present) / len(present) if present else 100.0) for present in images]
