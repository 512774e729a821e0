"""The papers' own numbers (reports/papers/*.yaml): what was published, to be printed beside what was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PlainValidator, model_validator

from concord.data.errors import ConcordError
from concord.data.schema import Strict, read_model

PAPERS = Path(__file__).resolve().parent / "papers"
LABELS = {
    "fid": "FID", "is": "IS", "sfid": "sFID", "precision": "Precision", "recall": "Recall",
    "text_percent": "Text (%)", "mask_percent": "Mask (%)", "seg_distance": "Seg. distance",
    "id_distance": "ID distance", "text_distance": "Text distance", "landmark_distance": "Landmark distance",
    "content_loss": "Content loss", "style_loss": "Style loss", "seconds_per_image": "s / image",
}  # fmt: skip  # a table
"""Heads of columns that no metric of ours answers; a table's own `labels` come first."""


def _printed(value: object) -> float | None:
    """A number as it is written: a whole one stays whole, as its paper printed no decimals."""
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    raise ValueError(f"expected a number or null, got {value!r}")


Printed = Annotated[float | None, PlainValidator(_printed)]


class PublishedTable(Strict):
    """One table as the paper prints it. rows: row name -> metric key -> value (None: not reported).

    measured: metric key -> how the paper measured it, in a few words.
    ours: metric key -> our metrics that answer it, the nearest first, in place of those that say so by `paper_key`;
    scale: metric key -> what a printed number is multiplied with to be in our metric's unit.
    other_scale: metric keys whose numbers no metric of ours can be compared with, only their order.
    not_run: why no suite answers the table, shown until one does.
    """

    name: str
    label: str  # 'Table 1'
    title: str
    metrics: dict[str, Literal["higher", "lower"]]
    rows: dict[str, dict[str, Printed]]
    titles: dict[str, str]  # row name -> as the paper calls it
    n: dict[str, int] = Field(default_factory=dict)  # metric key -> number of images, where known
    note: str = ""
    unclear: dict[str, str] = Field(default_factory=dict)  # 'row.metric' -> why its print cannot be read for certain
    labels: dict[str, str] = Field(default_factory=dict)  # metric key -> head of its column
    measured: dict[str, str] = Field(default_factory=dict)
    ours: dict[str, list[str]] = Field(default_factory=dict)
    scale: dict[str, float] = Field(default_factory=dict)
    other_scale: list[str] = Field(default_factory=list)
    not_run: str = ""
    own: list[str] = Field(default_factory=list)  # the paper's own rows
    baselines: list[str] = Field(default_factory=list)  # what it says that its own rows are better than

    @model_validator(mode="before")
    @classmethod
    def _as_written(cls, value: object) -> object:
        """In the file a row's title stands among its cells, cells that are not reported may be left out, and one metric
        that answers a key needs no list."""
        if not isinstance(value, dict) or not isinstance(value.get("rows"), dict):
            return value
        metrics, rows, titles = value.get("metrics") or {}, {}, {}
        for row, cells in value["rows"].items():
            rows[row] = {**dict.fromkeys(metrics), **cells} if isinstance(cells, dict) else cells
            titles[row] = rows[row].pop("title", row) if isinstance(cells, dict) else row
        ours = {key: [names] if isinstance(names, str) else names for key, names in value.get("ours", {}).items()}
        return {**value, "rows": rows, "titles": titles, "ours": ours}

    @model_validator(mode="after")
    def _known_keys(self) -> PublishedTable:
        named: dict[str, Mapping[str, object]] = {
            "n": self.n,
            "labels": self.labels,
            "measured": self.measured,
            "ours": self.ours,
            "scale": self.scale,
            "other_scale": dict.fromkeys(self.other_scale),
            **{f"rows.{row}": cells for row, cells in self.rows.items()},
            "unclear": self.unclear,
        }
        for part, rows in {"own": self.own, "baselines": self.baselines}.items():
            if lost := [row for row in rows if row not in self.rows]:
                raise ValueError(f"'{part}': unknown row '{lost[0]}'; expected one of {', '.join(self.rows)}")
        for part, found in named.items():
            known = list(self.metrics)
            if part == "unclear":
                known = [f"{row}.{metric}" for row in self.rows for metric in self.metrics]
            if unknown := sorted(set(found) - set(known)):
                raise ValueError(f"'{part}': unknown key '{unknown[0]}'; expected one of {', '.join(known)}")
        return self

    def value(self, row: str, metric: str | None) -> float | None:
        """What the paper reports, in the unit of our metric, or None."""
        found = self.rows.get(row, {}).get(metric) if metric else None
        if found is None or metric is None or metric not in self.scale:
            return found
        return round(found * self.scale[metric], 9)  # 0.58 * 100 is 58, not 57.99999999999999

    def claims(self, metric: str, first: str, second: str) -> bool:
        """Whether the paper makes a claim of this order: of its column's best row, or of its own row and a baseline."""
        printed = {row: value for row, cells in self.rows.items() if (value := cells.get(metric)) is not None}
        best = (max if self.metrics[metric] == "higher" else min)(printed.values(), default=None)
        ours = (first in self.own and second in self.baselines) or (second in self.own and first in self.baselines)
        return ours or best in (printed.get(first), printed.get(second))

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


class Paper(Strict):
    """A paper, its protocol in sentences, and its tables."""

    name: str
    title: str
    authors: str
    venue: str
    arxiv: str
    protocol: list[str] = Field(default_factory=list)
    tables: dict[str, PublishedTable]

    @model_validator(mode="before")
    @classmethod
    def _named_tables(cls, value: object) -> object:
        """In the file a table's name is its key."""
        if not isinstance(value, dict) or not isinstance(value.get("tables"), dict):
            return value
        tables = {key: {**one, "name": key} if isinstance(one, dict) else one for key, one in value["tables"].items()}
        return {**value, "tables": tables}

    @property
    def citation(self) -> str:
        return f"{self.authors}. {self.title}. {self.venue}. arXiv:{self.arxiv}"

    @property
    def url(self) -> str:
        return f"https://arxiv.org/abs/{self.arxiv}"


def paper_names(folder: Path = PAPERS) -> list[str]:
    """Every paper whose tables are here."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


@cache
def load_paper(name: str, folder: Path = PAPERS) -> Paper:
    """The paper of that name; raises ConcordError that lists the known ones, or names the field that is wrong."""
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(paper_names(folder))
        raise ConcordError(f"unknown paper '{name}': expected one of {known} (reports/papers)")
    return read_model(path, Paper)


NO_TABLE = PublishedTable(name="", label="", title="", metrics={}, rows={}, titles={})
"""What a suite answers that names no paper."""


def answer_mistakes(paper: str, table: str) -> list[str]:
    """What is wrong with the paper and the table that a suite names, in a few words; nothing where it names none."""
    try:
        published_table(paper, table)
    except ConcordError as error:
        return [str(error)]
    return []


def published_table(paper: str, table: str) -> PublishedTable:
    """One table of a paper, an empty one for no paper; raises ConcordError that lists the tables it has."""
    if not paper:
        return NO_TABLE
    tables = load_paper(paper).tables
    if table not in tables:
        raise ConcordError(f"paper '{paper}' has no table '{table}': expected one of {', '.join(tables)}")
    return tables[table]
