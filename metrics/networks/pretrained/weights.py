"""Reading published weight files: found by name, never unpickled, every key accounted for."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from concord.data.errors import ConcordError

N = TypeVar("N", bound=nn.Module)

NO_FACE = "no face found"


def weight_path(name: str, path: Path | None = None) -> Path:
    """`path` where it exists, or where `concord weights fetch` has put the file of that name.

    Raises ConcordError naming the file and how to get it.
    """
    if path is None:
        from concord.data.download.manifest import weight_file

        return weight_file(name)
    if not Path(path).exists():
        raise ConcordError(
            f"{path}: no such weight file; give the file of '{name}', or run `concord weights fetch {name}`"
        )
    return Path(path)


def read_state(path: Path, key: str | None = None) -> dict[str, Tensor]:
    """The state dict of a .pth file, `weights_only`; `key`: the entry that holds it, where the file is a checkpoint.

    The prefix 'module.' of a network saved from DataParallel is taken off.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0][:90] if str(error) else type(error).__name__
        raise ConcordError(f"{path}: not a PyTorch weight file ({reason}); fetch the file again") from None
    if key is not None:
        state = state.get(key) if isinstance(state, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        where = f"a state dict under '{key}'" if key else "a state dict"
        raise ConcordError(f"{path}: expected {where}, names with tensors; fetch the file again")
    if state and all(name.startswith("module.") for name in state):
        return {name.removeprefix("module."): value for name, value in state.items()}
    return dict(state)


class _NoInitialisation(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":  # they fill their first argument and return it
            return args[0] if args else next(iter((kwargs or {}).values()))
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def unfilled() -> Iterator[None]:
    """Networks built here skip their random start, a second for CLIP: for those that `load_strictly` then fills."""
    with _NoInitialisation():
        yield


def load_strictly(network: nn.Module, state: Mapping[str, Tensor], path: Path, kind: str | None = None) -> None:
    """Fill the network; ConcordError naming the first key that is missing, unknown or of another shape.

    Counters of batch normalisation may be missing: files older than PyTorch 0.4.1 have none, and evaluation reads none.
    """
    own = network.state_dict()
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unknown = [name for name in state if name not in own]
    other = [name for name in own if name in state and own[name].shape != state[name].shape]
    kind = kind or type(network).__name__
    if missing or unknown:
        what = f"lacks '{missing[0]}'" if missing else f"holds '{unknown[0]}'"
        more = f"{len(missing)} names are missing, {len(unknown)} unknown"
        raise ConcordError(f"{path}: no weights of {kind}: it {what} ({more}); fetch the file again")
    if other:
        name = other[0]
        shapes = f"{tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
        raise ConcordError(f"{path}: no weights of {kind}: '{name}' has shape {shapes}; fetch the file again")
    network.load_state_dict({**own, **state})


def frozen(network: N, device: torch.device | str) -> N:
    """In evaluation mode on the device, its parameters without gradients; images still get theirs."""
    return network.to(device).eval().requires_grad_(False)


def to_uint8(images: Tensor) -> np.ndarray:
    """float32 (B, 3, H, W) in [0, 1] -> uint8 (B, H, W, 3) RGB, to the nearest level; exact for decoded images."""
    finite = torch.isfinite(images.flatten(1)).all(dim=1)
    if not bool(finite.all()):  # as bytes they would look like black
        number = int((~finite).nonzero()[0])
        raise ConcordError(f"image {number} of the batch holds NaN or infinity: expected RGB in [0, 1]; make it again")
    levels = images.detach().float().clamp(0, 1).mul(255).round()
    return levels.to(torch.uint8).permute(0, 2, 3, 1).cpu().contiguous().numpy()
