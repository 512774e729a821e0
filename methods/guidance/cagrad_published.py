"""CAGrad as the authors of CAGrad and of Z-Magic coded it: small constants, inexact solvers, one problem a tensor.

    two tasks     scipy's bounded minimiser to its own tolerance (1e-5 in w), 1e-4 added under both roots and to the
                  length that is divided by; d / (1 + c)
    three tasks   SLSQP to its own tolerance from w = 1/3, 1e-8 in their place, w rounded to float32; d / (1 + c^2)

Both stand in Z-Magic's Face-GD/functions/denoising.py (HolmesShuan/FreeDoM at c94329e, lines 34 to 105), taken from
CAGrad's toy.py and nyuv2/utils.py. The constants are not small beside small gradients: `cagrad.cagrad` solves the
equations themselves, and these two are up to 14 % away from it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

TWO, SEVERAL = 1e-4, 1e-8
"""What is added under roots and to divisors."""


def cagrad_as_published(gradients: Tensor, c: float = 0.5, per_channel: bool = False, joint: bool = False) -> Tensor:
    """The direction (B, C, ...) of gradients (n, B, C, ...), n of 2 or more (their code for three counts to any n).

    per_channel: a problem of its own for every channel. joint: one for all rows of the batch and not one for each.
    """
    if len(gradients) < 2:
        raise ValueError(f"{len(gradients)} gradients: expected 2 or more")
    solve = _two_tasks if len(gradients) == 2 else _several_tasks
    rows = [gradients] if joint else list(gradients.split(1, dim=1))
    found = []
    for row in rows:
        parts = list(row.split(1, dim=2)) if per_channel else [row]
        found.append(torch.cat([solve(part, c) for part in parts], dim=1))
    return torch.cat(found)


def _two_tasks(gradients: Tensor, c: float) -> Tensor:
    from scipy.optimize import minimize_scalar  # here: every command imports the methods

    first, second = gradients.flatten(1)
    g11, g12, g22 = (float(torch.dot(a, b)) for a, b in ((first, first), (first, second), (second, second)))
    radius = c * 0.5 * np.sqrt(g11 + g22 + 2 * g12 + TWO)
    apart, over = g11 + g22 - 2 * g12, g12 - g22  # |g_1 - g_2|^2, and the slope of |g_w|^2 / 2 at w = 0

    def dual(w: float) -> float:
        return radius * np.sqrt(w**2 * apart + 2 * w * over + g22 + TWO) + 0.5 * w * apart + (0.5 + w) * over + g22

    w = float(minimize_scalar(dual, bounds=(0, 1), method="bounded").x)
    length = np.sqrt(w**2 * g11 + (1 - w) ** 2 * g22 + 2 * w * (1 - w) * g12 + TWO)
    share = radius / (length + TWO)
    return (gradients.mean(dim=0) + share * (w * gradients[0] + (1 - w) * gradients[1])) / (1 + c)


def _several_tasks(gradients: Tensor, c: float) -> Tensor:
    from scipy.optimize import minimize

    n, flat = len(gradients), gradients.flatten(1)  # (n, D)
    gram = (flat @ flat.T).cpu()
    radius = float(c * (gram.mean() + SEVERAL).sqrt() + SEVERAL)
    matrix, start = gram.numpy(), np.full(n, 1 / n)

    def dual(w: np.ndarray) -> float:
        # As products of matrices: SLSQP's numerical slopes magnify the rounding of any other order.
        along = w.reshape(1, n).dot(matrix)
        length = np.sqrt(along.dot(w.reshape(n, 1)) + SEVERAL)
        return float((along.dot(start.reshape(n, 1)) + radius * length).sum())

    constraint = {"type": "eq", "fun": lambda w: 1 - sum(w)}
    weights = minimize(dual, start, bounds=[(0, 1)] * n, constraints=constraint).x
    joined = (flat * torch.tensor(weights, dtype=torch.float32, device=flat.device)[:, None]).sum(dim=0)
    direction = flat.mean(dim=0) + radius / (joined.norm() + SEVERAL) * joined
    return (direction / (1 + c**2)).reshape(gradients.shape[1:])
