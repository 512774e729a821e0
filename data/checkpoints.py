"""Committed weights: safetensors in fp16 with a card beside each, in data/weights/embedded.

A card (`<name>.json`) says what the file is: its configuration (enough to build the network), SHA-256, and how it was
made (data seed, steps, loss, seconds, device, git commit) with what it measured on held-out data.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import ConcordError
from data.files import atomic_path, read_json, sha256_file, write_json

if TYPE_CHECKING:
    from torch import Tensor

EMBEDDED = Path(__file__).parent / "weights" / "embedded"


def weight_path(name: str, folder: Path = EMBEDDED) -> Path:
    """Where the weights of a network lie."""
    return folder / f"{name}.safetensors"


def card_path(name: str, folder: Path = EMBEDDED) -> Path:
    """Where the card of a network lies."""
    return folder / f"{name}.json"


def save_weights(name: str, state: dict[str, Tensor], card: dict[str, Any], folder: Path = EMBEDDED) -> dict[str, Any]:
    """Write weights (floating point as fp16) and their card; returns the card with the file's SHA-256."""
    import torch
    from safetensors.torch import save_file

    kept = {key: value.detach().cpu() for key, value in state.items()}
    half = {k: (v.to(torch.float16) if v.is_floating_point() else v).contiguous() for k, v in kept.items()}
    path = weight_path(name, folder)
    with atomic_path(path) as temporary:
        save_file(half, temporary)
    card = {**card, "name": name, "parameters": sum(v.numel() for v in half.values()), "sha256": sha256_file(path)}
    write_json(card_path(name, folder), card)
    return card


def load_weights(name: str, folder: Path = EMBEDDED) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state (floating point as float32) and the card of a network.

    Raises ConcordError when a file is missing, or is not the one that its card describes.
    """
    import torch
    from safetensors.torch import load_file

    path = weight_path(name, folder)
    card = read_json(card_path(name, folder))
    if not path.is_file():
        raise ConcordError(f"{path}: no such weights; restore the file from git, or run `concord train {name}`")
    digest = sha256_file(path)
    if digest != card["sha256"]:
        raise ConcordError(
            f"{path}: SHA-256 is {digest[:12]}..., its card says {card['sha256'][:12]}...; "
            f"restore both from git, or run `concord train {name}`"
        )
    state = load_file(path)
    return {k: v.to(torch.float32) if v.is_floating_point() else v for k, v in state.items()}, card
