"""The papers' own numbers (reports/papers/*.yaml): what was declared, to be printed beside what was measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from concord.data.errors import ConcordError

PAPERS = Path(__file__).resolve().parent / "papers"
_TABLE_KEYS = {
    "label", "title", "n", "note", "not_run", "unclear", "metrics", "labels", "measured", "ours", "scale", "rows",
}  # fmt: skip
_PAPER_KEYS = {"name", "title", "authors", "venue", "arxiv", "protocol", "tables"}

LABELS = {
    "fid": "FID", "is": "IS", "sfid": "sFID", "precision": "Precision", "recall": "Recall",
    "text_percent": "Text (%)", "mask_percent": "Mask (%)", "seg_distance": "Seg. distance",
    "id_distance": "ID distance", "text_distance": "Text distance", "landmark_distance": "Landmark distance",
    "content_loss": "Content loss", "style_loss": "Style loss", "seconds_per_image": "s / image",
}  # fmt: skip
"""Heads of columns that no metric of ours answers; a table's own `labels` come first."""


@dataclass(frozen=True)
class DeclaredTable:
    """One table as the paper prints it. rows: row name -> metric key -> value (None: not reported).

    measured: metric key -> how the paper measured it, in a few words.
    ours: metric key -> our metrics that answer it, the nearest first, in place of those that say so by `paper_key`;
    scale: metric key -> what a printed number is multiplied with to be in our metric's unit.
    not_run: why no suite answers the table, shown until one does.
    """

    name: str
    label: str  # 'Table 1'
    title: str
    metrics: dict[str, str]  # metric key -> 'higher' or 'lower'
    rows: dict[str, dict[str, float | None]]
    titles: dict[str, str]  # row name -> as the paper calls it
    n: dict[str, int] = field(default_factory=dict)  # metric key -> number of images, where known
    note: str = ""
    unclear: dict[str, str] = field(default_factory=dict)  # 'row.metric' -> why its print cannot be read for certain
    labels: dict[str, str] = field(default_factory=dict)  # metric key -> head of its column
    measured: dict[str, str] = field(default_factory=dict)
    ours: dict[str, tuple[str, ...]] = field(default_factory=dict)
    scale: dict[str, float] = field(default_factory=dict)
    not_run: str = ""

    def value(self, row: str, metric: str | None) -> float | None:
        """What the paper reports, in the unit of our metric, or None."""
        found = self.rows.get(row, {}).get(metric) if metric else None
        if found is None or metric is None or metric not in self.scale:
            return found
        return round(found * self.scale[metric], 9)  # 0.58 * 100 is 58, not 57.99999999999999

    def decimals(self, metric: str) -> int:
        """How many decimals the paper prints in a column, in the unit of our metric."""
        printed = [row[metric] for row in self.rows.values() if row.get(metric) is not None]
        digits = max((len(repr(value).partition(".")[2]) for value in printed), default=0)
        return max(0, digits - round(math.log10(self.scale.get(metric, 1))))

    def head(self, metric: str) -> str:
        """The head of a column that no metric of ours answers."""
        return self.labels.get(metric) or LABELS.get(metric) or metric.replace("_", " ").capitalize()

    def keys_of(self, paper_keys: Mapping[str, str | None]) -> dict[str, str]:
        """metric of ours -> the key that it answers, each key answered once.

        paper_keys: for every metric of a suite, in order, the key that the metric itself says it answers.
        """
        answered: dict[str, str] = {}
        for key in self.metrics:
            candidates = self.ours.get(key) or [name for name, said in paper_keys.items() if said == key]
            free = [name for name in candidates if name in paper_keys and name not in answered]
            if free:
                answered[free[0]] = key
        return answered


@dataclass(frozen=True)
class Paper:
    """A paper, its protocol in sentences, and its tables."""

    name: str
    title: str
    authors: str
    venue: str
    arxiv: str
    protocol: tuple[str, ...]
    tables: dict[str, DeclaredTable]

    @property
    def citation(self) -> str:
        return f"{self.authors}. {self.title}. {self.venue}. arXiv:{self.arxiv}"

    @property
    def url(self) -> str:
        return f"https://arxiv.org/abs/{self.arxiv}"


def paper_names(folder: Path = PAPERS) -> list[str]:
    """Every paper whose tables are declared."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


@cache
def load_paper(name: str, folder: Path = PAPERS) -> Paper:
    """The paper of that name; raises ConcordError that lists the known ones, or names the field that is wrong."""
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(paper_names(folder))
        raise ConcordError(f"unknown paper '{name}': expected one of {known} (reports/papers)")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConcordError(f"{path}: not valid YAML ({str(error).splitlines()[0]})") from None
    _known_keys(content, _PAPER_KEYS, f"{path}")
    tables = {key: _table(key, value, f"{path}, table '{key}'") for key, value in content["tables"].items()}
    return Paper(
        content["name"], content["title"], content["authors"], content["venue"], str(content["arxiv"]),
        tuple(content.get("protocol", ())), tables,
    )  # fmt: skip


def declared_table(paper: str, table: str) -> DeclaredTable:
    """One table of a paper; raises ConcordError that lists the tables it has."""
    tables = load_paper(paper).tables
    if table not in tables:
        raise ConcordError(f"paper '{paper}' has no table '{table}': expected one of {', '.join(tables)}")
    return tables[table]


def _known_keys(value: Any, known: Iterable[str], where: str) -> None:
    if not isinstance(value, dict):
        raise ConcordError(f"{where}: expected a mapping, got {type(value).__name__}")
    unknown = set(value) - set(known)
    if unknown:
        raise ConcordError(f"{where}: unknown key '{min(unknown)}'; expected one of {', '.join(sorted(known))}")


def _table(name: str, value: Any, where: str) -> DeclaredTable:
    _known_keys(value, _TABLE_KEYS, where)
    metrics = dict(value["metrics"])
    for metric, direction in metrics.items():
        if direction not in ("higher", "lower"):
            raise ConcordError(f"{where}, metric '{metric}': expected 'higher' or 'lower', got {direction!r}")
    for part in ("n", "labels", "measured", "ours", "scale"):
        _known_keys(value.get(part, {}), metrics, f"{where}, '{part}'")
    rows, titles = {}, {}
    for row, cells in value["rows"].items():
        _known_keys(cells, {"title", *metrics}, f"{where}, row '{row}'")
        titles[row] = cells.get("title", row)
        rows[row] = {metric: cells.get(metric) for metric in metrics}
        for metric, number in rows[row].items():
            if number is not None and (not isinstance(number, int | float) or isinstance(number, bool)):
                raise ConcordError(
                    f"{where}, row '{row}', metric '{metric}': expected a number or null, got {number!r}"
                )
    unclear = value.get("unclear", {})
    _known_keys(unclear, {f"{row}.{metric}" for row in rows for metric in metrics}, f"{where}, 'unclear'")
    ours = {key: (one,) if isinstance(one, str) else tuple(one) for key, one in value.get("ours", {}).items()}
    return DeclaredTable(
        name, value["label"], value["title"], metrics, rows, titles, dict(value.get("n", {})), value.get("note", ""),
        dict(unclear), dict(value.get("labels", {})), dict(value.get("measured", {})), ours,
        dict(value.get("scale", {})), value.get("not_run", ""),
    )  # fmt: skip
