"""The reader of faces: file modes, overlap, sizes, captions, splits, and what it says about bad input."""

import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from concord.data.datasets.faces import open as reader
from concord.data.datasets.faces.captions import item_id
from concord.data.datasets.faces.dataset import FaceItem, compose_mask
from concord.data.datasets.faces.open import open_faces
from concord.data.datasets.faces.tree import Listing, list_tree
from concord.data.errors import ConcordError
from concord.data.images import BadFile, read_image, read_index, read_part, reduce_labels
from concord.data.labels import INDEX

SIDE = 16


def one_line(error: pytest.ExceptionInfo[BaseException], *words: object) -> None:
    """The message is a single line that holds all the words."""
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message, message


def save(path, pixels, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)
    return path


def half(top=255):
    """Bool (16, 16) whose left half is on, and its uint8 image."""
    on = np.zeros((SIDE, SIDE), bool)
    on[:, : SIDE // 2] = True
    return on, on.astype(np.uint8) * top


# --------------------------------------------------------------------------------------------------------- part files


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
@pytest.mark.parametrize("top", [255, 128, 1])
def test_part_files_of_every_mode_say_the_same(tmp_path, mode, top):
    on, pixels = half(255 if mode == "1" else top)
    assert np.array_equal(read_part(save(tmp_path / "00000_skin.png", pixels, mode)), on)


def test_the_palette_of_a_part_file_counts_and_not_its_index(tmp_path):
    on, _ = half()
    image = Image.fromarray(np.where(on, 0, 7).astype(np.uint8), mode="P")  # on has index 0, off has index 7
    palette = [255, 255, 255] + [90, 90, 90] * 6 + [0, 0, 0]
    image.putpalette(palette)
    image.save(tmp_path / "00000_hair.png")
    assert Image.open(tmp_path / "00000_hair.png").mode == "P"
    assert np.array_equal(read_part(tmp_path / "00000_hair.png"), on)


def test_dark_colours_of_a_part_file_are_on(tmp_path):
    on, _ = half()
    image = Image.fromarray(on.astype(np.uint8) * 13, mode="P")
    image.putpalette([0, 0, 0] * 13 + [0, 0, 204])  # hair's blue: luma 23, far below one half of 255
    image.save(tmp_path / "00000_hair.png")
    assert np.array_equal(read_part(tmp_path / "00000_hair.png"), on)


def test_a_soft_edge_is_cut_in_its_middle_and_black_is_nothing(tmp_path):
    ramp = np.tile(np.linspace(0, 255, SIDE).astype(np.uint8), (SIDE, 1))
    assert np.array_equal(read_part(save(tmp_path / "a.png", ramp))[0], np.linspace(0, 255, SIDE).astype(int) > 127)
    assert not read_part(save(tmp_path / "b.png", np.zeros((SIDE, SIDE), np.uint8))).any()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16"])
def test_other_modes_are_refused_by_name(tmp_path, mode):
    path = tmp_path / "00000_skin.png"
    Image.new(mode, (SIDE, SIDE)).save(path)
    with pytest.raises(BadFile) as error:
        read_part(path)
    one_line(error, path, f"mode {mode}", "expected one of 1, L, P, RGB")


def test_later_parts_cover_earlier_ones_in_the_class_order(tmp_path):
    whole = np.full((SIDE, SIDE), 255, np.uint8)
    names = ["cloth", "skin", "hair", "neck", "nose"]  # written in no order; all of them cover everything
    for number in range(len(names), 0, -1):
        tree = tmp_path / str(number)
        for name in names[:number]:
            save(tree / f"CelebAMask-HQ-mask-anno/0/00000_{name}.png", whole)
        mask = open_faces(tree).items[0].mask()
        assert np.unique(mask).tolist() == [max(INDEX[name] for name in names[:number])]


def test_the_composed_mask_is_exact(face_tree):
    mask = open_faces(face_tree())["1"].mask()
    expected = np.zeros((SIDE, SIDE), np.int64)
    expected[2:14, 3:13] = 1
    expected[7:10, 7:9] = 2
    expected[5, 9:11], expected[5, 5:7] = 4, 5
    expected[0:5, 2:14] = 13
    assert mask.dtype == np.int64
    assert np.array_equal(mask, expected)


def test_parts_of_different_sizes_are_refused(face_tree):
    root = face_tree()
    path = root / "CelebAMask-HQ-mask-anno/0/00000_nose.png"
    save(path, np.zeros((8, 8), np.uint8))
    with pytest.raises(ConcordError) as error:
        open_faces(root)["0"].mask()
    one_line(error, path, "8x8", "expected 16x16")


# -------------------------------------------------------------------------------------------------------- index masks


@pytest.mark.parametrize("mode", ["L", "P", "RGB"])
def test_index_masks_of_every_mode(tmp_path, mode):
    classes = (np.arange(SIDE * SIDE) % 19).astype(np.uint8).reshape(SIDE, SIDE)
    image = Image.fromarray(classes)
    if mode == "P":
        image = Image.fromarray(classes, mode="P")
        image.putpalette([255 - k for k in range(57)])  # the colours are no class numbers, the indices are
    path = tmp_path / "7.png"
    (image.convert("RGB") if mode == "RGB" else image).save(path)
    assert Image.open(path).mode == mode
    assert np.array_equal(read_index(path), classes)


def test_class_19_is_refused(tmp_path):
    pixels = np.zeros((SIDE, SIDE), np.uint8)
    pixels[0, :3] = 19
    path = save(tmp_path / "4.png", pixels)
    with pytest.raises(ConcordError) as error:
        open_faces(tmp_path).items[0].mask(8)
    one_line(error, path, "class 19", "3 pixels", "expected 0..18")


def test_a_part_given_as_index_mask_is_recognised(tmp_path):
    with pytest.raises(BadFile, match="is it one part of a face"):
        read_index(save(tmp_path / "0.png", half()[1]))


def test_coloured_masks_are_not_taken_for_classes(tmp_path):
    with pytest.raises(BadFile, match="RGB colours, not class numbers"):
        read_index(save(tmp_path / "0.png", np.full((SIDE, SIDE, 3), (0, 0, 9), np.uint8)))


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_labels_are_reduced_as_pillow_takes_the_nearest(side, size, seed):
    mask = np.random.default_rng(seed).integers(0, 19, (side, side))
    reduced = reduce_labels(mask, size)
    assert set(np.unique(reduced)) <= set(np.unique(mask))
    expected = np.asarray(Image.fromarray(mask.astype(np.uint8)).resize((size, size), Image.Resampling.NEAREST))
    inside = (2 * np.arange(size) + 1) * side % (2 * size) != 0  # the centre lies in a pixel, not between two
    assert np.array_equal(reduced[np.ix_(inside, inside)], expected[np.ix_(inside, inside)])


@pytest.mark.parametrize(("side", "size"), [(512, 256), (512, 64), (512, 32), (64, 16), (64, 256)])
def test_the_usual_sizes_are_pillows_to_the_pixel(side, size):
    mask = np.random.default_rng(1).integers(0, 19, (side, side))
    expected = Image.fromarray(mask.astype(np.uint8)).resize((size, size), Image.Resampling.NEAREST)
    assert np.array_equal(reduce_labels(mask, size), np.asarray(expected))


def test_reduced_masks_gain_no_class(tmp_path):
    # 1 next to 3 everywhere: any averaging would make a 2
    pixels = np.where(np.indices((48, 48)).sum(0) % 2, 3, 1).astype(np.uint8)
    save(tmp_path / "0.png", pixels)
    face = open_faces(tmp_path).items[0]
    for size in (16, 20, 31, 64):
        assert set(np.unique(face.mask(size))) <= {1, 3}
        assert face.mask(size).shape == (size, size)


# ----------------------------------------------------------------------------------------------------------- images


def test_pictures_are_averaged_by_area(tmp_path):
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[:2, :2] = [[[0], [200]], [[100], [60]]]
    path = save(tmp_path / "0.png", pixels)
    assert read_image(path, 2)[..., 0].tolist() == [[90, 0], [0, 0]]
    assert read_image(path).shape == (4, 4, 3)
    assert read_image(path, 8).shape == (8, 8, 3)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_picture_modes_become_rgb(tmp_path, mode):
    path = tmp_path / "0.jpg"
    Image.new("RGB", (8, 8), (120, 120, 120)).convert(mode).save(path)
    assert Image.open(path).mode == mode
    assert np.abs(read_image(path, 4).astype(int) - 120).max() <= 2


def test_exif_orientation_is_ignored(tmp_path):
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # 'rotate by 90 degrees'
    image.save(tmp_path / "turned.png", exif=exif)
    image.save(tmp_path / "plain.png")
    assert np.array_equal(read_image(tmp_path / "turned.png"), read_image(tmp_path / "plain.png"))


@pytest.mark.parametrize("keep", [0, 2, 40, 0.5, -2, -1])
@pytest.mark.parametrize("lenient", [False, True])
def test_a_truncated_jpeg_is_never_read(face_tree, monkeypatch, keep, lenient):
    root = face_tree()
    path = root / "CelebA-HQ-img/1.jpg"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep) if isinstance(keep, float) else keep])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)  # some libraries set this for everyone
    with pytest.raises(ConcordError) as error:
        open_faces(root)["1"].image(8)
    one_line(error, path, "expected a complete JPEG or PNG")


