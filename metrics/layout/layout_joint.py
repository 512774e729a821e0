"""Whole layout: whether one image has all that its layout asks for (metrics/layout/instances.py).

Every instance in its place and colour, and every interaction between its pair. A model that keeps the interactions and
loses the colours, or the other way round, may lead the columns of the parts; this is the one that it cannot lead.
"""

from __future__ import annotations

from concord.metrics.base import Observation, SampleMetric, Score, register
from concord.metrics.layout.instances import observed_instances, observed_interactions


@register
class LayoutJoint(SampleMetric):
    """100 where all instances and interactions of the layout succeed, else 0."""

    name = "layout-joint"
    label = "Whole layout (%)"
    unit = "%"
    higher_is_better = True
    bounds = (0.0, 100.0)
    is_rate = True
    needs = frozenset({"layout"})
    networks = ("detector", "segmenter", "interactions")

    def score(self, observation: Observation) -> list[Score]:
        self.require_conditions(observation)
        pairs = zip(observation.memo(observed_instances), observation.memo(observed_interactions), strict=True)
        return [Score(100.0 * (all(one.success for one in instances) and all(present))) for instances, present in pairs]
