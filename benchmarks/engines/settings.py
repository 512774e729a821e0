"""What a user says about engines: `engines: NAME: {...}` in ~/.config/concord.yaml, and above it in params.yaml.

    engines:
      ray:
        address: ray-head:6379
        gpus: 1
      slurm:
        partition: gpu
        setup: module load cuda

Each engine owns the schema of its part (`Engine.Settings`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, ValidationError

from concord.benchmarks.engines.base import EngineSettings
from concord.data.errors import ConcordError
from concord.data.schema import Strict, explain, read_model

S = TypeVar("S", bound=EngineSettings)


class UserFile(Strict):
    """~/.config/concord.yaml."""

    engines: dict[str, dict[str, Any]] = Field(default_factory=dict)


def user_file() -> Path:
    """`$CONCORD_CONFIG`, else concord.yaml of the user's configuration folder."""
    if named := os.environ.get("CONCORD_CONFIG"):
        return Path(named)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "concord.yaml"


def engine_settings(name: str, model: type[S], overrides: Mapping[str, object]) -> S:
    """The settings of an engine: the user's file, over it params.yaml, over it the overrides.

    ConcordError naming the file and the key of what is wrong.
    """
    from concord.benchmarks.settings import PARAMS, load_settings

    found: dict[str, Any] = {}
    path = user_file()
    if os.environ.get("CONCORD_CONFIG") or path.is_file():
        own = read_model(path, UserFile).engines.get(name, {})
        check(own, model, f"{path}: engines.{name}")
        found |= own
    own = load_settings().engines.get(name, {}) if PARAMS.is_file() else {}
    check(own, model, f"{PARAMS}: engines.{name}")
    return check({**found, **own, **overrides}, model, f"engine '{name}'")


def check(values: Mapping[str, object], model: type[S], where: str) -> S:
    """The values as a model; ConcordError that begins with `where`."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise ConcordError(f"{where}: {explain(error, model)}") from None
