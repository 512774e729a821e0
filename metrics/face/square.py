"""FreeDoM's square around a face, which its landmark network looks at."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

MARGIN = 1.2  # in units of the face box's shorter side


class Square(NamedTuple):
    """Part of an image, in whole pixels: columns left .. left + side - 1, rows top .. top + side - 1."""

    left: int
    top: int
    side: int


def square_of(box: tuple[float, float, float, float]) -> Square:
    """FreeDoM's square from a face box (x1, y1, x2, y2), pixels: 1.2 times its shorter side, around its centre."""
    x1, y1, x2, y2 = box
    width, height = x2 - x1 + 1, y2 - y1 + 1
    side = int(min(width, height) * MARGIN)
    return Square(int(x1 + width // 2 - side // 2), int(y1 + height // 2 - side // 2), side)


def face_square(points: np.ndarray) -> Square:
    """The square of a face's landmarks (68, 2), their tight box standing in for a detector's."""
    low, high = np.asarray(points).min(axis=0), np.asarray(points).max(axis=0)
    return square_of((float(low[0]), float(low[1]), float(high[0]), float(high[1])))


def landmark_vector(points: Tensor, squares: list[Square]) -> Tensor:
    """Landmarks (B, 68, 2) in pixels -> (B, 136), as shares of a square each; differentiable."""
    import torch

    corners = torch.tensor([(square.left, square.top) for square in squares], dtype=points.dtype, device=points.device)
    sides = torch.tensor([square.side for square in squares], dtype=points.dtype, device=points.device)
    return ((points - corners[:, None]) / sides[:, None, None]).flatten(1)
