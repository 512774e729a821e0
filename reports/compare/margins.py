"""Margins: how large a difference has to be before it matters, by metric and profile (reports/margins.yaml)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field, ValidationError, model_validator

from concord.data.errors import ConcordError
from concord.data.schema import Strict, explain, read_yaml

MARGINS = Path(__file__).resolve().parents[1] / "margins.yaml"


class Margin(Strict):
    """The larger of an absolute difference (the metric's unit) and a share of the base's value."""

    absolute: float = Field(0.0, ge=0, allow_inf_nan=False)
    relative: float = Field(0.0, ge=0, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _says_something(cls, value: object) -> object:
        if not isinstance(value, dict) or not value:
            raise ValueError(f"expected {{absolute: number}} or {{relative: share}}, got {value!r}")
        return value

    def at(self, value: float) -> float:
        """The margin around a value, in its unit."""
        return max(self.absolute, self.relative * abs(value))

    def __str__(self) -> str:
        said = [f"{self.absolute:g}"] if self.absolute or not self.relative else []
        said += [f"{100 * self.relative:g} %"] if self.relative else []
        return " or ".join(said)


@dataclass(frozen=True)
class Margins:
    """The margin of every metric; one that is not named takes `default`."""

    default: Margin = field(default_factory=lambda: Margin(relative=0.02))
    named: dict[str, Margin] = field(default_factory=dict)

    def of(self, metric: str) -> Margin:
        """The metric's margin, or the default one."""
        return self.named.get(metric, self.default)


def same_for_all(share: float) -> Margins:
    """One share of the base's value for every metric."""
    if not math.isfinite(share) or share < 0:
        raise ConcordError(f"--tolerance {share:g}: expected a share of the base's value, such as 0.05")
    return Margins(Margin(relative=share))


def read_margins(profile: str, path: Path = MARGINS) -> Margins:
    """The margins of a profile; ConcordError names the file and the entry that is wrong."""
    content = read_yaml(path)
    if not isinstance(content, dict) or "default" not in content:
        raise ConcordError(f"{path}: expected a mapping of metrics with an entry 'default'")
    found: dict[str, Margin] = {}
    for name, entry in content.items():
        by_profile = isinstance(entry, dict) and any(isinstance(value, dict) for value in entry.values())
        chosen = entry.get(profile) if by_profile else entry
        try:
            if chosen is not None:
                found[str(name)] = Margin.model_validate(chosen)
        except ValidationError as error:
            raise ConcordError(f"{path}: {name}: {explain(error, Margin)}") from None
    if "default" not in found:
        raise ConcordError(f"{path}: 'default' has no margin for profile '{profile}'; add one")
    return Margins(found.pop("default"), found)
