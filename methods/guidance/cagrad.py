"""CAGrad (Liu et al., NeurIPS 2021): one direction for n tasks that helps the worst-off task most, near the average.

    g_0 = 1/n sum_i g_i
    max_d  min_i <g_i, d>   subject to  ||d - g_0|| <= c ||g_0||                        (equation 2)

Its dual is a convex problem on the simplex; with its minimiser w and g_w = sum_i w_i g_i the solution is closed:

    min_w  F(w) = <g_w, g_0> + sqrt(phi) ||g_w||,   phi = c^2 ||g_0||^2                   (equation 3)
    d = g_0 + sqrt(phi) / ||g_w|| g_w                                                   (equation 4)

Public variants disagree on the length of d, which is the parameter `rescale` here: the paper's algorithm leaves d as it
is ('none'), the authors' code for NYU-v2 divides it by 1 + c^2, their toy example by 1 + c, and their exact solver of
mtrl by 1 + lambda, lambda = sqrt(phi) / ||g_w||, which every sample has its own of.

The dual depends on the gradients through their Gram matrix alone, so that it stays small. It is solved in float64 by a
primal-dual interior-point method, all samples of a batch at once. F is homogeneous of degree one, so that the duality
gap of any w is w.F'(w) - min_i F'_i(w): it certifies a solution without a second solver.

F has a kink where g_w vanishes, as when two gradients cancel exactly, and Newton's method fails there. Such problems
are solved as  min_l min_w <g_w, g_0> + sqrt(phi) (l ||g_w||^2 + 1 / l) / 2,  a quadratic programme for every l > 0; at
the kink l is as large as LARGEST, and d = g_0 + sqrt(phi) l g_w lies within the ball instead of on it.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

Rescale = Literal["none", "1+c^2", "1+c", "1+lambda"]

GAP = 1e-11
"""Duality gap at which a solution counts as found, where the mean squared gradient is 1."""
KINK_GAP = 1e-6
"""Duality gap allowed where gradients cancel exactly."""
LARGEST = 1e7
TINY = 1e-24
"""Added to ||g_w||^2, which is divided by."""


def cagrad(gradients: Tensor, c: float = 0.5, rescale: Rescale = "none") -> Tensor:
    """The direction d (B, ...) of gradients (n, B, ...), one problem per sample; c = 0 gives their average.

    c: how far d may lie from the average, as a share of its length; 0 <= c < 1 (from 1 on d may vanish).
    """
    if not 0 <= c < 1:
        raise ValueError(f"c = {c}: expected 0 <= c < 1")
    average = gradients.mean(dim=0)
    if c == 0:
        return average
    flat = gradients.flatten(2).double()  # (n, B, D)
    gram = torch.einsum("ibd,jbd->bij", flat, flat).cpu().numpy()
    share = torch.from_numpy(_shares(gram, c)).to(gradients)  # (B, n): of every g_i in d - g_0
    away = torch.einsum("ib...,bi->b...", gradients, share)
    if rescale == "1+lambda":  # the shares are lambda w, and w sums to 1
        return (average + away) / (1 + share.sum(dim=1)).reshape(-1, *[1] * (average.ndim - 1))
    return (average + away) / {"none": 1.0, "1+c^2": 1 + c**2, "1+c": 1 + c}[rescale]


def _shares(gram: np.ndarray, c: float) -> np.ndarray:
    """sqrt(phi) w / ||g_w||, (B, n): every gradient's share of d - g_0."""
    scale = np.trace(gram, axis1=1, axis2=2) / gram.shape[1]  # mean squared length
    return solve_dual(gram / np.where(scale > 0, scale, 1)[:, None, None], c)


def solve_dual(gram: np.ndarray, c: float) -> np.ndarray:
    """sqrt(phi) l w (B, n), where w minimises equation 3 and l is 1 / ||g_w||, or LARGEST at the kink.

    gram: float64 (B, n, n), mean diagonal 1.
    Raises ArithmeticError for NaN or infinity, and where the duality gap stays above GAP (KINK_GAP at the kink).
    """
    if not np.isfinite(gram).all():
        raise ArithmeticError("CAGrad: the gradients hold NaN or infinity")
    w = _minimise(gram, c)
    shares = _root_phi(gram, c) / _norm(gram, w)[:, None] * w
    hard = np.flatnonzero(duality_gap(gram, shares, c) > 10 * GAP)
    if len(hard):
        shares[hard] = _at_kink(gram[hard], c)
        gap = duality_gap(gram[hard], shares[hard], c).max()
        if gap > KINK_GAP:
            raise ArithmeticError(f"CAGrad: a duality gap of {gap:.1e} is left")
    return shares


def duality_gap(gram: np.ndarray, shares: np.ndarray, c: float) -> np.ndarray:
    """min over the simplex of F, from above, less min_i <g_i, d>, (B,): at least 0, and 0 at the solution alone.

    shares: (B, n), 0 or more; d - g_0 = sum_i shares_i g_i, of length sqrt(phi) at most.
    """
    root_phi = _root_phi(gram, c)[:, 0]
    total = shares.sum(axis=1)
    w = np.where(total[:, None] > 0, shares / np.where(total > 0, total, 1)[:, None], 1 / shares.shape[1])
    value = np.einsum("bi,bij->b", w, gram) / shares.shape[1] + root_phi * _norm(gram, w)
    return value - (gram.mean(axis=2) + np.einsum("bij,bj->bi", gram, shares)).min(axis=1)


