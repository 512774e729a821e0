"""Committed weights: safetensors in fp16 with a card beside each, in data/weights/embedded.

Some networks are kept in 8 bits, half as large, so that all of them fit into the repository: of every matrix and kernel
the whole numbers -127 .. 127 and, in `<key>:scale`, what one of them is worth in each row (output channel).

A card (`<name>.json`) says what the file is: its configuration (enough to build the network), SHA-256, and how it was
made (data seed, steps, loss, seconds, device, git commit) with what it measured on held-out data.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from concord.data.errors import ConcordError
from concord.data.files import atomic_path, read_json, sha256_file, write_json

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    Network = TypeVar("Network", bound=nn.Module)

SCALE = ":scale"
EMBEDDED = Path(__file__).resolve().parent / "weights" / "embedded"


def weight_path(name: str, folder: Path = EMBEDDED) -> Path:
    """Where the weights of a network lie."""
    return folder / f"{name}.safetensors"


def card_path(name: str, folder: Path = EMBEDDED) -> Path:
    """Where the card of a network lies."""
    return folder / f"{name}.json"


def packed(state: Mapping[str, Tensor], bits: int = 16) -> dict[str, Tensor]:
    """A state as it is stored. bits: of the values of matrices and kernels, 16 (fp16) or 8; vectors are fp16."""
    import torch

    found: dict[str, Tensor] = {}
    for key, value in state.items():
        kept = value.detach().cpu()
        if not kept.is_floating_point():
            found[key] = kept.contiguous()
        elif bits == 8 and kept.ndim > 1:
            rows = kept.float().flatten(1)
            scale = (rows.abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
            found[key] = (rows / scale[:, None]).round().to(torch.int8).reshape(kept.shape)
            found[key + SCALE] = scale
        else:
            found[key] = kept.to(torch.float16).contiguous()
    return found


def unpacked(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state that was packed, floating point as float32; rounded to what is stored."""
    import torch

    found: dict[str, Tensor] = {}
    for key, value in stored.items():
        if key.endswith(SCALE):
            continue
        scale = stored.get(key + SCALE)
        if scale is not None:
            found[key] = value.float() * scale.reshape(-1, *[1] * (value.ndim - 1))
        else:
            found[key] = value.to(torch.float32) if value.is_floating_point() else value
    return found


def save_weights(
    name: str, state: Mapping[str, Tensor], card: dict[str, Any], folder: Path = EMBEDDED, bits: int = 16
) -> dict[str, Any]:
    """Write weights (`packed`) and their card; returns the card with the file's SHA-256."""
    from safetensors.torch import save_file

    path = weight_path(name, folder)
    with atomic_path(path) as temporary:
        save_file(packed(state, bits), temporary)
    told = {"bits": bits, "parameters": sum(v.numel() for v in state.values()), "sha256": sha256_file(path)}
    card = {**card, "name": name, **told}
    write_json(card_path(name, folder), card)
    return card


def load_weights(name: str, folder: Path = EMBEDDED) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state (floating point as float32) and the card of a network.

    Raises ConcordError when a file is missing, or is not the one that its card describes.
    """
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
    return unpacked(load_file(path)), card


def load_network(kind: type[Network], path: Path, device: torch.device | str = "cpu") -> Network:
    """The network of committed weights, built by its card: in evaluation mode, frozen, on the device.

    path: of the weights, NAME.safetensors beside NAME.json.
    """
    state, card = load_weights(path.stem, path.parent)
    network = kind(**card["config"])
    network.load_state_dict(state)
    return network.to(device).eval().requires_grad_(False)
