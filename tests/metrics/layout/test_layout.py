"""The COCO-MIG rules at every edge, on scenes whose answer is known."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
import pytest
import torch
from given_networks import seen_by
from hypothesis import given, settings
from hypothesis import strategies as st
from layout_world import RGB, Perfect, grid_layout, inside, paint

from concord.data.datasets.layouts.layout import COLOURS, Layout
from concord.data.errors import ConcordError
from concord.data.networks import Networks
from concord.data.request import Conditions
from concord.metrics.base import OK, Observation, Score
from concord.metrics.layout.instance_success import InstanceSuccess
from concord.metrics.layout.instances import (
    COLOUR_RANGES,
    Instance,
    by_level,
    colour_share,
    evaluate_interactions,
    evaluate_layout,
    has_colour,
    layout_table,
    mean_iou,
    observed_instances,
    observed_interactions,
    success_rate,
)
from concord.metrics.layout.interaction_success import InteractionSuccess
from concord.metrics.layout.layout_joint import LayoutJoint
from concord.metrics.layout.layout_miou import LayoutMIoU
from concord.metrics.networks.boxes import box_iou

ONE = Layout.of("one", [(0.25, 0.25, 0.75, 0.75)], ["a red bird"])


class Eyes:
    """Detects the boxes and segments the mask that the test gives."""

    def __init__(self, boxes: Any, mask: np.ndarray | None = None) -> None:
        self.boxes, self.mask, self.seen = np.array(boxes, dtype=np.float64).reshape(-1, 4), mask, 0

    def detect(self, image: np.ndarray, phrase: str) -> np.ndarray:
        assert phrase == "bird"  # never with its colour
        return self.boxes

    def segment(self, image: np.ndarray, box: np.ndarray) -> np.ndarray:
        self.seen += 1
        assert tuple(box) == tuple(ONE.boxes[0])  # the layout's box, not the detection
        return inside(image.shape[:2], box) if self.mask is None else self.mask


def look(boxes: Any, image: np.ndarray | None = None, mask: np.ndarray | None = None) -> tuple[Instance, int]:
    """The one instance, and how often the segmenter was asked."""
    eyes = Eyes(boxes, mask)
    (instance,) = evaluate_layout(paint(ONE) if image is None else image, ONE, eyes, eyes)
    return instance, eyes.seen


# ---------------------------------------------------------------------------------------------------------- the place


def test_the_right_thing_in_the_right_place_succeeds() -> None:
    assert look([ONE.boxes[0]]) == (Instance("a red bird", 1.0, 1.0, True), 1)


def test_an_overlap_of_exactly_a_half_is_enough() -> None:
    """Half the box found: |both| / |either| = 1/2. A hair less of it is not enough, and its colour is not looked at."""
    exact, asked = look([(0.25, 0.25, 0.5, 0.75)])
    assert exact == Instance("a red bird", 0.5, 1.0, True)
    assert asked == 1
    short, asked = look([(0.25, 0.25, np.nextafter(0.5, 0), 0.75)])
    assert 0.4999 < short.iou < 0.5
    assert (short.success, short.share, asked) == (False, None, 0)
    assert short.counted_iou == short.iou  # it keeps its overlap in the mIoU, whatever its colour


def test_a_low_overlap_keeps_its_value_even_in_a_wrong_colour() -> None:
    violet = paint(ONE, wrong=frozenset({0}))
    low, asked = look([(0.25, 0.25, 0.375, 0.75)], violet)
    assert (low.iou, low.counted_iou, low.success, asked) == (0.25, 0.25, False, 0)
    high, asked = look([(0.25, 0.25, 0.5, 0.75)], violet)
    assert (high.iou, high.counted_iou, high.success, high.located, asked) == (0.5, 0.0, False, True, 1)


def test_nothing_found_is_no_overlap() -> None:
    assert look([]) == (Instance("a red bird", 0.0, None, False), 0)


def test_of_two_detections_the_better_one_counts() -> None:
    far, near = (0.0, 0.0, 0.2, 0.2), (0.25, 0.25, 0.75, 0.625)
    assert look([far, near])[0].iou == look([near, far])[0].iou == 0.75
    assert look([near, near])[0].iou == 0.75


def test_a_detection_may_reach_over_the_edge_of_the_image() -> None:
    assert look([(-0.25, 0.25, 0.75, 0.75)])[0].iou == 0.5


def test_two_instances_of_one_category_are_looked_for_once_and_compared_each() -> None:
    layout = grid_layout(3, colours=("red", "blue", "green"))
    eyes = Perfect(layout, move={("bird", 1): None})
    instances = evaluate_layout(paint(layout), layout, eyes, eyes)
    assert eyes.asked == ["bird"]
    assert [one.success for one in instances] == [True, False, True]
    assert instances[1].iou == 0


def test_box_iou_has_no_plus_one() -> None:
    assert box_iou(np.array([0, 0, 10, 10]), np.array([[5, 0, 15, 10], [10, 0, 20, 10], [0, 0, 10, 10]])).tolist() == [
        pytest.approx(50 / 150, abs=1e-15),
        0.0,
        1.0,
    ]
    assert box_iou(np.array([0.0, 0, 1, 1]), np.zeros((0, 4))).shape == (0,)
    assert box_iou(np.zeros(4), np.zeros((1, 4))).tolist() == [0.0]  # no area, no overlap, no NaN
    with pytest.raises(ValueError, match="expected"):
        box_iou(np.zeros(4), np.zeros(4))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 16), min_size=8, max_size=8))
def test_box_iou_counts_squares(corners: list[int]) -> None:
    """Against counting the unit squares of a 16 x 16 board."""
    a, b = ([min(c[0], c[1]), min(c[2], c[3]), max(c[0], c[1]), max(c[2], c[3])] for c in (corners[:4], corners[4:]))
    board = [inside((16, 16), np.array(box) / 16) for box in (a, b)]
    either = int((board[0] | board[1]).sum())
    expected = int((board[0] & board[1]).sum()) / either if either else 0.0
    assert box_iou(np.array(a), np.array([b]))[0] == pytest.approx(expected, abs=1e-12)


# --------------------------------------------------------------------------------------------------------- the colour


def test_a_share_of_exactly_a_fifth_is_enough() -> None:
    image = np.full((512, 512, 3), 200, np.uint8)
    mask = np.zeros((512, 512), dtype=bool)
    mask[100, 100:400] = True  # 300 pixels
    image[100, 100:160] = RGB["red"]  # 60 of them
    full, _ = look([ONE.boxes[0]], image, mask)
    assert full == Instance("a red bird", 1.0, 0.2, True)
    image[100, 159] = 200
    short, _ = look([ONE.boxes[0]], image, mask)
    assert short == Instance("a red bird", 1.0, 59 / 300, False)
    assert short.counted_iou == 0.0


@pytest.mark.parametrize("pixels", [5, 35, 1005, 65_535, 262_140])
def test_a_fifth_of_any_number_of_pixels(pixels: int) -> None:
    mask = np.arange(512 * 512).reshape(512, 512) < pixels
    image = np.full((512, 512, 3), 200, np.uint8)
    image[np.arange(512 * 512).reshape(512, 512) < pixels // 5] = RGB["blue"]
    assert colour_share(image, mask, "blue") == 0.2
    image.reshape(-1, 3)[0] = 200
    assert colour_share(image, mask, "blue") < 0.2


def test_pixels_of_the_colour_outside_the_object_do_not_count() -> None:
    image = np.full((512, 512, 3), RGB["red"], np.uint8)
    mask = np.zeros((512, 512), dtype=bool)
    mask[200:300, 200:300] = True
    image[mask] = RGB["green"]
    assert look([ONE.boxes[0]], image, mask)[0] == Instance("a red bird", 1.0, 0.0, False)


def test_an_object_without_pixels_fails() -> None:
    assert look([ONE.boxes[0]], None, np.zeros((512, 512), dtype=bool))[0] == Instance("a red bird", 1.0, 0.0, False)


def test_the_grey_of_the_background_is_no_colour() -> None:
    grey = np.full((4, 4, 3), 127, np.uint8)
    assert not any(has_colour(grey, colour).any() for colour in COLOURS)


def test_each_colour_is_itself_and_no_other() -> None:
    for colour, rgb in RGB.items():
        pixel = np.full((1, 1, 3), rgb, np.uint8)
        assert [name for name in COLOUR_RANGES if has_colour(pixel, name).all()] == [colour]
    assert set(RGB) == set(COLOUR_RANGES) == set(COLOURS)
    with pytest.raises(ConcordError, match="colour 'purple': expected one of red"):
        has_colour(np.zeros((1, 1, 3), np.uint8), "purple")


def colours_of(hue: int, saturation: int, value: int) -> set[str]:
    """Which colours a pixel is that has these in OpenCV's 8-bit HSV: by the table of the benchmark, written out."""
    h, s, v = hue, saturation, value
    bright = s >= 50 and v >= 70
    table = {
        "red": bright and (h <= 9 or h >= 159),
        "blue": bright and 90 <= h <= 128,
        "yellow": bright and 25 <= h <= 35,
        "green": bright and 36 <= h <= 89,
        "black": v <= 30,
        "white": s <= 43 and v >= 221,
        "brown": 6 <= h <= 25 and s >= 43 and v >= 35,
    }
    return {name for name, is_it in table.items() if is_it}