def test_a_truncated_png_is_never_read(face_tree):
    root = face_tree()
    path = root / "CelebAMask-HQ-mask-anno/0/00000_hair.png"
    content = path.read_bytes()
    for cut in (1, 4, 12, 20, len(content) // 2):
        path.write_bytes(content[:-cut])
        with pytest.raises(ConcordError) as error:
            open_faces(root)["0"].mask()
        one_line(error, path, "expected a complete")


def _png() -> bytes:
    stream = io.BytesIO()
    Image.fromarray((np.arange(400) % 19).astype(np.uint8).reshape(20, 20)).save(stream, "PNG")
    return stream.getvalue()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(_png()) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_damaged_bytes_give_an_array_or_one_line(tmp_path_factory, changes):
    content = bytearray(_png())
    for position, value in changes:
        content[position] = value
    path = tmp_path_factory.getbasetemp() / "damaged.png"
    path.write_bytes(content)
    for read in (read_image, read_index, read_part):
        message = None
        try:
            read(path)
        except ConcordError as error:
            message = str(error)
        assert message is None or (str(path) in message and "\n" not in message)


def test_pictures_that_are_not_square_are_refused(tmp_path):
    path = save(tmp_path / "0.png", np.zeros((8, 6), np.uint8))
    for read in (read_image, read_index, read_part):
        with pytest.raises(ConcordError) as error:
            read(path)
        one_line(error, path, "6x8", "expected a square")


# ------------------------------------------------------------------------------------------------- trees and captions


def test_opening_decodes_nothing(face_tree, monkeypatch):
    root = face_tree(5)

    def refuse(*_args, **_kwargs):
        raise AssertionError("a file was decoded while opening")

    monkeypatch.setattr("concord.data.images.Image.open", refuse)
    dataset = open_faces(root)
    assert [face.id for face in dataset] == ["0", "1", "2", "3", "4"]
    assert all(face.has_image and face.has_mask and face.text for face in dataset)
    assert re.fullmatch("[0-9a-f]{64}", dataset.fingerprint)
    with pytest.raises(AssertionError, match="was decoded"):
        dataset["0"].image(8)


def test_both_kinds_of_captions(face_tree):
    root = face_tree()
    assert open_faces(root).items[2].text == "Person 2 has no beard."
    assert open_faces(root, captions="overall").items[2].text == "Face 2."
    assert open_faces(root, captions="overall").captions == "overall"
    (root / "captions_hq_beard_and_age_2022-08-19.json").unlink()
    assert open_faces(root).captions == "overall"  # 'auto' takes what there is, and says which
    with pytest.raises(ConcordError) as error:
        open_faces(root, captions="beard-and-age")  # what was asked for by name is not replaced
    one_line(error, root, "no captions of kind 'beard-and-age'", "captions_hq.json (overall)")


def test_a_plain_folder_of_index_masks(tmp_path):
    for name in ("12", "00007", "anna"):
        save(tmp_path / f"{name}.png", np.zeros((8, 8), np.uint8))
    dataset = open_faces(tmp_path)
    assert [(face.id, face.text, face.has_image) for face in dataset] == [
        ("7", None, False),
        ("12", None, False),
        ("anna", None, False),
    ]
    assert dataset.missing == []
    (tmp_path / "words.json").write_text(json.dumps({"7": "Seven.", "12.png": "Twelve.", "anna": "Anna."}))
    assert [face.text for face in open_faces(tmp_path)] == ["Seven.", "Twelve.", "Anna."]
    with pytest.raises(ConcordError, match="has no image"):
        dataset["7"].image(8)


def test_masks_in_a_folder_of_their_own(tmp_path):
    save(tmp_path / "masks/3.png", np.full((8, 8), 18, np.uint8))
    (tmp_path / "captions.json").write_text(json.dumps({"3.jpg": {"Beard_and_Age": "Three."}}))
    face = open_faces(tmp_path)["3"]
    assert (face.text, face.mask(4).tolist()) == ("Three.", [[18] * 4] * 4)


def test_the_other_spelling_of_the_mask_folder(face_tree):
    root = face_tree()
    (root / "CelebAMask-HQ-mask-anno").rename(root / "CelebAMaskHQ-mask-anno")
    assert open_faces(root)["0"].has_mask


def test_missing_things_are_listed_and_do_not_stop_the_reader(face_tree):
    root = face_tree(4)
    (root / "CelebA-HQ-img/1.jpg").unlink()
    for path in (root / "CelebAMask-HQ-mask-anno/0").glob("00002_*"):
        path.unlink()
    path = root / "captions_hq_beard_and_age_2022-08-19.json"
    captions = json.loads(path.read_text())
    del captions["3.jpg"]
    captions["5380.jpg"] = {"Beard_and_Age": "Nobody."}
    path.write_text(json.dumps(captions))
    dataset = open_faces(root)
    assert [(lack.id, lack.what) for lack in dataset.missing] == [
        ("1", "image"),
        ("2", "mask"),
        ("3", "caption"),
        ("5380", "image"),
        ("5380", "mask"),
    ]
    assert [face.id for face in dataset] == ["0", "1", "2", "3"]
    assert not dataset["1"].has_image
    assert not dataset["2"].has_mask
    assert dataset["3"].text is None
    assert "4 faces; 3 images, 3 masks, 3 captions (beard-and-age); 5 missing" in dataset.summary()
    with pytest.raises(ConcordError, match="face 2: has no mask"):
        dataset["2"].mask(8)


def _full_set(root, monkeypatch, keys):
    """A full set by its listing alone: 30,000 names and a caption file."""
    (root / "captions_hq.json").write_text(json.dumps({key: {"overall_caption": f"It is {key}."} for key in keys}))
    listing = Listing(root, image_folder="CelebA-HQ-img", mask_folder="CelebAMask-HQ-mask")
    listing.images = {str(i): f"CelebA-HQ-img/{i}.jpg" for i in range(30_000)}
    listing.masks = {str(i): f"CelebAMask-HQ-mask/{i}.png" for i in range(30_000)}
    monkeypatch.setattr(reader, "list_tree", lambda _root: listing)


def test_the_full_set_is_tested_on_its_last_3000_caption_keys(tmp_path, monkeypatch):
    keys = [f"{i}.jpg" for i in range(30_000) if i != 5380]
    _full_set(tmp_path, monkeypatch, keys)
    test = open_faces(tmp_path, captions="overall")
    assert len(test) == 3000
    assert (test.items[0].id, test.items[-1].id) == ("27000", "29999")
    assert test.missing == []
    whole = open_faces(tmp_path, "all")
    assert len(whole) == 30_000
    assert [(lack.id, lack.what) for lack in whole.missing] == [("5380", "caption")]


def test_the_test_split_follows_the_order_of_the_keys(tmp_path, monkeypatch):
    keys = [f"{i}.jpg" for i in reversed(range(30_000))]
    _full_set(tmp_path, monkeypatch, keys)
    test = open_faces(tmp_path)
    assert [face.id for face in test][:2] == ["2999", "2998"]
    assert test.items[-1].id == "0"


def test_the_full_set_without_captions_has_no_test_split(tmp_path, monkeypatch):
    _full_set(tmp_path, monkeypatch, [])
    (tmp_path / "captions_hq.json").unlink()
    with pytest.raises(ConcordError) as error:
        open_faces(tmp_path)
    one_line(error, tmp_path, "last 3,000 caption keys")
    assert len(open_faces(tmp_path, "all")) == 30_000


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["1.jpg"].pop("Beard_and_Age"), ["'1.jpg'", "lacks the key 'Beard_and_Age'"]),
        (lambda c: [entry.clear() for entry in c.values()], ["'0.jpg'", "lacks the key 'Beard_and_Age'"]),
        (lambda c: c["1.jpg"].update(Beard_and_Age=3), ["'1.jpg'", "lacks the key"]),
        (lambda c: c["2.jpg"].update(Beard_and_Age="  "), ["'2.jpg'", "empty caption"]),
        (lambda c: c.update({"00001.png": {"Beard_and_Age": "Again."}}), ["two entries name the same face"]),
        (lambda c: c.clear(), ["no entry holds a caption"]),
    ],
)
def test_bad_caption_files(face_tree, change, words):
    root = face_tree()
    path = root / "captions_hq_beard_and_age_2022-08-19.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ConcordError) as error:
        open_faces(root)
    one_line(error, path, "expected", *words)


