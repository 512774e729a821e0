"""SynthFaces: a pure function of (seed, index) whose image, mask, landmarks and attributes agree."""

import hashlib
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from concord.data.synthetic import ATTRIBUTES, SPLITS, FaceArrays, face, render_many
from concord.data.synthetic.faces.paint import paint_face
from concord.data.synthetic.faces.world import describe

ROOT = Path(__file__).parents[3]
BACKGROUND, SKIN, EYE_G, L_EYE, R_EYE, L_BROW, R_BROW, MOUTH, U_LIP, L_LIP, HAIR, HAT = (
    0,
    1,
    3,
    4,
    5,
    6,
    7,
    10,
    11,
    12,
    13,
    14,
)

# SHA-256 of the masks of GOLDEN_FACES, and the mean of each image: NumPy 2.4.6, OpenCV 5.0.0, x86-64.
GOLDEN_FACES = (0, 1, 2, 23_999, 27_000, 29_999)
GOLDEN_MASKS = "d5d6baa79473293e0dc5a5a1b2396a6d8164ac7108f6e233a43bbcf10d8cd4ff"
GOLDEN_MEANS = (147.359, 98.454, 119.854, 133.463, 126.652, 110.479)


@pytest.fixture(scope="module")
def world() -> FaceArrays:
    return render_many(range(27_000, 27_500), workers=1)


def digest(indices: tuple[int, ...]) -> str:
    total = hashlib.sha256()
    for i in indices:
        f = face(i)
        for part in (f.image, f.mask, f.landmarks, f.identity):
            total.update(part.tobytes())
        total.update(repr((f.sex, f.attributes, f.captions)).encode())
    return total.hexdigest()


