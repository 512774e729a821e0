"""Plugins that import Concord by its old names: `from methods.base import Method` for `concord.methods.base`.

Concord's folders were top-level packages once. A plugin that still says so works, with one warning; modules that have
moved since are found where they are now (old_names.yaml). A user's own packages of these names win: Concord's stand in
only where nobody else has one.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

import yaml

from concord.data.code import PACKAGE, ROOT

FOLDERS = ("data", "metrics", "methods", "benchmarks", "reports")
TABLE = Path(__file__).with_name("old_names.yaml")


@cache
def moved() -> dict[str, str]:
    """Old dotted name -> today's, of modules that are no longer at their old place."""
    found = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return {str(old): str(new) for old, new in found.items()}


def today(name: str) -> str:
    """What a module is called today: 'data.faces' -> 'concord.data.datasets.faces.dataset'."""
    return moved().get(name, f"{PACKAGE}.{name}")


class _Alias(Loader):
    """Gives the module of another name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = importlib.import_module(self.name)  # the import system returns what stands there


class OldNames(MetaPathFinder):
    """Finds Concord's packages by their old names, where nobody else has packages of these names.

    It is asked first, and asks all others itself: with the checkout on `sys.path`, Python's own finder would take
    Concord's folders for packages of their own, and load every module of them a second time. A user's package is given
    to him even where Concord's folder of that name comes first on the path.
    """

    def __init__(self) -> None:
        self.plugin: Path | None = None
        self._warned: set[Path | None] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        top, _, rest = fullname.partition(".")
        if top not in FOLDERS:
            return None
        if rest:
            if not _is_ours(sys.modules.get(top)):
                return None
        elif (theirs := _users_package(fullname)) is not None:
            return theirs
        name = today(fullname)
        if importlib.util.find_spec(name) is None:
            return None
        self._warn(fullname, name)
        return ModuleSpec(fullname, _Alias(name), is_package=not rest)

    def _warn(self, old: str, new: str) -> None:
        if self.plugin in self._warned or "." not in old:
            return
        self._warned.add(self.plugin)
        who = f"plugin {self.plugin}" if self.plugin is not None else "a plugin"
        print(f"warning: {who} imports '{old}', an old name; write '{new}'", file=sys.stderr)


def _users_package(name: str) -> ModuleSpec | None:
    """A package of that name that is not Concord's, wherever on the path it lies; None where there is none."""
    elsewhere = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
    for finder in sys.meta_path:
        if isinstance(finder, OldNames):
            continue
        spec = PathFinder.find_spec(name, elsewhere) if finder is PathFinder else finder.find_spec(name, None)
        if spec is None or (spec.origin is not None and Path(spec.origin).resolve().is_relative_to(ROOT / name)):
            continue
        if spec.origin is not None or any(_holds_code(Path(place)) for place in spec.submodule_search_locations or []):
            return spec
    return None


def _is_ours(module: ModuleType | None) -> bool:
    return module is not None and module.__name__.split(".")[0] == PACKAGE


def _holds_code(folder: Path) -> bool:
    """Whether a folder without __init__.py is a package at all, and not a folder of images."""
    return any(folder.glob("*.py")) or any(folder.glob("*/*.py"))


_FINDER = OldNames()


@contextlib.contextmanager
def old_names(plugin: Path) -> Iterator[None]:
    """Old names are found from now on, also by what the plugin imports later; warnings inside name the plugin."""
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
    _FINDER.plugin = plugin
    try:
        yield
    finally:
        _FINDER.plugin = None
