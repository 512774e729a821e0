"""Anchors: numbers with one published answer, measured through the runner and held against a window on both sides.

A checkpoint that was converted wrongly makes images, and a table prints their scores. An anchor is a row and a metric
whose value is known from elsewhere: outside of its window, something between the weights and the score is not what it
was. What was measured, and with which weights, stands in results/<profile>/calibration.json; tables read it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import Field, model_validator

from concord.data.files import atomic_path
from concord.data.schema import Strict, read_model

ANCHORS = Path(__file__).resolve().parent / "anchors.yaml"
FILE = "calibration.json"


class Anchor(Strict):
    """One number that is known. Without suite, row and metric it says in `not_run` how it can be had elsewhere."""

    name: str
    what: str
    suite: str | None = None
    row: str | None = None
    metric: str | None = None
    n: int = Field(ge=1)
    published: float | None = None
    window: list[float] = Field(min_length=2, max_length=2)  # lowest and highest value that still counts as right
    source: str
    not_run: str | None = None

    @model_validator(mode="after")
    def _whole(self) -> Anchor:
        placed = [self.suite is None, self.row is None, self.metric is None]
        if any(placed) != (self.not_run is not None) or any(placed) != all(placed):
            raise ValueError(f"anchor '{self.name}': expected suite, row and metric, or not_run alone")
        low, high = self.window
        if not low < high or not (self.published is None or low <= self.published <= high):
            raise ValueError(f"anchor '{self.name}': window {self.window}: expected low < high around {self.published}")
        return self

    def verdict(self, value: float) -> str:
        """'in' where the value lies in the anchor's window, ends included, else 'out'."""
        low, high = self.window
        return "in" if low <= value <= high else "out"


class Anchors(Strict):
    """The schema of benchmarks/anchors.yaml."""

    anchors: list[Anchor] = Field(min_length=1)


class Measured(Strict):
    """What an anchor's row gave. weights: of everything that made the row's images, name -> SHA-256."""

    value: float
    n: int
    window: list[float]
    verdict: str
    weights: dict[str, str]


def read_anchors(path: Path = ANCHORS) -> list[Anchor]:
    """The anchors, in the file's order; ConcordError naming the field that is wrong."""
    return read_model(path, Anchors).anchors


def keep(folder: Path, measured: Mapping[str, Measured]) -> Path:
    """Add to what the folder's calibration.json holds, whole or not at all; returns the file."""
    found = {name: one.model_dump() for name, one in (read_calibration(folder) | dict(measured)).items()}
    path = folder / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return path


def read_calibration(folder: Path) -> dict[str, Measured]:
    """What was measured for the results in a folder; nothing where no anchor was."""
    path = folder / FILE
    if not path.is_file():
        return {}
    return {name: Measured(**one) for name, one in json.loads(path.read_text(encoding="utf-8")).items()}


def calibration_notes(rows: Iterable[tuple[str, Mapping[str, object]]], folder: Path) -> list[str]:
    """Sentences for a table: what was calibrated, and which rows stand on weights that no anchor was measured with.

    rows: (title, weights of the row's run). folder: where the results of the profile lie.
    """
    found = read_calibration(folder)
    said = []
    for name, one in found.items():
        where = "within" if one.verdict == "in" else "OUTSIDE of"
        said.append(f"{name}: {one.value:.4g} is {where} {one.window[0]:g} to {one.window[1]:g} (n = {one.n}).")
    good = {sha for one in found.values() if one.verdict == "in" for sha in one.weights.values()}
    lacking: dict[str, list[str]] = {}
    for title, weights in rows:
        for name, sha in weights.items():
            if sha not in good:
                lacking.setdefault(str(name), []).append(title)
    said += [
        f"Not calibrated: {name} ({', '.join(titles)}); no anchor of `concord calibrate` is within its window with it."
        for name, titles in lacking.items()
    ]
    return said
