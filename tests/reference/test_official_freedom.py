"""FreeDoM's preset "official" against the released code, spelled out over all steps in float64.

FD = vvictoryuki/FreeDoM at 1394b1d, Face-GD/functions/denoising.py; FG = the same file of HolmesShuan/FreeDoM at
c94329e, whose baselines join two and three conditions; SD = SD_style/ldm/models/diffusion/ddim.py of the former.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from compared import compared
from official_world import World, off, seldom
from torch import Tensor

from concord.methods.base import make_params
from concord.methods.freedom import FreeDoM

CLOSE = 1e-9
STRENGTHS = {"text": 0.02, "mask": 2.0, "identity": 3.0, "landmarks": 5.0, "style": 0.2}


def abar(betas: Tensor, i: int) -> Tensor:
    """FG:101-104 compute_alpha: one beta of 0 stands before the others, so that i = -1 gives 1."""
    return torch.cumprod(1 - torch.cat([betas.new_zeros(1), betas]), dim=0)[i + 1]


def faces(world: World, stops: dict[str, int], text_rho: float = 0.02, eta: float = 0.5, steps: int = 100) -> Tensor:
    """FG:107-161 (text), 163-212 (mask), 500-700 (the others, and two or three together)."""
    noise, betas, names = world.stream(), world.toys.betas, world.names
    seq = range(0, 1000, 1000 // steps)  # runners/diffusion.py: skip = 1000 // 100
    x = noise()
    for i, j in zip(reversed(seq), reversed([-1, *seq[:-1]]), strict=True):
        at, at_next = abar(betas, i), abar(betas, j)
        x = x.detach().requires_grad_(True)
        et = world.eps(x, i)
        x0_t = (x - et * (1 - at).sqrt()) / at.sqrt()
        if "text" in names:  # FG:142-145, DDPM's posterior
            c1 = at_next.sqrt() * (1 - at / at_next) / (1 - at)
            c2 = (at / at_next).sqrt() * (1 - at_next) / (1 - at)
            c3 = ((1 - at_next) * (1 - at / at_next) / (1 - at)).sqrt()
            moved = c1 * x0_t + c2 * x + c3 * noise()
        else:  # FG:196-199, DDIM whose noise does not know the step
            c1, c2 = (1 - at_next).sqrt() * eta, (1 - at_next).sqrt() * (1 - eta**2) ** 0.5
            moved = at_next.sqrt() * x0_t + c1 * noise() + c2 * et
        for name in names:
            if name != "text" and i <= stops[name]:  # FG:203 `if not i <= stop`
                continue
            (grad,) = torch.autograd.grad(world.norm(name, x0_t), x, retain_graph=True)
            if name == "text":  # FG:147-149
                c1 = at_next.sqrt() * (1 - at / at_next) / (1 - at)
                l1 = (et * et).mean().sqrt() * (1 - at).sqrt() / at.sqrt() * c1
                moved = moved - l1 * text_rho / (grad * grad).mean().sqrt() * grad
            else:  # FG:202-204
                moved = moved - at.sqrt() * STRENGTHS[name] * grad
        x = moved.detach()
    return x


def style(world: World, scale: float = 5.0, rho: float = 0.2, end: int = 30, start: int = 70) -> Tensor:
    """SD:199-285 p_sample_ddim_conditional: guided where end <= index < start, three turns where 40 <= index < 70."""
    noise, alphas = world.stream(), torch.cumprod(1 - world.toys.betas, dim=0)
    timesteps = [t + 1 for t in range(0, 1000, 10)]  # ldm's make_ddim_timesteps, 'uniform'
    x = noise()
    for index in reversed(range(100)):
        t = timesteps[index]
        a_t, a_prev = alphas[t], alphas[timesteps[index - 1]] if index else alphas[0]  # ldm's ddim_alphas_prev
        repeat = 3 if 40 <= index < 70 else 1
        for turn in range(repeat):
            x = x.detach().requires_grad_(True)
            e_uncond, e_cond = world.eps(x, t), world.eps(x, t, "text")
            correction = e_cond - e_uncond
            e_t = e_uncond + scale * correction
            pred_x0 = (x - (1 - a_t).sqrt() * e_t) / a_t.sqrt()
            c1 = a_prev.sqrt() * (1 - a_t / a_prev) / (1 - a_t)
            c2 = (a_t / a_prev).sqrt() * (1 - a_prev) / (1 - a_t)
            c3 = ((1 - a_prev) * (1 - a_t / a_prev) / (1 - a_t)).sqrt()
            x_prev = c1 * pred_x0 + c2 * x + c3 * noise()  # the last step as well: a_prev = alphas[0] < 1
            if end <= index < start:
                (grad,) = torch.autograd.grad(world.norm("style", pred_x0), x)
                size = (correction * correction).mean().sqrt() * scale / (grad * grad).mean().sqrt() * rho
                x_prev = x_prev - size * grad
            x_prev = x_prev.detach()
            if turn + 1 < repeat:  # drawn after the last turn as well, and not used there
                x = (a_t / a_prev).sqrt() * x_prev + (1 - a_t / a_prev).sqrt() * noise()
        x = x_prev
    return x


def windows(stops: dict[str, int]) -> dict[str, tuple[int, int]]:
    return {name: (stop + 1, 1000) for name, stop in stops.items()}


STOPS = {"mask": 200, "landmarks": 200, "identity": 100}  # Face-GD/run.sh


@pytest.mark.parametrize(
    "names",
    [
        ("text",),
        ("mask",),
        ("landmarks",),
        ("identity",),
        ("text", "mask"),
        ("identity", "landmarks"),
        ("text", "identity", "mask"),
    ],
    ids="+".join,
)
def test_faces_are_those_of_the_released_code(names: Sequence[str]) -> None:
    world = World(FreeDoM, names, preset="official", strengths=STRENGTHS)
    code = "vvictoryuki/FreeDoM 1394b1d" if len(names) == 1 else "HolmesShuan/FreeDoM c94329e (the baseline of Z-Magic)"
    case = f"{' + '.join(names)}: 100 steps, 2 images in a batch"
    difference = off(world.sample(), world.images(faces(world, STOPS)))
    compared("freedom", "official", case, f"{code}, Face-GD/functions/denoising.py", difference, CLOSE)


EDGES: list[Any] = [("mask", 200), ("mask", 201), *seldom(("mask", 199), ("mask", 209), ("mask", 210))]
EDGES += [("landmarks", 200), *seldom(("landmarks", 199), ("landmarks", 201))]
EDGES += [("identity", 100), *seldom(("identity", 99), ("identity", 101))]


@pytest.mark.parametrize(("name", "stop"), EDGES)
def test_a_window_opens_and_closes_where_the_code_says(name: str, stop: int) -> None:
    """One step more or less at the edge: i runs over 190, 200, 210."""
    stops = {"mask": stop, "landmarks": stop, "identity": stop}
    world = World(FreeDoM, (name,), preset="official", strengths=STRENGTHS, windows=windows(stops))
    found = world.sample()
    case = f"{name}: the window's edge at i = {stop}"
    difference = off(found, world.images(faces(world, stops)))
    compared("freedom", "official", case, "vvictoryuki/FreeDoM 1394b1d, Face-GD/functions/denoising.py", difference)
    other = dict.fromkeys(stops, stop - 10)
    assert off(found, world.images(faces(world, other))) > 100 * CLOSE


FURTHER: list[tuple[tuple[str, ...], int, float, int, dict[str, int]]] = [
    # conditions, steps, eta, images in a batch, the last i that is not guided
    (("mask",), 20, 0.0, 3, {"mask": -1}),
    (("landmarks",), 100, 1.0, 3, {"landmarks": 989}),
    (("identity",), 50, 1.0, 1, {"identity": 999}),
    (("text",), 20, 0.5, 3, {}),
    (("identity", "landmarks"), 50, 0.0, 3, {"identity": 470, "landmarks": 960}),
    (("text", "mask", "identity", "landmarks"), 20, 0.5, 3, {"mask": 449, "identity": 450, "landmarks": 451}),
]


@pytest.mark.parametrize(("names", "steps", "eta", "batch", "stops"), FURTHER)
def test_further_cases(names: Sequence[str], steps: int, eta: float, batch: int, stops: dict[str, int]) -> None:
    given = {"preset": "official", "strengths": STRENGTHS, "steps": steps, "eta": eta, "windows": windows(stops)}
    world = World(FreeDoM, names, batch=batch, **given)
    difference = off(world.sample(), world.images(faces(world, stops, eta=eta, steps=steps)))
    ends = ", ".join(f"{name} to i > {stop}" for name, stop in stops.items()) or "text to the end"
    case = f"{' + '.join(names)}: {steps} steps, eta {eta:g}, {ends}, {batch} image(s) in a batch"
    compared("freedom", "official", case, "vvictoryuki/FreeDoM 1394b1d, Face-GD/functions/denoising.py", difference)


def test_strengths_are_those_of_the_scripts() -> None:
    """Face-GD/run.sh of both repositories (the fork's baseline for pairs and triples as well); ddim.py for styles."""
    p = make_params(FreeDoM, {"preset": "official"})
    assert isinstance(p, FreeDoM.Params)
    for names in (("text",), ("text", "mask"), ("identity", "landmarks"), ("text", "mask", "identity")):
        s = p.for_conditions(names).strengths
        assert (s.text, s.mask, s.identity, s.landmarks, s.style) == (0.02, 0.2, 100, 500, 0.2)
    assert (p.eta, p.steps, p.text_scale, p.repeat, p.identity_window) == (0.5, 100, 5.0, 1, (35, 223, 32, 220))


def test_styles_are_those_of_the_released_code() -> None:
    world = World(FreeDoM, ("text", "style"), pixels=False, preset="official", text_by="model")
    case = "style on a text-driven model: 100 steps, up to three turns, noise in the last step, 2 images in a batch"
    code = "vvictoryuki/FreeDoM 1394b1d, SD_style/ldm/models/diffusion/ddim.py"
    compared("freedom", "official", case, code, off(world.sample(), world.images(style(world))), CLOSE)


@pytest.mark.parametrize(("end", "start"), [(29, 70), *seldom((31, 70), (30, 69), (30, 71))])
def test_a_styles_window_opens_and_closes_where_the_code_says(end: int, start: int) -> None:
    """t = 10 index + 1; a step more or less at either end."""
    window = {"style": (10 * end, 10 * start)}
    world = World(FreeDoM, ("text", "style"), pixels=False, preset="official", text_by="model", windows=window)
    case = f"style on a text-driven model: guided where {end} <= index < {start}"
    code = "vvictoryuki/FreeDoM 1394b1d, SD_style/ldm/models/diffusion/ddim.py"
    found = world.sample()
    compared("freedom", "official", case, code, off(found, world.images(style(world, end=end, start=start))), CLOSE)
    assert off(found, world.images(style(world))) > 100 * CLOSE
