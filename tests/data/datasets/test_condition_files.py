"""Captions, masks and images beside a folder of images: by name or in order, and what does not fit is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from concord.data.datasets.images.condition_files import ConditionFiles, read_captions
from concord.data.datasets.images.image_sets import ImageSet, open_images
from concord.data.errors import ConcordError


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    (tmp_path / "images").mkdir()
    for number in (10, 2, 1):
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(tmp_path / "images" / f"{number}.png")
    return open_images(tmp_path / "images")  # 1, 2, 10


CAPTIONS = ["one", "two", "ten"]
BY_NAME = {"10.png": "ten", "1": "one", "2.jpg": "two"}
WRITTEN = {
    "c.txt": "one\ntwo\nten\n",
    "list.json": json.dumps(CAPTIONS),
    "names.json": json.dumps(BY_NAME),
    "c.jsonl": "\n".join(json.dumps({"image": name, "text": text}) for name, text in BY_NAME.items()) + "\n\n",
    "c.csv": "file_name,caption\n" + "\n".join(f'{name},"{text}"' for name, text in BY_NAME.items()),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_captions_meet_their_images(tmp_path: Path, images: ImageSet, name: str) -> None:
    (tmp_path / name).write_text(WRITTEN[name])
    assert read_captions(tmp_path / name, images) == CAPTIONS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.txt", "one\ntwo\n", "2 captions for 3 images; expected one for each, in order"),
        ("c.txt", "one\n\nten\n", "the caption of '2.png' is empty or no text"),
        ("c.json", '{"1": "one", "2": "two"}', "no caption for '10.png' (1 of 3 have none)"),
        ("c.json", '{"1": "one", "2": 2, "10": "ten"}', "the caption of '2.png' is empty or no text"),
        ("c.json", '"one"', "expected a list of captions or a mapping"),
        ("c.json", "{", "not valid JSON"),
        ("c.jsonl", '{"image": "1", "caption": "one"}\n{', "line 2: not valid JSON"),
        ("c.jsonl", '{"image": "1"}', "line 1: expected an image (image, file_name, "),
        ("c.csv", "photo,caption\n1,one\n", "line 2: expected an image"),
    ],
)
def test_captions_that_do_not_fit(tmp_path: Path, images: ImageSet, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ConcordError) as error:
        read_captions(tmp_path / name, images)
    assert message in str(error.value)
    assert str(error.value).startswith(str(tmp_path / name))


def test_files_that_are_no_text(tmp_path: Path, images: ImageSet) -> None:
    (tmp_path / "c.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConcordError, match="not UTF-8 text"):
        read_captions(tmp_path / "c.txt", images)
    with pytest.raises(ConcordError, match=r"nothing\.txt: no such file"):
        read_captions(tmp_path / "nothing.txt", images)
    (tmp_path / "c.json").write_text(json.dumps(BY_NAME))
    with pytest.raises(ConcordError, match="captions by name, but generated has no names"):
        read_captions(tmp_path / "c.json", open_images(np.zeros((3, 4, 4, 3), np.uint8), "generated"))


def test_conditions_are_made_when_asked_for(tmp_path: Path, images: ImageSet) -> None:
    masks, people = tmp_path / "masks", tmp_path / "people"
    masks.mkdir()
    people.mkdir()
    for number in (1, 2, 10):
        Image.fromarray(np.full((16, 16), number, np.uint8)).save(masks / f"{number}.png")
        Image.fromarray(np.full((5, 7, 3), number * 3, np.uint8)).save(people / f"{number}.png")
    Image.fromarray(np.full((9, 9, 3), 77, np.uint8)).save(tmp_path / "style.png")
    (tmp_path / "c.txt").write_text(WRITTEN["c.txt"])
    made = ConditionFiles(images, tmp_path / "c.txt", masks, people, tmp_path / "style.png")
    assert len(made) == 3
    for conditions, number, caption in zip(made, (1, 2, 10), CAPTIONS, strict=True):
        assert conditions.names() == ("text", "mask", "identity", "style")
        assert conditions.text == caption
        assert conditions.mask is not None
        assert conditions.mask.shape == (8, 8)  # the images' size
        assert (conditions.mask == number).all()
        assert (conditions.identity == number * 3).all()  # type: ignore[union-attr]
        assert (conditions.style == 77).all()  # type: ignore[union-attr]
    assert [c.text for c in made[1:]] == ["two", "ten"]
    Image.fromarray(np.full((16, 16), 30, np.uint8)).save(masks / "2.png")
    with pytest.raises(ConcordError, match=r"2\.png: holds class 30"):
        made[1]
    (masks / "2.png").unlink()
    with pytest.raises(ConcordError, match=r"images holds 3 images and .*masks 2"):
        ConditionFiles(images, masks=masks)
