"""Which methods are not Concord's own: their code may do anything, so that it runs in a process of its own."""

from __future__ import annotations

import inspect
from pathlib import Path

from concord.data.code import module_of


def plugin_file(name: str) -> Path | None:
    """The file of a method that comes from a plugin or an installed package; None for Concord's own."""
    from concord.methods.base import all_methods

    method = all_methods().get(name)
    if method is None:
        return None
    path = Path(inspect.getsourcefile(method) or "").resolve()
    return path if module_of(path) is None else None
