"""SynthScenes, the embedded world of layouts: index in, scene out.

Scenes of 64 x 64 pixels with 2 to 6 objects of eight categories in COCO-MIG's seven colours, and marks in violet (a hue
of none of the colours) for the interactions between some pairs of them:

    link      a line with a knob on either object
    arrow     a line that points from the subject to the object
    on        the subject stands on the object, a slab between them
    holding   a ring round the object, with an arm from the subject

Everything about scene `index` is a pure function of (WORLD_SEED, index); an index has level 2 + index % 5, as COCO-MIG
has equally many layouts of each. Number, size, aspect and place of the boxes follow COCO-MIG's (the tables below are
quantiles of the 800 published layouts), with these exceptions: no side is shorter than MIN_SIDE, an object is never
covered by more than MOST_COVERED, and same things keep a distance, so that every object can be told by its pixels.

Measured on the 800 test scenes and the 800 published layouts: root of a box's area at 10, 50, 90 % 0.19, 0.28, 0.47 and
0.17, 0.30, 0.69; log(width / height) -0.75, -0.09, 0.56 and -0.77, -0.09, 0.56; pairs of boxes that touch 35 and 49 %,
with an IoU above 0.1 15 and 23 %, above 0.3 1.5 and 7.0 %; distinct categories over objects 0.63 and 0.63.

Drawn by Pillow at four times the size, coordinates rounded to pixels of that canvas: no last bit of a sine can move an
edge, so that the same Pillow gives the same bytes everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from concord.data.datasets.layouts.layout import COLOURS, Layout

WORLD_SEED = 2410
RENDERER_VERSION = "1"
SIZE, SUPER = 64, 4
CANVAS = SIZE * SUPER
SPLITS: dict[str, range] = {
    "train": range(16_000),
    "validation": range(16_000, 17_000),
    "test": range(17_000, 17_800),  # 160 of each level, as many as COCO-MIG has
    "tuning": range(17_800, 18_000),
}
CATEGORIES = ("ball", "car", "fish", "heart", "house", "star", "tree", "umbrella")
INTERACTIONS = ("link", "arrow", "on", "holding")

MIN_SIDE = 0.15  # of the image, where COCO-MIG has 0.125: fewer pixels show no silhouette
MOST_COVERED = 0.5  # of an object's box by the boxes in front of it
REPEAT = 0.4  # how often an object is of a category that the scene has already

# Quantiles 0, 10, .. 100 % of COCO-MIG's boxes: root of the area by level, log(width / height), centre.
_SIDE = {
    2: (0.13, 0.18, 0.21, 0.26, 0.31, 0.37, 0.44, 0.53, 0.65, 0.82, 1.0),
    3: (0.13, 0.19, 0.22, 0.25, 0.31, 0.36, 0.42, 0.50, 0.62, 0.76, 1.0),
    4: (0.13, 0.17, 0.21, 0.24, 0.27, 0.32, 0.36, 0.41, 0.50, 0.68, 1.0),
    5: (0.13, 0.18, 0.20, 0.23, 0.26, 0.29, 0.32, 0.37, 0.43, 0.60, 1.0),
    6: (0.13, 0.17, 0.20, 0.22, 0.24, 0.27, 0.31, 0.35, 0.41, 0.57, 1.0),
}
_ASPECT = (-2.02, -0.77, -0.51, -0.34, -0.21, -0.09, 0.01, 0.12, 0.29, 0.56, 1.9)
_CENTRE_X = (0.063, 0.180, 0.277, 0.373, 0.459, 0.501, 0.551, 0.637, 0.730, 0.817, 0.937)
_CENTRE_Y = (0.063, 0.246, 0.365, 0.453, 0.496, 0.537, 0.592, 0.653, 0.713, 0.796, 0.936)
_ALIKE = 0.4  # share of the sizes' variance that the objects of one layout have in common

# Hue (half degrees), saturation and value of OpenCV, well inside the evaluator's ranges and outside their overlaps.
_PAINT: dict[str, tuple[tuple[int, int], tuple[int, int], tuple[int, int]]] = {
    "black": ((0, 179), (0, 60), (8, 20)),
    "blue": ((104, 122), (150, 240), (150, 240)),
    "brown": ((11, 17), (140, 200), (90, 145)),
    "green": ((45, 75), (130, 230), (110, 200)),
    "red": ((0, 4), (185, 255), (175, 240)),
    "white": ((0, 179), (0, 12), (240, 255)),
    "yellow": ((27, 32), (180, 255), (215, 250)),
}
ACCENT = (168, 60, 222)  # of the interactions' marks

Points = list[tuple[float, float]]
RGB = tuple[int, int, int]


@dataclass(frozen=True)
class Scene:
    """One scene with everything that is known about it.

    image: uint8 (64, 64, 3) RGB. instances: uint8 (64, 64), 1 + the number of the object that is seen there, 0 where
    none is. interactions: (subject, kind, object), the objects by their number in the layout.
    """

    index: int
    image: np.ndarray
    instances: np.ndarray
    layout: Layout
    interactions: tuple[tuple[int, str, int], ...]


def scene(index: int, world_seed: int = WORLD_SEED) -> Scene:
    """Scene `index` of a world."""
    layout, interactions, rng = describe(index, world_seed)
    image, instances = _draw(layout, interactions, rng)
    return Scene(index, image, instances, layout, interactions)


def describe(
    index: int, world_seed: int = WORLD_SEED
) -> tuple[Layout, tuple[tuple[int, str, int], ...], np.random.Generator]:
    """Layout and interactions of a scene, and the generator that draws what is left to chance."""
    plan, paint = np.random.SeedSequence([world_seed, index]).spawn(2)
    rng = np.random.Generator(np.random.Philox(plan))
    level = 2 + index % 5
    categories: list[str] = []
    for _ in range(level):
        known = categories if categories and rng.random() < REPEAT else list(CATEGORIES)
        categories.append(known[int(rng.integers(len(known)))])
    colours = [COLOURS[int(rng.integers(len(COLOURS)))] for _ in range(level)]
    boxes, interactions = _arrange(level, categories, rng)
    labels = [f"a {colour} {category}" for colour, category in zip(colours, categories, strict=True)]
    layout = Layout.of(f"a photo of {' and '.join(labels)}", boxes, labels, str(index), interactions)
    return layout, interactions, np.random.Generator(np.random.Philox(paint))


def reference(index: int, world_seed: int = WORLD_SEED) -> np.ndarray:
    """An image for the palette and texture of scene `index`, uint8 (64, 64, 3) RGB: other things on the same ground.

    The things are those of a scene of the next world; their number tells nothing of that of scene `index`.
    """
    layout, interactions, _ = describe(_elsewhere(index), world_seed + 1)
    # The ground is the first that a scene's generator draws, so that it is the same whatever stands on it.
    return _draw(layout, interactions, describe(index, world_seed)[2])[0]


def _elsewhere(index: int) -> int:
    """Another index for each below 20,000, so that levels (an index's rest by 5) meet each level alike."""
    return index // 5 + 4000 * (index % 5)


# -------------------------------------------------------------------------------------------------------------- layouts


def _arrange(
    level: int, categories: list[str], rng: np.random.Generator
) -> tuple[np.ndarray, tuple[tuple[int, str, int], ...]]:
    """Boxes (N, 4) on the canvas's grid and interactions; drawn again until every object can be seen."""
    shrink, boxes = 1.25, np.zeros((0, 4))  # more at first: those drawn again are large ones
    interactions: tuple[tuple[int, str, int], ...] = ()
    for attempt in range(800):
        if attempt % 60 == 59:
            shrink *= 0.93
        boxes = _boxes(level, shrink, rng)
        boxes, interactions = _interact(boxes, rng)
        if _clear(boxes, categories):
            break
    return boxes, interactions


def _boxes(level: int, shrink: float, rng: np.random.Generator) -> np.ndarray:
    common = rng.standard_normal()
    found = []
    for _ in range(level):
        z = math.sqrt(_ALIKE) * common + math.sqrt(1 - _ALIKE) * rng.standard_normal()
        side = shrink * _quantile(_SIDE[level], 0.5 * (1 + math.erf(z / math.sqrt(2))))
        aspect = _quantile(_ASPECT, rng.random())
        wide, high = (float(np.clip(side * math.exp(k * aspect / 2), MIN_SIDE, 1.0)) for k in (1, -1))
        x = float(np.clip(_quantile(_CENTRE_X, rng.random()), wide / 2, 1 - wide / 2))
        y = float(np.clip(_quantile(_CENTRE_Y, rng.random()), high / 2, 1 - high / 2))
        found.append((x - wide / 2, y - high / 2, x + wide / 2, y + high / 2))
    return _on_grid(np.array(found))


def _on_grid(boxes: np.ndarray) -> np.ndarray:
    return np.round(boxes.clip(0, 1) * CANVAS) / CANVAS


def _quantile(table: tuple[float, ...], share: float) -> float:
    return float(np.interp(share, np.linspace(0, 1, len(table)), table))


def _interact(boxes: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, tuple[tuple[int, str, int], ...]]:
    """Interactions of disjoint pairs (none in a quarter of the scenes); a box moves where it is to stand on another."""
    n = len(boxes)
    most = 0 if rng.random() < 0.25 else (1 if n < 4 else int(rng.integers(1, 3)))
    order = rng.permutation(n)
    found: list[tuple[int, str, int]] = []
    for pair in range(most):
        subject, other = int(order[2 * pair]), int(order[2 * pair + 1])
        kind = INTERACTIONS[int(rng.integers(len(INTERACTIONS)))]
        a, b = boxes[subject], boxes[other]
        if kind == "on":
            wide, high = a[2] - a[0], a[3] - a[1]
            if b[1] < high or wide > 1.5 * (b[2] - b[0]):  # no room above, or it would fall off
                kind = "link"
            else:
                x = float(np.clip((b[0] + b[2]) / 2 + 0.2 * (rng.random() - 0.5) * wide, wide / 2, 1 - wide / 2))
                boxes[subject] = (x - wide / 2, b[1] - high, x + wide / 2, b[1])
        if kind == "holding" and (b[2:] - b[:2]).max() > 0.45:  # too large a ring
            kind = "arrow"
        found.append((subject, kind, other))
    return _on_grid(boxes), tuple(found)


def _clear(boxes: np.ndarray, categories: list[str]) -> bool:
    """Whether every object can be told: not too much of it is covered, and same things do not lie on each other."""
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    centre = (boxes[:, 2:] + boxes[:, :2]) / 2
    for i, own in enumerate(boxes):
        covered = 0.0
        for j, other in enumerate(boxes):
            if i == j:
                continue
            shared = float(np.maximum(np.minimum(own[2:], other[2:]) - np.maximum(own[:2], other[:2]), 0).prod())
            same = categories[i] == categories[j]
            if same and shared > 0.4 * min(area[i], area[j]):
                return False
            if float(np.abs(centre[i] - centre[j]).max()) < (0.12 if same else 0.06):
                return False
            if (area[j], j) < (area[i], i):  # smaller ones stand in front
                covered += shared
        if covered > MOST_COVERED * area[i]:
            return False
    return True


# -------------------------------------------------------------------------------------------------------------- drawing


def _draw(
    layout: Layout, interactions: tuple[tuple[int, str, int], ...], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    canvas = Image.fromarray(_background(rng).repeat(SUPER, 0).repeat(SUPER, 1))
    label = Image.new("L", (CANVAS, CANVAS), 0)
    draw, mark = ImageDraw.Draw(canvas), ImageDraw.Draw(label)
    boxes = np.round(layout.boxes * CANVAS).astype(int)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    for number in sorted(range(len(boxes)), key=lambda i: (-int(area[i]), -i)):
        colour = str(layout.colours[number])
        body = paint(colour, rng)
        flip = bool(rng.random() < 0.5)
        outline: RGB = (96, 96, 104) if colour == "black" else (38, 38, 46)
        for role, points in silhouette(layout.categories[number]):
            placed = _placed(points, boxes[number], flip)
            if role == "body":
                draw.polygon(placed, fill=body, outline=outline, width=3)
                mark.polygon(placed, fill=number + 1, outline=number + 1, width=3)
            else:
                draw.polygon(placed, fill=_shade(body, 0.62 if role == "dark" else 1.0, role == "light"))
                mark.polygon(placed, fill=number + 1)
    for subject, kind, other in interactions:
        _mark(draw, kind, boxes[subject], boxes[other])
    image = np.asarray(canvas.resize((SIZE, SIZE), Image.Resampling.BOX))
    return image, np.asarray(label)[SUPER // 2 :: SUPER, SUPER // 2 :: SUPER].copy()


def paint(colour: str, rng: np.random.Generator) -> RGB:
    """An RGB colour of that name, inside the evaluator's range for it and outside those of all other names."""
    h, s, v = (int(rng.integers(low, high + 1)) for low, high in _PAINT[colour])
    sector, part = divmod(2 * h / 60, 1)
    low, down, up = (round(v * (1 - s / 255 * k)) for k in (1.0, part, 1 - part))
    wheel = [(v, up, low), (down, v, low), (low, v, up), (low, down, v), (up, low, v), (v, low, down)]
    return wheel[int(sector) % 6]


def _shade(colour: RGB, factor: float, light: bool) -> RGB:
    if light:  # windows and eyes: half way to white, or to grey from white
        target = 255 if max(colour) < 200 or min(colour) < 120 else 150
        red, green, blue = (round((c + target) / 2) for c in colour)
    else:
        red, green, blue = (round(c * factor) for c in colour)
    return red, green, blue


def _placed(points: Points, box: np.ndarray, flip: bool) -> list[tuple[int, int]]:
    """Unit points on the canvas, inside the box by the half of an outline's width."""
    x1, y1, x2, y2 = box + np.array([1, 1, -2, -2])
    return [(round(x1 + (1 - x if flip else x) * (x2 - x1)), round(y1 + y * (y2 - y1))) for x, y in points]


def _background(rng: np.random.Generator) -> np.ndarray:
    """uint8 (64, 64, 3): flat, gradient, ground and sky, stripes, checks or blotches; never as bright as white."""
    one, two = (_muted(rng) for _ in range(2))
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    kind = int(rng.integers(6))
    if kind == 0:
        share = np.zeros((SIZE, SIZE))
    elif kind == 1:
        share = y if rng.random() < 0.5 else x
    elif kind == 2:
        share = (y > rng.uniform(0.35, 0.75)).astype(float)
    elif kind == 3:
        share = 0.5 * ((((x if rng.random() < 0.5 else y) * rng.integers(3, 7)) % 1) > 0.5)
    elif kind == 4:
        count = rng.integers(3, 6)
        share = 0.4 * ((np.floor(x * count) + np.floor(y * count)) % 2)
    else:
        share = rng.random((8, 8)).repeat(8, 0).repeat(8, 1)
    grain = rng.normal(0, 3, (SIZE, SIZE, 1))
    return np.clip(one + (two - one) * share[:, :, None] + grain, 0, 215).round().astype(np.uint8)


def _muted(rng: np.random.Generator) -> np.ndarray:
    """A colour of little saturation (float64 (3,)), neither dark nor bright."""
    return rng.uniform(120, 190) + rng.uniform(-32, 32, 3)


def _mark(draw: ImageDraw.ImageDraw, kind: str, subject: np.ndarray, other: np.ndarray) -> None:
    """The interaction's sign, over the objects."""
    (ax, ay), (bx, by) = ((box[:2] + box[2:]) / 2 for box in (subject, other))
    if kind == "on":
        left, right = max(subject[0], other[0]) - 8, min(subject[2], other[2]) + 8
        y = int(other[1])
        draw.rectangle([int(left), y - 5, int(right), y + 5], fill=ACCENT)
        for x in (int(left), int(right) - 6):
            draw.rectangle([x, y, x + 6, y + 14], fill=ACCENT)
        return
    length = max(math.hypot(bx - ax, by - ay), 1.0)
    ux, uy = (bx - ax) / length, (by - ay) / length
    out, into = _reach(subject, ux, uy), length - _reach(other, ux, uy)
    if out + 24 > into:  # they lie on each other, or nearly: from middle to middle
        out, into = 0.0, length
    sx, sy, ox, oy = ax + ux * out, ay + uy * out, ax + ux * into, ay + uy * into
    if kind == "holding":
        half = (other[2:] - other[:2]) / 2 + 4
        ring = [round(bx - half[0]), round(by - half[1]), round(bx + half[0]), round(by + half[1])]
        draw.ellipse(ring, outline=ACCENT, width=6)
        rim = 1 / math.sqrt((ux / half[0]) ** 2 + (uy / half[1]) ** 2)  # from the middle to the ring
        draw.line([round(sx), round(sy), round(bx - ux * rim), round(by - uy * rim)], fill=ACCENT, width=8)
        return
    draw.line([round(sx), round(sy), round(ox), round(oy)], fill=ACCENT, width=6)
    if kind == "link":
        for x, y in ((sx, sy), (ox, oy)):
            draw.ellipse([round(x - 8), round(y - 8), round(x + 8), round(y + 8)], fill=ACCENT)
    else:
        tip = (round(ox + ux * 4), round(oy + uy * 4))
        sides = [(round(ox - ux * 20 + k * uy * 14), round(oy - uy * 20 - k * ux * 14)) for k in (1, -1)]
        draw.polygon([tip, *sides], fill=ACCENT)


def _reach(box: np.ndarray, ux: float, uy: float) -> float:
    """How far it is from the middle of a box to just inside its edge, in a direction."""
    half = (box[2:] - box[:2]) / 2
    return max(0.0, min(half[k] / abs(u) if abs(u) > 1e-9 else math.inf for k, u in enumerate((ux, uy))) - 6)


# ---------------------------------------------------------------------------------------------------------- silhouettes


def silhouette(category: str) -> list[tuple[str, Points]]:
    """(role, polygon in the unit square) in drawing order; the bodies together touch all four sides."""
    return _SHAPES[category]


def _round(x: float, y: float, rx: float, ry: float, first: float = 0.0, last: float = 360.0, n: int = 24) -> Points:
    angles = [math.radians(first + (last - first) * k / n) for k in range(n + (last - first < 360))]
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles]


def _fitted(points: Points) -> Points:
    """The points stretched to the unit square."""
    low, high = (tuple(f(p[k] for p in points) for k in (0, 1)) for f in (min, max))
    return [((x - low[0]) / (high[0] - low[0]), (y - low[1]) / (high[1] - low[1])) for x, y in points]


def _heart() -> Points:
    turns = [2 * math.pi * k / 32 for k in range(32)]
    return _fitted(
        [
            (16 * math.sin(a) ** 3, -13 * math.cos(a) + 5 * math.cos(2 * a) + 2 * math.cos(3 * a) + math.cos(4 * a))
            for a in turns
        ]
    )


def _star() -> Points:
    radius = (1.0, 0.42)
    turns = [(radius[k % 2], math.radians(36 * k - 90)) for k in range(10)]
    return _fitted([(r * math.cos(a), r * math.sin(a)) for r, a in turns])


_SHAPES: dict[str, list[tuple[str, Points]]] = {
    "ball": [("body", _round(0.5, 0.5, 0.5, 0.5)), ("dark", [(0.03, 0.42), (0.97, 0.42), (0.97, 0.58), (0.03, 0.58)])],
    "car": [
        ("body", [(0.0, 0.5), (0.2, 0.42), (0.34, 0.0), (0.74, 0.0), (0.86, 0.42), (1.0, 0.5), (1.0, 0.82),
                  (0.0, 0.82)]),
        ("light", [(0.33, 0.38), (0.41, 0.1), (0.52, 0.1), (0.52, 0.38)]),
        ("light", [(0.58, 0.38), (0.58, 0.1), (0.69, 0.1), (0.76, 0.38)]),
        ("body", _round(0.23, 0.81, 0.15, 0.19)),
        ("body", _round(0.77, 0.81, 0.15, 0.19)),
        ("dark", _round(0.23, 0.81, 0.08, 0.10)),
        ("dark", _round(0.77, 0.81, 0.08, 0.10)),
    ],
    "fish": [
        ("body", [(0.62, 0.5), (1.0, 0.02), (0.9, 0.5), (1.0, 0.98)]),
        ("body", _round(0.38, 0.5, 0.38, 0.5)),
        ("light", _round(0.18, 0.38, 0.06, 0.08)),
        ("dark", [(0.40, 0.25), (0.46, 0.5), (0.40, 0.75), (0.52, 0.5)]),
    ],
    "heart": [("body", _heart())],
    "house": [
        ("body", [(0.1, 0.44), (0.9, 0.44), (0.9, 1.0), (0.1, 1.0)]),
        ("dark", [(0.42, 0.62), (0.60, 0.62), (0.60, 0.98), (0.42, 0.98)]),
        ("body", [(0.0, 0.46), (0.5, 0.0), (1.0, 0.46)]),
    ],
    "star": [("body", _star())],
    "tree": [
        ("body", [(0.4, 0.72), (0.6, 0.72), (0.6, 1.0), (0.4, 1.0)]),
        ("dark", [(0.44, 0.78), (0.56, 0.78), (0.56, 0.98), (0.44, 0.98)]),
        ("body", [(0.5, 0.0), (0.86, 0.40), (0.68, 0.40), (1.0, 0.78), (0.0, 0.78), (0.32, 0.40), (0.14, 0.40)]),
    ],
    "umbrella": [
        ("body", [(0.45, 0.4), (0.55, 0.4), (0.55, 1.0), (0.26, 1.0), (0.26, 0.82), (0.36, 0.82), (0.36, 0.9),
                  (0.45, 0.9)]),
        ("body", [*_round(0.5, 0.54, 0.5, 0.54, 180, 360), (0.83, 0.42), (0.67, 0.54), (0.5, 0.42), (0.33, 0.54),
                  (0.17, 0.42)]),
    ],
}  # fmt: skip  # a table
