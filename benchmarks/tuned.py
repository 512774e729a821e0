"""Parameters found by `concord tune`, kept beside the suites: benchmarks/tuned/<request set>.yaml.

The file holds the whole search (every trial, its objective and seconds), not only what came out of it. Its values hold
for the profile that it names; another profile takes the papers' values.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, Field, PrivateAttr

from concord.benchmarks.suite import Row
from concord.data.errors import ConcordError, warn
from concord.data.files import atomic_path
from concord.data.schema import Strict, read_model

FOLDER = Path(__file__).resolve().parent / "tuned"


def _renamed(values: dict[str, float]) -> dict[str, float]:
    if "strangeness" not in values:
        return values
    warn("tuned parameters: the value 'strangeness' is now called 'mahalanobis-distance'; rename it in the file")
    return {"mahalanobis-distance" if name == "strangeness" else name: value for name, value in values.items()}


Values = Annotated[dict[str, float], AfterValidator(_renamed)]
"""A value for each metric, and the images' Mahalanobis distance."""


class Trial(Strict):
    """One setting that was tried. parts: what the objective is the mean of, by metric; 0 = the floor row, 1 = real."""

    params: dict[str, float | int]
    objective: float
    parts: dict[str, float]
    values: Values  # the metrics themselves, means over the images
    seconds: float


class Progress(Strict):
    """The trials of a search that is not finished, kept after each: results/<profile>/tune/<request set>/<row>.json."""

    terms: str  # SHA-256 of what the trials follow from
    trials: list[Trial] = Field(default_factory=list)
    _path: Path | None = PrivateAttr(None)

    @classmethod
    def of(cls, folder: Path | None, request_set: str, row: str, terms: str) -> Progress:
        """What is kept on these very terms; without trials where there is nothing. folder: None keeps nothing."""
        found = cls(terms=terms)
        if folder is None:
            return found
        path = folder / request_set / f"{row}.json"
        if path.is_file():
            kept = read_model(path, cls)
            found = kept if kept.terms == terms else found
        found._path = path
        return found

    def keep(self, trials: list[Trial]) -> None:
        """Write these trials in place of those that are kept, whole or not at all."""
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(self._path) as temporary:
            temporary.write_text(Progress(terms=self.terms, trials=trials).model_dump_json(indent=1), encoding="utf-8")


class Tuned(Strict):
    """What one row's search came to."""

    method: str
    conditions: list[str]
    fixed: dict[str, object] = Field(default_factory=dict)  # parameters that the suite gives
    chosen: dict[str, float | int]
    objective: float
    seconds: float
    weights: dict[str, str]  # SHA-256 of the networks that made the images, by name
    commit: str
    ranges: dict[str, list[float]] = Field(default_factory=dict)  # what was searched; empty in files older than that
    code: str = ""  # SHA-256 of what its images and values follow from; '' where it was not noted
    trials: list[Trial]


class Search(Strict):
    """benchmarks/tuned/*.yaml."""

    request_set: str
    profile: str
    seed: int
    n: int
    budget: int  # trials of each row
    sampler: str = "middle of the ranges, Latin hypercube, then normal steps around the best"
    ranges: dict[str, list[float]]  # of the suite, shares of the methods' own values; what each row has: its `ranges`
    items: str  # which faces
    objective: str  # in words
    floor: Values  # metrics of the row that a trial is measured from
    ceiling: Values  # of what counts as met
    rows: dict[str, Tuned]


def tuned_path(request_set: str, folder: Path | None = None) -> Path:
    """The file of a request set's search."""
    return (folder or FOLDER) / f"{request_set}.yaml"


def read_search(request_set: str, folder: Path | None = None) -> Search | None:
    """The search of a request set; None where none has been made. ConcordError naming the field that is wrong."""
    path = tuned_path(request_set, folder)
    if not path.is_file():
        return None
    found = path.stat()
    return _read(path, found.st_mtime_ns, found.st_size, found.st_ino)


@lru_cache(maxsize=64)
def _read(path: Path, changed: int, size: int, inode: int) -> Search:
    """A file that is as it was is read once: every trial is in it, and a plan asks for each row."""
    return read_model(path, Search)


def write_search(search: Search, folder: Path | None = None) -> Path:
    """Write the search, whole or not at all; returns the file."""
    path = tuned_path(search.request_set, folder)
    head = (
        "# Written by `concord tune`; every trial of the search is here, and the values that the suite's rows take.\n"
    )
    with atomic_path(path) as temporary:
        text = yaml.safe_dump(search.model_dump(), sort_keys=False, width=140, default_flow_style=None)
        temporary.write_text(head + text, encoding="utf-8")
    return path


def tuned_row(row: Row, request_set: str, profile: str, folder: Path | None = None) -> Row:
    """The row with the values that its search has chosen; as it is where there is none, or for another profile.

    What the row itself says goes first, but for the entries of a tuple: it states those for the search to begin from.
    """
    if row.tuned is None:
        return row
    search = read_search(request_set, folder)
    if search is None or search.profile != profile:
        return row
    if row.tuned not in search.rows:
        known = ", ".join(search.rows) or "none yet"
        raise ConcordError(
            f"{tuned_path(request_set, folder)}: no entry '{row.tuned}', which row '{row.name}' takes its values from "
            f"(it has {known}); run `concord tune {row.method} {request_set}`"
        )
    chosen = search.rows[row.tuned].chosen
    entries = {name: value for name, value in chosen.items() if name.rpartition(".")[2].isdecimal()}
    others = {name: value for name, value in chosen.items() if name not in entries}
    return row.model_copy(update={"params": merge(merge(nested(others), row.params), nested(entries))})


def nested(params: dict[str, Any]) -> dict[str, Any]:
    """{'strengths.text': 2, 'weights.0': 0.3} -> {'strengths': {'text': 2}, 'weights': [0.3]}."""
    found: dict[str, Any] = {}
    for name, value in params.items():
        place = found
        *groups, last = name.split(".")
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    return {name: _entries(value) for name, value in found.items()}


def _entries(value: Any) -> Any:
    """A dict of '0', '1', ... is a list: all entries of a tuple."""
    if not isinstance(value, dict):
        return value
    if value and set(value) == {str(position) for position in range(len(value))}:
        return [value[str(position)] for position in range(len(value))]
    return {name: _entries(one) for name, one in value.items()}


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` upon `base`, group by group."""
    found = dict(base)
    for name, value in over.items():
        both = isinstance(value, dict) and isinstance(found.get(name), dict)
        found[name] = merge(found[name], value) if both else value
    return found
