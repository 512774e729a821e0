"""What the cards of trained weights say to readers: budgets in captions, and accuracy over the steps of a training.

A suite's differences may hold '{steps:NAME}': for how many steps the weights of that name were trained, all parts
together, as their card says; 0 where there are none yet. So a caption never states a budget that is not the weights'.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from concord.data.checkpoints import EMBEDDED, card_path
from concord.data.conditions.drawing import LINES
from concord.data.files import read_json
from concord.reports.figures.grid import EDGE, FAINT, GRID, INK, STYLES, new_figure, save_plot
from concord.reports.figures.guidance import Drawing

STEPS = re.compile(r"\{steps:([a-z0-9-]+)\}")


def card_of(name: str, folder: Path = EMBEDDED) -> dict[str, object]:
    """The card of some weights, empty where they are not trained."""
    path = card_path(name, folder)
    found: dict[str, object] = read_json(path) if path.is_file() else {}
    return found


def parts_of(card: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The trainings that made the weights of a card, the parts before `--further` included; none of an empty card."""
    return [card, *card.get("earlier", [])] if card else []


def steps_of(card: Mapping[str, object]) -> int:
    """All steps that the weights of a card were trained for."""
    return sum(int(part["recipe"]["steps"]) for part in parts_of(card))


def with_budgets(text: str, folder: Path = EMBEDDED) -> str:
    """A caption with its budgets in numbers: '{steps:mt-faces}' becomes '1,200'."""
    return STEPS.sub(lambda found: f"{steps_of(card_of(found[1], folder)):,}", text)


# -------------------------------------------------------------------------------------------------------------- curves


@dataclass(frozen=True)
class Line:
    """One curve: whose card holds it, which of its values, and what it is called."""

    card: str
    key: str
    label: str


CURVES: dict[str, tuple[str, str, tuple[Line, ...]]] = {
    "joint-generation": (
        "Accuracy of the label heads over the steps of supervised training",
        "Percent of held-out faces whose class of age and sex (12) is found in one pass at t = 0. MT-Diffusion's "
        "network is fine-tuned as a classifier from where the joint training left it; the single-task classifier has "
        "the same trunk and heads and starts from the unconditional model. Compare Figure 6 of the paper, which prints "
        "no numbers: there MT-Diffusion-E's classifier stays above the single-task one, by a gap that becomes smaller.",
        (
            Line("mt-faces-classifier", "label_middle", "MT-Diffusion-M, fine-tuned"),
            Line("mt-faces-classifier", "label_end", "MT-Diffusion-E, fine-tuned"),
            Line("mt-classifier", "label_middle", "single task, head of the middle block"),
            Line("mt-classifier", "label_end", "single task, classifier after the output"),
        ),
    ),
    "mask-from-image": (
        "Accuracy of the masks over the steps of training",
        "Percent of the pixels of held-out faces that get the right class, in 4 steps. MT-Diffusion's network is "
        "fine-tuned on images and masks alone, from where the training on three modalities left it; the single-task "
        "diffusion has the same trunk and starts from the unconditional model.",
        (
            Line("mt-faces-segmentation", "pixel_accuracy", "MT-Diffusion, fine-tuned"),
            Line("mt-segmentation", "pixel_accuracy", "single-task diffusion"),
        ),
    ),
}
"""By suite: title, what is said below, and the lines of its figure."""


def drawings(suite: str, folder: Path = EMBEDDED) -> list[Drawing]:
    """The figure of a suite whose networks have curves in their cards; none where no card has one."""
    if suite not in CURVES:
        return []
    title, text, lines = CURVES[suite]
    cards = {line.card: card_of(line.card, folder) for line in lines}
    found = [(line, points) for line in lines if len(points := _points(cards[line.card], line.key)) > 1]
    if not found:
        return []
    n = sorted({int(point["n"]) for card in cards.values() for point in _curve(card)})
    told = f"{text} n = {', '.join(map(str, n))} faces; one training each."
    missing = sorted({line.card for line in lines} - {line.card for line, _ in found})
    if missing:
        told += f" Not trained yet: {', '.join(missing)}."
    shown = [(line.label, points) for line, points in found]
    draw: Callable[[Path], None] = partial(curve_figure, shown, title)
    alt = f"Curves of the accuracy over the steps: {', '.join(label for label, _ in shown)}"
    return [Drawing(f"{suite}/training.png", title, told, alt, (title, shown), draw)]


def _curve(card: Mapping[str, Any]) -> list[dict[str, Any]]:
    return list((card.get("held_out") or {}).get("curve") or [])


def _points(card: Mapping[str, object], key: str) -> list[tuple[int, float]]:
    return [(int(point["step"]), float(point[key])) for point in _curve(card) if key in point]


def curve_figure(lines: Sequence[tuple[str, Sequence[tuple[int, float]]]], title: str, path: Path) -> None:
    """One panel; lines: (label, (step, percent) in order)."""
    figure = new_figure(640, 400)
    axes = figure.subplots()
    for number, (label, points) in enumerate(lines):
        steps, values = zip(*points, strict=True)
        axes.plot(
            steps,
            values,
            color=LINES[number % len(LINES)],
            linestyle=STYLES[number % len(STYLES)],
            marker="o",
            markersize=3.5,
            linewidth=1.8,
            label=label,
        )
    axes.set_xlabel("steps", fontsize=8.5, color=FAINT)
    axes.set_ylabel("right, %", fontsize=8.5, color=FAINT)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_facecolor("none")
    axes.tick_params(labelsize=8, colors=FAINT, length=2)
    for spine in axes.spines.values():
        spine.set_edgecolor(EDGE)
    axes.legend(fontsize=8, frameon=False, loc="best", labelcolor=INK)
    figure.suptitle(title, x=0.02, ha="left", fontsize=11, weight="bold", color=INK)
    figure.tight_layout(rect=(0, 0, 1, 1))
    save_plot(figure, path)
