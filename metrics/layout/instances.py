"""Layout: whether each instance is where its box says and has the colour that its label says (COCO-MIG).

MIGC (Zhou et al., CVPR 2024) and AMDM's Table 1, by the rules of the benchmark's released evaluator, instance by
instance:

    1. The detector looks for the category, without its colour ("bird" of "a red bird").
       iou = max over all detections of |detection and box| / |detection or box|; 0 where nothing is found
    2. iou < 0.5: the instance fails. Its iou still enters the mIoU, and its colour is not looked at.
    3. Otherwise the segmenter, given the layout's own box, says which pixels are the object; all others become grey
       (127). Where at least 0.2 of the object's pixels are in the colour's range of hue, saturation and value, the
       instance succeeds; where not, or where the segmenter finds no pixel, it fails and its iou counts as 0.

`instance-success` is the share of the instances that succeed, `layout-miou` the mean of the ious that count, both per
image and in %. The benchmark's averages weigh every instance alike, so that an image of six counts three times an
image of two: `by_level` makes them from the values per image (all images of a level have equally many instances).
The ranges of colours overlap (brown with red at hue 6-9, with yellow at 25, with white at saturation 43) and leave
gaps, as in the benchmark. A label that asks for no colour succeeds by its box alone.

The embedded world's layouts name interactions too, which COCO-MIG has not: "instance 0 holds instance 2". Such a one
succeeds where both instances are in place and a third network, shown the two boxes, says that very kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from concord.data.datasets.layouts.layout import Layout
from concord.data.errors import ConcordError

if TYPE_CHECKING:
    from concord.metrics.base import Observation

SIZE = 512  # pixels: the side at which the benchmark looks at images; any other is resized to it
IOU = 0.5  # from this on an instance is where it should be
SHARE = 0.2  # of the object's pixels, from which on it has its colour
GREY = 127  # of all pixels that are not the object's

Range = tuple[tuple[int, int, int], tuple[int, int, int]]  # lowest and highest hue, saturation, value, both included

# In OpenCV's 8-bit HSV: hue 0..179 (half degrees), saturation and value 0..255.
COLOUR_RANGES: dict[str, tuple[Range, ...]] = {
    "red": (((0, 50, 70), (9, 255, 255)), ((159, 50, 70), (180, 255, 255))),
    "blue": (((90, 50, 70), (128, 255, 255)),),
    "yellow": (((25, 50, 70), (35, 255, 255)),),
    "green": (((36, 50, 70), (89, 255, 255)),),
    "black": (((0, 0, 0), (180, 255, 30)),),
    "white": (((0, 0, 221), (180, 43, 255)),),
    "brown": (((6, 43, 35), (25, 255, 255)),),
}


@runtime_checkable
class Detector(Protocol):
    """Finds things by their name. side: pixels of the images that it is to be shown."""

    side: int

    def detect(self, image: np.ndarray, phrase: str) -> np.ndarray:
        """Boxes (N, 4) of every `phrase` in uint8 (H, W, 3) RGB: x1, y1, x2, y2, shares of width and height."""
        ...


@runtime_checkable
class Segmenter(Protocol):
    """Tells an object's pixels from the others."""

    def segment(self, image: np.ndarray, box: np.ndarray) -> np.ndarray:
        """Bool (H, W): the pixels of what is in the box (x1, y1, x2, y2 in [0, 1]) of uint8 (H, W, 3) RGB."""
        ...


@runtime_checkable
class InteractionJudge(Protocol):
    """Says what one thing does to another."""

    def judge(self, image: np.ndarray, subject: np.ndarray, other: np.ndarray) -> str | None:
        """The interaction that uint8 (H, W, 3) RGB shows from what is in the first box to what is in the second."""
        ...


# --------------------------------------------------------------------------------------------------------- one image


@dataclass(frozen=True)
class Instance:
    """What became of one instance of a layout.

    iou: the best overlap of any detection with its box. share: of its pixels, how many have its colour; None where
    that was not looked at (its iou is too low, or no colour is asked for).
    """

    label: str
    iou: float
    share: float | None
    success: bool

    @property
    def located(self) -> bool:
        """Whether something of its category is where it should be."""
        return self.iou >= IOU

    @property
    def counted_iou(self) -> float:
        """What enters the mIoU: 0 where the place is right but the colour is wrong."""
        return self.iou if self.success or not self.located else 0.0


