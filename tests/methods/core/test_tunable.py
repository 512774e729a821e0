"""Ranges that parameters state for `concord tune`."""

from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import BaseModel, Field

from concord.benchmarks.tuned import merge, nested
from concord.data.errors import ConcordError
from concord.methods import base
from concord.methods.core.tunable import Interval, TuneRange, tune_ranges


class Parts(BaseModel):
    text: Annotated[float, TuneRange(0.1, 10, share=True)] = 2.0
    mask: Annotated[float, TuneRange(0.1, 10, share=True)] = 0.0


class Params(base.Method.Params):
    kind: str = "plain"
    weight: Annotated[float, TuneRange(0.5, 4, when={"kind": ["weighted"]})] = Field(1.0, ge=0)
    count: Annotated[int, TuneRange(1, 9)] = 3
    noise: Annotated[float, TuneRange(0, 1)] = 0.0
    shares: Annotated[tuple[float, ...], TuneRange(0.2, 0.8)] = ()
    parts: Parts = Parts()
    silent: float = 1.0


def ranges(conditions: list[str], **values: object) -> dict[str, Interval]:
    return tune_ranges(base.Method, Params.model_validate(values), conditions)


def test_ranges_are_those_that_have_an_effect() -> None:
    assert ranges([]) == {"count": Interval(1, 9, whole=True), "noise": Interval(0, 1)}
    assert ranges([], kind="weighted")["weight"] == Interval(0.5, 4)
    assert ranges(["text"])["parts.text"] == Interval(0.2, 20.0)
    assert "parts.mask" not in ranges(["text", "mask"])  # a share of 0 is nothing
    stated = ranges([], shares=(0.3, 0.9))
    assert (stated["shares.0"], stated["shares.1"]) == (Interval(0.2, 0.8), Interval(0.2, 0.8))


def test_entries_of_a_tuple_are_put_together() -> None:
    found = merge({"shares": (0.1, 0.2), "kind": "a"}, nested({"shares.0": 0.3, "shares.1": 0.4, "parts.text": 1}))
    assert found == {"shares": [0.3, 0.4], "kind": "a", "parts": {"text": 1}}


@pytest.mark.parametrize("ends", [(2, 1), (-1, 1), (0, float("inf")), (1, 1)])
def test_impossible_ranges_are_refused(ends: tuple[float, float]) -> None:
    with pytest.raises(ConcordError, match="expected 0 <= low < high"):
        TuneRange(*ends)


@pytest.mark.parametrize(("low", "middle", "high"), [(0.5, 1.414, 4), (0, 2, 4)])
def test_places_of_an_interval(low: float, middle: float, high: float) -> None:
    each = Interval(low, high)
    assert [each.at(place) for place in (0, 0.5, 1)] == [low, middle, high]


@pytest.mark.parametrize("name", base.all_methods())
def test_methods_take_what_they_say_may_be_tried(name: str) -> None:
    """Both ends of every range are values that the method's own checks let through."""
    method = base.get_method(name)
    params = base.make_params(method)
    for parameter, each in tune_ranges(method, params, sorted(method.conditions)).items():
        for end in (0.0, 1.0):
            base.make_params(method, nested({parameter: each.at(end)}))
