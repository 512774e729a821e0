"""Figures of guided sampling: which are drawn from which traces, and that they show the numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from concord.reports.figures.guidance import COSINE, LOSS, cosine_figure, drawings, loss_figure

STEPS = np.array([900, 600, 300, 0])


def trace(cosine: float | None = 0.5, losses: tuple[str, ...] = ("identity", "landmarks")) -> dict[str, Any]:
    found: dict[str, Any] = {"requests": np.array(["1-0", "2-0"])}
    if cosine is not None:
        found[COSINE] = np.full((2, 4, 1), cosine, np.float16)
        found[f"{COSINE}_steps"], found[f"{COSINE}_names"] = STEPS, np.array(["identity|landmarks"])
    if losses:
        values = np.linspace(1, 0.2, 4)[None, :, None] * np.arange(1, len(losses) + 1)
        found[LOSS] = np.repeat(values, 2, axis=0).astype(np.float16)
        found[f"{LOSS}_steps"], found[f"{LOSS}_names"] = STEPS, np.array(losses)
    return found


def test_what_is_drawn_follows_from_the_traces() -> None:
    assert drawings("toys", {}) == []
    assert drawings("toys", {"A": {"influence": np.zeros((1, 2, 2, 4, 4)), "requests": np.array(["1-0"])}}) == []
    both = drawings("toys", {"A": trace(), "B": trace(None)})
    assert [drawing.file for drawing in both] == ["toys/gradient-cosine.png", "toys/condition-loss.png"]
    assert "2 traced requests" in both[0].text
    assert [drawing.file for drawing in drawings("toys", {"A": trace(0.1, ())})] == ["toys/gradient-cosine.png"]


def test_a_cosine_of_no_step_is_not_drawn() -> None:
    """Conditions whose windows never meet: the trace has no such step."""
    empty = {**trace(losses=()), COSINE: np.zeros((2, 0, 1))}
    assert drawings("toys", {"A": empty}) == []


def test_content_changes_with_the_numbers() -> None:
    def content(cosine: float) -> str:
        return repr(drawings("toys", {"A": trace(cosine)})[0].content)

    assert content(0.5) == content(0.5)
    assert content(0.5) != content(0.25)


def coloured(path: Path, colour: tuple[int, int, int]) -> np.ndarray:
    """How many pixels of each row of the image are of that colour."""
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return (np.abs(picture - np.array(colour)).sum(-1) < 30).sum(axis=1)


def test_a_higher_cosine_is_drawn_higher(tmp_path: Path) -> None:
    blue = (0x3B, 0x6F, 0xD4)
    heights = []
    for cosine in (0.8, -0.8):
        path = tmp_path / f"{cosine}.png"
        cosine_figure({"A $method": trace(cosine)}, "Title", path)
        heights.append(int(coloured(path, blue).argmax()))  # the curve is flat, and longer than the legend's line
        assert "var(--line0)" in path.with_suffix(".svg").read_text(encoding="utf-8")
    assert heights[0] < heights[1]


@pytest.mark.parametrize("rows", [{"A": trace()}, {"A": trace(), "B": trace(losses=("landmarks",))}])
def test_losses_have_a_panel_for_each_condition(rows: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "loss.png"
    loss_figure(rows, "Title", path)
    with Image.open(path) as picture:
        assert picture.width == pytest.approx(1.6 * (330 * 2 + 90), abs=2)
    assert coloured(path, (0x3B, 0x6F, 0xD4)).sum() > 200
    assert (coloured(path, (0xD9, 0x62, 0x2B)).sum() > 100) == ("B" in rows)
