"""What a run costs: seconds by kind of work, network evaluations, peak memory."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    import torch
    from torch import nn


class Clock:
    """Seconds by kind of work, monotonic; kinds do not nest."""

    def __init__(self, *kinds: str) -> None:
        self.seconds = dict.fromkeys(kinds, 0.0)
        self.started = time.perf_counter()

    @contextlib.contextmanager
    def measure(self, kind: str) -> Iterator[None]:
        """Add the seconds of the block to `kind`, also where it raises."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[kind] += time.perf_counter() - start

    def split(self) -> dict[str, float]:
        """Seconds by kind since the start, with 'other' for what no kind covers."""
        total = time.perf_counter() - self.started
        return {**self.seconds, "other": max(0.0, total - sum(self.seconds.values()))}


class EvaluationCounter:
    """Counts network evaluations: rows of the batch, summed over the calls of each network's forward."""

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        self.rows = dict.fromkeys(networks, 0)
        self._handles = [
            network.register_forward_pre_hook(self._hook(name), with_kwargs=True) for name, network in networks.items()
        ]

    def _hook(self, name: str) -> Any:
        import torch

        def count(_module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
            tensors = (value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor) and value.ndim)
            self.rows[name] += len(next(tensors, ()))

        return count

    def close(self) -> None:
        """Take the hooks off the networks."""
        for handle in self._handles:
            handle.remove()


class PeakMemory:
    """The largest memory in use since it was made: of the GPU where the work is there, else of this process."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device if device is not None and device.type == "cuda" else None
        if self.device is not None:
            import torch

            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            with contextlib.suppress(OSError):  # Linux forgets the peak of the process; others keep it
                Path("/proc/self/clear_refs").write_text("5")

    def bytes(self) -> int:
        """The most bytes so far: of the GPU where there is one, else of this process."""
        if self.device is not None:
            import torch

            return int(torch.cuda.max_memory_allocated(self.device))
        with contextlib.suppress(OSError):
            found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
            if found:
                return int(found[1]) * 1024
        return int(psutil.Process().memory_info().rss)  # no peak is told there: what is held at the end of a shard


def process_started() -> float:
    """When this process began, on the clock of `time.perf_counter`; as exactly as the system tells."""
    now = time.perf_counter()
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])  # since the machine started
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        age = time.time() - psutil.Process().create_time()  # to the second only
    return now - max(0.0, age)


def wait_for(device: torch.device | None) -> None:
    """Wait until the device has done what it was given, so that a clock around it is true."""
    if device is not None and device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
