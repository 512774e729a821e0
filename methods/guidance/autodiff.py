"""Products with Jacobians and Hessians, never the matrices: what Z-Magic's equations 6 and 7 need.

    J^T v  with  J = d out / d x            `vjp`: one pass backwards for every v
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


class CallCounter(nn.Module):
    """Counts passes that are no forward pass: call it with the tensor that goes in. A hook on it sees the rows."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def twice_differentiable() -> AbstractContextManager[None]:
    """Attention by its plain formula: the fused kernels have no second derivative."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel(SDPBackend.MATH)


def vjp(
    out: Tensor,
    x: Tensor,
    cotangents: Tensor | Sequence[Tensor],
    retain_graph: bool = False,
    counter: nn.Module | None = None,
) -> Tensor:
    """J^T v for every cotangent v (K, *out.shape): (K, *x.shape).

    retain_graph: keep the graph of `out` for more. counter: is called with every cotangent.
    On a GPU several cotangents go in one vectorised pass; on a CPU that is slower than one after another.
    """
    if counter is not None:
        for v in cotangents:
            counter(v)
    if x.is_cuda and len(cotangents) > 1:
        stacked = cotangents if isinstance(cotangents, Tensor) else torch.stack(list(cotangents))
        (products,) = torch.autograd.grad(out, x, stacked, retain_graph=retain_graph, is_grads_batched=True)
        return products
    last = len(cotangents) - 1
    return torch.stack(
        [torch.autograd.grad(out, x, v, retain_graph=retain_graph or i < last)[0] for i, v in enumerate(cotangents)]
    )


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
