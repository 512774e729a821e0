"""The committed detector and segmenter on test scenes: what their cards promise, measured by the benchmark's rules."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from concord.data.checkpoints import load_weights
from concord.data.errors import ConcordError
from concord.data.request import Conditions
from concord.data.synthetic.scenes.scene import SPLITS, Scene, scene
from concord.metrics.base import Observation, get_metric
from concord.metrics.layout.instances import Detector, layout_table, observed_instances
from concord.metrics.networks.judges import judge_sha256, open_judges

N = 60


@cache
def scenes() -> list[Scene]:
    return [scene(index) for index in SPLITS["test"][:N]]


def observe(images: list[np.ndarray], wanted: list[Scene]) -> Observation:
    pixels = torch.from_numpy(np.stack(images)).movedim(-1, 1).float() / 255
    return Observation(pixels, [Conditions(layout=one.layout) for one in wanted], open_judges("embedded"))


@cache
def truth() -> Observation:
    return observe([one.image for one in scenes()], scenes())


def test_the_truth_is_the_ceiling_and_another_scene_the_floor() -> None:
    found = layout_table(truth().memo(observed_instances))
    located = np.mean([one.located for instances in truth().memo(observed_instances) for one in instances])
    card = load_weights("scenes-detector-judge")[1]["held_out"]
    assert float(located) == pytest.approx(card["found_at_iou_0.5"], abs=0.06)
    assert found.success["avg"] >= 100 * (card["found_at_iou_0.5"] - 0.08)
    other = observe([one.image for one in (*scenes()[5:], *scenes()[:5])], scenes())  # of the same level
    assert layout_table(other.memo(observed_instances)).success["avg"] < 25


def test_a_colour_is_told_from_the_others() -> None:
    """Asked for another colour in the right place, an instance fails."""
    from concord.data.datasets.layouts.layout import COLOURS, Layout

    turned = []
    for one in scenes():
        names = [COLOURS[(COLOURS.index(str(c)) + 3) % len(COLOURS)] for c in one.layout.colours]
        labels = [f"a {colour} {category}" for colour, category in zip(names, one.layout.categories, strict=True)]
        turned.append(Layout.of(one.layout.caption, one.layout.boxes, labels))
    pixels = truth().images
    wrong = Observation(pixels, [Conditions(layout=layout) for layout in turned], truth().networks)
    assert layout_table(wrong.memo(observed_instances)).success["avg"] < 15


def test_the_metrics_look_through_them() -> None:
    for name in ("instance-success", "layout-miou"):
        scores = get_metric(name).score(truth())  # type: ignore[attr-defined]
        assert len(scores) == N
        assert all(0 <= score.value <= 100 for score in scores)
    assert {"detector", "segmenter"} <= set(judge_sha256(truth().networks))


def test_there_is_no_guide_of_layouts() -> None:
    with pytest.raises(ConcordError, match="has no role 'guide/detector'"):
        open_judges("embedded").get("guide/detector", Detector)
