"""Methods from anywhere: a file of the user's, what it imports and which files it opens.

A plugin is loaded under a private module name. Its folder joins the end of `sys.path`, so that modules beside it are
found while nothing of Python's or of Concord's is hidden. What it stands on is part of the key of its runs: its own
modules by their code (data/code.py, benchmarks/plan/sources.py), and every other file that it opens, declared or not,
by its bytes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from concord.data.code import ROOT, foreign_closure, is_installed, module_of
from concord.data.content import memory_folder
from concord.data.errors import ConcordError
from concord.data.files import read_bytes
from concord.data.user_code import exits_are_errors, survives, user_code
from concord.methods.base import registered
from concord.methods.old_names import old_names

SYSTEM = tuple(Path(place) for place in ("/proc", "/sys", "/dev", "/etc", "/usr", "/lib", "/lib64", "/bin"))
OWN = ("data", "metrics", "methods", "benchmarks", "reports", "concord", "datasets", "results", ".venv", ".git")
"""Folders of Concord's: what it reads there stands in a key by another way."""


@dataclass
class Plugin:
    """What is known of a loaded plugin: the files of its own modules, and the files that it read while it loaded."""

    path: Path
    modules: dict[Path, None] = field(default_factory=dict)
    opened: dict[Path, None] = field(default_factory=dict)


_PLUGINS: dict[Path, Plugin] = {}


def load_plugin(path: Path) -> list[str]:
    """Load a method file from anywhere, under a private module name; returns the names that it registered."""
    path = Path(path).resolve()
    if not path.is_file() or path.suffix != ".py":
        expected = "a Python file with a registered method (copy methods/template.py)"
        raise ConcordError(f"--plugin {path}: expected {expected}")
    before, modules = dict(registered()), set(sys.modules)
    private = f"concord_plugin_{abs(hash(str(path)))}"
    spec = importlib.util.spec_from_file_location(private, path)
    assert spec is not None
    assert spec.loader is not None
    if multiprocessing.parent_process() is None:  # a worker may be ended: its parent says so
        _try_import(spec, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[private] = module
    plugin = _PLUGINS.setdefault(path, Plugin(path))
    _join_path(path)
    with user_code(f"--plugin {path}"), exits_are_errors(), watch_files(plugin.opened), old_names(path):
        spec.loader.exec_module(module)
    plugin.modules |= dict.fromkeys(_own_files(sys.modules[name] for name in set(sys.modules) - modules))
    plugin.modules.pop(path, None)
    _check_namesakes(path)
    found = [name for name, method in registered().items() if method.__module__ == private]
    if not found and before == registered():
        raise ConcordError(f"--plugin {path}: no method was registered; decorate the class with @register")
    return found


def _try_import(spec: ModuleSpec, path: Path) -> None:
    """Raise UserCodeError where loading a plugin ends the process, as a fault in a compiled library does."""
    assert spec.loader is not None
    if b"torch" in read_bytes(path):
        import torch  # noqa: F401  # here, so that it is not imported once more by the fork
    trial = importlib.util.module_from_spec(spec)
    loader = spec.loader

    def load() -> None:
        sys.modules[spec.name] = trial
        with exits_are_errors():
            loader.exec_module(trial)

    survives(load, f"--plugin {path}: importing it")


def plugin_modules(path: Path) -> list[Path]:
    """The files of the modules that were imported when a plugin was loaded, by whatever way, without its own."""
    plugin = _PLUGINS.get(path.resolve())
    return sorted(plugin.modules) if plugin is not None else []


def plugin_files(path: Path) -> list[Path]:
    """The other files that a plugin read while it was loaded."""
    plugin = _PLUGINS.get(path.resolve())
    return sorted(plugin.opened) if plugin is not None else []


def _join_path(path: Path) -> None:
    folder = str(path.parent)
    if folder not in sys.path and path.parent != ROOT and not is_installed(path) and module_of(path) is None:
        sys.path.append(folder)


def _own_files(modules: Iterator[ModuleType]) -> Iterator[Path]:
    """Files of modules that are neither Concord's nor installed."""
    for module in modules:
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and file.endswith(".py"):
            path = Path(file).resolve()
            if path.is_file() and module_of(path) is None and not is_installed(path):
                yield path


def _check_namesakes(path: Path) -> None:
    """Raise ConcordError where two plugins have modules of one name beside them: Python would give both the first."""
    for file in foreign_closure([path], [path.parent])[0]:
        if file == path or not file.is_relative_to(path.parent):
            continue
        inner = file.relative_to(path.parent).with_suffix("").parts
        name = ".".join(inner[:-1] if inner[-1] == "__init__" else inner)
        known = getattr(sys.modules.get(name), "__file__", None)
        if isinstance(known, str) and Path(known).resolve() != file:
            raise ConcordError(
                f"--plugin {path}: imports '{name}' of {file}, but '{name}' is {known} in this process already; "
                "rename one of them"
            )


# -------------------------------------------------------------------------------------------------------- files opened


_WATCHED: list[tuple[dict[Path, None], set[Path]]] = []  # who is watching: what was read, what was written
_HOOKED: list[bool] = []


@contextlib.contextmanager
def watch_files(found: dict[Path, None]) -> Iterator[None]:
    """Add to `found` the files that are opened for reading inside, unless this process has written them itself.

    Left out: Python's and the system's, installed packages', and those in Concord's own folders. A library that opens
    files outside of Python (safetensors) is not seen: name such a file in `Method.files`, or in a text of the code.
    """
    if not _HOOKED:  # a hook stays for the life of a process, and costs nothing while nobody watches
        sys.addaudithook(_on_event)
        _HOOKED.append(True)
    entry: tuple[dict[Path, None], set[Path]] = ({}, set())
    _WATCHED.append(entry)
    try:
        yield
    finally:
        _WATCHED.remove(entry)
        read, written = entry
        found |= {path: None for path in read if path not in written and _counts(path)}


def _on_event(event: str, arguments: tuple[object, ...]) -> None:
    if event != "open" or not _WATCHED:
        return
    name, mode, flags = (*arguments, None, None, None)[:3]
    if not isinstance(name, str | bytes | os.PathLike):
        return
    path = Path(os.path.abspath(os.fsdecode(name)))
    writes = (isinstance(mode, str) and any(sign in mode for sign in "wxa+")) or (
        isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) != 0
    )
    for read, written in _WATCHED:
        if writes:
            written.add(path)
        else:
            read[path] = None


def _counts(path: Path) -> bool:
    from concord.data.download.manifest import cache_folder

    if path.suffix in (".py", ".pyc") or not path.is_file():
        return False  # modules are counted by their code
    real = path.resolve()
    places = [*SYSTEM, Path(sys.prefix), Path(sys.base_prefix), memory_folder(), cache_folder(), *_own_folders()]
    return not any(real.is_relative_to(place.resolve()) for place in places)


def _own_folders() -> list[Path]:
    return [ROOT / name for name in OWN]
