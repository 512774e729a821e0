"""CAGrad against a fine grid of its dual, against scipy, and by what its paper promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from concord.methods.guidance.cagrad import cagrad, duality_gap, solve_dual


def gradients(n: int, batch: int, seed: int, size: int = 12) -> Tensor:
    """Float64 (n, batch, size) of unequal lengths, some of them in conflict."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.randn(n, batch, size, generator=generator, dtype=torch.float64)
    found = found * torch.exp(torch.randn(n, batch, 1, generator=generator, dtype=torch.float64))
    found[0] -= found[1:].sum(dim=0) * torch.rand(batch, 1, generator=generator, dtype=torch.float64)
    return found


def dual(g: np.ndarray, w: np.ndarray, c: float) -> np.ndarray:
    """F at the weights (K, n) for gradients (n, D), spelled out."""
    g_0 = g.mean(axis=0)
    g_w = w @ g
    return g_w @ g_0 + c * np.linalg.norm(g_0) * np.linalg.norm(g_w, axis=1)


def by_formula(g: np.ndarray, w: np.ndarray, c: float) -> np.ndarray:
    """Equation 4."""
    g_0, g_w = g.mean(axis=0), w @ g
    return g_0 + c * np.linalg.norm(g_0) / np.linalg.norm(g_w) * g_w


