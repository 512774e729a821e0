"""The tree on disk: the real layout, nothing lost but JPEG's rounding, and never half a tree."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from concord.data.errors import ConcordError
from concord.data.labels import CELEBAMASK_HQ
from concord.data.synthetic import WORLD_SEED, face, write_tree
from concord.data.synthetic.faces import tree as tree_module
from concord.data.synthetic.faces.tree import jpeg_loss

INDICES = (0, 1999, 2000, 29_999)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces") / "tree"
    write_tree(folder, INDICES, progress=False)
    return folder


@pytest.mark.parametrize("index", INDICES)
def test_round_trip(root: Path, index: int) -> None:
    truth = face(index)
    with Image.open(root / "CelebA-HQ-img" / f"{index}.jpg") as picture:
        assert picture.size == (64, 64)
        assert picture.mode == "RGB"
        error = np.asarray(picture, float) - truth.image
    assert 10 * np.log10(255**2 / (error**2).mean()) > 40

    mask = np.zeros((64, 64), np.uint8)
    cover = np.zeros((64, 64), int)
    for number, part in enumerate(CELEBAMASK_HQ):
        path = root / "CelebAMask-HQ-mask-anno" / str(index // 2000) / f"{index:05d}_{part}.png"
        assert path.exists() == bool(number and (truth.mask == number).any())
        if path.exists():
            values = np.asarray(Image.open(path))
            assert set(np.unique(values)) <= {0, 255}
            mask[values == 255] = number
            cover += values == 255
    assert np.array_equal(mask, truth.mask)
    assert cover.max() == 1


def test_tables(root: Path) -> None:
    dialog = json.loads((root / "captions_hq.json").read_text())
    trimmed = json.loads((root / "captions_hq_beard_and_age_2022-08-19.json").read_text())
    levels = json.loads((root / "attributes.json").read_text())
    names = [f"{i}.jpg" for i in INDICES]
    assert list(dialog) == list(trimmed) == list(levels) == names
    for index, name in zip(INDICES, names):
        truth = face(index)
        assert dialog[name]["attribute_wise_captions"] == truth.captions.attribute_wise
        assert dialog[name]["overall_caption"] == truth.captions.overall
        assert trimmed[name] == {"Beard_and_Age": truth.captions.beard_and_age}
        assert levels[name] == {"sex": truth.sex, **truth.attributes}
    with np.load(root / "landmarks.npz") as marks, np.load(root / "identities.npz") as people:
        assert tuple(marks["indices"]) == INDICES
        assert np.array_equal(marks["landmarks"][1], face(1999).landmarks)
        assert np.array_equal(people["identities"][3], face(29_999).identity)
    world = json.loads((root / "world.json").read_text())
    assert world["world_seed"] == WORLD_SEED
    assert world["indices"] == list(INDICES)


def test_readable_by_others(root: Path) -> None:
    assert root.stat().st_mode & 0o500 == 0o500
    assert [p.name for p in root.parent.iterdir()] == ["tree"]


def test_jpeg_loss_is_small() -> None:
    assert min(jpeg_loss(face(i).image) for i in range(5)) > 40


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ConcordError, match="exists already"):
        write_tree(tmp_path, [0], progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(("indices", "message"), [((), "at least one"), ((4, 4), "every face once")])
def test_bad_indices(tmp_path: Path, indices: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConcordError, match=message):
        write_tree(tmp_path / "tree", indices, progress=False)


def test_a_failed_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tree_module, "_write_tables", full)
    with pytest.raises(ConcordError, match="No space left"):
        write_tree(tmp_path / "tree", [0, 1], progress=False)
    assert list(tmp_path.iterdir()) == []
