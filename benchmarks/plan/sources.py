"""Which source and weight files can change a run's images: the part of its key that is no request and no parameter."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from concord.benchmarks.settings import ROOT
from concord.data.files import sha256_file

READERS = (
    "data/datasets/faces/dataset.py",
    "data/labels.py",
    "data/images.py",
    "data/datasets/faces/captions.py",
    "data/request.py",
)
READERS_OF = {
    "faces": READERS,
    "layouts": (
        "data/datasets/layouts/layout.py",
        "data/datasets/layouts/dataset.py",
        "data/images.py",
        "data/request.py",
    ),
}
"""Source that turns the files of a kind of dataset into conditions; it is part of every run's key."""
CONDITION_READERS = {
    "style": ("data/synthetic/styles.py", "data/synthetic/draw.py"), "masked_image": ("benchmarks/restoration.py",),
}  # fmt: skip
"""Source that draws style references and hides patches; part of the key of a run that is given them."""
SHARED = ("methods/base.py", "methods/core", "methods/networks")
"""Source that methods stand on; it is part of a method's key as `unread` says."""
EVERYONES = frozenset(
    [
        "methods/base.py",
        "methods/core/__init__.py",
        "methods/guidance/cagrad.py",
        "methods/core/experts.py",
        "methods/guidance/energies.py",
        "methods/guidance/method.py",
        "methods/guidance/autodiff.py",
        "methods/core/noise.py",
        "methods/core/sampler.py",
        "methods/core/schedule.py",
        "methods/networks/__init__.py",
        "methods/networks/autoencoder.py",
        "methods/networks/bank.py",
        "methods/networks/dynamic_diffuser.py",
        "methods/networks/experts.py",
    ]
)
"""The part of SHARED that is in every method's key; what else lies there is in the keys of those who import it."""
BANKS = {"paper": "methods/networks/paper_bank.py"}
"""Where the networks of a profile come from; of any other, from a file of EVERYONES."""


def readers_of(conditions: Sequence[str], dataset: str = "faces") -> tuple[str, ...]:
    """Source that turns the files of a kind of dataset into these conditions."""
    return (*READERS_OF[dataset], *(file for name in conditions for file in CONDITION_READERS.get(name, ())))


def method_file(name: str) -> Path:
    """The file that a method is written in."""
    import inspect

    from concord.methods.base import get_method

    return Path(str(inspect.getsourcefile(get_method(name))))


def borrowed(method: Path) -> tuple[Path, ...]:
    """The files of other methods that a method imports, by whatever way: part of its key, and of nobody else's."""
    folder = ROOT / "methods"
    others = {method, folder / "base.py", folder / "__init__.py"}
    return tuple(sorted(path for path in _reached(frozenset([method])) - others if path.parent == folder))


def unread(method: Path, profile: str) -> frozenset[Path]:
    """The files of SHARED that a method neither shares with all others nor imports, by whatever way."""
    shared: list[Path] = []
    for place in (ROOT / name for name in SHARED):
        shared += place.rglob("*.py") if place.is_dir() else [place]
    starts = [method, *(ROOT / name for name in EVERYONES), *([ROOT / BANKS[profile]] if profile in BANKS else [])]
    return frozenset(shared) - _reached(frozenset(starts))


@lru_cache(maxsize=256)
def _reached(starts: frozenset[Path]) -> frozenset[Path]:
    """These files and all files of methods/ that they import, directly or not, wherever in the code."""
    found: set[Path] = set()
    waiting = list(starts)
    while waiting:
        path = waiting.pop()
        if path in found or not path.is_file():
            continue
        found.add(path)
        waiting += _imports(path)
    return frozenset(found)


def _imports(path: Path) -> list[Path]:
    """The files of methods/ that a Python file names in its imports; a package stands for its __init__.py."""
    import ast

    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    found = []
    for name in names:
        parts = name.split(".")
        if parts[0] == "methods":
            for end in range(2, len(parts) + 1):
                base = ROOT.joinpath(*parts[:end])
                found += [file for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file()]
    return found


def source_hash(files: Iterable[Path], but: frozenset[Path] = frozenset()) -> str:
    """SHA-256 over Python files and the Python files of folders, by name and content; `but` those left out."""
    digest = hashlib.sha256()
    for entry in files:
        for path in sorted(entry.rglob("*.py")) if entry.is_dir() else [entry]:
            if path.is_file() and path not in but:
                digest.update(f"{path.relative_to(entry.parent)}\x00{sha256_file(path)}\n".encode())
    return digest.hexdigest()


def weights_current(weights: dict[str, str]) -> bool:
    """Whether the weight files still have the hashes that a shard or a score recorded."""
    from concord.data.checkpoints import weight_path

    return all(
        _file_hash(weight_path(name)) in (digest, None) and _had(name) in (digest, None)
        for name, digest in weights.items()
    )


def _had(name: str) -> str | None:
    """SHA-256 of a fetched weight file as its lock has it; None for what is no name of one file, or was never had."""
    from concord.data.download.manifest import FOLDER, Lock, load_manifest

    if not (FOLDER / f"{name}.yaml").is_file():
        return None
    manifest = load_manifest(name)
    if len(manifest.files) > 1 or manifest.files[0].unpack is not None:
        return None
    return Lock(manifest).entry(manifest.files[0]).get("sha256")


_HASHES: dict[tuple[str, int, int], str] = {}


def _file_hash(path: Path) -> str | None:
    """The file's SHA-256, computed once while it does not change; None where there is no such file (a plugin's own)."""
    if not path.is_file():
        return None
    stat = path.stat()
    key = (str(path), stat.st_mtime_ns, stat.st_size)
    if key not in _HASHES:
        _HASHES[key] = sha256_file(path)
    return _HASHES[key]
