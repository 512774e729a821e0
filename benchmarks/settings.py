"""params.yaml: which data each profile runs on, how large, and how many requests a table takes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from concord.data.errors import ConcordError
from concord.data.schema import Strict, read_model

ROOT = Path(__file__).resolve().parents[1]
PARAMS = ROOT / "params.yaml"

SizeName = Literal["default", "full"]
SIZES: tuple[SizeName, ...] = ("default", "full")
CACHE = "cache:"


class DatasetSettings(Strict):
    """Folders with no item in common: what is asked for, what FID and KID compare with, and what `tune` looks at."""

    items: str
    reference: str | None = None  # where it is the folder of the items: the faces that are no test items
    reference_n: int = Field(default=0, ge=0)
    tuning: str | None = None
    sources: list[str] = Field(default_factory=list)  # names in data/manifests that it is prepared from

    @property
    def items_folder(self) -> Path:
        return place(self.items)

    @property
    def reference_folder(self) -> Path | None:
        """None for a dataset that no metric compares with a set of images."""
        return None if self.reference is None else place(self.reference)

    @model_validator(mode="after")
    def _both(self) -> DatasetSettings:
        if (self.reference is None) != (self.reference_n == 0):
            raise ValueError("'reference' and 'reference_n' (1 or more) come together")
        return self


def place(folder: str) -> Path:
    """A folder of params.yaml: from the checkout, or, with 'cache:' before it, from where fetched things are kept."""
    if folder.startswith(CACHE):
        from concord.data.download.manifest import cache_folder

        return cache_folder() / folder.removeprefix(CACHE)
    return ROOT / folder


class Sizes(Strict):
    """Requests of one request set."""

    default: int = Field(ge=1)
    full: int = Field(ge=1)


class Profile(Strict):
    """dtype: the numbers that generators compute in. sizes: of request sets, in place of those of all profiles."""

    image_size: int = Field(gt=0)
    batch_size: int = Field(ge=1, le=64)
    datasets: dict[str, DatasetSettings]
    dtype: Literal["fp32", "bf16"] = "fp32"
    sizes: dict[str, Sizes] = Field(default_factory=dict)


class Settings(Strict):
    profiles: dict[str, Profile]
    sizes: dict[str, Sizes]

    def profile(self, name: str) -> Profile:
        if name not in self.profiles:
            raise ConcordError(f"unknown profile '{name}': expected one of {', '.join(self.profiles)}")
        return self.profiles[name]

    def size(self, request_set: str, name: str, profile: str | None = None) -> int:
        """How many requests a request set takes in a size, of a profile where one is named."""
        if name not in SIZES:
            raise ConcordError(f"unknown size '{name}': expected one of {', '.join(SIZES)}")
        if profile is not None and request_set in self.profile(profile).sizes:
            return int(getattr(self.profile(profile).sizes[request_set], name))
        if request_set not in self.sizes:
            raise ConcordError(
                f"{PARAMS.name}: 'sizes' has no entry for request set '{request_set}'; add one, or give --limit"
            )
        return int(getattr(self.sizes[request_set], name))


def load_settings(path: Path = PARAMS) -> Settings:
    """The checked content of params.yaml."""
    return read_model(path, Settings)
