"""The two class orders cannot be confused, and converting there and back changes nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from concord.data.errors import ConcordError
from concord.data.labels import (
    BISENET,
    CELEBAMASK_HQ,
    CLASSES,
    HUMAN_NAMES,
    INDEX,
    PALETTE,
    PART_SUFFIXES,
    bisenet_to_celebamask,
    celebamask_to_bisenet,
    check_classes,
    colourise,
    convert,
    lookup,
)

masks = hnp.arrays(np.int64, hnp.array_shapes(min_dims=2, max_dims=3, max_side=6), elements=st.integers(0, 18))


def test_both_orders_name_the_same_19_parts():
    assert len(CELEBAMASK_HQ) == len(BISENET) == CLASSES == 19
    assert set(CELEBAMASK_HQ) == set(BISENET) == set(HUMAN_NAMES)
    assert len(PART_SUFFIXES) == 18
    assert "background" not in PART_SUFFIXES
    assert INDEX["cloth"] == 18


def test_the_orders_are_the_authors_and_not_each_other():
    # by number, as g_mask.py and face-parsing.PyTorch have them; four classes alone agree
    assert [CELEBAMASK_HQ[k] for k in (2, 3, 13, 17, 18)] == ["nose", "eye_g", "hair", "neck", "cloth"]
    assert [BISENET[k] for k in (2, 6, 10, 14, 17, 18)] == ["l_brow", "eye_g", "nose", "neck", "hair", "hat"]
    table = lookup("celebamask-hq", "bisenet")
    assert [CELEBAMASK_HQ[k] for k in range(19) if table[k] == k] == ["background", "skin", "l_eye", "r_eye"]


@pytest.mark.parametrize("part", CELEBAMASK_HQ)
def test_each_part_keeps_its_name(part):
    mask = np.full((2, 2), CELEBAMASK_HQ.index(part))
    assert {BISENET[k] for k in celebamask_to_bisenet(mask).ravel()} == {part}


@given(masks)
def test_there_and_back_is_the_same(mask):
    assert np.array_equal(bisenet_to_celebamask(celebamask_to_bisenet(mask)), mask)
    assert np.array_equal(celebamask_to_bisenet(bisenet_to_celebamask(mask)), mask)


@given(masks)
def test_conversion_goes_by_name_pixel_by_pixel(mask):
    converted = convert(mask, "celebamask-hq", "bisenet")
    assert converted.dtype == np.int64
    assert [BISENET[k] for k in converted.ravel()] == [CELEBAMASK_HQ[k] for k in mask.ravel()]


def test_the_two_directions_are_not_the_same_table():
    # whoever takes the inverse for the table itself is off on most parts
    assert (lookup("celebamask-hq", "bisenet") != lookup("bisenet", "celebamask-hq")).sum() > 9


@pytest.mark.parametrize("wrong", [19, 255, -1])
def test_a_class_out_of_range_is_refused(wrong):
    mask = np.array([[0, wrong]])
    for use in (celebamask_to_bisenet, bisenet_to_celebamask, colourise, check_classes):
        with pytest.raises(ConcordError, match=f"class {wrong}: expected 0..18"):
            use(mask)


def test_float_masks_and_unknown_orders_are_refused():
    with pytest.raises(ConcordError, match="float64: expected integer"):
        colourise(np.zeros((2, 2)))
    with pytest.raises(ConcordError, match=r"unknown class order 'ade20k': expected one of celebamask-hq, bisenet"):
        convert(np.zeros((2, 2), int), "ade20k", "bisenet")


def test_colours_can_be_told_apart():
    colours = PALETTE.astype(int)
    distance = np.abs(colours[:, None] - colours[None]).sum(-1) + 999 * np.eye(19, dtype=int)
    assert distance.min() >= 90, divmod(int(distance.argmin()), 19)
    picture = colourise(np.arange(19).reshape(1, 19))
    assert picture.shape == (1, 19, 3)
    assert picture.dtype == np.uint8
    assert np.array_equal(picture[0], PALETTE)
