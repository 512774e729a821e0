"""Style references: a pure function of an index, different from each other, the same image at every size."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from concord.data.synthetic.styles import STYLES, TEXTURES, palette, style_image, style_of


def test_the_same_index_gives_the_same_bytes() -> None:
    first = [style_image(i).tobytes() for i in (3, 0, 7)]
    assert first == [style_image(i).tobytes() for i in (3, 0, 7)]
    assert len({style_image(i).tobytes() for i in range(24)}) == 24


@pytest.mark.parametrize("texture", range(len(TEXTURES)))
def test_every_texture_is_a_picture_with_contrast(texture: int) -> None:
    picture = style_image(texture)
    assert picture.shape == (64, 64, 3)
    assert picture.dtype == np.uint8
    assert picture.std() > 8
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20


@pytest.mark.parametrize("texture", range(len(TEXTURES)))
def test_a_larger_picture_shows_the_same(texture: int) -> None:
    """Lengths are shares of the side: the means over a coarse grid hardly change (chance per pixel may)."""
    small, large = style_image(texture).astype(float), style_image(texture, 128).astype(float)
    blocks = [picture.reshape(8, len(picture) // 8, 8, len(picture) // 8, 3).mean((1, 3)) for picture in (small, large)]
    assert np.abs(blocks[0] - blocks[1]).mean() < 8


def test_items_are_spread_over_the_styles() -> None:
    given = Counter(style_of(str(i)) for i in range(27_000, 30_000))
    assert set(given) <= set(range(STYLES))
    assert len(given) == STYLES
    assert max(given.values()) < 35  # 12.5 each on average
    assert style_of("27003") == style_of("27003")


def test_palettes_run_from_dark_to_light() -> None:
    for seed in range(40):
        value = palette(np.random.default_rng(seed)).max(axis=1)
        assert (np.diff(value) > 0).all()
        assert value[0] <= 0.4 * 255 + 1
        assert value[-1] >= 0.85 * 255 - 1


@pytest.mark.parametrize(("index", "size"), [(-1, 64), (0, 4)])
def test_bad_arguments(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        style_image(index, size)
