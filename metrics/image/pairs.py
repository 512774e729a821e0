"""What the metrics of pixels and style share: an image beside its original, or beside its style reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from concord.data.errors import ConcordError
from concord.data.request import Conditions
from concord.metrics.base import Observation

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


def paired(observation: Observation, metric: str) -> tuple[Tensor, Tensor]:
    """Images and originals, float32 (B, 3, H, W) of one size; resizing would change the score, so it is never done."""
    images, originals = observation.images, observation.originals
    if originals is None:
        raise ConcordError(f"metric '{metric}' compares with the original images, which were not given")
    if images.shape != originals.shape:
        sizes = (f"{x.shape[3]}x{x.shape[2]}" for x in (images, originals))
        raise ConcordError(
            f"metric '{metric}': images are {{}} pixels, their originals {{}}; give both at one size".format(*sizes)
        )
    return images, originals


def style_references(conditions: Sequence[Conditions], resize: Callable[[np.ndarray], Tensor]) -> tuple[Tensor, Tensor]:
    """Different style images (R, ...) as `resize` makes them, and for each image the row of its own, int64 (B,).

    A batch that shares one reference has it looked at once.
    """
    import torch

    rows: dict[bytes, int] = {}
    references: list[Tensor] = []
    index = []
    for number, condition in enumerate(conditions):
        style = condition.style
        if style is None or style.ndim != 3 or style.shape[2] != 3 or style.dtype != np.uint8:
            given = "missing" if style is None else f"of shape {style.shape} and type {style.dtype}"
            raise ConcordError(
                f"condition 'style' of image {number} of the batch is {given}; expected an image uint8 (H, W, 3) RGB"
            )
        key = str(style.shape).encode() + style.tobytes()
        if key not in rows:
            rows[key] = len(references)
            references.append(resize(style))
        index.append(rows[key])
    return torch.stack(references), torch.tensor(index)


def network_of(observation: Observation, role: str, kind: type[T], metric: str, instead: str) -> T:
    """The network of a role, where it is what the metric looks through; else ConcordError that ends in `instead`."""
    try:
        return observation.networks.get(role, kind)
    except ConcordError as error:
        raise ConcordError(
            f"metric '{metric}': the scoring networks of this profile cannot measure it; {instead} ({error})"
        ) from None
