"""What a run stands on: the code and the files that can change its images or its scores.

Code is counted by import closure (data/code.py): of the method's module, of every loader that the profile names for
the networks of the row, of what reads the data and of what turns the method's output into the stored image. A plugin
brings its own modules, whatever lies behind them, and its data files.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from concord.data.code import closure, code_of, foreign_closure, loader_modules, module_of
from concord.data.content import content_hash
from concord.data.errors import ConcordError
from concord.data.profile import Profile, Use

if TYPE_CHECKING:
    from concord.methods.base import Method

OUTPUT = ("concord.benchmarks.run.image_source", "concord.benchmarks.store.shards")
"""What asks a method for images and stores what it gives."""
PLUGIN_OUTPUT = "concord.benchmarks.run.plugin_source"
"""What asks a plugin's method for images."""
NETWORKS = "concord.data.networks"
"""What methods ask for their networks; they are handed it, so that no import of theirs names it."""
PACKAGES = ("torch", "diffusers", "transformers", "numpy", "pillow")
"""Whose versions are part of a key: their kernels, networks and resampling make the numbers."""


@dataclass(frozen=True)
class Sources:
    """Where the code and the data files of a run, or of scores, begin.

    modules: of Concord, with all that they import. alone: of Concord, without what they import. files: Python files of
    others, with all that they import. declared: data files, by the name that they are declared under.
    """

    modules: frozenset[str] = frozenset()
    alone: frozenset[str] = frozenset()
    files: tuple[Path, ...] = ()
    declared: Mapping[str, Path] = field(default_factory=dict)

    def __or__(self, other: Sources) -> Sources:
        return Sources(
            self.modules | other.modules,
            self.alone | other.alone,
            tuple(dict.fromkeys((*self.files, *other.files))),
            {**self.declared, **other.declared},
        )

    @cached_property
    def _foreign(self) -> tuple[dict[Path, str], frozenset[str]]:
        if not self.files:
            return {}, frozenset()
        return foreign_closure(self.files, dict.fromkeys(path.parent for path in self.files))

    @cached_property
    def concord(self) -> frozenset[str]:
        """The modules of Concord."""
        return closure(self.modules | self._foreign[1]) | self.alone

    @cached_property
    def code(self) -> dict[str, str]:
        """Module of Concord, or file of others -> hash of its code, 16 hex digits."""
        found = {name: digest[:16] for name, digest in code_of(self.concord).items()}
        return found | {self.name_of(path): digest[:16] for path, digest in self._foreign[0].items()}

    @property
    def foreign_files(self) -> list[Path]:
        """The Python files that are not Concord's."""
        return list(self._foreign[0])

    @cached_property
    def data(self) -> dict[str, str]:
        """Declared file -> SHA-256 of its bytes."""
        return {name: content_hash(path) for name, path in sorted(self.declared.items())}

    def name_of(self, path: Path) -> str:
        """A file of others as keys call it: from its plugin's folder, so that a moved folder changes nothing."""
        for start in self.files:
            if path.is_relative_to(start.resolve().parent):
                return path.relative_to(start.resolve().parent).as_posix()
        return path.as_posix()


def loader_sources(loaders: Iterable[str], folder: Path | None = None) -> Sources:
    """What stands behind loaders 'module:function' of a profile; `folder` holds the profile's own Python files."""
    modules, files = loader_modules(loaders, folder)
    return Sources(modules, files=files)


def module_sources(kinds: Iterable[type]) -> Sources:
    """What stands behind classes, Concord's or others'."""
    modules: set[str] = set()
    files: list[Path] = []
    for kind in kinds:
        path = Path(str(inspect.getsourcefile(kind)))
        module = module_of(path)
        if module is not None:
            modules.add(module)
        else:
            files.append(path.resolve())
    return Sources(frozenset(modules), files=tuple(dict.fromkeys(files)))


def method_sources(method: type[Method]) -> Sources:
    """A method's module; of a plugin also the modules that it has brought along, and its data files."""
    from concord.methods.plugins import plugin_files, plugin_modules

    found = module_sources([method]) | Sources(frozenset([NETWORKS]))
    if not found.files:
        return found
    found |= Sources(frozenset([PLUGIN_OUTPUT]))
    main = found.files[0]
    behind = tuple(path for path in plugin_modules(main) if path != main)
    declared = {path.as_posix(): path for path in plugin_files(main)} | _data_files(method, main, behind)
    return Sources(found.modules, files=(main, *behind), declared=declared)


def _data_files(method: type[Method], main: Path, behind: Iterable[Path]) -> dict[str, Path]:
    """The files that a plugin declares (`files`), and those beside its modules that their code names.

    ConcordError in one line for a declared file that is not there. What is named in a text of the code, as in
    `torch.load(here / "w.pt")`, counts without being declared; so does what is opened while images are made
    (methods/plugins.py), which only the shards can tell.
    """
    found: dict[str, Path] = {}
    for name in method.files:
        path = main.parent / name
        if not path.is_file():
            raise ConcordError(
                f"{main}: method '{method.name}' declares file '{name}', which is not at {path}; put it there, or "
                "correct `files`"
            )
        found[name] = path
    for source in (main, *behind):
        names = {
            node.value
            for node in ast.walk(ast.parse(source.read_bytes()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and 0 < len(node.value) < 256
        }
        for name in sorted(names):
            if "\n" in name or "\x00" in name or name.endswith(".py"):
                continue
            path = source.parent / name
            if path.is_file():
                found.setdefault(name, path)
    return found


def use_sources(uses: Iterable[Use], profile: Profile) -> Sources:
    """What loads the entries of a profile."""
    return loader_sources((use.loader for use in uses), profile.path.parent)


def metric_sources(names: Iterable[str], uses: Iterable[Use], profile: Profile) -> Sources:
    """What stands behind metrics: their modules, and the networks of the profile that they look through."""
    from concord.metrics.base import get_metric

    return module_sources(type(get_metric(name)) for name in names) | use_sources(uses, profile)


def method_file(name: str) -> Path:
    """The file that a method is written in."""
    from concord.methods.base import get_method

    return Path(str(inspect.getsourcefile(get_method(name))))


@cache
def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """The installed versions of packages whose code makes numbers."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


# ------------------------------------------------------------------------------------------------- recorded by shards


def changed_weights(weights: Mapping[str, str]) -> list[str]:
    """Of the weights that a shard or a score recorded, those that are another file now, or were fetched anew."""
    from concord.data.checkpoints import weight_path

    return [
        name
        for name, digest in weights.items()
        if _file_hash(weight_path(name)) not in (digest, None) or _had(name) not in (digest, None)
    ]


def changed_files(files: Mapping[str, str]) -> list[str]:
    """Of the files that a plugin opened while it made images, those that are others now, or are gone."""
    return [name for name, digest in files.items() if _file_hash(Path(name)) != digest]


def _had(name: str) -> str | None:
    """SHA-256 of a fetched weight file as its lock has it; None for what is no name of one file, or was never had."""
    from concord.data.download.manifest import FOLDER, Lock, load_manifest

    if not (FOLDER / f"{name}.yaml").is_file():
        return None
    manifest = load_manifest(name)
    if len(manifest.files) > 1 or manifest.files[0].unpack is not None:
        return None
    return Lock(manifest).entry(manifest.files[0]).get("sha256")


def _file_hash(path: Path) -> str | None:
    """The file's SHA-256, computed once while it does not change; None where there is no such file (a plugin's own)."""
    try:
        return content_hash(path) if path.is_file() else None
    except OSError:
        return None
