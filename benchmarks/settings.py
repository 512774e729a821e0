"""params.yaml: what a user turns of a profile. All else stands in benchmarks/profiles, n in benchmarks/suites."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from concord.data.profile import CACHE, SIZES, DatasetSettings, Profile, SizeName, Sizes, load_profile, place
from concord.data.schema import Strict, read_model

__all__ = [
    "CACHE",
    "PARAMS",
    "ROOT",
    "SIZES",
    "DatasetSettings",
    "Profile",
    "Settings",
    "SizeName",
    "Sizes",
    "load_settings",
    "place",
]

ROOT = Path(__file__).resolve().parents[1]
PARAMS = ROOT / "params.yaml"


class Turned(Strict):
    """In place of the profile's own. datasets: of the kinds that are named, by 'faces' or 'layouts'."""

    batch_size: int | None = Field(default=None, ge=1, le=64)
    dtype: Literal["fp32", "bf16"] | None = None
    datasets: dict[str, DatasetSettings] = Field(default_factory=dict)


class Settings(Strict):
    """The schema of params.yaml."""

    profiles: dict[str, Turned] = Field(default_factory=dict)
    engines: dict[str, dict[str, Any]] = Field(default_factory=dict)  # each engine checks its own (benchmarks/engines)

    def profile(self, name: str) -> Profile:
        """The profile of a name, or of a path, as the user has turned it."""
        found = load_profile(name)
        turned = self.profiles.get(found.name)
        if turned is None:
            return found
        changed = {key: getattr(turned, key) for key in ("batch_size", "dtype") if getattr(turned, key) is not None}
        return found.model_copy(update={**changed, "datasets": {**found.datasets, **turned.datasets}})


def load_settings(path: Path = PARAMS) -> Settings:
    """The checked content of params.yaml."""
    return read_model(path, Settings)
