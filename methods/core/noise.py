"""Noise per request: drawn on the CPU in float32 from the request's own generator, then moved.

That is why an image does not depend on its batch, its order, its shard or its device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def draw_noise(
    generators: Sequence[torch.Generator], shape: Sequence[int], device: torch.device | str = "cpu"
) -> Tensor:
    """Standard normal noise (B, *shape), row i from generators[i]; each call advances every generator once."""
    rows = [torch.randn(tuple(shape), generator=generator, dtype=torch.float32) for generator in generators]
    return torch.stack(rows).to(device)
