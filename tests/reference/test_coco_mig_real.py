"""The published COCO-MIG file, and the evaluator on all of its layouts. Skipped without the file, which is not here."""

import hashlib
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from layout_world import RGB, Perfect

from concord.data.datasets.layouts.layout import BENCHES, COLOURS, open_layouts
from concord.metrics.layout.instances import evaluate_layout, layout_table

REPO = Path(__file__).resolve().parents[2]
SAMPLES = Path(os.environ.get("CONCORD_REAL_SAMPLES", REPO.parent / "shared" / "real_samples"))
FILE = SAMPLES / "coco_mig" / "mig_bench.json"

pytestmark = [
    pytest.mark.own_files,
    pytest.mark.skipif(not FILE.is_file(), reason="no COCO-MIG file; set CONCORD_REAL_SAMPLES to its folder"),
]

LEVELS = {f"L{level}": 160 * level for level in range(2, 7)}


@pytest.fixture(scope="module")
def layouts():
    return open_layouts(FILE, bench="coco-mig")


def test_the_file_is_the_published_one(layouts):
    assert hashlib.sha256(FILE.read_bytes()).hexdigest() == layouts.sha256 == BENCHES["coco-mig"]
    assert open_layouts(FILE.parent).bench == "coco-mig"
    assert layouts.defects == []
    assert len(layouts) == 800
    assert layouts.counts == {"L2": 160, "L3": 160, "L4": 160, "L5": 160, "L6": 160}
    assert layouts.instances == 3200
    assert list(layouts) == [str(n) for n in range(800)]


def test_labels_split_into_seven_colours_and_77_categories(layouts):
    colours = Counter(colour for layout in layouts.values() for colour in layout.colours)
    assert set(colours) == set(COLOURS)
    assert min(colours.values()) > 400
    assert len({category for layout in layouts.values() for category in layout.categories}) == 77
    for layout in layouts.values():
        assert layout.caption == "a photo of " + " and ".join(layout.labels)
        assert [f"a {c} {k}" for c, k in zip(layout.colours, layout.categories)] == list(layout.labels)


class Sure(Perfect):
    """Finds, of each box, one pixel that `swatches` paints (none of those in `pale`): real boxes overlap each other."""

    def __init__(self, layout, move=None, pale=()):
        super().__init__(layout, move)
        self.pale = set(pale)

    def segment(self, image, box):
        self.prompts.append(box)
        number = int(np.flatnonzero((self.layout.boxes == box).all(axis=1))[0])
        mask = np.zeros(image.shape[:2], dtype=bool)
        mask[1 if number in self.pale else 0, number] = True  # the second row is grey
        return mask


def swatches(layout):
    """An image whose first row shows, one pixel each, the colours that the layout asks for."""
    picture = np.full((8, 8, 3), 200, np.uint8)
    picture[0, : layout.level] = [RGB[colour] for colour in layout.colours]
    return picture


def test_perfect_detections_of_all_800_succeed(layouts):
    results = []
    for layout in layouts.values():
        eyes = Sure(layout)
        results.append(evaluate_layout(swatches(layout), layout, eyes, eyes, size=None))
        assert sorted(eyes.asked) == sorted(set(layout.categories))  # colourless, each category once
        assert np.array_equal(np.array(eyes.prompts), layout.boxes)  # the layout's boxes, not the detections
    table = layout_table(results)
    assert set(table.success.values()) == {100.0}
    assert set(table.whole.values()) == {100.0}
    assert table.miou == pytest.approx(dict.fromkeys(table.miou, 100.0), abs=1e-9)
    assert table.instances == {**LEVELS, "all": 3200}


def test_one_wrong_colour_an_image_costs_exactly_its_share(layouts):
    results = []
    for layout in layouts.values():
        eyes = Sure(layout, pale=[0])
        results.append(evaluate_layout(swatches(layout), layout, eyes, eyes, size=None))
    table = layout_table(results)
    shares = {f"L{n}": 100 * (n - 1) / n for n in range(2, 7)}
    expected = {**shares, "avg": 100 * 2400 / 3200, "avg-level": sum(shares.values()) / 5}
    assert table.success == pytest.approx(expected, abs=1e-9)
    assert table.miou == pytest.approx(expected, abs=1e-9)  # a wrong colour in the right place counts 0
    assert set(table.whole.values()) == {0.0}


def test_things_that_are_missing_or_misplaced_cost_what_their_overlap_says(layouts):
    """By turns: the last category is not found; all is found a quarter, or half, of its width to the right."""
    results, met, ious = [], {n: [] for n in range(2, 7)}, {n: [] for n in range(2, 7)}
    for key, layout in layouts.items():
        seen, found = Counter(), {}
        for category, box in zip(layout.categories, layout.boxes):
            shift = (box[2] - box[0]) * (0, 0.25, 0.5)[int(key) % 3]
            lost = int(key) % 3 == 0 and category == layout.categories[-1]
            found[category, seen[category]] = None if lost else (box[0] + shift, box[1], box[2] + shift, box[3])
            seen[category] += 1
        eyes = Sure(layout, found)
        results.append(evaluate_layout(swatches(layout), layout, eyes, eyes, size=None))
        for category, box, one in zip(layout.categories, layout.boxes, results[-1]):
            # Another instance of the category may overlap the box more than its own detection does.
            boxes = [other for (name, _), other in found.items() if name == category and other is not None]
            best = max((overlap(box, other) for other in boxes), default=0.0)
            assert abs(best - 0.5) > 1e-6
            assert one.iou == pytest.approx(best, abs=1e-12)
            met[layout.level].append(best > 0.5)
            ious[layout.level].append(best)
    table = layout_table(results)
    for level in range(2, 7):
        assert table.success[f"L{level}"] == pytest.approx(100 * np.mean(met[level]), abs=1e-9)
        assert table.miou[f"L{level}"] == pytest.approx(100 * np.mean(ious[level]), abs=1e-9)
    assert table.success["avg"] == pytest.approx(100 * np.mean(np.concatenate(list(met.values()))), abs=1e-9)
    assert table.miou["avg"] == pytest.approx(100 * np.mean(np.concatenate(list(ious.values()))), abs=1e-9)
    assert 40 < table.success["avg"] < 80  # all three turns are in it


def overlap(a, b):
    wide = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    high = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = wide * high
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)
