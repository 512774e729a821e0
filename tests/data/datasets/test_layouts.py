"""The layout files: what is read from them, and every way in which they can be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from concord.data.datasets.layouts.layout import (
    COLOURS,
    KINDS,
    Layout,
    coco_mig_entries,
    inspect_layouts,
    open_layouts,
    split_label,
)
from concord.data.errors import ConcordError
from concord.data.files import sha256_file, write_json

BOX, OTHER = [0.1, 0.2, 0.5, 0.9], [0.5, 0.0, 1.0, 0.25]


def entry(**changes: Any) -> dict[str, Any]:
    segment = [{"bbox": BOX, "label": "a red bird"}, {"bbox": OTHER, "label": "an orange hot dog"}]
    segment[1]["label"] = "a white hot dog"
    return {"caption": "a photo of a red bird and a white hot dog ", "segment": segment, "image_id": "7", **changes}


def write(folder: Path, content: Any, name: str = "mig_bench.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def with_segment(box: Any = None, label: Any = "a red bird") -> dict[str, Any]:
    """An entry whose second instance has this box and label."""
    return entry(
        segment=[{"bbox": BOX, "label": "a red bird"}, {"bbox": OTHER if box is None else box, "label": label}]
    )


# ------------------------------------------------------------------------------------------------------------ reading


def test_an_entry_of_the_json_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, {"0": entry(), "12": entry(note="left alone")})
    layouts = open_layouts(path)
    assert list(layouts) == ["0", "12"]
    layout = layouts["0"]
    assert layout.caption == "a photo of a red bird and a white hot dog"
    assert layout.boxes.dtype == np.float64
    assert layout.boxes.tolist() == [BOX, OTHER]
    assert layout.labels == ("a red bird", "a white hot dog")
    assert layout.colours == ("red", "white")
    assert layout.categories == ("bird", "hot dog")
    assert (layout.image_id, layout.level) == ("7", 2)
    assert layouts.counts == {"L2": 2}
    assert layouts.instances == 4
    assert layouts.sha256 == sha256_file(path)
    assert layouts.bench is None


def test_a_folder_with_the_file_is_enough(tmp_path: Path) -> None:
    write(tmp_path, {"0": entry()})
    assert len(open_layouts(tmp_path)) == 1


def test_migcs_yaml_is_read(tmp_path: Path) -> None:
    content = {
        "a photo of a black cat and a red bird and a black cat": {
            "a black cat": [BOX, OTHER],
            "a red bird": [[0.0, 0.0, 0.25, 1.0]],
            "coco_id": "41",
        }
    }
    path = write(tmp_path, yaml.safe_dump(content), "mig_bench_anno.yaml")
    layouts = open_layouts(path)
    layout = layouts["41"]
    assert list(layouts) == ["41"]
    assert layout.labels == ("a black cat", "a black cat", "a red bird")
    assert layout.boxes.tolist() == [BOX, OTHER, [0.0, 0.0, 0.25, 1.0]]
    assert layout.level == 3
    assert layout.image_id == "41"


def test_a_number_as_coco_id_is_the_same_as_its_text(tmp_path: Path) -> None:
    text = "a photo of two:\n  a red bird:\n  - [0, 0, 0.5, 0.5]\n  - [0, 0, 1, 1]\n  coco_id: 6\n"
    assert list(open_layouts(write(tmp_path, text, "x.yaml"))) == ["6"]


@pytest.mark.parametrize(
    ("label", "parts"),
    [
        ("a red bird", ("red", "bird")),
        ("an orange", (None, "orange")),
        ("a blue orange", ("blue", "orange")),
        ("a brown teddy bear", ("brown", "teddy bear")),
        ("teddy bear", (None, "teddy bear")),
        ("white dining table", ("white", "dining table")),
        ("a purple bird", (None, "purple bird")),
    ],
)
def test_a_label_is_colour_and_category(label: str, parts: tuple[str | None, str]) -> None:
    assert split_label(label) == parts


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    layouts = {}
    for n in (2, 6):
        boxes = np.linspace(0, 0.5, n * 4).reshape(n, 4) + np.array([0, 0, 0.5, 0.5])
        layouts[str(n)] = Layout.of(f"scene {n}", boxes, [f"a {colour} cup" for colour in COLOURS[:n]], str(n))
    write_json(tmp_path / "mig_bench.json", coco_mig_entries(layouts))
    again = open_layouts(tmp_path)
    for key, layout in layouts.items():
        assert np.array_equal(again[key].boxes, layout.boxes)
        assert (again[key].caption, again[key].labels, again[key].image_id) == (f"scene {key}", layout.labels, key)


def test_boxes_cannot_be_changed() -> None:
    own = np.array([BOX])
    layout = Layout.of("one", own, ["a red bird"])
    with pytest.raises(ValueError, match="read-only"):
        layout.boxes[0, 0] = 0.3
    own[0, 0] = 0.3
    assert layout.boxes[0, 0] == 0.1


def test_a_layout_without_boxes_is_refused() -> None:
    with pytest.raises(ConcordError, match="at least 1"):
        Layout.of("empty", np.zeros((0, 4)), [])
    with pytest.raises(ConcordError, match=r"box 1 is .* expected x1 < x2"):
        Layout.of("one", [BOX, [0.5, 0.1, 0.5, 0.2]], ["a cup", "a cup"])


# ------------------------------------------------------------------------------------------------------------ defects


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        ("missing key", {k: v for k, v in entry().items() if k != "caption"}),
        ("missing key", {k: v for k, v in entry().items() if k != "segment"}),
        ("missing key", {k: v for k, v in entry().items() if k != "image_id"}),
        ("missing key", ["not an object"]),
        ("empty caption", entry(caption="  ")),
        ("empty caption", entry(caption=None)),
        ("no instances", entry(segment=[])),
        ("no instances", entry(segment="two")),
        ("wrong level", entry(segment=entry()["segment"][:1])),
        ("wrong level", entry(segment=entry()["segment"] * 4)),
        ("malformed box", with_segment([0.1, 0.2, 0.3])),
        ("malformed box", with_segment("0.1 0.2 0.3 0.4")),
        ("malformed box", with_segment([0.1, 0.2, "0.3", 0.4])),
        ("malformed box", with_segment([0.1, 0.2, True, 0.4])),
        ("malformed box", with_segment([0.1, 0.2, float("nan"), 0.4])),
        ("malformed box", entry(segment=[{"label": "a red bird"}, entry()["segment"][1]])),
        ("malformed box", entry(segment=["a red bird", entry()["segment"][1]])),
        ("box outside the image", with_segment([-0.01, 0.2, 0.3, 0.4])),
        ("box outside the image", with_segment([0.1, 0.2, 1.01, 0.4])),
        ("box outside the image", with_segment([64, 80, 300, 400])),
        ("empty box", with_segment([0.3, 0.2, 0.3, 0.4])),
        ("empty box", with_segment([0.3, 0.5, 0.6, 0.4])),
        ("malformed label", with_segment(label="")),
        ("malformed label", with_segment(label=7)),
        ("unknown colour", with_segment(label="a purple bird")),
        ("unknown colour", with_segment(label="a Red bird")),
        ("label without category", with_segment(label="a red")),
        ("label without category", with_segment(label="a")),
    ],
)
def test_every_defect_is_named_with_its_entry(tmp_path: Path, kind: str, bad: Any) -> None:
    path = write(tmp_path, {"0": entry(), "3": bad})
    found = inspect_layouts(path)
    assert kind in KINDS
    assert kind in [defect.kind for defect in found.defects]
    assert {defect.entry for defect in found.defects} == {"3"}
    assert list(found) == ["0"]
    with pytest.raises(ConcordError) as error:
        open_layouts(path)
    assert str(error.value).startswith(f"{path}: entry '3': {found.defects[0].kind}: ")
    assert "\n" not in str(error.value)


def test_all_defects_of_a_file_are_found_in_one_run(tmp_path: Path) -> None:
    path = write(tmp_path, {"0": with_segment([2, 0, 3, 1], "a pink cup"), "1": entry(caption="")})
    assert [defect.kind for defect in inspect_layouts(path).defects] == [
        "box outside the image",
        "unknown colour",
        "empty caption",
    ]
    with pytest.raises(ConcordError, match="and 2 more defects"):
        open_layouts(path)


def test_a_key_that_occurs_twice_is_a_defect(tmp_path: Path) -> None:
    one = json.dumps(entry())
    found = inspect_layouts(write(tmp_path, f'{{"0": {one}, "0": {one}}}'))
    assert [(defect.kind, defect.entry) for defect in found.defects] == [("duplicate key", "0")]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("missing key", "two birds:\n  a red bird:\n  - [0, 0, 1, 1]\n"),
        ("missing key", "two birds: 7\n"),
        ("no instances", "two birds:\n  a red bird: nothing\n  coco_id: '1'\n"),
        ("wrong level", "two birds:\n  a red bird:\n  - [0, 0, 1, 1]\n  coco_id: '1'\n"),
        ("duplicate key", "x:\n  a red bird:\n  - &b [0, 0, 1, 1]\n  - *b\n  coco_id: '1'\nx:\n  coco_id: '2'\n"),
        (
            "duplicate key",
            "x:\n  a red bird: [[0, 0, 1, 1], [0, 0, 1, 1]]\n  coco_id: 1\n"
            "y:\n  a red bird: [[0, 0, 1, 1], [0, 0, 1, 1]]\n  coco_id: 1\n",
        ),
        ("malformed label", "x:\n  3: [[0, 0, 1, 1], [0, 0, 1, 1]]\n  coco_id: 1\n"),
    ],
)
def test_defects_of_the_yaml(tmp_path: Path, kind: str, text: str) -> None:
    found = inspect_layouts(write(tmp_path, text, "x.yaml"))
    assert kind in [defect.kind for defect in found.defects]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", "{"),
        ("b.json", "[1, 2]"),
        ("c.json", ""),
        ("d.yaml", "a: [1"),
        ("e.yaml", "- 1"),
        ("f.yaml", ""),
        ("g.yaml", "!!python/object/apply:os.getcwd []"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, name: str, content: str) -> None:
    with pytest.raises(ConcordError, match=f"{name}(, line [12])?: (not valid|holds no)") as error:
        inspect_layouts(write(tmp_path, content, name))
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(ConcordError, match="not valid JSON"):
        inspect_layouts(tmp_path / "x.json")


def test_a_missing_file_and_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ConcordError, match=r"no such file; expected a layout file such as mig_bench\.json"):
        open_layouts(tmp_path / "none.json")
    with pytest.raises(ConcordError, match=r"no layouts here; expected mig_bench\.json"):
        open_layouts(tmp_path)
    with pytest.raises(ConcordError, match="holds no layouts"):
        open_layouts(write(tmp_path, {}))


def test_another_file_than_the_published_one_says_both_hashes(tmp_path: Path) -> None:
    path = write(tmp_path, {"0": entry()})
    with pytest.raises(ConcordError, match=f"{sha256_file(path)[:12]}.* 'coco-mig' 11f9f72eea9c"):
        open_layouts(path, bench="coco-mig")
    with pytest.raises(ConcordError, match="expected one of coco-mig, migc"):
        open_layouts(path, bench="coco")


def test_colours_and_levels_can_be_left_open(tmp_path: Path) -> None:
    path = write(tmp_path, {"0": entry(segment=[{"bbox": BOX, "label": "a teddy bear"}])})
    layouts = open_layouts(path, levels=range(1, 9), colours=False)
    assert layouts["0"].colours == (None,)
    assert layouts["0"].categories == ("teddy bear",)
