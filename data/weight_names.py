"""Weights by their name, wherever they come from: committed with a card, fetched by a manifest, or a profile's own."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from concord.data.checkpoints import card_path, weight_path
from concord.data.errors import ConcordError
from concord.data.files import read_json, sha256_file

if TYPE_CHECKING:
    from concord.data.profile import Profile, Weights

WEIGHT_SUFFIXES = frozenset({".onnx", ".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".dat"})


def check_name(name: str, profile: Profile) -> None:
    """Raise ConcordError unless a card, a manifest or the profile's own list knows the name."""
    from concord.data.download.manifest import FOLDER, load_manifest

    if name in profile.weights or card_path(name).is_file():
        return
    if not (FOLDER / f"{name}.yaml").is_file():
        try:
            load_manifest(name)
        except ConcordError as error:
            near = str(error).rpartition("such as ")[2]
            raise ConcordError(
                f"unknown weights '{name}': expected a manifest such as {near}, a card of data/weights/embedded, "
                "or a name under the profile's 'weights'"
            ) from None


def locate(name: str, profile: Profile) -> Path:
    """The file, or the folder of what has several; ConcordError saying what is missing and what supplies it."""
    if name in profile.weights:
        return _own(name, profile.weights[name], profile)
    if card_path(name).is_file():
        path = weight_path(name)
        if not path.is_file():
            raise ConcordError(f"{path}: no such weights; restore the file from git, or run `concord train {name}`")
        return path
    from concord.data.download.manifest import load_manifest, weight_file, weight_folder

    return weight_file(name) if len(load_manifest(name).files) == 1 else weight_folder(name)


def _own(name: str, weights: Weights, profile: Profile) -> Path:
    supply = f"; run `{weights.command}`" if weights.command else f"; see {weights.source}" if weights.source else ""
    if weights.package is not None:
        module, _, inside = weights.package.partition("/")
        spec = importlib.util.find_spec(module)
        if spec is None or not spec.submodule_search_locations:
            raise ConcordError(f"weights '{name}': the package '{module}' is not installed{supply}")
        path = Path(spec.submodule_search_locations[0]) / inside
    else:
        path = (profile.path.parent / str(weights.path)).resolve()
    if not path.exists():
        raise ConcordError(f"weights '{name}': {path}: no such file{supply}")
    return path


def digest(name: str, path: Path, profile: Profile) -> str:
    """SHA-256 of the weights at `path`; of a folder, over its files' names and hashes.

    Raises ConcordError where a card or the profile states another one.
    """
    found = folder_sha256(path) if path.is_dir() else sha256_file(path)
    own = profile.weights.get(name)
    if own is not None and own.sha256 not in (None, found):
        raise ConcordError(
            f"weights '{name}': {path}: SHA-256 is {found[:12]}..., the profile says {str(own.sha256)[:12]}...; "
            "install the version that it names, or correct the profile"
        )
    return found


def folder_sha256(folder: Path) -> str:
    """SHA-256 over the names and hashes of a folder's weight files (of all where none is one), in order of names."""
    total = hashlib.sha256()
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for file in [path for path in files if path.suffix in WEIGHT_SUFFIXES] or files:
        total.update(f"{file.relative_to(folder).as_posix()} {sha256_file(file)}\n".encode())
    return total.hexdigest()


def card_of(name: str, sha256: str) -> dict[str, object]:
    """What is known of weights: their card where they have one, else name and SHA-256."""
    path = card_path(name)
    return {**(read_json(path) if path.is_file() else {}), "name": name, "sha256": sha256}