def _root_phi(gram: np.ndarray, c: float) -> np.ndarray:
    """c ||g_0||, (B, 1)."""
    return c * np.sqrt(np.maximum(gram.mean(axis=(1, 2)), 0))[:, None]


def _norm(gram: np.ndarray, w: np.ndarray) -> np.ndarray:
    """||sum_i w_i g_i||, (B,), never 0."""
    return np.sqrt(np.maximum(np.einsum("bi,bij,bj->b", w, gram, w), 0) + TINY)


def _minimise(gram: np.ndarray, c: float, iterations: int = 60) -> np.ndarray:
    """The minimiser w (B, n) of F, or the best of the iterates where Newton's method fails."""
    batch, n, _ = gram.shape
    best, best_gap = np.full((batch, n), 1 / n), np.full(batch, np.inf)
    w, z, nu = best.copy(), np.ones((batch, n)), np.zeros(batch)
    left = np.arange(batch)  # the samples that are not solved yet
    for _ in range(iterations):
        here = gram[left]
        root_phi, length = _root_phi(here, c), _norm(here, w)[:, None]
        pull = np.einsum("bij,bj->bi", here, w)
        slope = here.mean(axis=2) + root_phi * pull / length
        gap = np.einsum("bi,bi->b", w, slope) - slope.min(axis=1)
        better = gap < best_gap[left]
        best[left[better]], best_gap[left[better]] = w[better], gap[better]
        if (best_gap[left] <= GAP).all():
            break
        unit = pull / length
        bend = (root_phi / length)[..., None] * (here - np.einsum("bi,bj->bij", unit, unit))
        w, z, nu = _newton(w, z, nu, slope, bend)
        keep = best_gap[left] > GAP
        left, w, z, nu = left[keep], w[keep], z[keep], nu[keep]
    return best


def _at_kink(gram: np.ndarray, c: float) -> np.ndarray:
    """sqrt(phi) l w (B, n) for the largest l <= LARGEST with l ||g_w|| <= 1, by bisection of log l."""
    batch, n, _ = gram.shape
    root_phi, linear = _root_phi(gram, c), gram.mean(axis=2)
    low, high = np.full((batch, 1), 1e-3), np.full((batch, 1), LARGEST)
    found = np.zeros((batch, n))
    for step in range(60):
        middle = high.copy() if step == 0 else np.sqrt(low * high)
        w, z, nu = np.full((batch, n), 1 / n), np.ones((batch, n)), np.zeros(batch)
        bend = (root_phi * middle)[..., None] * gram
        for _ in range(40):
            w, z, nu = _newton(w, z, nu, linear + np.einsum("bij,bj->bi", bend, w), bend)
        inside = middle[:, 0] * _norm(gram, w) <= 1
        low[inside], high[~inside] = middle[inside], middle[~inside]
        found[inside] = (root_phi * middle * w)[inside]
        if step == 0 and inside.all():
            break
    return found


def _newton(
    w: np.ndarray, z: np.ndarray, nu: np.ndarray, slope: np.ndarray, bend: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One step towards slope + nu = z, sum w = 1, w z = tau (the optimality conditions at tau = 0), with w, z > 0.

    slope, bend: gradient (B, n) and Hessian (B, n, n) of the objective at w.
    """
    batch, n = w.shape
    tau = 0.1 * np.einsum("bi,bi->b", w, z)[:, None] / n
    matrix = np.zeros((batch, n + 1, n + 1))
    diagonal = z / w + 1e-12 * (1 + np.trace(bend, axis1=1, axis2=2)[:, None])  # equal gradients leave w undetermined
    matrix[:, :n, :n] = bend + np.einsum("bi,ij->bij", diagonal, np.eye(n))
    matrix[:, :n, n] = matrix[:, n, :n] = 1
    right = np.concatenate([tau / w - slope - nu[:, None], 1 - w.sum(axis=1, keepdims=True)], axis=1)
    move = np.linalg.solve(matrix, right[..., None])[..., 0]
    dw = move[:, :n]
    dz = (tau - z * dw) / w - z
    step = 0.99 * np.minimum(_to_boundary(w, dw), _to_boundary(z, dz))[:, None]
    w = np.maximum(w + step * dw, 1e-30)
    return w / w.sum(axis=1, keepdims=True), np.maximum(z + step * dz, 1e-30), nu + step[:, 0] * move[:, n]


def _to_boundary(value: np.ndarray, move: np.ndarray) -> np.ndarray:
    """The largest step (B,), at most 1 / 0.99, that keeps value + step * move above zero."""
    with np.errstate(divide="ignore", over="ignore"):
        room = np.where(move < 0, -value / np.minimum(move, -1e-300), np.inf)
    return np.minimum(room.min(axis=1), 1 / 0.99)
