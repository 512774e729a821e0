"""What cards say to readers: budgets in captions, curves of fine-tuning; and titles of rows beside a method's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from concord.data.checkpoints import card_path
from concord.data.files import write_json
from concord.reports.assemble import _title
from concord.reports.tables.trainings import drawings, steps_of, with_budgets


def write_card(folder: Path, name: str, steps: int, earlier: tuple[int, ...] = (), curve: Any = None) -> None:
    card: dict[str, Any] = {"recipe": {"steps": steps}, "held_out": {"curve": curve} if curve else {}}
    if earlier:
        card["earlier"] = [{"recipe": {"steps": part}} for part in earlier]
    write_json(card_path(name, folder), card)


def test_a_budget_is_all_steps_of_the_weights(tmp_path: Path) -> None:
    write_card(tmp_path, "mt-faces", 3000, (1000, 200))
    assert with_budgets("for {steps:mt-faces} steps", tmp_path) == "for 4,200 steps"
    assert with_budgets("for {steps:mt-segmentation} steps", tmp_path) == "for 0 steps"
    assert with_budgets("{steps} of {x}", tmp_path) == "{steps} of {x}"  # no budget: as it is
    assert steps_of({}) == 0


def points(*values: float, key: str = "label_end") -> list[dict[str, Any]]:
    return [{"step": 100 * k, key: value, "n": 128} for k, value in enumerate(values)]


def test_curves_are_drawn_from_the_cards_that_are_there(tmp_path: Path) -> None:
    assert drawings("joint-generation", tmp_path) == []
    write_card(tmp_path, "mt-classifier", 400, curve=points(10.0))  # one point is no curve
    assert drawings("joint-generation", tmp_path) == []
    write_card(tmp_path, "mt-faces-classifier", 200, curve=points(60.0, 70.0, 75.0))
    (drawing,) = drawings("joint-generation", tmp_path)
    assert "n = 128 faces" in drawing.text
    assert "Not trained yet: mt-classifier." in drawing.text
    assert drawing.content[1] == [("MT-Diffusion-E, fine-tuned", [(0, 60.0), (100, 70.0), (200, 75.0)])]
    write_card(tmp_path, "mt-classifier", 400, curve=points(10.0, 40.0))
    (both,) = drawings("joint-generation", tmp_path)
    assert [label for label, _ in both.content[1]] == [
        "MT-Diffusion-E, fine-tuned",
        "single task, classifier after the output",
    ]
    assert "Not trained yet" not in both.text
    assert both.content != drawing.content  # another card draws the figure again
    both.draw(tmp_path / both.file.rpartition("/")[2])
    svg = (tmp_path / "training.svg").read_text(encoding="utf-8")
    assert svg.count("<path") > 4
    write_card(tmp_path, "mt-segmentation", 400, curve=points(10.0, 40.0, key="pixel_accuracy"))
    (masks,) = drawings("mask-from-image", tmp_path)
    assert masks.content[1] == [("single-task diffusion", [(0, 10.0), (100, 40.0)])]
    assert drawings("face-generation", tmp_path) == []


@pytest.mark.parametrize(
    ("row", "method", "title"),
    [
        ("mt-diffusion-pasted", "mt-diffusion-x", "MT-Diffusion-X, pasted"),
        ("mt-diffusion-joint", "mt-diffusion-seg", "MT-Diffusion (image and mask), joint"),
        ("mt-diffusion-x", "mt-diffusion-x", "MT-Diffusion-X"),
        ("mt-diffusion-parse-star", "", "MT-Diffusion*"),  # planned: the method of that name is not registered yet
        ("amdm-slerp", "amdm", "AMDM, slerp"),
        ("mt-diffusion", "mt-diffusion-x", "Mt diffusion"),  # nothing of its own to say: papers name such rows
        ("style-only", "style-aligned", "Style only"),  # one word alone is no kinship
        ("somebody-else", "nobody", "Somebody else"),
    ],
)
def test_rows_beside_a_methods_own_carry_its_title(row: str, method: str, title: str) -> None:
    assert _title(row, method) == title