@pytest.mark.parametrize("c", [0.1, 0.5, 0.9])
def test_two_tasks_are_the_minimum_of_a_grid(c: float) -> None:
    g = gradients(2, 15, 1)
    found = cagrad(g, c)
    x = np.linspace(0, 1, 200_001)
    grid = np.stack([x, 1 - x], axis=1)
    for row in range(15):
        mine = g[:, row].numpy()
        best = grid[dual(mine, grid, c).argmin()]
        np.testing.assert_allclose(found[row].numpy(), by_formula(mine, best, c), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("c", [0.4, 0.5])
def test_three_tasks_are_the_minimum_of_a_grid(c: float) -> None:
    g = gradients(3, 12, 2)
    found = cagrad(g, c)
    steps = 600
    i, j = np.meshgrid(np.arange(steps + 1), np.arange(steps + 1), indexing="ij")
    i, j = i[i + j <= steps] / steps, j[i + j <= steps] / steps
    grid = np.stack([i, j, 1 - i - j], axis=1)
    for row in range(12):
        mine = g[:, row].numpy()
        values = dual(mine, grid, c)
        direction = found[row].numpy()
        # By duality the worst improvement of the right direction is the dual's minimum; the grid is a little above.
        assert (mine @ direction).min() == pytest.approx(values.min(), abs=2e-4 * np.abs(values).max())
        assert (mine @ direction).min() <= values.min() + 1e-9
        np.testing.assert_allclose(direction, by_formula(mine, grid[values.argmin()], c), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("n", [4, 6, 12])
def test_more_tasks_are_scipys_minimum(n: int) -> None:
    c, g = 0.5, gradients(n, 6, n)
    found = cagrad(g, c)
    for row in range(6):
        mine = g[:, row].numpy()
        scale = np.linalg.norm(mine)
        solved = minimize(
            lambda w, m=mine / scale: dual(m, w[None], c)[0],
            np.full(n, 1 / n),
            method="SLSQP",
            bounds=[(0, 1)] * n,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
            options={"ftol": 1e-14, "maxiter": 500},
        )
        ours = (mine @ found[row].numpy()).min() / scale**2  # equals the dual's minimum
        assert ours == pytest.approx(solved.fun, abs=1e-6)
        assert ours <= solved.fun + 1e-12  # no solver finds less


@pytest.mark.parametrize("n", [1, 2, 3, 6, 12])
@pytest.mark.parametrize("c", [0.1, 0.5, 0.9])
def test_the_solution_is_certified_by_its_duality_gap(n: int, c: float) -> None:
    flat = gradients(n, 50, 10 + n) if n > 1 else torch.randn(1, 50, 12, dtype=torch.float64)
    gram = torch.einsum("ibd,jbd->bij", flat, flat).numpy()
    gram /= (np.trace(gram, axis1=1, axis2=2) / n)[:, None, None]
    assert np.abs(duality_gap(gram, solve_dual(gram, c), c)).max() < 1e-9


def test_no_freedom_gives_the_average() -> None:
    g = gradients(5, 4, 3)
    assert torch.equal(cagrad(g, 0.0), g.mean(dim=0))


@pytest.mark.parametrize("n", [2, 3, 6])
def test_the_worst_improvement_is_never_below_the_averages(n: int) -> None:
    g = gradients(n, 200, 4)
    worst = torch.einsum("nbd,bd->nb", g, cagrad(g, 0.5)).amin(dim=0)
    plain = torch.einsum("nbd,bd->nb", g, g.mean(dim=0)).amin(dim=0)
    assert bool((worst >= plain - 1e-9).all())
    assert float((worst > plain + 1e-3).double().mean()) > 0.9


def test_the_direction_lies_in_its_ball() -> None:
    g = gradients(4, 100, 5)
    away = (cagrad(g, 0.4) - g.mean(dim=0)).norm(dim=1)
    torch.testing.assert_close(away, 0.4 * g.mean(dim=0).norm(dim=1))


def test_a_sample_does_not_depend_on_its_neighbours() -> None:
    g = gradients(6, 8, 6)
    alone = torch.cat([cagrad(g[:, row : row + 1], 0.5) for row in range(8)])
    torch.testing.assert_close(cagrad(g, 0.5), alone, rtol=1e-9, atol=1e-9)


def test_scaling_all_gradients_scales_the_direction() -> None:
    g = gradients(3, 5, 7)
    torch.testing.assert_close(cagrad(1e-6 * g, 0.5), 1e-6 * cagrad(g, 0.5), rtol=1e-8, atol=0)


def test_rescaling_divides() -> None:
    g = gradients(3, 5, 8)
    torch.testing.assert_close(cagrad(g, 0.5, "1+c^2"), cagrad(g, 0.5) / 1.25)
    torch.testing.assert_close(cagrad(g, 0.5, "1+c"), cagrad(g, 0.5) / 1.5)


@pytest.mark.parametrize("case", ["cancel", "equal", "zero", "all zero"])
def test_degenerate_gradients_have_a_direction(case: str) -> None:
    g = gradients(3, 6, 9)
    if case == "cancel":
        g[1] = -g[0]
    if case == "equal":
        g[:] = g[:1]
    if case == "zero":
        g[2] = 0
    if case == "all zero":
        g[:] = 0
    found = cagrad(g, 0.5)
    assert bool(torch.isfinite(found).all())
    worst = torch.einsum("nbd,bd->nb", g, found).amin(dim=0)
    plain = torch.einsum("nbd,bd->nb", g, g.mean(dim=0)).amin(dim=0)
    assert bool((worst >= plain - 1e-6 * g.square().sum()).all())
    if case == "all zero":
        assert float(found.abs().max()) == 0


def test_bad_input_is_refused() -> None:
    g = gradients(3, 4, 9)
    with pytest.raises(ValueError, match="expected 0 <= c < 1"):
        cagrad(g, 1.0)
    g[1, 2] = float("nan")
    with pytest.raises(ArithmeticError, match="NaN"):
        cagrad(g, 0.5)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_the_length_of_mtrls_exact_solver(n: int) -> None:
    """CAGrad's mtrl, cagrad_exact: (g_0 + lambda g_w) / (1 + lambda), lambda = c ||g_0|| / ||g_w||."""
    gradients = torch.randn(n, 4, 30, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    plain, found = cagrad(gradients, 0.4), cagrad(gradients, 0.4, "1+lambda")
    average = gradients.mean(dim=0)
    for row in range(4):
        away = (plain - average)[row]  # lambda g_w, so that its shares of the gradients sum to lambda
        shares = torch.linalg.lstsq(gradients[:, row].T, away).solution
        torch.testing.assert_close(found[row], plain[row] / (1 + shares.sum()), rtol=1e-9, atol=1e-12)
