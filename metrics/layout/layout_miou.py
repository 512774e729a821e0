"""Layout mIoU: how well a layout's instances fill their boxes, 0 where the colour is wrong
(metrics/layout/instances.py)."""

from __future__ import annotations

from concord.metrics.base import Observation, SampleMetric, Score, register
from concord.metrics.layout.instances import mean_iou, observed_instances


@register
class LayoutMIoU(SampleMetric):
    """Mean IoU of the layout's instances, 0 for a wrong colour in the right place, per image."""

    name = "layout-miou"
    label = "Layout mIoU (%)"
    unit = "%"
    higher_is_better = True
    bounds = (0.0, 100.0)
    needs = frozenset({"layout"})
    networks = ("detector", "segmenter")
    weight_by = "level"
    per_level = ("miou", "mIoU")

    def score(self, observation: Observation) -> list[Score]:
        self.require_conditions(observation)
        return [Score(mean_iou(instances)) for instances in observation.memo(observed_instances)]
