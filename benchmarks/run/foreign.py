"""Which methods are not Concord's own: their code may do anything, so that it runs in a process of its own."""

from __future__ import annotations

import inspect
from pathlib import Path

from concord.data.code import module_of


def foreign_facts(name: str | None) -> dict[str, str]:
    """Title, paper, citation and description of a method that is not Concord's, for reports without its code."""
    from concord.methods.base import Method, registered

    method = registered().get(name or "")
    if method is None or method.__module__.startswith("concord."):
        return {}
    described = " ".join((inspect.getdoc(method) or "").split("\n\n")[0].split())
    own = "" if described == " ".join((inspect.getdoc(Method) or "").split("\n\n")[0].split()) else described
    return {"title": method.title, "paper": method.paper, "citation": method.citation, "description": own}


def plugin_file(name: str) -> Path | None:
    """The file of a method that comes from a plugin or an installed package; None for Concord's own."""
    from concord.methods.base import all_methods

    method = all_methods().get(name)
    if method is None:
        return None
    path = Path(inspect.getsourcefile(method) or "").resolve()
    return path if module_of(path) is None else None