def test_every_colour_of_a_fine_grid_against_the_table() -> None:
    """All RGB values of a grid in steps of 5, turned into hue, saturation and value by the definition of HSV."""
    import cv2

    axis = np.arange(0, 256, 5, dtype=np.uint8)
    rgb = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(1, -1, 3)
    hsv = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)[0].astype(int)
    found = {name: has_colour(rgb, name)[0] for name in COLOUR_RANGES}
    whole = rgb[0].astype(float)
    spread = whole.max(axis=1) - whole.min(axis=1)
    assert np.array_equal(hsv[:, 2], whole.max(axis=1))
    saturation = np.divide(255 * spread, whole.max(axis=1), out=np.zeros(len(whole)), where=whole.max(axis=1) > 0)
    assert np.abs(hsv[:, 1] - saturation).max() < 1
    hue = np.array([colorsys.rgb_to_hsv(*pixel)[0] * 180 for pixel in whole[::7]])
    turn = np.abs(hsv[::7, 0] - hue)
    assert np.minimum(turn, 180 - turn).max() <= 1  # degrees are halved and rounded to whole numbers
    for number, pixel in enumerate(hsv):
        assert {name for name in COLOUR_RANGES if found[name][number]} == colours_of(*pixel)


@pytest.mark.parametrize(
    ("hue", "names"),
    [
        (0, {"red"}),
        (5, {"red"}),
        (6, {"red", "brown"}),
        (9, {"red", "brown"}),
        (10, {"brown"}),
        (24, {"brown"}),
        (25, {"brown", "yellow"}),
        (26, {"yellow"}),
        (35, {"yellow"}),
        (36, {"green"}),
        (89, {"green"}),
        (90, {"blue"}),
        (128, {"blue"}),
        (129, set()),
        (158, set()),
        (159, {"red"}),
        (179, {"red"}),
    ],
)
def test_hue_borders(hue: int, names: set[str]) -> None:
    import cv2

    pixel = cv2.cvtColor(np.array([[[hue, 255, 200]]], np.uint8), cv2.COLOR_HSV2RGB)
    assert cv2.cvtColor(pixel, cv2.COLOR_RGB2HSV)[0, 0, 0] == hue  # it came back as it was
    assert {name for name in COLOUR_RANGES if has_colour(pixel, name).all()} == names


