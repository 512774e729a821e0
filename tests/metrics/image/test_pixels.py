"""PSNR and SSIM against loops over pixels, scikit-image, and at their ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from concord.data.errors import ConcordError
from concord.data.request import Conditions
from concord.metrics.base import OK, Observation, Score
from concord.metrics.image.psnr import PSNR
from concord.metrics.image.ssim import SSIM


def observe(images: np.ndarray, originals: np.ndarray | None) -> Observation:
    first = torch.tensor(images, dtype=torch.float32)
    second = None if originals is None else torch.tensor(originals, dtype=torch.float32)
    return Observation(first, [Conditions()] * len(first), None, second)  # type: ignore[arg-type]


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    """Smooth images (3, 3, 24, 30) in 8-bit steps, and noisy ones."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:24, :30]
    smooth = np.stack([[(np.sin(x / (3 + i + c)) + np.cos(y / (4 + c)) + 2) / 4 for c in range(3)] for i in range(3)])
    noisy = np.clip(smooth + rng.normal(scale=[[[[0.02]]], [[[0.1]]], [[[0.4]]]], size=smooth.shape), 0, 1)
    return np.round(noisy * 255) / 255, np.round(smooth * 255) / 255


def test_psnr_is_its_definition(pair: tuple[np.ndarray, np.ndarray]) -> None:
    scores = PSNR().score(observe(*pair))
    for score, image, original in zip(scores, *(x.astype(np.float32).astype(np.float64) for x in pair), strict=True):
        squares = [(a - b) ** 2 for a, b in zip(image.ravel(), original.ravel(), strict=True)]
        assert score == Score(pytest.approx(-10 * math.log10(math.fsum(squares) / len(squares)), rel=2e-7), OK)
    assert scores[0].value > scores[1].value > scores[2].value > 5


def test_psnr_of_one_grey_level_and_of_black_on_white() -> None:
    black = np.zeros((3, 3, 4, 4))
    images = np.stack([black[0], black[0] + 1 / 255, black[0] + 1])
    values = [score.value for score in PSNR().score(observe(images, black))]
    assert values == pytest.approx([100, 20 * math.log10(255), 0], abs=1e-5)
    assert values[0] == 100  # the same image: infinite, counted as 100


def test_psnr_is_cut_at_100() -> None:
    original = np.zeros((2, 3, 8, 8))
    images = original + np.array([2e-6, 1e-5])[:, None, None, None]
    assert [score.value for score in PSNR().score(observe(images, original))] == [100, pytest.approx(100, abs=1e-4)]


def test_ssim_is_scikit_images(pair: tuple[np.ndarray, np.ndarray]) -> None:
    skimage = pytest.importorskip("skimage.metrics")
    for score, image, original in zip(SSIM().score(observe(*pair)), *pair, strict=True):
        window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        expected = skimage.structural_similarity(image, original, data_range=1.0, channel_axis=0, **window)
        assert score.status == OK
        assert score.value == pytest.approx(expected, abs=1e-7)


def test_ssim_is_its_definition(pair: tuple[np.ndarray, np.ndarray]) -> None:
    """The formula written out, window by window, on the middle image."""
    axis = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(axis, axis) / axis.sum() ** 2
    values = []
    for x, y in zip(pair[0][1], pair[1][1], strict=True):
        for top in range(24 - 10):
            for left in range(30 - 10):
                a, b = (z[top : top + 11, left : left + 11] for z in (x, y))
                ma, mb = (window * a).sum(), (window * b).sum()
                va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
                both = (window * (a - ma) * (b - mb)).sum()
                numerator = (2 * ma * mb + 1e-4) * (2 * both + 9e-4)
                values.append(numerator / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))
    assert SSIM().score(observe(*pair))[1].value == pytest.approx(np.mean(values), abs=1e-7)


def test_ssim_ends(pair: tuple[np.ndarray, np.ndarray]) -> None:
    original = pair[1]
    assert [score.value for score in SSIM().score(observe(original, original))] == pytest.approx([1, 1, 1], abs=1e-12)
    board = np.indices((16, 16)).sum(axis=0) % 2 * np.ones((1, 3, 1, 1))
    assert SSIM().score(observe(1 - board, board))[0].value < -0.9  # the negative of a chessboard


@pytest.mark.parametrize("metric", [PSNR(), SSIM()])
def test_order_and_batch_change_nothing(metric: PSNR | SSIM, pair: tuple[np.ndarray, np.ndarray]) -> None:
    whole = metric.score(observe(*pair))
    assert metric.score(observe(pair[0][::-1].copy(), pair[1][::-1].copy())) == whole[::-1]
    assert [metric.score(observe(pair[0][i : i + 1], pair[1][i : i + 1]))[0] for i in range(3)] == whole


@pytest.mark.parametrize("metric", [PSNR(), SSIM()])
def test_bad_input(metric: PSNR | SSIM, pair: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(ConcordError, match="compares with the original images"):
        metric.score(observe(pair[0], None))
    with pytest.raises(ConcordError, match=f"metric '{metric.name}': images are 30x24 pixels, their originals 20x24"):
        metric.score(observe(pair[0], pair[1][..., :20]))
    broken = pair[0].copy()
    broken[1, 0, 12, 12] = np.nan
    scores = metric.score(observe(broken, pair[1]))
    assert scores[1] == Score(metric.bounds[0], "pixels not finite")
    assert scores[0].status == scores[2].status == OK


def test_ssim_of_too_small_an_image() -> None:
    with pytest.raises(ConcordError, match="images of 10x10 pixels; its window needs at least 11"):
        SSIM().score(observe(np.zeros((1, 3, 10, 10)), np.zeros((1, 3, 10, 10))))
    assert SSIM().score(observe(np.zeros((1, 3, 11, 11)), np.zeros((1, 3, 11, 11)))) == [Score(1.0)]
