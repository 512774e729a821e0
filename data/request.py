"""What is asked of a method: conditions, and requests that carry their own seed.

A sample depends on its own request alone (never on rank, batch size or order): the seed is a hash of what the
request is, and noise is drawn from it by a generator of its own (methods/core/noise.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from concord.data.conditions.base import Condition, all_conditions
from concord.data.errors import ConcordError

if TYPE_CHECKING:
    from concord.data.datasets.item import Item


class Conditions(Mapping[str, Any]):
    """What one image has to agree with: a value for each condition that is present, by its name, in their order.

    `conditions["mask"]` is the value of a condition that is there; `conditions.mask` is None where it is absent.
    What the values are is said by the conditions' own files (data/conditions/). Values are checked, and not changed.

    Raises ConcordError for a name that no condition has, and for a value that its condition refuses.
    """

    __slots__ = ("_values",)
    _values: dict[str, Any]

    def __init__(self, **values: Any) -> None:
        known = all_conditions()
        unknown = [name for name in values if name not in known]
        if unknown:
            raise ConcordError(f"unknown condition '{unknown[0]}': expected some of {', '.join(known)}")
        present = {name: values[name] for name in known if values.get(name) is not None}
        for name, value in present.items():
            known[name].check(value)
        object.__setattr__(self, "_values", present)

    def names(self) -> tuple[str, ...]:
        """The conditions that are present, in their order."""
        return tuple(self._values)

    def replace(self, **changes: Any) -> Conditions:
        """The conditions with these in place of their own; None takes one away."""
        return Conditions(**{**self._values, **changes})

    def __getitem__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __bool__(self) -> bool:
        return True  # no conditions are conditions too

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        value = self._values.get(name)
        if value is None and name not in all_conditions():
            raise AttributeError(f"unknown condition '{name}': expected one of {', '.join(all_conditions())}")
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"conditions do not change: make others with replace({name}=...)")

    def __repr__(self) -> str:
        return f"Conditions({', '.join(self._values)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self._values,)


def _restored(values: dict[str, Any]) -> Conditions:
    """What was pickled, not checked again."""
    conditions = Conditions()
    conditions._values.update(values)
    return conditions


def read_conditions(item: Item, conditions: Mapping[str, Condition[Any]], size: int) -> Conditions:
    """What an item gives for each of the conditions, for images of size x size pixels."""
    return Conditions(**{name: condition.read(item, size) for name, condition in conditions.items()})


@dataclass(frozen=True)
class Request:
    """One image to be made. `id` is unique within its request set: '<item>-<repetition>'."""

    id: str
    seed: int
    conditions: Conditions

    @classmethod
    def make(cls, suite: str, item: str, repetition: int, conditions: Conditions) -> Request:
        """The request for one item of a suite; the seed follows from (suite, item, repetition)."""
        return cls(f"{item}-{repetition}", request_seed(suite, item, repetition), conditions)


def request_seed(suite: str, item: str, repetition: int) -> int:
    """A 63-bit seed: the first 8 bytes of SHA-256 over (suite, item, repetition), sign bit cleared."""
    digest = hashlib.sha256(f"{suite}\x00{item}\x00{repetition}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
