"""Instance success: how many of a layout's instances are in their place and in their colour
(metrics/layout/instances.py)."""

from __future__ import annotations

from concord.metrics.base import Observation, SampleMetric, Score, register
from concord.metrics.layout.instances import observed_instances, success_rate


@register
class InstanceSuccess(SampleMetric):
    """Share of the layout's instances that are in their place and in their colour, per image."""

    name = "instance-success"
    label = "Instance success (%)"
    unit = "%"
    higher_is_better = True
    bounds = (0.0, 100.0)
    needs = frozenset({"layout"})
    networks = ("detector", "segmenter")
    weight_by = "level"
    counts = True
    per_level = ("success", "Success")

    def score(self, observation: Observation) -> list[Score]:
        self.require_conditions(observation)
        return [Score(success_rate(instances)) for instances in observation.memo(observed_instances)]
