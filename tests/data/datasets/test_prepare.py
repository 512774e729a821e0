"""`concord data prepare celebamask-hq`: shards that give the very pixels, masks and captions of the tree."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import concord.data.datasets.faces.prepare
from concord.cli import app
from concord.data.datasets.faces.open import open_faces
from concord.data.datasets.faces.prepare import encode, prepare
from concord.data.datasets.faces.prepared import open_prepared
from concord.data.errors import ConcordError
from concord.data.images import reduce_labels
from concord.data.synthetic import write_tree

N = 6


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Faces with images of 1024x1024 and parts of 512x512: the sizes of CelebAMask-HQ."""
    root = tmp_path_factory.mktemp("tree") / "CelebAMask-HQ"
    (root / "CelebA-HQ-img").mkdir(parents=True)
    parts = root / "CelebAMask-HQ-mask-anno" / "0"
    parts.mkdir(parents=True)
    y, x = np.mgrid[:512, :512]
    for i in range(N):
        rng = np.random.default_rng(i)
        pixels = rng.integers(0, 256, (256, 256, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
        Image.fromarray(pixels).save(root / f"CelebA-HQ-img/{i}.jpg", quality=90)
        for name in ("skin", "nose", "hair"):
            a, b, size = rng.integers((100, 100, 20), (400, 400, 200))
            inside = (x - a) ** 2 + (y - b) ** 2 < size**2
            Image.fromarray(inside.astype(np.uint8) * 255).convert("RGB" if i % 2 else "L").save(
                parts / f"{i:05d}_{name}.png"
            )
    captions = {f"{i}.jpg": {"Beard_and_Age": f"  Face number \n {i} .  "} for i in reversed(range(N))}
    (root / "captions_hq_beard_and_age_2022-08-19.json").write_text(json.dumps(captions))
    return root


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of two faces, and a full set of five with a test split of two."""
    monkeypatch.setattr(concord.data.datasets.faces.prepare, "SHARD", 2)
    monkeypatch.setattr(concord.data.datasets.faces.prepare, "FULL_SET", 5)
    monkeypatch.setattr(concord.data.datasets.faces.prepare, "TEST_KEYS", 2)


def run(tree: Path, tmp_path: Path, **options: object) -> concord.data.datasets.faces.prepare.Prepared:
    given = {"captions": None, "workers": 1, **options}
    return prepare(tree, tmp_path / "out", given.pop("captions"), tmp_path / "cache", **given)  # type: ignore[arg-type]


def refusal(tree: Path, tmp_path: Path, **options: object) -> str:
    with pytest.raises(ConcordError) as caught:
        run(tree, tmp_path, **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "prepared.json").exists()
    return str(caught.value)


# ---------------------------------------------------------------------------------------------------- the same dataset


def test_shards_give_what_the_tree_gives(tree, tmp_path):
    run(tree, tmp_path)
    ours, theirs = open_faces(tmp_path / "out"), open_faces(tree)
    assert len(ours) == N
    for item in theirs:
        face = ours[item.id]
        assert np.array_equal(face.image(), item.image(256))
        assert np.array_equal(face.image(256), item.image(256))
        assert np.abs(face.image(64).astype(int) - item.image(64)).max() <= 2  # reduced twice
        for size in (None, 512, 256, 128):
            assert np.array_equal(face.mask(size), item.mask(size))
            assert face.mask(size).dtype == np.int64
        assert face.text == f"Face number {item.id} ."
        assert face.has_image
        assert face.has_mask
        assert not face.has_landmarks
    with pytest.raises(ConcordError, match="its images are 256x256, 512x512 was asked for"):
        ours["0"].image(512)


def test_pictures_are_block_means_and_masks_hold_no_new_class(tree, tmp_path):
    run(tree, tmp_path)
    original = np.asarray(Image.open(tree / "CelebA-HQ-img/0.jpg")).astype(float)
    means = original.reshape(256, 4, 256, 4, 3).mean((1, 3))
    face = open_faces(tmp_path / "out")["0"]
    assert np.abs(face.image(256) - means).max() <= 1  # Pillow rounds after each axis
    assert np.abs((face.image(256) - means).mean()) < 0.3  # each time half up
    composed = np.zeros((512, 512), np.int64)  # by the rule of the dataset's authors: later classes over earlier ones
    for number, name in ((1, "skin"), (2, "nose"), (13, "hair")):
        part = np.asarray(Image.open(tree / f"CelebAMask-HQ-mask-anno/0/00000_{name}.png"))
        composed[part != 0] = number
    assert np.array_equal(face.mask(), composed)
    assert np.array_equal(face.mask(256), reduce_labels(composed, 256))
    nearest = Image.fromarray(composed.astype(np.uint8)).resize((256, 256), Image.Resampling.NEAREST)
    assert np.array_equal(face.mask(256), np.asarray(nearest))


def test_an_unpacked_shard_is_a_tree_of_its_own(tree, tmp_path, small):
    run(tree, tmp_path)
    with tarfile.open(tmp_path / "out/test-00000.tar") as tar:
        tar.extractall(tmp_path / "plain")  # our own file; `filter` came with Python 3.11.4
    plain, whole = open_faces(tmp_path / "plain", "all"), open_faces(tree, "all")
    assert len(plain) == 2
    for face in plain:
        assert np.array_equal(face.image(256), whole[face.id].image(256))
        assert np.array_equal(face.mask(512), whole[face.id].mask(512))


def test_the_split_is_the_last_keys_of_the_captions(tree, tmp_path, small):
    run(tree, tmp_path)
    test, everything = open_prepared(tmp_path / "out"), open_prepared(tmp_path / "out", "all")
    assert [face.id for face in test] == ["1", "0"]  # the keys were written from 5 down to 0
    assert [face.id for face in everything] == ["1", "0", "2", "3", "4", "5"]
    assert test.fingerprint != everything.fingerprint
    names = sorted(path.name for path in (tmp_path / "out").glob("*.tar"))
    assert names == ["test-00000.tar", "train-00000.tar", "train-00001.tar"]
    with pytest.raises(ConcordError, match="captions are of kind 'beard-and-age', 'overall' was asked for"):
        open_faces(tmp_path / "out", captions="overall")


def test_several_processes_give_the_same_bytes(tree, tmp_path, small):
    run(tree, tmp_path / "a")
    told: list[tuple[int, int]] = []
    run(tree, tmp_path / "b", workers=2, progress=lambda done, of: told.append((done, of)))
    for path in (tmp_path / "a/out").iterdir():
        assert path.read_bytes() == (tmp_path / "b/out" / path.name).read_bytes()
    assert told[-1] == (N, N)


# ---------------------------------------------------------------------------------------------------------- going on


def test_a_stopped_run_makes_only_what_is_lacking(tree, tmp_path, small, monkeypatch):
    run(tree, tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    (tmp_path / "out/train-00000.json").unlink()  # killed before its note was written
    (tmp_path / "out/prepared.json").unlink()
    (tmp_path / "out/.train-00001.tar.abcd.part").write_bytes(b"half")
    made: list[str] = []
    monkeypatch.setattr(
        concord.data.datasets.faces.prepare, "encode", lambda face: made.append(face.id) or encode(face)
    )
    run(tree, tmp_path)
    assert made == ["2", "3"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_changed_source_is_made_anew_and_lost_shards_go(tree, tmp_path, small):
    changed = tmp_path / "tree"
    shutil.copytree(tree, changed)
    run(changed, tmp_path)
    first = open_prepared(tmp_path / "out").fingerprint
    Image.new("RGB", (1024, 1024), (9, 8, 7)).save(changed / "CelebA-HQ-img/1.jpg")
    run(changed, tmp_path)
    assert (np.abs(open_prepared(tmp_path / "out")["1"].image().astype(int) - (9, 8, 7)) <= 2).all()  # JPEG
    assert open_prepared(tmp_path / "out").fingerprint != first
    for i in range(2, N):
        (changed / f"CelebA-HQ-img/{i}.jpg").unlink()
        for part in (changed / "CelebAMask-HQ-mask-anno/0").glob(f"{i:05d}_*.png"):
            part.unlink()
    (changed / "captions_hq_beard_and_age_2022-08-19.json").write_text(json.dumps({"0": "a", "1": "b"}))
    assert len(run(changed, tmp_path)) == 2
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tar")) == ["test-00000.tar"]


# ------------------------------------------------------------------------------------------------------------ bad input


def test_a_folder_of_another_shape_is_described(tmp_path):
    (tmp_path / "Downloads" / "photos").mkdir(parents=True)
    (tmp_path / "Downloads" / "a.zip").write_text("")
    line = refusal(tmp_path / "Downloads", tmp_path)
    assert "no faces here" in line
    assert "it looks like a folder with photos/, 1 .zip" in line
    assert "no such folder" in refusal(tmp_path / "none", tmp_path)


def test_pictures_without_masks_and_masks_without_pictures(tree, tmp_path):
    shutil.copytree(tree, tmp_path / "a", ignore=shutil.ignore_patterns("CelebAMask-HQ-mask-anno"))
    line = refusal(tmp_path / "a", tmp_path)
    assert "6 images but no masks; expected CelebAMask-HQ-mask-anno/ beside them" in line
    shutil.copytree(tree, tmp_path / "b", ignore=shutil.ignore_patterns("CelebA-HQ-img"))
    assert "6 masks but no images; expected CelebA-HQ-img/" in refusal(tmp_path / "b", tmp_path)


def test_a_face_without_a_mask_is_left_out_and_told(tree, tmp_path):
    shutil.copytree(tree, tmp_path / "tree")
    for part in (tmp_path / "tree/CelebAMask-HQ-mask-anno/0").glob("00004_*.png"):
        part.unlink()
    said: list[str] = []
    assert len(run(tmp_path / "tree", tmp_path, say=said.append)) == N - 1
    assert "1 of 6 faces lack an image or a mask and are left out, the first is 4" in said


def test_captions_of_other_pictures(tree, tmp_path, small):
    other = tmp_path / "captions.json"
    other.write_text(json.dumps({f"{i:06d}.jpg": "A face." for i in range(100, 110)}))
    line = refusal(tree, tmp_path, captions=other)
    assert "captions of other images: 10 of them (100, 101, 102, ...), 0 for the 6 faces" in line
    other.write_text(json.dumps({f"{i:06d}.jpg": "A face." for i in range(40)}))  # CelebA's own numbers, say
    assert "captions of other images: 40 of them" in refusal(tree, tmp_path, captions=other)


def test_captions_that_are_none(tree, tmp_path):
    shutil.copytree(tree, tmp_path / "tree", ignore=shutil.ignore_patterns("*.json"))
    assert "no caption file; add --captions FILE" in refusal(tmp_path / "tree", tmp_path)
    bad = tmp_path / "captions.json"
    bad.write_text(json.dumps({"0": "fine", "1": "  "}))
    assert "entry '1' has an empty caption" in refusal(tree, tmp_path, captions=bad)
    bad.write_text("[1, 2]")
    assert "no entry holds a caption" in refusal(tree, tmp_path, captions=bad)
    (tmp_path / "cache/data/collab-captions").mkdir(parents=True)  # the fetched ones are found without being named
    shutil.copy(tree / "captions_hq_beard_and_age_2022-08-19.json", tmp_path / "cache/data/collab-captions")
    assert run(tmp_path / "tree", tmp_path)["3"].text == "Face number 3 ."


@pytest.mark.parametrize("workers", [1, 2])
def test_a_broken_picture_stops_it_in_one_line_and_finished_shards_stay(tree, tmp_path, small, workers):
    shutil.copytree(tree, tmp_path / "tree")
    path = tmp_path / "tree/CelebA-HQ-img/5.jpg"
    path.write_bytes(path.read_bytes()[:5000])
    line = refusal(tmp_path / "tree", tmp_path, workers=workers)
    assert "5.jpg: is truncated" in line
    assert (tmp_path / "out/test-00000.tar").exists()
    assert not list((tmp_path / "out").glob(".*.part"))
    assert not (tmp_path / "out/train-00001.tar").exists()


def test_no_space_and_no_permission(tree, tmp_path, monkeypatch):
    import concord.data.download.transfer

    with monkeypatch.context() as patch:
        free = shutil.disk_usage(tmp_path)._replace(free=1000)
        patch.setattr(concord.data.download.transfer.shutil, "disk_usage", lambda _: free)
        assert "no space for the shards" in refusal(tree, tmp_path)
    (tmp_path / "out").rmdir()
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ConcordError, match="cannot be written"):
        run(tree, tmp_path)


def test_a_damaged_shard_is_named(tree, tmp_path):
    run(tree, tmp_path)
    tar = tmp_path / "out/test-00000.tar"
    content = bytearray(tar.read_bytes())
    content[3000:200_000] = bytes(197_000)
    tar.write_bytes(content)
    with pytest.raises(ConcordError, match=r"test-00000.tar: face 0 cannot be read .*prepare the dataset again"):
        open_faces(tmp_path / "out")["0"].image()


def test_what_prepare_did_not_write(tmp_path):
    (tmp_path / "prepared.json").write_text("{}")
    with pytest.raises(ConcordError, match=r"prepared.json: not what `concord data prepare` writes"):
        open_faces(tmp_path)


# ----------------------------------------------------------------------------------------------------- the command line


def test_the_command_prepares_and_says_what(tree, tmp_path):
    arguments = ["data", "prepare", "celebamask-hq", "--from", tree, "--out", tmp_path / "out", "--workers", "1"]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    assert "CelebAMask-HQ, all: 6 faces; 6 images, 6 masks, 6 captions (beard-and-age); 0 missing" in result.stdout
    wrong = CliRunner().invoke(app, ["data", "prepare", "coco-mig"])
    assert wrong.exit_code == 2
    assert "expected celebamask-hq" in wrong.output


def test_nothing_fetched_is_told_with_the_command(tmp_path):
    arguments = ["data", "prepare", "celebamask-hq", "--cache-dir", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "run `concord data fetch celebamask-hq`" in result.output


def test_synthetic_faces_are_prepared_too(tmp_path):
    """Trees that the renderer draws are smaller than CelebAMask-HQ's: images are enlarged, masks repeat pixels."""
    write_tree(tmp_path / "tree", range(2), progress=False, workers=1)
    prepared = run(tmp_path / "tree", tmp_path)
    for item in open_faces(tmp_path / "tree"):
        assert np.array_equal(prepared[item.id].image(), item.image(256))
        assert np.array_equal(prepared[item.id].mask(64), item.mask(64))


def test_png_bytes_hold_what_went_in():
    rng = np.random.default_rng(0)
    for pixels in (rng.integers(0, 256, (64, 64, 3), dtype=np.uint8), rng.integers(0, 19, (32, 32), dtype=np.uint8)):
        back = np.asarray(Image.open(io.BytesIO(concord.data.datasets.faces.prepare._png(pixels))))
        assert np.array_equal(back if back.ndim == 2 else back[..., ::-1], pixels)