@pytest.mark.parametrize(
    ("rgb", "names"),
    [
        ((30, 30, 30), {"black"}),
        ((31, 31, 31), set()),
        ((220, 220, 220), set()),
        ((221, 221, 221), {"white"}),
        ((70, 0, 0), {"red"}),
        ((69, 0, 0), set()),
        ((0, 30, 0), {"black"}),
    ],
)
def test_borders_of_saturation_and_value(rgb: tuple[int, int, int], names: set[str]) -> None:
    pixel = np.array([[rgb]], np.uint8)
    assert {name for name in COLOUR_RANGES if has_colour(pixel, name).all()} == names


def test_a_label_without_a_colour_needs_its_place_alone() -> None:
    layout = Layout.of("one", [ONE.boxes[0]], ["a bird"])
    eyes = Eyes([ONE.boxes[0]])
    assert evaluate_layout(paint(ONE), layout, eyes, eyes) == [Instance("a bird", 1.0, None, True)]
    assert eyes.seen == 0


def test_other_sizes_are_brought_to_512() -> None:
    layout = grid_layout(4)
    for shape in ((64, 64), (768, 768), (512, 300), (300, 512)):
        image = np.array(paint(layout, 512))
        import cv2

        image = cv2.resize(image, (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST)
        eyes = Perfect(layout)
        instances = evaluate_layout(image, layout, eyes, eyes)
        assert eyes.sizes == [(512, 512, 3)]
        assert all(one.success for one in instances)
    eyes = Perfect(layout)
    evaluate_layout(paint(layout, 64), layout, eyes, eyes, size=None)
    assert eyes.sizes == [(64, 64, 3)]


def test_wrong_arrays_are_refused() -> None:
    eyes = Eyes([ONE.boxes[0]])
    with pytest.raises(ValueError, match="expected uint8"):
        evaluate_layout(np.zeros((512, 512, 3)), ONE, eyes, eyes)
    with pytest.raises(ValueError, match="not finite"):
        look([(np.nan, 0, 1, 1)])
    with pytest.raises(ValueError, match="expected bool"):
        look([ONE.boxes[0]], None, np.zeros((64, 64), dtype=bool))
    with pytest.raises(ValueError, match="expected bool"):
        look([ONE.boxes[0]], None, np.zeros((512, 512), dtype=np.uint8))


# --------------------------------------------------------------------------------------------------------- the tables


def scene(n: int, good: int) -> list[Instance]:
    return [Instance("a red bird", 0.75, 1.0, True)] * good + [Instance("a red bird", 0.25, None, False)] * (n - good)


def test_averages_weigh_instances_or_levels() -> None:
    images = [scene(2, 2), scene(2, 1), scene(6, 0), scene(4, 4)]
    table = layout_table(images)
    assert table.success == {"L2": 75.0, "L4": 100.0, "L6": 0.0, "avg": 50.0, "avg-level": pytest.approx(175 / 3)}
    assert table.instances == {"L2": 4, "L4": 4, "L6": 6, "all": 14}
    assert table.whole == {"L2": 50.0, "L4": 100.0, "L6": 0.0, "avg": 50.0, "avg-level": 50.0}
    everything = [one for image in images for one in image]
    assert table.miou["avg"] == pytest.approx(100 * np.mean([one.counted_iou for one in everything]))
    assert table.success["avg"] == pytest.approx(100 * np.mean([one.success for one in everything]))


def test_the_papers_averages_follow_from_its_levels() -> None:
    """AMDM's Table 1: with as many images at each level, 50.81 and 44.69 come from weighing every instance alike."""
    levels = np.arange(2, 7)
    success = by_level([57.18, 52.91, 52.65, 49.62, 47.39], levels)
    miou = by_level([50.73, 45.54, 44.66, 43.54, 43.23], levels)
    assert round(success["avg"], 2) == 50.81
    assert round(miou["avg"], 2) == 44.69
    assert round(success["avg-level"], 2) != 50.81
    assert round(miou["avg-level"], 2) != 44.69


def test_by_level_needs_one_value_an_image() -> None:
    with pytest.raises(ValueError, match="expected one of each per image"):
        by_level([1.0, 2.0], [2])
    with pytest.raises(ValueError, match="expected one of each per image"):
        by_level([], [])


# -------------------------------------------------------------------------------------------------------- the metrics


class Judges:
    """Detector and segmenter that know the scene by its background's brightness."""

    side = 512

    def __init__(self, layouts: list[Layout]) -> None:
        self.layouts, self.used = layouts, 0

    def detect(self, image: np.ndarray, phrase: str) -> np.ndarray:
        self.used += 1
        return Perfect(self.layouts[int(image[0, 0, 0]) - 200]).detect(image, phrase)

    def segment(self, image: np.ndarray, box: np.ndarray) -> np.ndarray:
        return inside(image.shape[:2], box)


def observe(layouts: list[Layout], wrong: list[frozenset[int]], order: list[int]) -> tuple[Observation, Judges]:
    pictures = []
    for number, (layout, bad) in enumerate(zip(layouts, wrong, strict=True)):
        image = paint(layout, wrong=bad)
        image[0, :] = 200 + number
        pictures.append(torch.from_numpy(image).permute(2, 0, 1).float() / 255)
    judges = Judges(layouts)
    images = torch.stack([pictures[i] for i in order])
    conditions = [Conditions(layout=layouts[i]) for i in order]
    return Observation(images, conditions, seen_by(judges)), judges


def test_metrics_share_one_look_and_do_not_depend_on_the_batch() -> None:
    layouts = [grid_layout(2), grid_layout(5), grid_layout(3, category="cup")]
    wrong = [frozenset({1}), frozenset({0, 4}), frozenset[int]()]
    observation, judges = observe(layouts, wrong, [0, 1, 2])
    success, miou = InstanceSuccess().score(observation), LayoutMIoU().score(observation)
    assert judges.used == 3  # one category an image, looked for once for both metrics
    assert success == [Score(50.0, OK), Score(60.0, OK), Score(100.0, OK)]
    assert [score.value for score in miou] == pytest.approx([50, 60, 100], abs=1e-6)
    assert success == [Score(success_rate(one)) for one in observation.memo(observed_instances)]
    assert miou == [Score(mean_iou(one)) for one in observation.memo(observed_instances)]
    turned, _ = observe(layouts, wrong, [2, 0])
    assert InstanceSuccess().score(turned) == [success[2], success[0]]


def test_a_missing_layout_is_said() -> None:
    observation = Observation(torch.zeros(1, 3, 8, 8), [Conditions(text="a bird")], seen_by(Judges([])))
    with pytest.raises(ConcordError, match="scores against condition 'layout', which image 0"):
        InstanceSuccess().score(observation)


def test_the_embedded_profile_says_what_its_detector_knows() -> None:
    observation = Observation(torch.zeros(1, 3, 64, 64), [Conditions(layout=ONE)], Networks("embedded"))
    with pytest.raises(ConcordError, match="category 'bird': the embedded detector knows ball, car"):
        LayoutMIoU().score(observation)


# --------------------------------------------------------------------------------------------------------- interactions

TWO = Layout.of(
    "two",
    [(0.1, 0.1, 0.4, 0.5), (0.6, 0.5, 0.9, 0.9)],
    ["a red bird", "a blue cup"],
    "1",
    [(0, "holding", 1), (1, "link", 0)],
)


class Judge:
    """Sees one kind from the one box to the other, and nothing the other way round."""

    def __init__(self, kind: str, subject: int, other: int) -> None:
        self.kind, self.pair, self.asked = kind, (subject, other), 0

    def judge(self, image: np.ndarray, subject: np.ndarray, other: np.ndarray) -> str | None:
        self.asked += 1
        first, second = (TWO.boxes[k] for k in self.pair)
        return self.kind if np.array_equal(subject, first) and np.array_equal(other, second) else None


def test_an_interaction_is_of_its_kind_between_its_pair() -> None:
    eyes = Perfect(TWO)
    image = paint(TWO)
    instances = evaluate_layout(image, TWO, eyes, eyes)
    for kind, subject, other, expected in (
        ("holding", 0, 1, [True, False]),
        ("link", 1, 0, [False, True]),
        ("link", 0, 1, [False, False]),
        ("on", 0, 1, [False, False]),
    ):
        assert evaluate_interactions(image, TWO, instances, Judge(kind, subject, other)) == expected


def test_what_is_not_in_its_place_interacts_with_nothing() -> None:
    """The colour is not asked for, the place is; the judge is not even asked where one of the two is missing."""
    image, judge = paint(TWO, wrong=frozenset({0, 1})), Judge("holding", 0, 1)
    eyes = Perfect(TWO)
    wrong = evaluate_layout(image, TWO, eyes, eyes)
    assert not any(one.success for one in wrong)
    assert evaluate_interactions(image, TWO, wrong, judge) == [True, False]
    lost = Perfect(TWO, {("cup", 0): (0.1, 0.1, 0.4, 0.5)})
    judge = Judge("holding", 0, 1)
    assert evaluate_interactions(image, TWO, evaluate_layout(image, TWO, lost, lost), judge) == [False, False]
    assert judge.asked == 0


def test_the_whole_layout_needs_all_of_it() -> None:
    one = Layout.of("one", TWO.boxes, TWO.labels, "1", [(0, "holding", 1)])
    plain = Layout.of("none", TWO.boxes, TWO.labels, "1")
    pictures = [paint(TWO), paint(TWO), paint(TWO), paint(TWO, wrong=frozenset({1}))]
    layouts = [TWO, one, plain, one]
    for number, picture in enumerate(pictures):
        picture[0, :] = 200 + number  # `Judges` knows an image by its first row
    images = torch.stack([torch.from_numpy(picture).permute(2, 0, 1).float() / 255 for picture in pictures])
    networks = seen_by(Judges(layouts), interactions=Judge("holding", 0, 1))
    observation = Observation(images, [Conditions(layout=layout) for layout in layouts], networks)
    assert [score.value for score in InteractionSuccess().score(observation)] == [50, 100, 100, 100]
    assert [score.value for score in LayoutJoint().score(observation)] == [0, 100, 100, 0]
    assert [score.value for score in InstanceSuccess().score(observation)] == [100, 100, 100, 50]


def test_layouts_without_interactions_need_no_judge_of_them() -> None:
    observation, judges = observe([grid_layout(2)], [frozenset()], [0])
    assert observation.memo(observed_interactions) == [[]]
    assert not hasattr(judges, "interactions")
    assert LayoutJoint().score(observation) == [Score(100.0, OK)]
