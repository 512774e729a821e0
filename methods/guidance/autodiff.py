"""Products with Jacobians and Hessians, never the matrices: what Z-Magic's equations 6 and 7 need.

    J^T v  with  J = d out / d x            `pull_back`: one pass backwards for every v
    H v    with  H = d^2 E / d x^2          d <dE/dx, stopgrad(v)> / dx (equation 7), or by a forward difference
                                            (dE/dx(x + h u) - dE/dx(x)) |v| / h with u = v / |v|

An exact product passes backwards through a backward pass: its graph has to be kept (create_graph), and attention has to
run in a kernel that has a second derivative (`twice_differentiable`). Networks with kinks (ReLU) hide their curvature
from the exact product, while the difference sees some of it; the embedded networks are smooth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

DIFFERENCE = 3e-2
"""h of the forward difference, in the units of x. On the embedded networks it is 0.2-0.95 % off the exact product
(medians over 8 faces, five energies, t from 101 to 901); 0.01 is up to 3 % off, as float32 rounds, 0.1 up to 0.8 %."""


class Tally(nn.Module):
    """Counts passes that are no forward pass: call it with the tensor that goes in. A hook on it sees the rows."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def twice_differentiable() -> AbstractContextManager[None]:
    """Attention by its plain formula: the fused kernels have no second derivative."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel(SDPBackend.MATH)


def pull_back(
    out: Tensor,
    x: Tensor,
    cotangents: Tensor | Sequence[Tensor],
    keep: bool = False,
    create_graph: bool = False,
    tally: nn.Module | None = None,
) -> Tensor:
    """J^T v for every cotangent v (K, *out.shape): (K, *x.shape).

    keep: keep the graph of `out` for more. tally: is called with every cotangent.
    On a GPU the cotangents of a first derivative go in one batched pass; with create_graph, and on a CPU, where that is
    slower, they go one after another.
    """
    if tally is not None:
        for v in cotangents:
            tally(v)
    if x.is_cuda and len(cotangents) > 1 and not create_graph:
        stacked = cotangents if isinstance(cotangents, Tensor) else torch.stack(list(cotangents))
        (found,) = torch.autograd.grad(out, x, stacked, retain_graph=keep, is_grads_batched=True)
        return found
    last = len(cotangents) - 1
    pulled = [
        torch.autograd.grad(out, x, v, retain_graph=keep or create_graph or i < last, create_graph=create_graph)[0]
        for i, v in enumerate(cotangents)
    ]
    return torch.stack(pulled)


def probe(x: Tensor, v: Tensor, h: float = DIFFERENCE) -> tuple[Tensor, Tensor]:
    """x + h u for rows of unit vectors u = v / |v|, and |v| as (R, 1, ...)."""
    length = v.flatten(1).norm(dim=1).reshape(-1, *[1] * (v.ndim - 1))
    return x + h * v / length.clamp(min=1e-20), length


def difference(
    gradient: Callable[[Tensor], Tensor], x: Tensor, at_x: Tensor, v: Tensor, h: float = DIFFERENCE
) -> Tensor:
    """H v per row by a forward difference of the gradient; at_x = gradient(x), all (R, ...)."""
    moved, length = probe(x, v, h)
    return (gradient(moved) - at_x) * (length / h)
