"""The engine of a name: above the engines and above what their settings files say."""

from __future__ import annotations

from typing import Any

from concord.benchmarks.engines.base import Call, Engine, all_engines
from concord.benchmarks.engines.settings import engine_settings
from concord.data.errors import ConcordError


def open_engine(name: str, call: Call | None = None, **overrides: Any) -> Engine:
    """The engine of that name, with its settings from the user's files; not started.

    ConcordError for an unknown name, or a setting that is none.
    """
    known = all_engines()
    if name not in known:
        raise ConcordError(f"unknown engine '{name}': expected one of {', '.join(known)}")
    kind = known[name]
    return kind(engine_settings(name, kind.Settings, overrides), call)
