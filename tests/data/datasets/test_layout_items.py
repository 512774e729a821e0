"""Layouts as items: what a tree of scenes gives, in which order, and every mistake named in one line."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_layouts

from concord.data.conditions.base import make_condition
from concord.data.datasets.layouts.dataset import open_layout_items
from concord.data.datasets.layouts.layout import Layout
from concord.data.errors import ConcordError
from concord.data.synthetic.scenes.scene import describe, reference, scene
from concord.data.synthetic.scenes.tree import write_scenes
from concord.data.synthetic.styles import style_image, style_of

FIRST = 17_000


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes") / "test"
    write_scenes(root, range(FIRST, FIRST + 10), workers=1, progress=False)
    return root


def refused(folder: Path, *words: str, bench: str | None = None) -> None:
    with pytest.raises(ConcordError) as error:
        open_layout_items(folder, bench)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_items_are_the_scenes(tree: Path) -> None:
    dataset = open_layout_items(tree)
    assert [item.id for item in dataset] == [str(k) for k in range(10)]
    for number, item in enumerate(dataset.items[:4]):
        drawn = scene(FIRST + number)
        assert np.array_equal(item.image(64), drawn.image)
        assert np.array_equal(item.layout.boxes, drawn.layout.boxes)
        assert item.layout.labels == drawn.layout.labels
        assert item.layout.interactions == drawn.interactions == describe(FIRST + number)[0].interactions
        assert item.text == drawn.layout.caption
    assert any(item.layout.interactions for item in dataset)
    for number in (0, 7):
        assert np.array_equal(dataset[str(number)].style(64), reference(FIRST + number))


def test_a_tree_without_references_gives_drawn_styles(tree: Path, tmp_path: Path) -> None:
    copy = tmp_path / "test"
    shutil.copytree(tree, copy, ignore=shutil.ignore_patterns("styles"))
    dataset = open_layout_items(copy)
    assert dataset["3"].style(32) is None
    assert np.array_equal(make_condition("style").read(dataset["3"], 32), style_image(style_of("3"), 32))
    assert dataset.fingerprint != open_layout_items(tree).fingerprint


def test_levels_come_in_turn(tmp_path: Path) -> None:
    dataset = open_layout_items(toy_layouts.write_layouts(tmp_path, [2, 2, 2, 3, 3, 5, 5, 5]))
    assert [item.layout.level for item in dataset] == [2, 3, 5, 2, 3, 5, 2, 5]
    assert [item.id for item in dataset] == ["0", "3", "5", "1", "4", "6", "2", "7"]
    counts = Counter(item.layout.level for item in dataset.items[:6])
    assert set(counts.values()) == {2}


def test_a_file_alone_has_no_pictures(tmp_path: Path) -> None:
    dataset = open_layout_items(toy_layouts.write_layouts(tmp_path, [2, 3]) / "mig_bench.json")
    assert not any(item.has_image for item in dataset)
    with pytest.raises(ConcordError, match=r"layout 0: has no image; expected images/900.png"):
        dataset["0"].image(64)
    with pytest.raises(ConcordError, match="no layout '7'; expected an id such as 0, 1"):
        dataset["7"]


def test_the_fingerprint_knows_what_is_asked_for(tree: Path, tmp_path: Path) -> None:
    copy = tmp_path / "test"
    shutil.copytree(tree, copy)
    before = open_layout_items(tree).fingerprint
    assert open_layout_items(copy).fingerprint == before
    (copy / "interactions.json").write_text(json.dumps({"0": [[0, "link", 1]]}))
    turned = open_layout_items(copy).fingerprint
    assert turned != before
    (copy / "interactions.json").unlink()
    (copy / "images" / f"{FIRST}.png").write_bytes(b"another")
    third = open_layout_items(copy).fingerprint
    assert third not in (before, turned)
    (copy / "styles" / f"{FIRST}.png").write_bytes(b"another")
    assert open_layout_items(copy).fingerprint not in (before, turned, third)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"9": [[0, "link", 1]]}, ["entry '9'", "no such layout"]),
        ({"0": [[0, "link", 2]]}, ["entry '0'", '[0, "link", 2]', "instances of 0..1"]),
        ({"0": [[1, "link", 1]]}, ["entry '0'", "two different instances"]),
        ({"0": [[0, "link"]]}, ["entry '0'", "[subject, kind, object]"]),
        ({"0": [[0, "", 1]]}, ["entry '0'", "[subject, kind, object]"]),
        ({"0": [[True, "link", 0]]}, ["entry '0'", "[subject, kind, object]"]),
        ({"0": "link"}, ["entry '0'", '"link"']),
        ([], ["holds no object"]),
    ],
)
def test_interactions_that_are_none(tmp_path: Path, content: Any, words: list[str]) -> None:
    folder = toy_layouts.write_layouts(tmp_path / "tree", [2, 3])
    (folder / "interactions.json").write_text(json.dumps(content))
    refused(folder, "interactions.json", *words)


def test_layouts_that_are_none(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "no such file")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(empty, "no layouts here", "mig_bench.json")
    folder = toy_layouts.write_layouts(tmp_path / "tree", [2, 3])
    content = json.loads((folder / "mig_bench.json").read_text())

    def with_segments(segments: list[Any]) -> Path:
        changed = {**content, "1": {**content["1"], "segment": segments}}
        (folder / "mig_bench.json").write_text(json.dumps(changed))
        return folder

    refused(with_segments([]), "entry '1'", "no instances")
    refused(with_segments(content["1"]["segment"] * 3), "entry '1'", "wrong level", "has 9 instances")
    outside = {**content["1"]["segment"][0], "bbox": [0.5, 0.5, 1.5, 0.9]}
    refused(with_segments([outside, *content["1"]["segment"]]), "entry '1'", "box outside the image")
    refused(toy_layouts.write_layouts(tmp_path / "other", [2]), "SHA-256", "coco-mig", bench="coco-mig")


@pytest.mark.parametrize(
    "triple", [(0, "link", 0), (0, "link", 2), (-1, "link", 0), (0, " ", 1), (0, 1), (0.0, "on", 1)]
)
def test_a_layout_checks_its_interactions(triple: Any) -> None:
    boxes = [(0.1, 0.1, 0.4, 0.4), (0.5, 0.5, 0.9, 0.9)]
    labels = ["a red car", "a blue car"]
    assert Layout.of("two cars", boxes, labels, "1", [(1, "link", 0)]).interactions == ((1, "link", 0),)
    with pytest.raises(ConcordError, match=r"layout 'two cars': interaction .*two different instances of 0..1"):
        Layout.of("two cars", boxes, labels, "1", [triple])
