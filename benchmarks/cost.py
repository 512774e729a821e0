"""What a plan will cost, before anything starts: images, network evaluations, hours, disk.

Evaluations are stated by each method (`Method.evaluations`); tests hold them against what the meter counts while the
same rows run on the embedded networks. Hours are an estimate: evaluations times seconds that somebody measured on
some device (`benchmarks/rates.yaml`, or finished rows of the same generator in the results). Where nobody measured,
they are unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field

from concord.benchmarks.plan.runs import RunPlan
from concord.benchmarks.settings import ROOT
from concord.data.files import read_json
from concord.data.schema import Strict, read_model

RATES = ROOT / "benchmarks" / "rates.yaml"
PNG_SHARE = 0.6
"""Of the bytes of an 8-bit image that its PNG takes: stored 64x64 faces take less, noise about 1."""


def evaluations(method: str, params: Mapping[str, object], conditions: Sequence[str]) -> dict[str, float] | None:
    """Network evaluations for one image by the names of `Method.denoisers`, as the method states them.

    None for a method that states none, and for one that is not known here.
    """
    from concord.methods.base import all_methods, make_params

    kind = all_methods().get(method)
    if kind is None:
        return None
    stated = kind.evaluations(make_params(kind, params), conditions)
    return None if stated is None else dict(stated)


# ---------------------------------------------------------------------------------------------------------------- rates


class Rate(Strict):
    """Seconds of one evaluation of one image, as measured."""

    generator: str
    device: str
    dtype: str
    batch: int = Field(ge=1)
    seconds: dict[str, float]  # by network, as `evaluations` names them
    source: str  # what was run


class Rates(Strict):
    """benchmarks/rates.yaml."""

    rates: list[Rate]


def read_rates(path: Path = RATES) -> list[Rate]:
    """The stated rates; none where there is no such file."""
    return read_model(path, Rates).rates if path.is_file() else []


def seconds_per_image(run: RunPlan, counts: Mapping[str, float], rates: Sequence[Rate]) -> tuple[float, str] | None:
    """(seconds, where that is from) for one image; None where nobody measured.

    A finished row of the same name and method under the plan's folder goes first, scaled by its evaluations.
    """
    try:
        made = read_json(run.path / "run.json")
        seen = sum(made["evaluations_per_image"].values())
        if made["method"] == run.row.method and made.get("generator") == run.generator and seen:
            place = f"{made['n']} images made on {made['device']} before"
            return made["seconds_per_image"] * sum(counts.values()) / seen, place
    except Exception:  # nothing stored, or of another form: no measurement
        pass
    return stated_seconds(run.generator, run.dtype or "fp32", counts, rates)


def stated_seconds(
    generator: str | None, dtype: str, counts: Mapping[str, float], rates: Sequence[Rate]
) -> tuple[float, str] | None:
    """(seconds, where that is from) for one image by the first rate of that generator that names all its networks."""
    taken = {name: count for name, count in counts.items() if count}
    for rate in rates:
        if (rate.generator, rate.dtype) == (generator, dtype) and set(taken) <= set(rate.seconds):
            total = sum(count * rate.seconds[name] for name, count in taken.items())
            return total, f"{rate.device}, {rate.dtype}, batch {rate.batch}: {rate.source}"
    return None


# ------------------------------------------------------------------------------------------------------------- the plan


@dataclass(frozen=True)
class RowCost:
    """One row that is to be made. counts: evaluations for one image; None where the method is not known here."""

    request_set: str
    row: str
    n: int
    size: int
    counts: Mapping[str, float] | None
    seconds: tuple[float, str] | None = None
    reason: str | None = None  # why it cannot be made now

    @property
    def total(self) -> float | None:
        """Evaluations of all its images, forwards and backwards."""
        return None if self.counts is None else self.n * sum(self.counts.values())

    @property
    def hours(self) -> float | None:
        """Hours of generation; None where no rate is known."""
        return None if self.seconds is None else self.n * self.seconds[0] / 3600

    @property
    def bytes(self) -> int:
        """Of its images in the store, about."""
        return int(self.n * 3 * self.size**2 * PNG_SHARE)


@dataclass(frozen=True)
class Cost:
    """What a plan takes. files: name -> bytes to come of what is not here (None: not stated)."""

    rows: Sequence[RowCost]
    files: Mapping[str, int | None] = field(default_factory=dict)

    @property
    def images(self) -> int:
        return sum(row.n for row in self.rows)

    @property
    def evaluations(self) -> float:
        """Network evaluations of all rows together."""
        return sum(row.total or 0 for row in self.rows)

    @property
    def hours(self) -> float | None:
        """Of the rows whose rate is known; None where that is none."""
        known = [row.hours for row in self.rows if row.hours is not None]
        return sum(known) if known else None

    @property
    def without_rate(self) -> list[RowCost]:
        """Rows that a network makes and for which no rate is known."""
        return [row for row in self.rows if row.hours is None and row.counts != {}]

    @property
    def bytes(self) -> int:
        """Bytes of all images, and of the files to fetch whose size is known."""
        return sum(row.bytes for row in self.rows) + sum(size or 0 for size in self.files.values())


def row_cost(run: RunPlan, rates: Sequence[Rate], reason: str | None = None) -> RowCost:
    """The cost of a run as it is planned; reference rows evaluate no generator."""
    n, size = len(run.requests), run.requests.image_size
    return cost_of(
        run.requests.name, run.row.name, run.row.method, run.params, run.conditions, n, size, run, rates, reason
    )


def cost_of(
    request_set: str,
    row: str,
    method: str | None,
    params: Mapping[str, object],
    conditions: Sequence[str],
    n: int,
    size: int,
    run: RunPlan | None = None,
    rates: Sequence[Rate] = (),
    reason: str | None = None,
    generator: str | None = None,
    dtype: str = "fp32",
) -> RowCost:
    """The same from the parts, where no dataset is there to plan requests from."""
    counts = {} if method is None else evaluations(method, params, conditions)
    seconds = None
    if counts:
        found = seconds_per_image(run, counts, rates) if run is not None else None
        seconds = found or stated_seconds(generator, dtype, counts, rates)
    return RowCost(request_set, row, n, size, counts, seconds, reason)
