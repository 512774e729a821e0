"""All paired tests of a table. A thousand rows are half a million pairs a column, so that they are kept as columns."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from concord.reports import statistics as st

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

    def winner(self, higher_is_better: bool, alpha: float = 0.05) -> str:
        """The row that the corrected test calls better, '' when it cannot tell."""
        if self.p_holm >= alpha:
            return ""
        return self.first if (self.difference > 0) == higher_is_better else self.second


class Comparisons(Sequence[Comparison]):
    """A sequence of `Comparison`s of 56 bytes each, each made when it is looked at."""

    def __init__(self) -> None:
        self._words: list[str] = []  # names of columns, rows and tests
        self._place: dict[str, int] = {}
        self._column, self._first, self._second, self._test = array("i"), array("i"), array("i"), array("i")
        self._numbers = {name: array("d") for name in ("difference", "low", "high", "p", "paper")}
        self._p_holm = np.zeros(0)

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
    ) -> None:
        """Append one; `correct` is called after the last."""
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
        ):
            self._numbers[name].append(value)

    def correct(self) -> None:
        """Holm over all of them together."""
        self._p_holm = st.holm(np.frombuffer(self._numbers["p"])) if len(self) else np.zeros(0)

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
