"""What a method returns, looked at before anything is clamped or converted: images, or one line of what is wrong."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from concord.data.errors import ConcordError

ROUNDING = 1e-3
"""How far values may lie outside [0, 1]: a quarter of a grey level, which rounds to the same one."""
EXPECTED = "expected a float tensor (B, 3, H, W) in [0, 1]"


def checked_images(images: object, requests: Sequence[str], method: str) -> Tensor:
    """The images as they are, or a ConcordError that names the method, the request where it is one, and what to do.

    images: what `sample` returned for the requests with these ids.
    """
    where = f"method '{method}', request {requests[0]}" + (f" and {len(requests) - 1} more" * (len(requests) > 1))
    if not isinstance(images, Tensor):
        raise ConcordError(f"{where}: `sample` returned {_kind(images)}; {EXPECTED}{_hint(images)}")
    if images.layout != torch.strided:
        raise ConcordError(f"{where}: `sample` returned a sparse tensor; {EXPECTED}: call .to_dense()")
    if images.is_meta:
        raise ConcordError(f"{where}: `sample` returned a tensor without values (device 'meta'); {EXPECTED}")
    if not images.is_floating_point():
        how = ": divide by 255" if images.dtype == torch.uint8 else ""
        raise ConcordError(f"{where}: `sample` returned {_name(images.dtype)} values; {EXPECTED}{how}")
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[1] != 3 or 0 in shape[2:]:
        last = ": move the channels first" if len(shape) == 4 and shape[-1] == 3 else ""
        raise ConcordError(f"{where}: `sample` returned shape {shape}; {EXPECTED}{last}")
    if shape[0] != len(requests):
        raise ConcordError(f"{where}: `sample` returned {shape[0]} images for {len(requests)} requests; {EXPECTED}")
    for request, image in zip(requests, images.detach(), strict=True):
        _check_values(image, f"method '{method}', request {request}")
    return images


def _check_values(image: Tensor, where: str) -> None:
    if not bool(torch.isfinite(image).all()):
        raise ConcordError(f"{where}: NaN or infinity in the image; expected finite values in [0, 1]")
    low, high = float(image.min()), float(image.max())
    if low < -ROUNDING or high > 1 + ROUNDING:
        scale = "divide by 255" if low >= -ROUNDING and high > 16 else "map [-1, 1] by x / 2 + 0.5, and clamp the rest"
        raise ConcordError(f"{where}: values {low:.3g} to {high:.3g}; expected [0, 1]: {scale}")


def _kind(value: object) -> str:
    if value is None:
        return "nothing (None)"
    kind = type(value)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__.partition('.')[0]}.{kind.__name__}"
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _hint(value: object) -> str:
    if value is None:
        return ": return the images"
    if isinstance(value, list | tuple):
        return ": torch.stack them"
    return ": torch.from_numpy(...)" if type(value).__module__.startswith("numpy") else ""


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