def evaluate_layout(
    image: np.ndarray, layout: Layout, detector: Detector, segmenter: Segmenter, size: int | None = SIZE
) -> list[Instance]:
    """Every instance of the layout in uint8 (H, W, 3) RGB, in order.

    size: the side in pixels to which the image is resized first (bilinear, as the benchmark does); None leaves it.
    """
    image = _resized(image, size)
    detected = {category: detector.detect(image, category) for category in dict.fromkeys(layout.categories)}
    instances = []
    for box, label, colour, category in zip(
        layout.boxes, layout.labels, layout.colours, layout.categories, strict=True
    ):
        iou = _best_iou(box, detected[category], category)
        success, share = iou >= IOU, None
        if success and colour is not None:
            share = colour_share(image, segmenter.segment(image, box), colour)
            success = share >= SHARE
        instances.append(Instance(label, iou, share, success))
    return instances


def evaluate_interactions(
    image: np.ndarray, layout: Layout, instances: Sequence[Instance], judge: InteractionJudge
) -> list[bool]:
    """For every interaction of the layout, whether both of its instances are in place and the judge sees its kind.

    image: uint8 (H, W, 3) RGB. instances: what `evaluate_layout` said of it. The judge looks from the subject's box of
    the layout to the object's; whether the colours are right is not asked.
    """
    related = []
    for subject, kind, other in layout.interactions:
        located = instances[subject].located and instances[other].located
        related.append(located and judge.judge(image, layout.boxes[subject], layout.boxes[other]) == kind)
    return related


def colour_share(image: np.ndarray, mask: np.ndarray, colour: str) -> float:
    """Of the pixels of `mask`, bool (H, W), the share in [0, 1] that has the colour; 0 where it has no pixels.

    Equal shares compare as equal: k / n is rounded correctly, so that exactly a fifth is the number 0.2.
    """
    if mask.shape != image.shape[:2] or mask.dtype != np.bool_:
        raise ValueError(f"mask {mask.shape} of {mask.dtype}: expected bool {image.shape[:2]}")
    pixels = int(mask.sum())
    grey = np.where(mask[:, :, None], image, np.uint8(GREY))
    return int((has_colour(grey, colour) & mask).sum()) / pixels if pixels else 0.0


def has_colour(image: np.ndarray, colour: str) -> np.ndarray:
    """Bool (H, W): which pixels of uint8 (H, W, 3) RGB lie in a range of the colour, a key of `COLOUR_RANGES`."""
    import cv2

    if colour not in COLOUR_RANGES:
        raise ConcordError(f"colour '{colour}': expected one of {', '.join(COLOUR_RANGES)}")
    hsv = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2HSV)
    inside = [cv2.inRange(hsv, np.array(low), np.array(high)) > 0 for low, high in COLOUR_RANGES[colour]]
    return np.asarray(np.logical_or.reduce(inside))


def _best_iou(box: np.ndarray, detections: np.ndarray, category: str) -> float:
    from concord.metrics.networks.boxes import box_iou

    if len(detections) == 0:
        return 0.0
    if not np.isfinite(detections).all():
        raise ValueError(f"the detections of '{category}' are not finite: {detections}")
    return float(box_iou(box, detections).max())


def _resized(image: np.ndarray, size: int | None) -> np.ndarray:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image {image.shape} of {image.dtype}: expected uint8 (H, W, 3) RGB")
    if size is None or image.shape[:2] == (size, size):
        return image
    import cv2

    return np.asarray(cv2.resize(image, (size, size)))


# ------------------------------------------------------------------------------------------------------- many images


