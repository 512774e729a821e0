"""Margins: how large a difference has to be before it matters, by metric and profile (reports/margins.yaml)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from concord.data.errors import ConcordError

MARGINS = Path(__file__).resolve().parents[1] / "margins.yaml"
KEYS = ("absolute", "relative")


@dataclass(frozen=True)
class Margin:
    """The larger of an absolute difference (the metric's unit) and a share of the base's value."""

    absolute: float = 0.0
    relative: float = 0.0

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

    default: Margin = Margin(relative=0.02)
    named: dict[str, Margin] = field(default_factory=dict)

    def of(self, metric: str) -> Margin:
        return self.named.get(metric, self.default)


def same_for_all(share: float) -> Margins:
    """One share of the base's value for every metric."""
    return Margins(Margin(relative=share))


def read_margins(profile: str, path: Path = MARGINS) -> Margins:
    """The margins of a profile; ConcordError names the file and the entry that is wrong."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConcordError(f"{path}: not readable ({reason}); expected a YAML file of margins") from None
    except yaml.YAMLError as error:
        raise ConcordError(f"{path}: not valid YAML ({error})") from None
    if not isinstance(content, dict) or "default" not in content:
        raise ConcordError(f"{path}: expected a mapping of metrics with an entry 'default'")
    found: dict[str, Margin] = {}
    for name, entry in content.items():
        by_profile = isinstance(entry, dict) and any(isinstance(value, dict) for value in entry.values())
        chosen = entry.get(profile) if by_profile else entry
        if chosen is not None:
            found[str(name)] = _margin(chosen, f"{path}: {name}")
    if "default" not in found:
        raise ConcordError(f"{path}: 'default' has no margin for profile '{profile}'; add one")
    return Margins(found.pop("default"), found)


def _margin(entry: Any, where: str) -> Margin:
    if not isinstance(entry, dict) or not entry or set(entry) - set(KEYS):
        raise ConcordError(f"{where}: expected {{absolute: number}} or {{relative: share}}, got {entry!r}")
    for key, value in entry.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
            raise ConcordError(f"{where}: {key}: expected a number of 0 or more, got {value!r}")
    return Margin(float(entry.get("absolute", 0.0)), float(entry.get("relative", 0.0)))
