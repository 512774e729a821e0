"""All paired tests of a table. A thousand rows are half a million pairs a column, so that they are kept as columns."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np

from concord.reports import statistics as st
from concord.reports.families import ALPHA, FAMILIES, Family, equivalence_p, error_of, n_to_tell, step_level

LISTED = 2_000
"""So many sentences are printed under a table at most; all pairs enter the correction and the marks all the same."""


@dataclass(frozen=True)
class Comparison:
    """A paired test of two rows in one column. difference = first - second, in the column's unit."""

    column: str
    first: str
    second: str
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    test: str
    paper_difference: float | None = None
    family: Family = ""  # of the paper's order: reports/families.py
    p_family: float = math.nan  # corrected within it
    p_same: float = 1.0  # of the two one-sided tests, corrected within the family
    margin: float = 0.0
    n_needed: int | None = None  # that would tell, of the rows of a family that cannot be told

    @property
    def in_family(self) -> Comparison:
        """With the family's corrected p in place of the one over all pairs."""
        return replace(self, p_holm=self.p_family) if math.isfinite(self.p_family) else self

    def winner(self, higher_is_better: bool, alpha: float = 0.05) -> str:
        """The row that the corrected test calls better, '' when it cannot tell."""
        if self.p_holm >= alpha:
            return ""
        return self.first if (self.difference > 0) == higher_is_better else self.second


class Comparisons(Sequence[Comparison]):
    """A sequence of `Comparison`s of 56 bytes each, each made when it is looked at."""

    def __init__(self, n: int = 0) -> None:
        """n: how many requests each row answered."""
        self._n = n
        self._words: list[str] = []  # names of columns, rows and tests
        self._place: dict[str, int] = {}
        self._column, self._first, self._second, self._test = array("i"), array("i"), array("i"), array("i")
        self._numbers = {name: array("d") for name in ("difference", "low", "high", "p", "paper", "margin")}
        self._family = array("b")
        self._p_holm = self._p_family = self._p_same = np.zeros(0)
        self._levels: dict[int, float] = {}

    def add(
        self,
        column: str,
        first: str,
        second: str,
        difference: float,
        low: float,
        high: float,
        p: float,
        test: str,
        paper: float | None,
        family: Family = "",
        margin: float = 0.0,
    ) -> None:
        """Append one; `correct` is called after the last."""
        self._family.append(FAMILIES.index(family) if family else -1)
        self._column.append(self._word(column))
        self._first.append(self._word(first))
        self._second.append(self._word(second))
        self._test.append(self._word(test))
        for name, value in (
            ("difference", difference),
            ("low", low),
            ("high", high),
            ("p", p),
            ("paper", math.nan if paper is None else paper),
            ("margin", margin),
        ):
            self._numbers[name].append(value)

    def correct(self) -> None:
        """Holm over all of them together, and within each family."""
        if not len(self):
            return
        p = np.array(self._numbers["p"])
        self._p_holm, self._p_family, self._p_same = st.holm(p), np.full(len(p), np.nan), np.ones(len(p))
        same = np.array([self._equivalence_p(index) for index in range(len(p))])
        family = np.array(self._family)
        for number in set(self._family) - {-1}:
            members = family == number
            self._p_family[members] = st.holm(p[members])
            self._p_same[members] = st.holm(same[members])
            self._levels[number] = step_level(self._p_family[members])

    def _error(self, index: int) -> float:
        return error_of(self._numbers["low"][index], self._numbers["high"][index], max(1, self._n - 1))

    def _equivalence_p(self, index: int) -> float:
        if self._family[index] < 0:
            return 1.0
        numbers = self._numbers
        return equivalence_p(
            numbers["difference"][index], self._error(index), max(1, self._n - 1), numbers["margin"][index]
        )

    def _n_needed(self, index: int) -> int | None:
        family = self._family[index]
        if family < 0 or self._p_family[index] < ALPHA:
            return None
        return n_to_tell(self._n, self._numbers["difference"][index], self._error(index), self._levels[family])

    def _word(self, word: str) -> int:
        if word not in self._place:
            self._place[word] = len(self._words)
            self._words.append(word)
        return self._place[word]

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, index: int) -> Comparison: ...
    @overload
    def __getitem__(self, index: slice) -> list[Comparison]: ...
    def __getitem__(self, index: int | slice) -> Comparison | list[Comparison]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        words, numbers = self._words, self._numbers
        paper = numbers["paper"][index]
        return Comparison(
            words[self._column[index]],
            words[self._first[index]],
            words[self._second[index]],
            numbers["difference"][index],
            numbers["low"][index],
            numbers["high"][index],
            numbers["p"][index],
            float(self._p_holm[index]),
            words[self._test[index]],
            None if math.isnan(paper) else paper,
            FAMILIES[self._family[index]] if self._family[index] >= 0 else "",
            float(self._p_family[index]),
            float(self._p_same[index]),
            numbers["margin"][index],
            self._n_needed(index),
        )

    def __iter__(self) -> Iterator[Comparison]:
        return (self[index] for index in range(len(self)))


def listed(comparisons: Sequence[Comparison]) -> tuple[list[Comparison], str]:
    """Those that are printed one by one, and what is said of the others ('' where none is left).

    Where there are too many, the pairs that the paper's table orders come first, then those that differ.
    """
    if len(comparisons) <= LISTED:
        return list(comparisons), ""
    kinds: tuple[list[Comparison], ...] = ([], [], [])
    told = 0
    for one in comparisons:
        differs = bool(one.winner(True))
        told += differs
        kind = kinds[0 if one.paper_difference is not None else 1 if differs else 2]
        if len(kind) < LISTED:
            kind.append(one)
    chosen = [one for kind in kinds for one in kind][:LISTED]
    return chosen, (
        f"{len(comparisons) - LISTED:,} of the {len(comparisons):,} pairs are not listed here; all of them were "
        f"tested and corrected together, and {told:,} of them all differ"
    )
