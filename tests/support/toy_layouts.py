"""A small world of layouts for tests: a suite, files of layouts, a method that paints boxes, judges without weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from given_networks import seen_by
from layout_world import RGB, inside

from concord.data.datasets.layouts.layout import Layout, coco_mig_entries
from concord.data.networks import Networks
from concord.methods.base import Batch, Method, Trace

SUITE = """
name: boxes
title: Boxes
paper: amdm
table: table-1
dataset: layouts
conditions: [layout]
rows:
  - {name: interactdiffusion, method: painter}
metrics: [instance-success, interaction-success, layout-joint, layout-miou]
reference: [ground-truth, shuffled]
grid: 2
"""


def write_suite(folder: Path, **changes: str) -> Path:
    """The suite `boxes`; changes are lines: write_suite(folder, dataset="dataset: faces")."""
    lines = SUITE.strip().splitlines()
    for key, line in changes.items():
        lines = [line if old.startswith(f"{key}:") else old for old in lines]
    path = folder / "boxes.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def write_layouts(folder: Path, levels: list[int], interactions: dict[str, Any] | None = None) -> Path:
    """A folder with a COCO-MIG file of layouts of these levels, their boxes side by side, and no images."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(RGB)
    layouts = {}
    for number, level in enumerate(levels):
        boxes = [(k / level + 0.01, 0.1, (k + 1) / level - 0.01, 0.9) for k in range(level)]
        labels = [f"a {names[(number + k) % len(names)]} car" for k in range(level)]
        layouts[str(number)] = Layout.of(f"a photo of {level}", boxes, labels, str(900 + number))
    (folder / "mig_bench.json").write_text(json.dumps(coco_mig_entries(layouts)))
    if interactions is not None:
        (folder / "interactions.json").write_text(json.dumps(interactions))
    return folder


class Painter(Method):
    """Every box in its colour, the last one in violet, which is nobody's."""

    name, title, paper = "painter", "Painter", "none"
    conditions = frozenset({"layout"})
    training_free = True

    class Params(Method.Params):
        steps: int = 1

    mixer = torch.nn.Identity()

    def denoisers(self) -> dict[str, torch.nn.Module]:
        return {"mixer": self.mixer}

    def sample(self, batch: Batch, trace: Trace) -> torch.Tensor:
        images = []
        for conditions in batch.conditions:
            image = np.full((64, 64, 3), 128, np.uint8)
            layout = conditions.layout
            assert isinstance(layout, Layout)
            for number, (box, colour) in enumerate(zip(layout.boxes, layout.colours, strict=True)):
                last = number == layout.level - 1
                image[inside((64, 64), box)] = (160, 40, 220) if last else RGB[str(colour)]
            images.append(torch.from_numpy(image).permute(2, 0, 1).float() / 255)
        found: torch.Tensor = self.mixer(torch.stack(images))
        return found


class Eyes:
    """Detector, segmenter and judge of interactions: finds `boxes` whatever is asked for, and sees links alone."""

    side = 64

    def __init__(self, boxes: list[tuple[float, ...]]) -> None:
        self.boxes = np.array(boxes)
        kinds = ("detector", "segmenter", "interactions")
        self.cards = {kind: {"name": f"toy-{kind}", "sha256": str(k) * 64} for k, kind in enumerate(kinds)}

    def detect(self, image: np.ndarray, phrase: str) -> np.ndarray:
        return self.boxes

    def segment(self, image: np.ndarray, box: np.ndarray) -> np.ndarray:
        return inside(image.shape[:2], box)

    def judge(self, image: np.ndarray, subject: np.ndarray, other: np.ndarray) -> str | None:
        return "link"


def judges(boxes: list[tuple[float, ...]]) -> Networks:
    """Judges without weights, whose detector finds these boxes."""
    return seen_by(Eyes(boxes))