def test_a_broken_caption_file(face_tree):
    root = face_tree()
    path = root / "captions_hq_beard_and_age_2022-08-19.json"
    path.write_text(path.read_text()[:-9])
    with pytest.raises(ConcordError) as error:
        open_faces(root)
    one_line(error, path, "not valid JSON")


def test_folders_that_hold_no_faces(tmp_path, face_tree):
    empty = tmp_path / "empty"
    empty.mkdir()
    for path, words in ((empty, ["no faces here", "expected CelebA-HQ-img/"]), (tmp_path / "none", ["no such folder"])):
        with pytest.raises(ConcordError) as error:
            open_faces(path)
        one_line(error, path, "expected", *words)
    (empty / "file").write_text("")
    with pytest.raises(ConcordError, match="is a file; expected a CelebAMask-HQ folder"):
        open_faces(empty / "file")
    root = face_tree()
    with pytest.raises(ConcordError, match=f"did you mean {re.escape(str(root))}"):
        open_faces(tmp_path)


def test_unknown_splits_captions_and_ids_name_the_known(face_tree):
    root = face_tree()
    with pytest.raises(ConcordError, match="split 'train': expected one of test, all"):
        open_faces(root, "train")
    with pytest.raises(ConcordError, match="captions 'hair': expected one of auto, beard-and-age, overall, plain"):
        open_faces(root, captions="hair")
    with pytest.raises(ConcordError, match="no face '99'; expected an id such as 0, 1, 2"):
        open_faces(root)["99"]


