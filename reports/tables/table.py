"""The model of a table: numbers and words, no layout.

Every renderer shows the same things (markdown.py, export.py, latex.py, and reports/site/html.py): our value, its 95 %
interval, the paper's value, the difference and how the two were measured, the reason where a value is refused, and
under the table everything that one must know to read it. Their common texts are in words.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from concord.data.errors import ConcordError
from concord.reports.tables.comparisons import Comparison

if TYPE_CHECKING:
    from concord.reports.registered import RegisteredClaim

BEST, SECOND, TIED = "best", "second", "tied"
TINY = 30  # below that, n is said loudly
MARKS = {BEST: "★", SECOND: "☆", TIED: "≈"}
MARK_TITLES = {
    BEST: "beats every other method of the column",
    SECOND: "beats every other method of the column but the best",
    TIED: "not told apart from the column's first",
}
PAPER_ONLY = "paper:"  # how names of columns begin that only the paper has
MISSING = "missing: "  # how the reason begins of a row whose results were removed
NOT_SCORED = "not scored"  # how the reason begins of a value that nobody has looked for yet
BACKWARD, SECOND_ORDER = "backward", "second-order"  # how methods name passes that are no forward passes


ColumnKind = Literal["sample", "rate", "set"]


@dataclass(frozen=True)
class Column:
    """A metric as the table shows it."""

    name: str
    label: str
    higher_is_better: bool
    decimals: int = 2
    kind: ColumnKind = "sample"
    paper_label: str = ""  # the paper's key for it, '' where the paper has no such column
    unit: str = ""
    protocol: str = ""  # how the paper's number and ours were measured, '' where the paper has no such column
    paper_decimals: int | None = None  # as the paper prints them
    part: bool = False  # of another column, which is tested in its place
    one_scale: bool = False  # whether ours and the paper's were measured so that one may be subtracted from the other

    @property
    def arrow(self) -> str:
        return "↑" if self.higher_is_better else "↓"

    @property
    def direction(self) -> str:
        return "higher is better" if self.higher_is_better else "lower is better"

    def format(self, value: float) -> str:
        """The value with the column's decimals; never '-0.00'."""
        text = f"{value:.{self.decimals}f}"
        return text.lstrip("-") if float(text) == 0 else text  # no '-0.00'

    def signed(self, value: float) -> str:
        """The same with its sign, as differences are printed."""
        text = self.format(value)
        return text if text.startswith("-") or float(text) == 0 else f"+{text}"


@dataclass(frozen=True)
class Cell:
    """What one row has in one column. `refused` holds the reason where there is no value."""

    value: float | None = None
    low: float = math.nan
    high: float = math.nan
    paper: float | None = None
    refused: str = ""
    failures: int = 0
    mark: str = ""
    unclear: bool = False  # the paper's print cannot be read for certain
    own_guide: bool = False  # scored by the network that guided the row
    n: int | None = None  # images that enter it, where they are not all of the row's
    one_scale: bool = False  # as its column

    @property
    def difference(self) -> float | None:
        """Ours less the paper's, where both stand on one scale."""
        if self.value is None or self.paper is None or not self.one_scale:
            return None
        return self.value - self.paper

    @property
    def has_interval(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)


@dataclass(frozen=True)
class Cost:
    """Measured by the runner, never by the method."""

    seconds_per_image: float | None = None
    peak_memory_bytes: float | None = None
    evaluations: dict[str, float] = field(default_factory=dict)  # network -> passes an image
    paper_seconds: float | None = None  # where the paper prints its own, on its own machine

    @property
    def total_evaluations(self) -> float | None:
        """Passes of every kind, forward and backward."""
        return sum(self.evaluations.values()) if self.evaluations else None

    @property
    def forward(self) -> float | None:
        """Forward passes of the counted networks."""
        passes = [count for name, count in self.evaluations.items() if name not in (BACKWARD, SECOND_ORDER)]
        return sum(passes) if self.evaluations else None

    @property
    def backward(self) -> float | None:
        """Passes backwards through them, for gradients; None where the method takes none."""
        return self.evaluations.get(BACKWARD)

    @property
    def second_order(self) -> float | None:
        """Passes backwards through a backward pass, for Hessian products; None where the method takes none."""
        return self.evaluations.get(SECOND_ORDER)


Kind = Literal["method", "ceiling", "floor"]


@dataclass(frozen=True)
class Row:
    """One line. A row with `absent` has no results (planned, or not run yet) and shows the paper's values only."""

    name: str
    title: str
    kind: Kind
    cells: dict[str, Cell]
    n: int | None = None
    cost: Cost = field(default_factory=Cost)
    absent: str = ""
    method: str = ""
    params: dict[str, object] = field(default_factory=dict)
    conditions: tuple[str, ...] = ()
    citation: str = ""
    description: str = ""
    floor: bool = False  # a method that was given no condition: what a method reaches without being asked for anything

    @property
    def is_reference(self) -> bool:
        return self.kind != "method"

    @property
    def is_missing(self) -> bool:
        """Whether the row was made, and results of it have been removed since."""
        return self.absent.startswith(MISSING)

    @property
    def role(self) -> str:
        """'ceiling', 'floor', or '' for a row that competes."""
        return self.kind if self.is_reference else "floor" if self.floor else ""

    @property
    def failures(self) -> int:
        return sum(cell.failures for cell in self.cells.values())


@dataclass(frozen=True)
class Table:
    """A table with everything that is printed with it."""

    name: str
    title: str
    profile: str
    columns: list[Column]
    rows: list[Row]
    comparisons: Sequence[Comparison] = ()
    n: int | None = None
    paper_title: str = ""  # 'Table 1 of Collaborative Diffusion ...'
    paper_citation: str = ""
    paper_url: str = ""
    warnings: list[str] = field(default_factory=list)  # loud, above the table
    refusal: str = ""  # why the whole table is refused (unequal n, other judges)
    notes: dict[str, list[str]] = field(default_factory=dict)  # heading -> sentences, below the table
    provenance: dict[str, str] = field(default_factory=dict)
    judges: list[dict[str, object]] = field(default_factory=list)  # one a scoring network: its measured error
    registered: Sequence[RegisteredClaim] = ()  # claims of the user's, with their age
    worst: dict[str, np.ndarray] = field(
        default_factory=dict, compare=False
    )  # row -> each image's worst condition (n,)

    def column(self, name: str) -> Column:
        """The column of that name; ConcordError that lists them."""
        for column in self.columns:
            if column.name == name:
                return column
        raise ConcordError(
            f"table '{self.name}' has no column '{name}': expected one of {[c.name for c in self.columns]}"
        )

    def row(self, name: str) -> Row:
        """The row of that name; ConcordError that lists them."""
        for row in self.rows:
            if row.name == name:
                return row
        raise ConcordError(f"table '{self.name}' has no row '{name}': expected one of {[r.name for r in self.rows]}")

    @property
    def methods(self) -> list[Row]:
        return [row for row in self.rows if row.kind == "method"]

    @property
    def references(self) -> list[Row]:
        return [row for row in self.rows if row.kind != "method"]
