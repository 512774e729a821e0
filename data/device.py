"""Where tensors live and which numbers they hold: one rule for every command."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
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


def usable_cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def use_all_cores() -> None:
    """Let torch use the cores that this process may use (and no more: in a container it counts the machine's)."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(usable_cores())


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """TF32 off: convolutions on a GPU use it unless told otherwise, and features then differ in the third digit."""
    import torch

    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@contextlib.contextmanager
def number_format(dtype: str, device: torch.device) -> Iterator[None]:
    """What generators compute in: exact float32, or bfloat16 where autocast takes it."""
    import torch

    if dtype == "fp32":
        with exact_float32():
            yield
    elif dtype == "bf16":
        with torch.autocast(device.type, torch.bfloat16):
            yield
    else:
        raise ConcordError(f"dtype '{dtype}': expected fp32 or bf16")
