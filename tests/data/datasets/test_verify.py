"""`verify` finds every defect of a tree in one run, and nothing in a clean one."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from concord.commands.data import app
from concord.data.datasets.faces import verify as checker
from concord.data.datasets.faces.open import open_faces
from concord.data.datasets.faces.verify import KINDS, inspect, verify
from concord.data.errors import ConcordError

SIDE = 16
ANNO = "CelebAMask-HQ-mask-anno/0"
BEARD = "captions_hq_beard_and_age_2022-08-19.json"


def write_mask(path, value=255, side=SIDE, mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((side, side), value, np.uint8)).convert(mode).save(path)


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-30])


def found(root):
    return [(defect.kind, defect.path) for defect in verify(root)]


def test_a_clean_tree_has_no_defects(face_tree):
    result = inspect(face_tree(4), workers=2)
    assert result.defects == []
    assert result.notes == []
    assert result.counts == {"faces": 4, "images": 4, "masks": 4, "part files": 20, "captions": 8}


DEFECTS = {
    "missing image": (lambda r: (r / "CelebA-HQ-img/1.jpg").unlink(), "CelebA-HQ-img/1.jpg"),
    "unreadable image": (lambda r: truncate(r / "CelebA-HQ-img/1.jpg"), "CelebA-HQ-img/1.jpg"),
    "image of the wrong size": (
        lambda r: Image.new("RGB", (8, 8)).save(r / "CelebA-HQ-img/1.jpg"),
        "CelebA-HQ-img/1.jpg",
    ),
    "item without mask": (lambda r: [p.unlink() for p in (r / ANNO).glob("00001_*")], "CelebA-HQ-img/1.jpg"),
    "unreadable mask": (lambda r: truncate(r / f"{ANNO}/00001_hair.png"), f"{ANNO}/00001_hair.png"),
    "mask of the wrong size": (lambda r: write_mask(r / f"{ANNO}/00001_hair.png", side=8), f"{ANNO}/00001_hair.png"),
    "unexpected mode": (lambda r: write_mask(r / f"{ANNO}/00001_hair.png", mode="RGBA"), f"{ANNO}/00001_hair.png"),
    "unknown file name": (lambda r: write_mask(r / f"{ANNO}/00001_beard.png"), f"{ANNO}/00001_beard.png"),
    "misplaced file": (
        lambda r: (
            (r / "CelebAMask-HQ-mask-anno/7").mkdir()
            or (r / f"{ANNO}/00001_hair.png").rename(r / "CelebAMask-HQ-mask-anno/7/00001_hair.png")
        ),
        "CelebAMask-HQ-mask-anno/7/00001_hair.png",
    ),
    "duplicate file": (
        lambda r: Image.new("RGB", (32, 32)).save(r / "CelebA-HQ-img/1.png"),
        "CelebA-HQ-img/1.png",
    ),
    "broken JSON": (lambda r: (r / "captions_hq.json").write_text('{"0.jpg": '), "captions_hq.json"),
    "missing key": (lambda r: edit(r / BEARD, lambda c: c["1.jpg"].pop("Beard_and_Age")), BEARD),
    "empty caption": (lambda r: edit(r / BEARD, lambda c: c["1.jpg"].update(Beard_and_Age=" ")), BEARD),
    "duplicate caption": (lambda r: edit(r / BEARD, lambda c: c.update({"01.jpg": c["1.jpg"]})), BEARD),
    "image without caption": (lambda r: edit(r / BEARD, lambda c: c.pop("1.jpg")), "CelebA-HQ-img/1.jpg"),
    "caption without image": (lambda r: edit(r / BEARD, lambda c: c.update({"9.jpg": c["1.jpg"]})), BEARD),
}


@pytest.mark.parametrize("kind", DEFECTS)
def test_each_defect_alone_is_found_and_nothing_else(face_tree, kind):
    root = face_tree(3)
    change, path = DEFECTS[kind]
    change(root)
    assert found(root) == [(kind, path)]


def test_every_defect_is_listed_in_one_run(face_tree):
    root = face_tree(12)
    images = root / "CelebA-HQ-img"
    (images / "0.jpg").unlink()
    truncate(images / "1.jpg")
    (images / "2.jpg").write_bytes(b"")
    Image.new("RGB", (32, 16)).save(images / "3.jpg")
    for path in (root / ANNO).glob("00004_*"):
        path.unlink()
    truncate(root / f"{ANNO}/00005_nose.png")
    write_mask(root / f"{ANNO}/00006_skin.png", side=32)
    write_mask(root / f"{ANNO}/00007_skin.png", mode="RGBA")
    write_mask(root / f"{ANNO}/00008_tooth.png")
    (images / "notes.txt").write_text("")
    edit(root / BEARD, lambda c: (c.pop("9.jpg"), c["10.jpg"].clear(), c["11.jpg"].update(Beard_and_Age="")))
    edit(root / BEARD, lambda c: c.update({"77.jpg": {"Beard_and_Age": "Who?"}}))
    (root / "captions_hq.json").write_text("[")
    assert found(root) == [
        ("missing image", "CelebA-HQ-img/0.jpg"),
        ("unreadable image", "CelebA-HQ-img/1.jpg"),
        ("unreadable image", "CelebA-HQ-img/2.jpg"),
        ("image of the wrong size", "CelebA-HQ-img/3.jpg"),
        ("item without mask", "CelebA-HQ-img/4.jpg"),
        ("unreadable mask", f"{ANNO}/00005_nose.png"),
        ("mask of the wrong size", f"{ANNO}/00006_skin.png"),
        ("unexpected mode", f"{ANNO}/00007_skin.png"),
        ("unknown file name", "CelebA-HQ-img/notes.txt"),
        ("unknown file name", f"{ANNO}/00008_tooth.png"),
        ("broken JSON", "captions_hq.json"),
        ("missing key", BEARD),
        ("empty caption", BEARD),
        ("image without caption", "CelebA-HQ-img/9.jpg"),
        ("caption without image", BEARD),
    ]
    assert set(checker.inspect(root).by_kind()) <= set(KINDS)


def test_classes_out_of_range_in_index_masks(tmp_path):
    for number, value in enumerate((3, 18, 19, 255)):
        write_mask(tmp_path / f"masks/{number}.png", value)
    write_mask(tmp_path / "masks/4.png", 0, mode="1")
    (tmp_path / "captions.json").write_text(json.dumps({str(i): "A face." for i in (0, 1, 2, 4, 8)}))
    assert found(tmp_path) == [
        ("class out of range", "masks/2.png"),
        ("class out of range", "masks/3.png"),
        ("unexpected mode", "masks/4.png"),
        ("mask without caption", "masks/3.png"),
        ("caption without mask", "captions.json"),
    ]
    assert "holds class 19" in verify(tmp_path)[0].detail


def test_what_celeba_dialog_lacks_is_a_note(face_tree):
    root = face_tree(2)
    image = Image.open(root / "CelebA-HQ-img/0.jpg")
    image.save(root / "CelebA-HQ-img/5380.jpg")
    write_mask(root / "CelebAMask-HQ-mask-anno/2/05380_skin.png")
    result = inspect(root)
    assert result.defects == []
    assert len(result.notes) == 2  # one for each caption file
    assert all("face 5380 has no caption" in note for note in result.notes)


def test_a_tree_without_captions_is_clean_with_a_note(face_tree):
    root = face_tree(2)
    for path in root.glob("*.json"):
        path.unlink()
    result = inspect(root)
    assert (result.defects, result.notes) == ([], ["no caption file: the faces have no captions"])


def test_repeated_json_keys_are_found(face_tree):
    root = face_tree(1)
    (root / "captions_hq.json").write_text('{"0.jpg": {"overall_caption": "A."}, "0.jpg": {"overall_caption": "B."}}')
    assert found(root) == [("duplicate caption", "captions_hq.json")]


def test_the_result_does_not_depend_on_the_number_of_threads(face_tree):
    root = face_tree(9)
    for i in (1, 4, 7):
        truncate(root / f"CelebA-HQ-img/{i}.jpg")
        write_mask(root / f"{ANNO}/{i:05d}_hair.png", side=8)
    assert inspect(root, workers=1).to_json() == inspect(root, workers=8, progress=True).to_json()


# ------------------------------------------------------------------------------------------------------- command line


def test_the_command_exits_with_0_on_a_clean_tree(face_tree):
    result = CliRunner().invoke(app, ["verify", str(face_tree(2))])
    assert result.exit_code == 0
    assert "clean" in result.output
    assert "2 faces" in result.output


def test_the_command_lists_all_and_exits_with_2(face_tree):
    root = face_tree(3)
    truncate(root / "CelebA-HQ-img/1.jpg")
    truncate(root / "CelebA-HQ-img/2.jpg")
    result = CliRunner().invoke(app, ["verify", str(root)])
    assert result.exit_code == 2
    assert result.stdout.count("unreadable image: CelebA-HQ-img/") == 2
    assert result.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "2 defects (2 unreadable image)" in result.stderr.strip().splitlines()[-1]


def test_the_json_of_the_command_holds_everything(face_tree):
    root = face_tree(3)
    truncate(root / "CelebA-HQ-img/1.jpg")
    result = CliRunner().invoke(app, ["verify", str(root), "--json"])
    content = json.loads(result.stdout)
    assert result.exit_code == 2
    assert content["counts"]["faces"] == 3
    assert content["kinds"] == {"unreadable image": 1}
    assert content["defects"][0]["path"] == "CelebA-HQ-img/1.jpg"


def test_an_empty_folder_is_an_error_of_its_own(tmp_path):
    with pytest.raises(ConcordError, match="no faces here"):
        verify(tmp_path)


def add_conditions(root, n=4):
    """Identity references and landmarks, as a drawn tree has them."""
    (root / "identity-references").mkdir()
    for i in range(n):
        Image.new("RGB", (SIDE, SIDE)).save(root / f"identity-references/{i}.jpg")
    points = np.zeros((n, 68, 2), np.float32)
    np.savez(root / "landmarks.npz", indices=np.arange(n), landmarks=points)
    return points


def test_references_and_landmarks_are_checked_where_there_are_any(face_tree):
    root = face_tree(4)
    points = add_conditions(root)
    result = inspect(root, workers=2)
    assert result.defects == []
    assert result.counts["identity references"] == 4
    (root / "identity-references/1.jpg").unlink()
    truncate(root / "identity-references/2.jpg")
    np.savez(root / "landmarks.npz", indices=np.arange(3), landmarks=points[:3])
    assert found(root) == [
        ("missing image", "identity-references/1.jpg"),
        ("unreadable image", "identity-references/2.jpg"),
        ("missing key", "landmarks.npz"),
    ]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"landmarks": np.zeros((4, 68, 2))}, "cannot be read"),
        ({"indices": np.arange(4), "landmarks": np.zeros((4, 5, 2))}, "expected 'indices' (N,) and 'landmarks'"),
        ({"indices": np.arange(3), "landmarks": np.zeros((4, 68, 2))}, "shapes (3,) and (4, 68, 2)"),
        ({"indices": np.arange(4), "landmarks": np.full((4, 68, 2), np.nan)}, "of face 0 are not finite"),
    ],
)
def test_broken_landmarks_are_one_defect(face_tree, arrays, words):
    root = face_tree(4)
    np.savez(root / "landmarks.npz", **arrays)
    (defect,) = verify(root)
    assert (defect.kind, defect.path) == ("unreadable landmarks", "landmarks.npz")
    assert words in defect.detail
    with pytest.raises(ConcordError, match=r"landmarks\.npz"):
        open_faces(root)


def test_a_landmark_file_that_is_no_archive(face_tree):
    root = face_tree(2)
    (root / "landmarks.npz").write_bytes(b"not an archive")
    assert [defect.kind for defect in verify(root)] == ["unreadable landmarks"]
