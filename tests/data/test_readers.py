"""Every reader of inputs with every bad input: one line that names the thing, no traceback, no hang, nothing silent."""

from __future__ import annotations

import json
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from concord.data import notes
from concord.data.datasets.faces.open import open_faces
from concord.data.datasets.faces.prepare import prepare
from concord.data.datasets.faces.verify import inspect
from concord.data.datasets.images.captions import read_captions
from concord.data.datasets.images.condition_files import ConditionFiles
from concord.data.datasets.images.image_sets import open_images
from concord.data.datasets.images.pairing import pair
from concord.data.datasets.layouts.dataset import open_layout_items
from concord.data.errors import ConcordError, one_line
from concord.data.files import parse_json, read_json, read_json_lines, read_text
from concord.data.images import decode, read_image, read_index
from concord.data.schema import parse_scalar, read_yaml

SECONDS = 10


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError(f"no answer within {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def fresh_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes, "_said", set())


def said(act: Callable[[], object]) -> list[str]:
    """The notes of a call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        act()
    return [str(one.message) for one in caught if isinstance(one.message, notes.Note)]


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(ConcordError) as error:
        act()
    message = str(error.value)
    assert "\n" not in message
    message.encode()  # can be printed
    return message


def image(path: Path, seed: int = 0, side: int = 16, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def mask(path: Path, value: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((16, 16), value, np.uint8)).save(path)
    return path


def faces(root: Path, n: int = 2, **captions: str) -> Path:
    for k in range(n):
        image(root / f"CelebA-HQ-img/{k}.png", k)
        mask(root / f"masks/{k}.png")
    (root / "captions.json").write_text(json.dumps(captions or {str(k): "A face." for k in range(n)}))
    return root


def images_of(folder: Path, *names: str) -> Any:
    for k, name in enumerate(names or ("1.png", "2.png")):
        image(folder / name, k)
    return open_images(folder)


# ------------------------------------------------------------------------------ what lies there is no file, or too odd


def _captions(path: Path) -> object:
    names = [f"{k}.png" for k in (1, 2)]
    return read_captions(path, open_images([Path(name) for name in names]))


READERS: dict[str, Callable[[Path], object]] = {
    "images": lambda path: [one.load(0) for one in [open_images(path)]],
    "faces": open_faces,
    "verify": inspect,
    "prepare": lambda path: prepare(path, path.parent / "out", None, path.parent / "cache", workers=1),
    "layouts": open_layout_items,
    "captions.json": _captions,
    "captions.jsonl": _captions,
    "captions.csv": _captions,
    "captions.txt": _captions,
    "text": read_text,
    "json": read_json,
    "json lines": lambda path: list(read_json_lines(path)),
    "yaml": read_yaml,
    "image": read_image,
    "index mask": read_index,
    "decode": decode,
}


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _dangling(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


ODD: dict[str, Callable[[Path], None]] = {
    "nothing": lambda path: None,
    "a fifo": _fifo,
    "a link to itself": _loop,
    "a dangling link": _dangling,
    "an empty folder": Path.mkdir,
    "an empty file": lambda path: path.write_bytes(b"") and None,
    "binary": lambda path: path.write_bytes(bytes(range(256)) * 4) and None,
}
MAY_BE_EMPTY = {("text", "an empty file"), ("json lines", "an empty file"), ("yaml", "an empty file")}


@pytest.mark.parametrize("what", ODD)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_such_file(tmp_path: Path, reader: str, what: str) -> None:
    name = reader if reader.startswith("captions.") else {"images": "thing.png"}.get(reader, "thing")
    path = tmp_path / name
    ODD[what](path)
    if (reader, what) in MAY_BE_EMPTY:
        READERS[reader](path)
        return
    assert str(tmp_path) in refusal(lambda: READERS[reader](path))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "path", ["a" * 5000, "b/" * 3000 + "c", "zero\0byte", "caf\udce9", "line\nbreak", "esc\x1b[31m", "/proc/self/mem"]
)
def test_paths_that_no_file_can_have(tmp_path: Path, reader: str, path: str) -> None:
    message = refusal(lambda: READERS[reader](tmp_path / path))
    assert "\x1b" not in message
    assert len(message) < 2000


@pytest.mark.parametrize("folder", ["/proc", "/proc/self", "/proc/self/fd", "/sys", "/dev"])
def test_folders_of_the_running_system(folder: str) -> None:
    assert "folder of the running system" in refusal(lambda: open_images(folder))


def test_a_link_to_where_one_came_from_is_not_followed(tmp_path: Path) -> None:
    image(tmp_path / "above/1.png")
    image(tmp_path / "above/set/2.png")
    (tmp_path / "above/set/back").symlink_to(tmp_path / "above", target_is_directory=True)
    assert open_images(tmp_path / "above/set").names == ["2.png"]


# ---------------------------------------------------------------------------------------------------------------- text

MARKED = {"utf-8": b"", "utf-8-sig": b"\xef\xbb\xbf", "utf-16": b"", "utf-16-be": b"\xfe\xff"}


@pytest.mark.parametrize("encoding", MARKED)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_byte_order_marks_and_line_ends(tmp_path: Path, encoding: str, end: str) -> None:
    images = images_of(tmp_path / "set")
    contents = {
        "c.csv": f"image,caption{end}1.png,a man{end}2.png,b{end}",
        "c.json": '{"1.png": "a man", "2.png": "b"}',
        "c.jsonl": f'{{"image": "1.png", "caption": "a man"}}{end}{{"image": "2", "caption": "b"}}{end}{end}',
        "c.txt": f"a man{end}b{end}{end}",
    }
    for name, text in contents.items():
        path = tmp_path / name
        path.write_bytes(MARKED[encoding] * (encoding != "utf-8-sig") + text.encode(encoding))
        assert read_captions(path, images) == ["a man", "b"], name
    for name, text in (("s.yaml", "a: 1\n"), ("t.json", '{"a": 1}')):
        (tmp_path / name).write_bytes(MARKED[encoding] * (encoding != "utf-8-sig") + text.encode(encoding))
    assert read_yaml(tmp_path / "s.yaml") == read_json(tmp_path / "t.json") == {"a": 1}
    tree = faces(tmp_path / "tree")
    (tree / "captions.json").write_text('{"0": "A face.", "1": "Another."}', encoding=encoding)
    if encoding != "utf-16-be":
        assert [face.text for face in open_faces(tree)] == ["A face.", "Another."]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_only_line_ends_end_a_line(tmp_path: Path, mark: str) -> None:
    images, text = images_of(tmp_path / "set"), f"a man{mark}with a hat"
    (tmp_path / "c.txt").write_text(f"{text}\nb\n")
    (tmp_path / "c.jsonl").write_text(
        json.dumps({"image": "1", "caption": text}, ensure_ascii=mark < " ") + '\n{"image": "2", "caption": "b"}\n'
    )
    (tmp_path / "c.csv").write_text(f'image,caption\n1,"{text}"\n2,b\n')
    for name in ("c.txt", "c.jsonl", "c.csv"):
        assert read_captions(tmp_path / name, images) == [text, "b"], name


TWICE = '{"0": "one", "1": "two", "0": "three"}'


@pytest.mark.parametrize("reader", ["captions.json", "json"])
def test_repeated_keys_are_refused(tmp_path: Path, reader: str) -> None:
    path = tmp_path / reader
    path.write_text(TWICE)
    assert "key '0' stands twice" in refusal(lambda: READERS[reader](path))


def test_repeated_keys_of_datasets_are_refused(tmp_path: Path) -> None:
    tree = faces(tmp_path / "tree")
    (tree / "captions.json").write_text(TWICE)
    assert "key '0' stands twice" in refusal(lambda: open_faces(tree))
    assert "key '0' stands twice" in refusal(lambda: READERS["prepare"](tree))
    assert "duplicate caption" in inspect(tree).by_kind()
    (tree / "captions.json").write_text('{"0.jpg": "one", "0.png": "two", "1": "x"}')
    assert "two entries name the same face" in refusal(lambda: open_faces(tree))
    (tmp_path / "mig_bench.json").write_text('{"0": {"caption": "a", "caption": "b", "image_id": "1", "segment": []}}')
    assert "duplicate key" in refusal(lambda: open_layout_items(tmp_path / "mig_bench.json"))
    (tmp_path / "s.yaml").write_text("a: 1\nb: 2\na: 3\n")
    assert "line 3" in refusal(lambda: read_yaml(tmp_path / "s.yaml"))


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 500 + "]" * 500, '{"a":' * 300 + "1" + "}" * 300])
def test_nested_too_deep(tmp_path: Path, text: str) -> None:
    for name, read in (("a.json", read_json), ("a.yaml", read_yaml)):
        (tmp_path / name).write_text(text)
        assert "nested too deep" in refusal(lambda read=read, name=name: read(tmp_path / name)), name
    (tmp_path / "b.yaml").write_text("- " * 100_000 + "x")  # libyaml alone would end the process
    assert "nested too deep" in refusal(lambda: read_yaml(tmp_path / "b.yaml"))


def test_yaml_that_names_itself_or_billions(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("&a [*a]\n")
    assert "nested too deep" in refusal(lambda: read_yaml(path))
    path.write_text(
        "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 10))
    )
    assert "repeats itself" in refusal(lambda: read_yaml(path))


def test_brackets_in_captions_are_no_depth(tmp_path: Path) -> None:
    assert parse_json(json.dumps({"a": "[" * 300}), "x") == {"a": "[" * 300}


@pytest.mark.parametrize("text", ['{"0": "\\ud800"}', '{"\\udfff": "a"}', '["\\ud83d x"]'])
def test_halves_of_characters(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.json").write_text(text)
    assert "half of a character" in refusal(lambda: read_json(tmp_path / "c.json"))
    assert parse_json('"\\ud83d\\ude00"', "x") == "😀"


@pytest.mark.parametrize(
    ("text", "value"),
    [("050", 50), ("-007", -7), ("1:30", "1:30"), ("0.50", 0.5), ("1e-3", 0.001), ("true", True), ("[01, 02]", [1, 2])],
)
def test_numbers_are_what_they_look_like(text: str, value: Any) -> None:
    assert parse_scalar(text, "--set x") == value


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("image,caption\n1,a\n1,b\n2,c\n", "two captions"),
        ("image,caption,caption\n1,a,b\n2,c,d\n", "column 'caption' stands twice"),
        ("image,caption\n1,a man, with a hat\n2,b\n", "has 3 fields"),
        ("image,caption\n1," + "a" * 200_000 + "\n2,b\n", "field larger than field limit"),
        ('image,caption\n1,"a\n2,b\n', "not readable as CSV"),
        ("image,caption\n1,a\0\n2,b\n", "zero bytes"),
        ("", "holds no records"),
    ],
)
def test_csv(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "c.csv").write_text(content)
    assert words in refusal(lambda: read_captions(tmp_path / "c.csv", images_of(tmp_path / "set")))


# ---------------------------------------------------------------------------------------------------- names and images


def records(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_captions_of_nested_folders_go_by_path(tmp_path: Path) -> None:
    images = images_of(tmp_path / "set", "cat/0.png", "dog/0.png")
    (tmp_path / "c.json").write_text('{"dog/0.png": "a dog", "cat\\\\0.png": "a cat"}')
    assert read_captions(tmp_path / "c.json", images) == ["a cat", "a dog"]
    (tmp_path / "c.json").write_text('{"0.png": "a dog"}')
    assert "'0.png' may mean 'cat/0.png' and 'dog/0.png'" in refusal(lambda: read_captions(tmp_path / "c.json", images))


def test_several_captions_an_image_are_refused(tmp_path: Path) -> None:
    path = records(tmp_path / "c.jsonl", *({"image": "1.png", "caption": text} for text in ("first", "second")))
    assert "two captions" in refusal(lambda: read_captions(path, images_of(tmp_path / "set", "1.png")))


def test_one_name_with_two_suffixes(tmp_path: Path) -> None:
    images = images_of(tmp_path / "set", "1.png", "1.jpg")
    path = tmp_path / "c.json"
    path.write_text('{"1": "which?"}')
    assert "may mean" in refusal(lambda: read_captions(path, images))
    path.write_text('{"1.jpg": "a", "1.png": "b"}')
    assert read_captions(path, images) == ["a", "b"]
    tree = faces(tmp_path / "tree")
    image(tree / "CelebA-HQ-img/1.jpg")
    message = refusal(lambda: open_faces(tree))
    assert "is the same face as" in message
    assert "keep one" in message


def test_records_with_an_id_of_the_captions_own(tmp_path: Path) -> None:
    """COCO's way: `id` is the caption's, `image_id` the image's number."""
    images = images_of(tmp_path / "set", "000000000042.png", "000000000007.png")
    path = records(
        tmp_path / "c.jsonl",
        {"id": 42, "image_id": 7, "caption": "seven"},
        {"id": 1, "image_id": 42, "caption": "forty-two"},
    )
    assert read_captions(path, images) == ["seven", "forty-two"]


def test_captions_of_no_image_are_said(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('{"1": "a", "2": "b", "3": "c", "4": "d"}')
    images = images_of(tmp_path / "set")
    (line,) = said(lambda: read_captions(tmp_path / "c.json", images))
    assert "2 captions are of no image" in line
    assert "'3'" in line


def test_two_ways_to_write_an_accent_are_one_name(tmp_path: Path) -> None:
    images = images_of(tmp_path / "set", "cafe\u0301.png")
    (tmp_path / "c.json").write_text('{"caf\u00e9.png": "a café"}')
    assert read_captions(tmp_path / "c.json", images) == ["a café"]
    assert list(pair(images, images_of(tmp_path / "other", "caf\u00e9.png"))) == [0]


def test_pairs_never_go_by_order_while_names_disagree(tmp_path: Path) -> None:
    out = images_of(tmp_path / "out", "00000.png", "00001.png", "00003.png")
    assert "has no partner" in refusal(lambda: pair(out, images_of(tmp_path / "gt", "0.png", "1.png", "2.png")))
    assert list(pair(out, images_of(tmp_path / "same", "0.jpg", "1.jpg", "3.jpg"))) == [0, 1, 2]
    other = images_of(tmp_path / "other", "a.png", "b.png", "c.png")
    (line,) = said(lambda: pair(out, other))
    assert "paired in order: '00000.png' with 'a.png'" in line


@pytest.mark.parametrize("name", ["1.jfif", "1.jpe", "1.JPG", "1.apng", "1.bmp", "1.tif", "1.tiff", "1.pgm", "1.webp"])
def test_no_kind_of_image_is_left(tmp_path: Path, name: str) -> None:
    kinds = {".jfif": "JPEG", ".jpe": "JPEG", ".jpg": "JPEG", ".apng": "PNG", ".pgm": "PPM"}
    kind = kinds.get(Path(name).suffix.lower())
    image(tmp_path / "set" / name, **({"format": kind} if kind else {}))
    image(tmp_path / "set/0.png")
    assert len(open_images(tmp_path / "set")) == 2
    assert open_images(tmp_path / "set").load(1).shape == (16, 16, 3)


@pytest.mark.parametrize("name", ["1.gif", "1.avif", "1.heic", "1.jxl", "1.exr"])
def test_kinds_that_are_not_read_are_refused_by_name(tmp_path: Path, name: str) -> None:
    image(tmp_path / "set/0.png")
    (tmp_path / "set" / name).write_bytes(b"GIF89a...")
    images = open_images(tmp_path / "set")
    assert name in refusal(lambda: images.load(1))


@pytest.mark.parametrize("name", ["a.bmp", "a.tif", "a.ppm", "a.png", "a.jpg", "a.webp"])
def test_truncated_images(tmp_path: Path, name: str) -> None:
    path = image(tmp_path / name, side=64)
    content = path.read_bytes()
    for share in (0.1, 0.5, 0.9):
        path.write_bytes(content[: int(len(content) * share)])
        assert str(path) in refusal(lambda: open_images(path).load(0))


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_bytes_behind_an_images_end(tmp_path: Path, name: str) -> None:
    """A phone's film behind its photograph: half a megabyte and more."""
    path = image(tmp_path / name, side=64)
    whole, content = open_images(path).load(0), path.read_bytes()
    path.write_bytes(content + os.urandom(500_000).replace(b"\xff\xd9", b"..").replace(b"IEND", b"...."))
    assert np.array_equal(open_images(path).load(0), whole)
    assert np.array_equal(read_image(path), whole)


def test_a_thumbnails_end_is_not_the_images(tmp_path: Path) -> None:
    """An EXIF thumbnail is a JPEG with an end mark of its own: a photograph cut behind it is truncated."""
    thumbnail = image(tmp_path / "t.jpg", side=16).read_bytes()
    exif = b"Exif\0\0" + thumbnail
    content = image(tmp_path / "a.jpg", 1, side=400, quality=95).read_bytes()
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    path = tmp_path / "b.jpg"
    path.write_bytes(content[:2] + segment + content[2:])
    open_images(path).load(0)
    path.write_bytes((content[:2] + segment + content[2:])[:-70_000])
    assert "truncated" in refusal(lambda: open_images(path).load(0)) or len(content) < 70_000


def test_a_phones_jpeg_of_several_images_is_its_first(tmp_path: Path) -> None:
    first, second = (np.full((16, 16, 3), level, np.uint8) for level in (50, 200))
    path = tmp_path / "phone.jpg"
    Image.fromarray(first).save(path, format="MPO", save_all=True, append_images=[Image.fromarray(second)])
    assert np.array_equal(open_images(path).load(0), first)
    assert np.array_equal(read_image(path), first)


def test_what_is_done_with_colours_is_said(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert("CMYK").save(tmp_path / "a.jpg")
    assert any("CMYK" in line and "a.jpg" in line for line in said(lambda: read_image(tmp_path / "a.jpg")))
    Image.fromarray(pixels).convert("RGBA").save(tmp_path / "b.png")
    assert any("alpha" in line for line in said(lambda: read_image(tmp_path / "b.png")))
    Image.fromarray(pixels).quantize(4).save(tmp_path / "c.png", transparency=0)
    assert "transparent pixels" in refusal(lambda: read_image(tmp_path / "c.png"))
    assert "transparent pixels" in refusal(lambda: open_images(tmp_path / "c.png").load(0))


def test_three_planes_are_said_to_be_one_image() -> None:
    (line,) = said(lambda: open_images(np.zeros((3, 8, 8), np.uint8)))
    assert "one RGB image, not for three grey ones" in line


def test_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    image(tmp_path / "set/a.png")
    os.rename(tmp_path / "set/a.png", os.fsencode(tmp_path / "set") + b"/caf\xe9.png")
    images = open_images(tmp_path / "set")
    assert images.names == ["caf\\xe9.png"]
    images.names[0].encode()
    assert images.load(0).shape == (16, 16, 3)
    assert one_line("caf\udce9") == "caf\\udce9"


# ---------------------------------------------------------------------------------------------------------- whole sets


@pytest.mark.parametrize("content", ['{"lr": 1e-4}', "[1]", "not JSON", '"x"'])
def test_a_run_json_of_the_users_own(tmp_path: Path, content: str) -> None:
    image(tmp_path / "0.png")
    (tmp_path / "run.json").write_text(content)
    assert len(open_images(tmp_path)) == 1


def test_neighbours_of_images_are_said(tmp_path: Path) -> None:
    image(tmp_path / "images/0.png")
    image(tmp_path / "more/1.png")
    (line,) = said(lambda: open_images(tmp_path))
    assert "more/ beside it are left" in line


def test_masks_of_a_dataset_are_no_images(tmp_path: Path) -> None:
    tree = faces(tmp_path / "tree", 3)
    assert open_images(tree).names == ["0.png", "1.png", "2.png"]
    prepared = READERS["prepare"](tree)
    assert len(open_images(tmp_path / "out")) == len(prepared) == 3  # type: ignore[arg-type]
    mask(tmp_path / "bare/CelebAMask-HQ-mask-anno/0/00000_skin.png", 255)
    assert "whose masks (CelebAMask-HQ-mask-anno/) are no images" in refusal(lambda: open_images(tmp_path / "bare"))


def test_landmarks_of_other_faces_are_refused(tmp_path: Path) -> None:
    tree, points = faces(tmp_path / "tree"), np.ones((2, 68, 2), np.float32)
    np.savez(tree / "landmarks.npz", indices=np.array(["00000", "00001"]), landmarks=points)
    assert all(face.has_landmarks for face in open_faces(tree))
    np.savez(tree / "landmarks.npz", indices=np.array([7, 8]), landmarks=points)
    assert "landmarks of other faces (7, 8, ...)" in refusal(lambda: open_faces(tree))
    np.savez(tree / "landmarks.npz", indices=np.array(["0", "00"]), landmarks=points)
    assert "face 0 has two rows" in refusal(lambda: open_faces(tree))
    (tree / "landmarks.npz").write_bytes(b"")
    assert "landmarks.npz: cannot be read" in refusal(lambda: open_faces(tree))


def test_folders_that_look_like_masks_are_said(tmp_path: Path) -> None:
    image(tmp_path / "CelebA-HQ-img/0.png")
    mask(tmp_path / "CelebAMask-HQ-label/0.png")
    assert any("CelebAMask-HQ-label/ looks like masks" in line for line in said(lambda: open_faces(tmp_path)))


def test_only_celebamask_hq_has_a_test_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from concord.data.datasets.faces import open as opening
    from concord.data.datasets.faces import tree

    monkeypatch.setattr(tree, "FULL_SET", 6)
    monkeypatch.setattr(opening, "TEST_KEYS", 2)
    for k in range(6):
        mask(tmp_path / f"own/masks/{k}.png")
        mask(tmp_path / f"theirs/CelebAMask-HQ-mask/{k}.png")
    for folder in ("own", "theirs"):
        (tmp_path / folder / "captions.json").write_text(json.dumps({str(k): "A face." for k in range(6)}))
    assert len(open_faces(tmp_path / "own")) == 6
    (line,) = said(lambda: open_faces(tmp_path / "theirs"))
    assert "the last 2 keys of captions.json are read" in line
    assert len(open_faces(tmp_path / "theirs")) == 2


def test_masks_and_images_beside_a_set(tmp_path: Path) -> None:
    images = images_of(tmp_path / "set")
    (tmp_path / "c.txt").write_text("a\nb\n")
    mask(tmp_path / "masks/1.png", 3)
    mask(tmp_path / "masks/9.png", 3)
    message = refusal(lambda: ConditionFiles(images, captions=tmp_path / "c.txt", masks=tmp_path / "masks"))
    assert "'2.png' has no partner" in message


# ---------------------------------------------------------------------------------------------------- drawn structures


def complaint_of(act: Callable[[], object]) -> str | None:
    try:
        act()
    except ConcordError as error:
        return str(error)
    return None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=10,
)
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(value=json_values)
@quick
def test_any_json_is_taken_or_refused_in_one_line(tmp_path: Path, value: Any) -> None:
    images = images_of(tmp_path / "set") if not (tmp_path / "set").exists() else open_images(tmp_path / "set")
    tree = faces(tmp_path / "tree") if not (tmp_path / "tree").exists() else tmp_path / "tree"
    places = {
        tmp_path / "c.json": lambda path: read_captions(path, images),
        tmp_path / "c.jsonl": lambda path: read_captions(path, images),
        tree / "captions.json": lambda path: open_faces(tree),
        tmp_path / "mig_bench.json": open_layout_items,
    }
    for path, read in places.items():
        path.write_text(json.dumps(value))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            complaint = complaint_of(lambda read=read, path=path: read(path))  # type: ignore[misc]
        assert complaint is None or ("\n" not in complaint and str(tmp_path) in complaint)


@given(rows=st.lists(st.lists(st.text(max_size=6), max_size=4), max_size=4))
@quick
def test_any_csv_is_taken_or_refused_in_one_line(tmp_path: Path, rows: list[list[str]]) -> None:
    images = images_of(tmp_path / "set") if not (tmp_path / "set").exists() else open_images(tmp_path / "set")
    text = "\n".join(",".join(row) for row in [["image", "caption"], *rows])
    (tmp_path / "c.csv").write_bytes(text.encode("utf-8", "surrogatepass"))
    complaint = complaint_of(lambda: read_captions(tmp_path / "c.csv", images))
    assert complaint is None or ("\n" not in complaint and "c.csv" in complaint)
