"""The reader on real CelebAMask-HQ files. They never enter the repo: the test is skipped where they are not."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from concord.data.datasets.faces.open import open_faces
from concord.data.datasets.faces.preview import contact_sheet
from concord.data.datasets.faces.verify import inspect
from concord.data.labels import CELEBAMASK_HQ, INDEX

REPO = Path(__file__).resolve().parents[2]
SAMPLES = Path(os.environ.get("CONCORD_REAL_SAMPLES", REPO.parent / "shared" / "real_samples"))

pytestmark = [
    pytest.mark.own_files,
    pytest.mark.skipif(not SAMPLES.is_dir(), reason="no real samples; set CONCORD_REAL_SAMPLES to their folder"),
]


@pytest.fixture
def tree():
    return SAMPLES / "celebamask_hq"


def test_the_two_faces_open(tree):
    dataset = open_faces(tree)
    assert [face.id for face in dataset] == ["0", "1"]
    assert dataset.missing == []
    assert dataset.captions == "beard-and-age"
    assert "beard" in dataset["1"].text
    assert "beard" in open_faces(tree, captions="overall")["1"].text
    assert inspect(tree).defects == []


def test_all_modes_occur_among_the_parts(tree):
    modes = {Image.open(path).mode for path in tree.glob("CelebAMask-HQ-mask-anno/*/*.png")}
    assert modes == {"L", "P", "RGB"}


def test_the_masks_are_those_of_g_mask(tree):
    """Against a plain retelling of MaskGAN's g_mask.py: blue channel not 0, parts in the order of its list."""
    order = ["skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear",
             "mouth", "u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth"]  # fmt: skip  # a table
    for face in open_faces(tree):
        expected = np.zeros((512, 512), np.int64)
        for number, part in enumerate(order, start=1):
            path = tree / f"CelebAMask-HQ-mask-anno/0/{int(face.id):05d}_{part}.png"
            if path.exists():
                expected[np.asarray(Image.open(path).convert("RGB"))[..., 2] != 0] = number
        assert np.array_equal(face.mask(), expected)
        for size in (256, 64, 32):
            nearest = Image.fromarray(expected.astype(np.uint8)).resize((size, size), Image.Resampling.NEAREST)
            assert np.array_equal(face.mask(size), np.asarray(nearest))


def test_left_is_the_persons_left_and_parts_lie_where_faces_have_them(tree):
    for face in open_faces(tree):
        mask = face.mask()
        centre = {
            name: np.argwhere(mask == INDEX[name]).mean(axis=0) for name in CELEBAMASK_HQ if (mask == INDEX[name]).any()
        }
        for part in ("eye", "brow"):
            assert centre[f"l_{part}"][1] > centre["nose"][1] > centre[f"r_{part}"][1]
        heights = [centre[name][0] for name in ("l_brow", "l_eye", "nose", "u_lip", "l_lip", "neck")]
        assert heights == sorted(heights)


def test_skin_is_skin_coloured_and_lips_are_redder(tree):
    """The mask lies on its image: the mean colours of the parts differ as they do in faces."""
    for face in open_faces(tree):
        image, mask = face.image(512).astype(float), face.mask(512)
        mean = {name: image[mask == INDEX[name]].mean(axis=0) for name in ("skin", "hair", "l_lip", "l_brow")}
        redness = {name: value[0] / value.sum() for name, value in mean.items()}
        assert mean["skin"].sum() > 1.5 * mean["hair"].sum()
        assert mean["skin"].sum() > mean["l_brow"].sum()
        assert redness["l_lip"] > redness["skin"] - 0.02


def test_the_folder_of_index_masks_opens():
    dataset = open_faces(SAMPLES / "index_masks")
    assert [face.id for face in dataset] == ["27007", "29980"]
    assert all(not face.has_image and face.text is None for face in dataset)
    for face in dataset:
        mask = face.mask(64)
        assert mask.shape == (64, 64)
        assert {"background", "skin", "nose", "hair", "u_lip"} <= {CELEBAMASK_HQ[k] for k in np.unique(mask)}
    assert inspect(SAMPLES / "index_masks").defects == []


def test_the_contact_sheet_of_the_real_faces(tree):
    sheet = contact_sheet(open_faces(tree).items, "real faces")
    assert sheet.size[0] > 1300
    assert len(np.unique(np.asarray(sheet).reshape(-1, 3), axis=0)) > 5000  # images, not flat colours alone
