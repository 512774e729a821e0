"""Where tensors live: one rule for every command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from concord.data.errors import ConcordError

if TYPE_CHECKING:
    import torch


def resolve_device(name: str = "auto") -> torch.device:
    """'auto' takes a GPU where there is one; a GPU asked for by name and not found is an error, never a fallback."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConcordError(f"--device {name}: unknown device; expected auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConcordError(f"--device {name}: no GPU was found on this machine; use --device cpu or auto")
    if device.type == "cuda" and device.index is not None and device.index >= torch.cuda.device_count():
        raise ConcordError(f"--device {name}: this machine has {torch.cuda.device_count()} GPU(s), counted from 0")
    if device.type not in ("cpu", "cuda"):
        raise ConcordError(f"--device {name}: expected auto, cpu, cuda or cuda:N")
    return device
