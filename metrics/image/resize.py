"""How images reach the size that a feature network reads: the resizes of the FID libraries, each under its own name.

    clean        clean-fid: bicubic (a = -0.5), antialiased where it shrinks, not rounded, cut to 0..255
    tensorflow   TensorFlow 1, torch-fidelity, ADM's evaluator: two-tap bilinear, output pixel i read at i * in / out
    legacy       pytorch-fid: two-tap bilinear, output pixel i read at (i + 1/2) * in / out - 1/2
    pillow       dgm-eval (FD-DINOv2): as `clean`, rounded to 8 bits after each of the two passes

They differ by several grey levels on the same image, so a FID made with one never stands beside a FID made with
another: each has a metric name of its own. Parmar, Zhang & Zhu, "On Aliased Resizing" (CVPR 2022).

`clean` is a product with two constant matrices, which Pillow itself makes by resizing the identity: it runs on any
device, a whole batch at a time, and stays within 0.0001 grey levels of clean-fid's loop over images and channels.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def levels(images: Tensor) -> Tensor:
    """Grey levels 0..255 as float32, from uint8, or from floats in [0, 1] rounded to the 8 bits that a PNG keeps.

    (B, 3, H, W). Rounding makes an image in memory score as the file that it becomes; NaN stays NaN.
    """
    import torch

    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images of shape {tuple(images.shape)}: expected (B, 3, H, W)")
    if images.dtype == torch.uint8:
        return images.float()
    if not images.is_floating_point():
        raise ValueError(f"images of {images.dtype}: expected uint8 in 0..255 or floats in [0, 1]")
    return (images.float() * 255).round().clamp(0, 255)


def clean(images: Tensor, side: int = 299) -> Tensor:
    """clean-fid's resize: levels (B, 3, H, W) -> float32 (B, 3, side, side) in 0..255, not rounded."""
    import torch

    height, width = images.shape[-2:]
    down, across = (torch.from_numpy(bicubic_matrix(n, side)).to(images) for n in (height, width))
    if height != side:
        images = down @ images
    if width != side:
        images = images @ across.T
    return images.clamp(0, 255)


@lru_cache(maxsize=16)
def bicubic_matrix(size: int, side: int) -> np.ndarray:
    """float32 (side, size): how much each input pixel counts in each output pixel, along one axis."""
    from PIL import Image

    identity = Image.fromarray(np.eye(size, dtype=np.float32))  # column k: the image of pixel k alone
    return np.array(identity.resize((size, side), Image.Resampling.BICUBIC))


def tensorflow(images: Tensor, side: int = 299) -> Tensor:
    """TensorFlow 1's resize_bilinear (align_corners off): levels (B, 3, H, W) -> (B, 3, side, side)."""
    import torch

    def taps(size: int) -> tuple[Tensor, Tensor, Tensor]:
        scale = torch.tensor(size / side, dtype=torch.float32)  # float32 as there: it decides which pixel is read
        place = torch.arange(side, dtype=torch.float32) * scale
        low = place.long()
        return low.to(images.device), (low + 1).clamp_max(size - 1).to(images.device), (place - low).to(images.device)

    left, right, share = taps(images.shape[3])
    first = images[..., left]
    rows = first + (images[..., right] - first) * share
    top, bottom, share = taps(images.shape[2])
    first = rows[..., top, :]
    return first + (rows[..., bottom, :] - first) * share[:, None]


def legacy(images: Tensor, side: int = 299) -> Tensor:
    """pytorch-fid's resize: any floats (B, 3, H, W) -> (B, 3, side, side)."""
    from torch.nn.functional import interpolate

    return interpolate(images, size=(side, side), mode="bilinear", align_corners=False)


def pillow(images: Tensor, side: int) -> Tensor:
    """Pillow's 8-bit bicubic, image by image on the CPU: levels (B, 3, H, W) -> whole levels (B, 3, side, side)."""
    import torch
    from PIL import Image

    arrays = images.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    small = [Image.fromarray(p).resize((side, side), Image.Resampling.BICUBIC) for p in arrays]
    return torch.from_numpy(np.stack([np.asarray(p) for p in small])).permute(0, 3, 1, 2).to(images)
