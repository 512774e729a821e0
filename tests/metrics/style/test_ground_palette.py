"""The ground's palette: against scikit-image's colours, closed forms, and what is no ground."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from skimage.color import deltaE_cie76, rgb2lab

from concord.data.datasets.layouts.layout import Layout
from concord.data.request import Conditions
from concord.metrics.base import Observation
from concord.metrics.style.ground_palette import WORST, GroundPalette, ground_of, palette_distance

LAYOUT = Layout.of("one", [(0.25, 0.25, 0.75, 0.5)], ["a red ball"])


def flat(*colour: float) -> torch.Tensor:
    return torch.tensor(colour)[:, None, None].expand(3, 16, 16).clone()


def score(image: torch.Tensor, original: torch.Tensor, layout: Layout = LAYOUT) -> tuple[float, str]:
    conditions = Conditions(layout=layout, style=np.zeros((16, 16, 3), np.uint8))
    (found,) = GroundPalette().score(Observation(image[None], [conditions], None, originals=original[None]))  # type: ignore[arg-type]
    return found.value, found.status


@pytest.mark.parametrize(
    "pair", [((0.2, 0.5, 0.7), (0.6, 0.5, 0.4)), ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0)), ((0.1, 0.9, 0.2),) * 2]
)
def test_two_flat_grounds_differ_by_their_colour_difference(pair: tuple[tuple[float, ...], ...]) -> None:
    one, other = pair
    expected = float(deltaE_cie76(rgb2lab(np.array(one)[None]), rgb2lab(np.array(other)[None]))[0])
    assert score(flat(*one), flat(*other)) == (pytest.approx(expected, rel=5e-3, abs=1e-6), "ok")  # OpenCV takes tables


def test_the_distributions_are_compared_channel_by_channel() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.random((60, 3)), rng.random((90, 3)) ** 2
    lab = [rgb2lab(x) for x in (one, other)]
    expected = np.sqrt(sum(wasserstein_distance(lab[0][:, k], lab[1][:, k]) ** 2 for k in range(3)))
    assert palette_distance(one, other) == pytest.approx(expected, rel=5e-3)


def test_where_the_stripes_lie_does_not_matter_but_both_colours_do() -> None:
    striped = flat(0.3, 0.4, 0.5)
    striped[:, :, ::2] = 0.7
    assert score(striped, striped.flip(-1))[0] < score(flat(0.5, 0.55, 0.6), striped)[0]
    assert score(striped.roll(4, 2), striped)[0] == pytest.approx(0, abs=1e-5)


def test_what_lies_in_the_boxes_does_not_matter() -> None:
    image, original = flat(0.5, 0.5, 0.5), flat(0.5, 0.5, 0.5)
    image[:, 4:8, 4:12] = torch.rand(3, 4, 8)
    assert score(image, original) == (pytest.approx(0, abs=1e-6), "ok")
    image[:, 8, 4] = 1  # one pixel below the box
    assert score(image, original)[0] > 0
    assert ground_of(LAYOUT, 16, 16).sum() == 256 - 4 * 8


def test_where_boxes_cover_all_the_whole_picture_counts() -> None:
    whole = Layout.of("all", [(0.0, 0.0, 1.0, 1.0)], ["a red ball"])
    image, original = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    pixels = [x.flatten(1).T.numpy() for x in (image, original)]
    assert score(image, original, whole) == (pytest.approx(palette_distance(*pixels)), "ok")
    assert score(image, original, whole)[0] > 0
    assert score(original, original, whole)[0] == 0


def test_broken_pixels_fail() -> None:
    assert score(flat(0, float("nan"), 0), flat(0, 0, 0)) == (WORST, "pixels not finite")


def test_no_colour_is_farther_than_the_worst() -> None:
    corners = np.array(np.meshgrid([0, 1], [0, 1], [0, 1])).reshape(3, -1).T.astype(float)
    assert max(palette_distance(a[None], b[None]) for a in corners for b in corners) < WORST