def differences(index: int, name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Image and mask of one face at all six levels of an attribute."""
    _, person, attributes, scene, _ = describe(index)
    return [paint_face(person, {**attributes, name: level}, scene)[:2] for level in range(6)]


def test_same_face_twice_in_any_order_and_process() -> None:
    here = digest((5, 77, 4242))
    face(4242), face(77)
    assert digest((5, 77, 4242)) == here
    here_too = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import {Path(__file__).stem} as t"
    script = f"{here_too}; print(t.digest((5, 77, 4242)))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )
    assert done.stdout.strip() == here


def test_processes_give_the_same_arrays() -> None:
    one, two = render_many(range(210), workers=1), render_many(range(210), workers=2)
    assert np.array_equal(one.images, two.images)
    assert np.array_equal(one.masks, two.masks)
    assert one.captions == two.captions


def test_golden_faces() -> None:
    faces = [face(i) for i in GOLDEN_FACES]
    total = hashlib.sha256(b"".join(f.mask.tobytes() for f in faces)).hexdigest()
    assert total == GOLDEN_MASKS, (
        "masks changed: trained weights no longer fit this renderer; raise RENDERER_VERSION and retrain"
    )
    assert [float(f.image.mean()) for f in faces] == pytest.approx(GOLDEN_MEANS, abs=0.2)


def test_another_seed_is_another_world() -> None:
    assert not np.array_equal(face(3).image, face(3, world_seed=1).image)


def test_a_variant_is_the_same_person() -> None:
    first, second = face(11), face(11, variant=1)
    assert np.array_equal(first.identity, second.identity)
    assert first.sex == second.sex
    assert not np.array_equal(first.image, second.image)


def test_bad_index_is_named() -> None:
    with pytest.raises(ValueError, match="index: expected an integer from 0"):
        face(-1)


def test_importing_is_light() -> None:
    script = (
        "import sys, concord.data.synthetic as s; assert 'cv2' not in sys.modules; s.face(0); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_splits_are_disjoint_and_cover_the_world() -> None:
    together = [i for part in SPLITS.values() for i in part]
    assert sorted(together) == list(range(30_000))
    assert len(SPLITS["test"]) == 3000


def test_shapes_and_ranges(world: FaceArrays) -> None:
    n = len(world)
    assert world.images.shape == (n, 64, 64, 3)
    assert world.images.dtype == np.uint8
    assert world.masks.shape == (n, 64, 64)
    assert world.masks.dtype == np.uint8
    assert world.landmarks.shape == (n, 68, 2)
    assert world.identities.shape == (n, 24)
    assert world.attributes.shape == (n, len(ATTRIBUTES))
    assert world.attributes.min() == 0
    assert world.attributes.max() == 5
    assert np.abs(world.identities).max() <= 1


def test_every_class_occurs_with_a_sensible_frequency(world: FaceArrays) -> None:
    assert world.masks.max() == 18
    share = np.array([(world.masks == c).any((1, 2)).mean() for c in range(19)])
    assert share.min() > 0.05
    assert share[[SKIN, U_LIP, L_LIP]].min() > 0.99
    assert 0.08 < share[HAT] < 0.17
    assert 0.14 < share[EYE_G] < 0.3
    assert share[MOUTH] == pytest.approx((world.attributes[:, 3] >= 3).mean(), abs=0.01)


def test_beards_grow_on_men_only(world: FaceArrays) -> None:
    bearded = world.attributes[:, 2] > 0
    assert set(world.sex[bearded]) == {"male"}
    assert world.attributes[bearded, 4].min() >= 1


def test_eyes_lie_where_the_landmarks_say(world: FaceArrays) -> None:
    # iBUG 36-41 is the eye on the image's left, which CelebAMask-HQ calls the right eye
    for points, label in ((slice(36, 42), R_EYE), (slice(42, 48), L_EYE)):
        for mask, landmarks in zip(world.masks, world.landmarks):
            rows, columns = np.nonzero(mask == label)
            if len(rows) < 8:  # behind sunglasses or bangs
                continue
            middle = np.array([columns.mean(), rows.mean()]) + 0.5
            assert np.hypot(*(landmarks[points].mean(0) - middle)) < 1.6
            low, high = landmarks[points].min(0), landmarks[points].max(0)
            assert abs(low[0] - columns.min()) < 2.5
            assert abs(high[0] - columns.max() - 1) < 2.5


def test_landmarks_agree_with_parts(world: FaceArrays) -> None:
    assert world.landmarks.min() > -1
    assert world.landmarks.max() < 65
    for mask, p in zip(world.masks, world.landmarks):
        rows, columns = np.nonzero((mask == U_LIP) | (mask == L_LIP) | (mask == MOUTH))
        assert abs(p[48, 0] - columns.min()) < 2
        assert abs(p[54, 0] - columns.max() - 1) < 2
        assert abs(p[57, 1] - rows.max() - 1) < 2.5
        chin = mask[min(int(p[8, 1]) + 3, 63), int(p[8, 0])]
        assert chin in (17, 18, 16)  # below the chin: neck, clothes or necklace
        assert mask[int(p[30, 1]), int(p[30, 0])] == 2
        jaw = p[:17]
        assert (np.diff(jaw[:, 0]) > -1.5).all()


def test_left_and_right_are_the_persons(world: FaceArrays) -> None:
    x = np.arange(64)
    for left, right in ((L_EYE, R_EYE), (L_BROW, R_BROW), (8, 9)):
        both = [(m == left).any() and (m == right).any() for m in world.masks]
        for mask in world.masks[both]:
            centre = [((mask == c).sum(0) * x).sum() / (mask == c).sum() for c in (left, right)]
            assert centre[0] > centre[1] + 5


@pytest.mark.parametrize("name", ["No_Beard", "Young", "Bangs", "Eyeglasses", "Smiling"])
def test_every_level_shows(name: str) -> None:
    shown = 0
    for index in range(35):
        _, person, attributes, scene, _ = describe(index)
        if (
            person.sex != "male"
            or attributes["Young"] == 0
            or attributes["Eyeglasses"] == 5
            or scene.hat
            or person.hair_style in ("bald", "buzz")
        ):
            continue
        shown += 1
        pictures = [picture.astype(int) for picture, _ in differences(index, name)]
        for below, above in pairwise(pictures):
            assert (np.abs(above - below).max(2) > 24).sum() >= 12, (
                f"face {index}: two neighbouring levels of {name} look alike"
            )
    assert shown > 5


def test_beards_change_the_picture_not_the_mask() -> None:
    index = next(i for i in range(100) if describe(i)[1].sex == "male")
    levels = differences(index, "No_Beard")
    for picture, mask in levels[1:]:
        assert np.array_equal(mask, levels[0][1])
        assert (picture != levels[0][0]).any(2).sum() > 60


def test_bangs_cover_the_brows_at_level_five() -> None:
    index = next(
        i
        for i in range(100)
        if describe(i)[3].hat is None and describe(i)[1].hair_style == "bob" and describe(i)[2]["Eyeglasses"] == 0
    )
    masks = [mask for _, mask in differences(index, "Bangs")]
    hair = [int((m == HAIR).sum()) for m in masks]
    assert hair[0] < hair[3] < hair[4] < hair[5]
    assert ((masks[0] == L_BROW) | (masks[0] == R_BROW)).sum() > 20
    assert not ((masks[5] == L_BROW) | (masks[5] == R_BROW)).any()


def test_sunglasses_hide_the_eyes_and_clear_glasses_do_not() -> None:
    masks = [mask for _, mask in differences(0, "Eyeglasses")]
    assert not (masks[0] == EYE_G).any()
    for mask in masks[1:5]:
        assert (mask == EYE_G).sum() > 40
        assert (mask == L_EYE).sum() > 8
    assert not ((masks[5] == L_EYE) | (masks[5] == R_EYE)).any()
