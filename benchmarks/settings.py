"""params.yaml: which data each profile runs on, how large, and how many requests a table takes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from benchmarks.schema import Strict, read_model
from data.errors import ConcordError

ROOT = Path(__file__).resolve().parents[1]
PARAMS = ROOT / "params.yaml"

SizeName = Literal["default", "full"]
SIZES: tuple[SizeName, ...] = ("default", "full")


class DatasetSettings(Strict):
    """Folders with no item in common: what is asked for, what FID and KID compare with, and what `tune` looks at."""

    items: str
    reference: str
    reference_n: int = Field(gt=0)
    tuning: str | None = None


class Profile(Strict):
    image_size: int = Field(gt=0)
    batch_size: int = Field(ge=1, le=64)
    datasets: dict[str, DatasetSettings]


class Sizes(Strict):
    """Requests of one request set."""

    default: int = Field(ge=1)
    full: int = Field(ge=1)


class Settings(Strict):
    profiles: dict[str, Profile]
    sizes: dict[str, Sizes]

    def profile(self, name: str) -> Profile:
        if name not in self.profiles:
            raise ConcordError(f"unknown profile '{name}': expected one of {', '.join(self.profiles)}")
        return self.profiles[name]

    def size(self, request_set: str, name: str) -> int:
        """How many requests a request set takes in a size."""
        if name not in SIZES:
            raise ConcordError(f"unknown size '{name}': expected one of {', '.join(SIZES)}")
        if request_set not in self.sizes:
            raise ConcordError(
                f"{PARAMS.name}: 'sizes' has no entry for request set '{request_set}'; add one, or give --limit"
            )
        return int(getattr(self.sizes[request_set], name))


def load_settings(path: Path = PARAMS) -> Settings:
    """The checked content of params.yaml."""
    return read_model(path, Settings)
