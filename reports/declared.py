"""The papers' own numbers (reports/papers/*.yaml): what was declared, to be printed beside what was measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from data.errors import ConcordError

PAPERS = Path(__file__).parent / "papers"
_TABLE_KEYS = {"label", "title", "n", "note", "unclear", "metrics", "rows"}
_PAPER_KEYS = {"name", "title", "authors", "venue", "arxiv", "protocol", "tables"}


@dataclass(frozen=True)
class DeclaredTable:
    """One table as the paper prints it. rows: row name -> metric key -> value (None: not reported)."""

    name: str
    label: str  # 'Table 1'
    title: str
    metrics: dict[str, str]  # metric key -> 'higher' or 'lower'
    rows: dict[str, dict[str, float | None]]
    titles: dict[str, str]  # row name -> as the paper calls it
    n: dict[str, int] = field(default_factory=dict)  # metric key -> number of images, where known
    note: str = ""
    unclear: tuple[str, ...] = ()  # 'row.metric' whose print cannot be read for certain

    def value(self, row: str, metric: str | None) -> float | None:
        """What the paper reports, or None."""
        return self.rows.get(row, {}).get(metric) if metric else None


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


@cache
def load_paper(name: str, folder: Path = PAPERS) -> Paper:
    """The paper of that name; raises ConcordError that lists the known ones, or names the field that is wrong."""
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
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


def _known_keys(value: Any, known: set[str], where: str) -> None:
    if not isinstance(value, dict):
        raise ConcordError(f"{where}: expected a mapping, got {type(value).__name__}")
    unknown = set(value) - known
    if unknown:
        raise ConcordError(f"{where}: unknown key '{min(unknown)}'; expected one of {', '.join(sorted(known))}")


def _table(name: str, value: Any, where: str) -> DeclaredTable:
    _known_keys(value, _TABLE_KEYS, where)
    metrics = dict(value["metrics"])
    for metric, direction in metrics.items():
        if direction not in ("higher", "lower"):
            raise ConcordError(f"{where}, metric '{metric}': expected 'higher' or 'lower', got {direction!r}")
    rows, titles = {}, {}
    for row, cells in value["rows"].items():
        _known_keys(cells, {"title", *metrics}, f"{where}, row '{row}'")
        titles[row] = cells.get("title", row)
        rows[row] = {metric: cells.get(metric) for metric in metrics}
        for metric, number in rows[row].items():
            if number is not None and not isinstance(number, int | float):
                raise ConcordError(
                    f"{where}, row '{row}', metric '{metric}': expected a number or null, got {number!r}"
                )
    return DeclaredTable(
        name, value["label"], value["title"], metrics, rows, titles,
        dict(value.get("n", {})), value.get("note", ""), tuple(value.get("unclear", ())),
    )  # fmt: skip