def by_level(values: ArrayLike, levels: ArrayLike) -> dict[str, float]:
    """The benchmark's row of a table from one value per image: {'L2': ..., 'L6': ..., 'avg': ..., 'avg-level': ...}.

    values: float (n,), means over the instances of each image (`instance-success`, `layout-miou`).
    levels: int (n,), the number of instances of each image (`Layout.level`). Levels without an image are left out.
    'avg' weighs every instance alike (what the benchmark and AMDM print), 'avg-level' every level.
    """
    value, level = np.asarray(values, dtype=np.float64), np.asarray(levels)
    if value.ndim != 1 or value.shape != level.shape or not len(value):
        raise ValueError(f"values {value.shape} and levels {level.shape}: expected one of each per image")
    means = {f"L{n}": float(value[level == n].mean()) for n in np.unique(level).tolist()}
    return {
        **means,
        "avg": float((value * level).sum() / level.sum()),
        "avg-level": float(np.mean(list(means.values()))),
    }


@dataclass(frozen=True)
class LayoutTable:
    """A row of the benchmark's table. Keys: 'L2' to 'L6' where they occur, 'avg' and 'avg-level' (see `by_level`).

    success: share of the instances that succeed, %. miou: mean of the ious that count, %. whole: share of the images
    of which every instance succeeds, % ('avg' weighs images alike here: there is one such event an image).
    instances: their number, by level and under 'all'.
    """

    success: Mapping[str, float]
    miou: Mapping[str, float]
    whole: Mapping[str, float]
    instances: Mapping[str, int]


def layout_table(images: Sequence[Sequence[Instance]]) -> LayoutTable:
    """The row of what `evaluate_layout` gave for each image."""
    levels = np.array([len(instances) for instances in images])
    whole = np.array([100.0 * all(one.success for one in instances) for instances in images])
    counts = {f"L{n}": int(n * (levels == n).sum()) for n in np.unique(levels).tolist()}
    return LayoutTable(
        success=by_level([success_rate(instances) for instances in images], levels),
        miou=by_level([mean_iou(instances) for instances in images], levels),
        whole={**by_level(whole, levels), "avg": float(whole.mean())},
        instances={**counts, "all": int(levels.sum())},
    )


def success_rate(instances: Sequence[Instance]) -> float:
    """Share of one image's instances that succeed, %."""
    return 100 * sum(one.success for one in instances) / len(instances)


def mean_iou(instances: Sequence[Instance]) -> float:
    """Mean of the ious of one image's instances that count, %."""
    return 100 * sum(one.counted_iou for one in instances) / len(instances)


def observed_instances(observation: Observation) -> list[list[Instance]]:
    """`evaluate_layout` of every image of the batch by its detector and segmenter.

    Images are looked at with the detector's `side` in pixels.
    """
    detector = observation.networks.get("judge/detector", Detector)
    segmenter, size = observation.networks.get("judge/segmenter", Segmenter), detector.side
    return [
        evaluate_layout(image, layout, detector, segmenter, size)
        for image, layout in zip(_pixels(observation), _layouts(observation), strict=True)
    ]


def observed_interactions(observation: Observation) -> list[list[bool]]:
    """`evaluate_interactions` of every image of the batch, by the judge of interactions; [] where none is asked for.

    The network is loaded only where a layout of the batch has an interaction.
    """
    layouts = _layouts(observation)
    if not any(layout.interactions for layout in layouts):
        return [[] for _ in layouts]
    judge = observation.networks.get("judge/interactions", InteractionJudge)
    observed = observation.memo(observed_instances)
    return [
        evaluate_interactions(image, layout, instances, judge)
        for image, layout, instances in zip(_pixels(observation), layouts, observed, strict=True)
    ]


def _pixels(observation: Observation) -> np.ndarray:
    """uint8 (B, H, W, 3) RGB."""
    pixels = (observation.images.detach().clamp(0, 1) * 255).round().byte().movedim(1, -1).cpu().numpy()
    return np.asarray(pixels)


def _layouts(observation: Observation) -> list[Layout]:
    for conditions in observation.conditions:
        if not isinstance(conditions.layout, Layout):
            raise TypeError(f"condition 'layout' is {type(conditions.layout).__name__}: expected data.layouts.Layout")
    return [conditions.layout for conditions in observation.conditions]
