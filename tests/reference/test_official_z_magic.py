"""Z-Magic's preset "official" against the authors' code, spelled out over all steps in float64.

HolmesShuan/FreeDoM at c94329e: FG = Face-GD/functions/denoising.py, run as Face-GD/run.sh does; SD = SD_style/ldm/
models/diffusion/ddim.py, run as SD_style/run.sh does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from compared import compared
from official_world import World, off, seldom
from scipy.optimize import minimize, minimize_scalar
from torch import Tensor

from concord.methods.base import make_params
from concord.methods.guidance.cagrad import cagrad
from concord.methods.guidance.cagrad_published import cagrad_as_published
from concord.methods.z_magic import ZMagic

CLOSE = 1e-9
FACES = "HolmesShuan/FreeDoM c94329e, Face-GD/functions/denoising.py"
RHO = {"mask": 0.1, "identity": 3.0, "landmarks": 5.0}
"""run.sh has 100 and 500 for identity and landmarks: steps of that length multiply rounding errors on the toy model."""


def abar(betas: Tensor, i: int) -> Tensor:
    """FG:101-105."""
    return torch.cumprod(1 - torch.cat([betas.new_zeros(1), betas]), dim=0)[i + 1]


def cagrad_two(grads: Sequence[Tensor], c: float = 0.5) -> Tensor:
    """FG:34-66."""
    g1, g2 = (g.reshape(-1) for g in grads)
    g11, g12, g22 = torch.dot(g1, g1).item(), torch.dot(g1, g2).item(), torch.dot(g2, g2).item()
    coef = c * 0.5 * np.sqrt(g11 + g22 + 2 * g12 + 1e-4)  # FG:48

    def obj(x: float) -> float:  # FG:53-57
        root = np.sqrt(x**2 * (g11 + g22 - 2 * g12) + 2 * x * (g12 - g22) + g22 + 1e-4)
        return coef * root + 0.5 * x * (g11 + g22 - 2 * g12) + (0.5 + x) * (g12 - g22) + g22

    x = minimize_scalar(obj, bounds=(0, 1), method="bounded").x
    gw_norm = np.sqrt(x**2 * g11 + (1 - x) ** 2 * g22 + 2 * x * (1 - x) * g12 + 1e-4)  # FG:63
    gw = x * grads[0] + (1 - x) * grads[1]
    return ((grads[0] + grads[1]) / 2 + coef / (gw_norm + 1e-4) * gw) / (1 + c)  # FG:65-68


def cagrad_three(grads: Sequence[Tensor], alpha: float = 0.5) -> Tensor:
    """FG:71-98, rescale = 1."""
    columns = torch.stack(list(grads)).view(3, -1).t()
    gg = columns.t().mm(columns)
    c = (alpha * (gg.mean() + 1e-8).sqrt() + 1e-8).item()
    a, b = gg.numpy(), np.ones(3) / 3

    def obj(x: np.ndarray) -> float:  # FG:86-88
        row = x.reshape(1, 3).dot(a)
        return (row.dot(b.reshape(3, 1)) + c * np.sqrt(row.dot(x.reshape(3, 1)) + 1e-8)).sum()

    constraint = {"type": "eq", "fun": lambda x: 1 - sum(x)}
    found = minimize(obj, np.ones(3) / 3, bounds=((0, 1),) * 3, constraints=constraint).x
    gw = (columns * torch.Tensor(found).view(1, -1)).sum(1)
    g = columns.mean(1) + c / (gw.norm() + 1e-8) * gw
    return (g / (1 + alpha**2)).view_as(grads[0])


def per_channel(grads: Sequence[Tensor]) -> Tensor:
    """FG:412-421, 770-775, 996-1001: one problem for every channel, over the whole batch."""
    solve = cagrad_two if len(grads) == 2 else cagrad_three
    return torch.stack([solve([g[:, k] for g in grads]) for k in range(grads[0].shape[1])], dim=1)


def faces(
    world: World, order: Sequence[str], rho: dict[str, float], stop: int = 200, eta: float = 0.5, steps: int = 100
) -> Tensor:
    """FG:337-443 (text + mask), 704-795 (identity + landmarks), 891-1020 (text, mask and identity)."""
    noise, betas, first = world.stream(), world.toys.betas, order[0]
    seq = range(0, 1000, 1000 // steps)
    x = noise()
    for i, j in zip(reversed(seq), reversed([-1, *seq[:-1]]), strict=True):
        at, at_next = abar(betas, i), abar(betas, j)
        xt = x.detach().requires_grad_(True)
        et = world.eps(xt, i)
        x0_t = (xt - et * (1 - at).sqrt()) / at.sqrt()
        (grad,) = torch.autograd.grad(world.norm(first, x0_t), xt, retain_graph=True)
        c1 = at_next.sqrt() * (1 - at / at_next) / (1 - at)
        if first == "text":  # FG:370-380
            c2 = (at / at_next).sqrt() * (1 - at_next) / (1 - at)
            c3 = ((1 - at_next) * (1 - at / at_next) / (1 - at)).sqrt()
            base, spread = c1 * x0_t + c2 * xt, c3
            l1 = (et * et).mean().sqrt() * (1 - at).sqrt() / at.sqrt() * c1
            grads = [(l1 * 0.02 / (grad * grad).mean().sqrt() * grad).detach()]
            moves = True  # FG:384: the text is not behind `if not i <= stop`
        else:  # FG:733-740
            base = at_next.sqrt() * x0_t + (1 - at_next).sqrt() * (1 - eta**2) ** 0.5 * et
            spread = (1 - at_next).sqrt() * eta
            grads = [at.sqrt() * rho[first] * grad]
            moves = i > stop
        noises = [noise() for _ in order[1:]]  # FG:939 draws once more for the identity's branch
        if i > stop:
            for drawn, name in zip(noises, order[1:], strict=True):
                branch = base + spread * drawn - grads[0]  # x_t of the first condition, on the graph of `base` alone
                ahead = branch.detach().requires_grad_(True)
                x0_ahead = (ahead - world.eps(ahead, i) * (1 - at).sqrt()) / at.sqrt()
                (slope,) = torch.autograd.grad(world.norm(name, x0_ahead), ahead)
                product = torch.dot(branch.reshape(-1), slope.reshape(-1))  # FG:402
                (magic,) = torch.autograd.grad(product, xt, retain_graph=True)
                grads.append(at.sqrt() * rho[name] * magic)
        x = (base + spread * noises[0]).detach()
        if moves:
            x = x - sum(grads)
        if i > stop:  # FG:410-423
            x = x - (per_channel(grads) + sum(grads))
    return x


def style(world: World, scale: float = 5.0, repeat: int = 3, end: int = 30, rho_scale: float = 0.2) -> Tensor:
    """SD:317-439 p_sample_ddim_magic_conditional, run.sh: --style_start_steps 100 --style_end_steps 30 --repeat 3."""
    noise, alphas = world.stream(), torch.cumprod(1 - world.toys.betas, dim=0)
    timesteps = [t + 1 for t in range(0, 1000, 10)]
    x = noise()
    for index in reversed(range(100)):
        t = timesteps[index]
        a_t, a_prev = alphas[t], alphas[timesteps[index - 1]] if index else alphas[0]
        for turn in range(repeat):  # SD:356, at every index
            x = x.detach().requires_grad_(True)
            e_uncond = world.eps(x, t)
            e_t = e_uncond + scale * (world.eps(x, t, "text") - e_uncond)
            pred_x0 = (x - (1 - a_t).sqrt() * e_t) / a_t.sqrt()
            c1 = a_prev.sqrt() * (1 - a_t / a_prev) / (1 - a_t)
            c2 = (a_t / a_prev).sqrt() * (1 - a_prev) / (1 - a_t)
            c3 = ((1 - a_prev) * (1 - a_t / a_prev) / (1 - a_t)).sqrt()
            x_prev = c1 * pred_x0 + c2 * x + c3 * noise()  # SD:388-392, the last step too
            if 100 > index >= end:  # SD:408
                ahead = x_prev.detach().requires_grad_(True)
                e_uncond = world.eps(ahead, t)  # SD:395-405: at x_prev, the same t
                correction = world.eps(ahead, t, "text") - e_uncond
                x0_ahead = (ahead - (1 - a_t).sqrt() * (e_uncond + scale * correction)) / a_t.sqrt()
                (slope,) = torch.autograd.grad(world.norm("style", x0_ahead), ahead)
                rho = correction.norm() * scale / slope.norm()  # SD:416-421
                (magic,) = torch.autograd.grad(torch.dot(x_prev.reshape(-1), (rho * slope).detach().reshape(-1)), x)
                x_prev = x_prev - magic * rho_scale
            x_prev = x_prev.detach()
            if turn + 1 < repeat:
                x = (a_t / a_prev).sqrt() * x_prev + (1 - a_t / a_prev).sqrt() * noise()  # SD:428-429
        x = x_prev
    return x


TWO = [("text", "mask"), ("identity", "landmarks")]
THREE = ("text", "mask", "identity")


@pytest.mark.parametrize("names", TWO, ids="+".join)
def test_two_conditions_are_those_of_the_authors(names: Sequence[str]) -> None:
    world = World(ZMagic, names, preset="official", strengths=RHO)
    difference = off(world.sample(), world.images(faces(world, names, RHO)))
    compared("z-magic", "official", f"{' + '.join(names)}: 100 steps, 2 images in a batch", FACES, difference, CLOSE)


def test_three_conditions_are_those_of_the_authors() -> None:
    world = World(ZMagic, THREE, preset="official", strengths=RHO)
    difference = off(world.sample(), world.images(faces(world, THREE, RHO | {"mask": 0.2})))
    compared("z-magic", "official", f"{' + '.join(THREE)}: 100 steps, 2 images in a batch", FACES, difference, CLOSE)


@pytest.mark.parametrize("stop", [*seldom(199, 210), 200, 201])
@pytest.mark.parametrize("names", TWO, ids="+".join)
def test_guidance_ends_where_the_code_says(names: Sequence[str], stop: int) -> None:
    world = World(ZMagic, names, preset="official", strengths=RHO, stop=stop + 1)
    found = world.sample()
    difference = off(found, world.images(faces(world, names, RHO, stop)))
    compared("z-magic", "official", f"{' + '.join(names)}: guidance ends at i = {stop}", FACES, difference, CLOSE)
    other = 190 if stop >= 200 else 200
    assert off(found, world.images(faces(world, names, RHO, other))) > 100 * CLOSE


FURTHER: list[tuple[tuple[str, ...], int, float, int, int]] = [
    # conditions in their order, steps, eta, images in a batch, the last i that is not guided
    (("text", "mask"), 20, 0.5, 3, -1),
    (("text", "landmarks"), 50, 0.5, 1, 979),
    (("identity", "landmarks"), 50, 0.0, 3, 961),
    (("identity", "landmarks"), 20, 1.0, 3, -1),
    (("landmarks", "identity"), 100, 0.5, 2, 455),
    (("text", "identity", "mask"), 20, 0.5, 3, 300),
    (("text", "mask", "identity"), 50, 0.5, 1, -1),
]


@pytest.mark.parametrize(("order", "steps", "eta", "batch", "stop"), FURTHER)
def test_further_cases(order: Sequence[str], steps: int, eta: float, batch: int, stop: int) -> None:
    given = {"preset": "official", "strengths": RHO, "steps": steps, "eta": eta, "stop": stop + 1, "order": order}
    world = World(ZMagic, order, batch=batch, **given)
    rho = RHO | ({"mask": 0.2} if len(order) == 3 else {})
    difference = off(world.sample(), world.images(faces(world, order, rho, stop, eta, steps)))
    case = f"{' + '.join(order)}: {steps} steps, eta {eta:g}, guided where i > {stop}, {batch} image(s) in a batch"
    compared("z-magic", "official", case, FACES, difference, CLOSE)


def test_styles_are_those_of_the_authors() -> None:
    world = World(ZMagic, ("text", "style"), pixels=False, preset="official", text_by="model")
    case = "style on a text-driven model: 100 steps of three turns, the last one too, 2 images in a batch"
    code = "HolmesShuan/FreeDoM c94329e, SD_style/ldm/models/diffusion/ddim.py"
    compared("z-magic", "official", case, code, off(world.sample(), world.images(style(world))), CLOSE)


@pytest.mark.parametrize("end", [29, *seldom(31, 20)])
def test_a_styles_guidance_ends_where_the_code_says(end: int) -> None:
    """--style_end_steps: t = 10 index + 1."""
    window = {"style": (10 * end, 1000)}
    given = {"preset": "official", "text_by": "model", "windows": window, "stop": -1}
    world = World(ZMagic, ("text", "style"), pixels=False, **given)
    found = world.sample()
    code = "HolmesShuan/FreeDoM c94329e, SD_style/ldm/models/diffusion/ddim.py"
    case = f"style on a text-driven model: guided where {end} <= index"
    compared("z-magic", "official", case, code, off(found, world.images(style(world, end=end))), CLOSE)
    assert off(found, world.images(style(world))) > 100 * CLOSE


@pytest.mark.parametrize("stop", [*seldom(199, 209, 210), 201])
def test_guidance_by_three_ends_where_the_code_says(stop: int) -> None:
    world = World(ZMagic, THREE, preset="official", strengths=RHO, stop=stop + 1)
    difference = off(world.sample(), world.images(faces(world, THREE, RHO | {"mask": 0.2}, stop)))
    compared("z-magic", "official", f"{' + '.join(THREE)}: guidance ends at i = {stop}", FACES, difference, CLOSE)


def test_strengths_are_those_of_the_scripts() -> None:
    """Face-GD/run.sh and main.py; SD_style/run.sh."""
    p = make_params(ZMagic, {"preset": "official"})
    assert isinstance(p, ZMagic.Params)
    two, three = (p.for_conditions(names).strengths for names in (("text", "mask"), THREE))
    assert (two.text, two.mask, two.identity, two.landmarks, two.style) == (0.02, 0.1, 100, 500, 0.2)
    assert (three.text, three.mask, three.identity) == (0.02, 0.2, 100)
    assert (p.eta, p.steps, p.cagrad_c, p.identity_window, p.text_scale) == (0.5, 100, 0.5, (25, 233, 22, 230), 5.0)


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("size", [1e-4, 1e-2, 1.0])
def test_the_published_solver(n: int, size: float) -> None:
    """Row by row, over the batch, by channel; it nears the exact solution where gradients are long."""
    grads = size * torch.randn(n, 2, 3, 4, 4, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    solve = cagrad_two if n == 2 else cagrad_three
    joint = cagrad_as_published(grads, 0.5, joint=True)
    torch.testing.assert_close(joint, solve(list(grads)), rtol=1e-12, atol=0)
    by_channel = cagrad_as_published(grads, 0.5, per_channel=True, joint=True)
    torch.testing.assert_close(by_channel, per_channel(list(grads)), rtol=1e-12, atol=0)
    rows = cagrad_as_published(grads, 0.5)
    torch.testing.assert_close(rows[1], solve([g[1:] for g in grads])[0], rtol=1e-12, atol=0)
    exact = cagrad(grads, 0.5, "1+c" if n == 2 else "1+c^2")
    apart = off(rows, exact)
    assert (apart < 1e-3) if size == 1.0 else apart > 1e-7


def alike(n: int, kind: str) -> Tensor:
    """Gradients (n, 2, 3, 4, 4) that leave the solvers little to choose from."""
    grads = torch.randn(n, 2, 3, 4, 4, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    if kind == "equal":
        return grads[:1].expand_as(grads).clone()
    if kind == "opposite":
        return grads[:1] * torch.tensor([1.0, -1.0, 0.5][:n], dtype=torch.float64).reshape(-1, 1, 1, 1, 1)
    if kind == "one vanishes":
        return torch.cat([torch.zeros_like(grads[:1]), grads[1:]])
    if kind == "one channel vanishes":
        return grads * torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64).reshape(1, 1, 3, 1, 1)
    return torch.zeros_like(grads)


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("kind", ["equal", "opposite", "one vanishes", "one channel vanishes", "all vanish"])
def test_the_published_solver_where_gradients_are_alike_or_vanish(n: int, kind: str) -> None:
    grads = alike(n, kind)
    found = cagrad_as_published(grads, 0.5, per_channel=True, joint=True)
    assert bool(torch.isfinite(found).all())
    torch.testing.assert_close(found, per_channel(list(grads)), rtol=1e-12, atol=0)


@pytest.mark.parametrize("n", [2, 3])
def test_the_published_solver_in_single_precision(n: int) -> None:
    """As the authors run it: the same operations in the same order differ by rounding alone."""
    grads = torch.randn(n, 2, 3, 4, 4, generator=torch.Generator().manual_seed(n))
    found = cagrad_as_published(grads, 0.5, per_channel=True, joint=True)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, per_channel(list(grads)), rtol=1e-5, atol=1e-6)