def test_unknown_parts_and_other_files_are_set_aside(face_tree):
    root = face_tree()
    save(root / "CelebAMask-HQ-mask-anno/0/00000_moustache.png", half()[1])
    (root / "CelebA-HQ-img/Thumbs.txt").write_text("")
    (root / "CelebA-HQ-img/.hidden").write_text("")
    strays = list_tree(root).strays
    assert sorted(path for path, _, _ in strays) == [
        "CelebA-HQ-img/Thumbs.txt",
        "CelebAMask-HQ-mask-anno/0/00000_moustache.png",
    ]
    assert len(open_faces(root)["0"].mask_files) == 5


def test_the_fingerprint_changes_with_names_sizes_and_captions(face_tree, tmp_path):
    root, twin = face_tree(name="one"), face_tree(name="two")
    first = open_faces(root).fingerprint
    assert open_faces(twin).fingerprint == first  # the place of the tree does not matter
    mask = twin / "CelebAMask-HQ-mask-anno/0/00000_hair.png"
    content = mask.read_bytes()
    mask.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert open_faces(twin).listing == open_faces(root).listing
    assert open_faces(twin).fingerprint != first  # though no name and no size has changed
    mask.write_bytes(content)
    assert open_faces(twin).fingerprint == first
    picture = twin / "CelebA-HQ-img/0.jpg"
    picture.write_bytes(picture.read_bytes() + b"\x00")
    longer = open_faces(twin).fingerprint
    (root / "CelebAMask-HQ-mask-anno/0/00000_hair.png").rename(root / "CelebAMask-HQ-mask-anno/0/00000_hat.png")
    renamed = open_faces(root).fingerprint
    path = root / "captions_hq_beard_and_age_2022-08-19.json"
    path.write_text(path.read_text().replace("Person 1", "Person 7"))
    assert (
        len({first, longer, renamed, open_faces(root).fingerprint, open_faces(root, captions="overall").fingerprint})
        == 5
    )


@given(st.integers(0, 29_999), st.sampled_from([".jpg", ".png", ".JPG", ""]), st.integers(0, 6))
def test_ids_are_numbers_without_padding_or_suffix(number, suffix, padding):
    assert item_id(f"{number:0{padding}d}{suffix}") == str(number)


def test_masks_compose_without_a_dataset(tmp_path):
    on, pixels = half()
    path = save(tmp_path / "00000_hat.png", pixels)
    assert np.array_equal(compose_mask(((14, path),)), np.where(on, 14, 0))
    assert np.array_equal(FaceItem("0", None, tmp_path, None, ((14, path.name),)).mask(), np.where(on, 14, 0))


def test_reading_faces_imports_no_torch():
    modules = "concord.data.datasets.faces.dataset, concord.data.datasets.faces.verify, concord.data.labels"
    code = f"import sys, {modules}; print('torch' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
