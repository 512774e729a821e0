"""The range of a parameter that `concord tune` may search, stated where the parameter is.

    weight: Annotated[float, TuneRange(0.5, 10)] = 7.5

is a field of a method's `Params` like any other; the range is metadata that nothing but a search reads.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import BaseModel

from concord.data.conditions.base import condition_names
from concord.data.errors import ConcordError

if TYPE_CHECKING:
    from concord.methods.base import Method

Value = float | int


@dataclass(frozen=True)
class TuneRange:
    """low <= value <= high. Searched by its logarithm where low > 0, evenly where low is 0.

    share: the ends are shares of the row's own value, for parameters whose values mean nothing across methods.
    when: other parameters of the method -> the values at which this one has an effect; elsewhere it is not searched.
    """

    low: float
    high: float
    share: bool = False
    when: Mapping[str, Collection[object]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.high) and 0 <= self.low < self.high):
            raise ConcordError(f"TuneRange({self.low:g}, {self.high:g}): expected 0 <= low < high")


@dataclass(frozen=True)
class Interval:
    """What a search draws one value from; whole: whole numbers alone."""

    low: float
    high: float
    whole: bool = False

    @property
    def by_logarithm(self) -> bool:
        """Whether it is searched by its logarithm."""
        return self.low > 0

    def at(self, place: float) -> Value:
        """The value at a place in [0, 1], rounded to four digits: more would pretend to know more."""
        low, high = (math.log(self.low), math.log(self.high)) if self.by_logarithm else (self.low, self.high)
        value = low + place * (high - low)
        return self.rounded(math.exp(value) if self.by_logarithm else value)

    def rounded(self, value: float) -> Value:
        """The value as it is tried: four digits, inside the interval."""
        value = min(max(float(f"{value:.4g}"), self.low), self.high)
        return round(value) if self.whole else value


def tune_ranges(method: type[Method], params: BaseModel, conditions: Collection[str]) -> dict[str, Interval]:
    """Parameter -> interval, of all parameters that state a range and have an effect in this row.

    params: the row's own values, which shares are shares of. conditions: those that the row is given; a parameter of
    a group whose name is a condition ('strengths.text') counts for that condition alone. An entry of a tuple is a
    parameter of its own ('weights.0') where the row states the tuple.
    """
    return dict(_ranges(params, "", params, conditions))


def _ranges(
    part: BaseModel, prefix: str, whole: BaseModel, conditions: Collection[str]
) -> Iterator[tuple[str, Interval]]:
    known = set(condition_names())
    for name, info in type(part).model_fields.items():
        value: object = getattr(part, name)
        if prefix and name in known and name not in conditions:
            continue
        if isinstance(value, BaseModel):
            yield from _ranges(value, f"{prefix}{name}.", whole, conditions)
            continue
        for stated in info.metadata:
            if isinstance(stated, TuneRange) and _has_effect(stated, whole):
                yield from _intervals(f"{prefix}{name}", stated, value)


def _has_effect(stated: TuneRange, params: BaseModel) -> bool:
    values = params.model_dump()
    return all(values[name] in wanted for name, wanted in stated.when.items())


def _intervals(name: str, stated: TuneRange, value: object) -> Iterator[tuple[str, Interval]]:
    if isinstance(value, tuple):
        for position, entry in enumerate(value):
            yield from _intervals(f"{name}.{position}", stated, entry)
    elif isinstance(value, int | float) and not (stated.share and not value):  # no share of 0: it is switched off
        scale = value if stated.share else 1.0
        yield name, Interval(stated.low * scale, stated.high * scale, isinstance(value, int) and not stated.share)
