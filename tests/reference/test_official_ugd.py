"""Universal Guidance's preset "official" against the released samplers, spelled out over all steps in float64.

UD = Universal-Guided-Diffusion at ff82f88: SD = stable-diffusion-guided/ldm/models/diffusion/ddim_with_grad.py and
GD = Guided_Diffusion_Imagenet/guided_diffusion/gaussian_diffusion.py; losses of scripts/style_transfer.py,
scripts/face_detection.py and scripts/segmentation.py, text as in Guided/Clip_guided.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from compared import compared
from official_world import World, off, pictures_of, seldom
from torch import Tensor, nn

from concord.methods.ugd import UniversalGuidance

CLOSE = 1e-9
STRENGTHS = {"text": 0.3, "identity": 20.0, "mask": 4.0, "style": 0.4}
STABLE = "Universal-Guided-Diffusion ff82f88, stable-diffusion-guided/ldm/models/diffusion/ddim_with_grad.py"
IMAGENET = "Universal-Guided-Diffusion ff82f88, Guided_Diffusion_Imagenet/guided_diffusion/gaussian_diffusion.py"
EVERYWHERE = {"preset": "official", "strengths": STRENGTHS}


def loss(world: World, name: str, images: Tensor) -> Tensor:
    """(B,), what a script minimises."""
    guide, asked = world.toys.guide, world.conditions
    if name in ("text", "style"):  # style_transfer.py:155-178 and Clip_guided.py -> minus 100 cosines of their own CLIP
        pair = guide.get(f"universal-{name}")
        seen = pair.guide_features(images) if name == "text" else pair.image(images)
        wanted = (
            pair.text_features([c.text for c in asked])
            if name == "text"
            else pair.image(pictures_of([c.style for c in asked]))
        )
        return -100 * (nn.functional.normalize(seen, dim=1) * nn.functional.normalize(wanted, dim=1)).sum(dim=1)
    if name == "identity":  # face_detection.py l1_loss: mean over the numbers of the embedding
        embed = guide.get("identity").embed
        return (embed(images) - embed(pictures_of([c.identity for c in asked]))).abs().mean(dim=1)
    wanted = torch.from_numpy(np.stack([c.mask for c in asked]))  # segmentation.py: cross entropy, mean over the pixels
    return nn.functional.cross_entropy(guide.get("parser")(images), wanted, reduction="none").flatten(1).mean(dim=1)


def stable_diffusion(
    world: World, steps: int, turns: int, scale: float, s: dict[str, float], eta: float = 0.0
) -> Tensor:
    """SD:97-224 sample: forward guidance with classifier-free guidance, `turns` at every step, the last one too."""
    noise, alphas = world.stream(), torch.cumprod(1 - world.toys.betas, dim=0)
    timesteps = [t + 1 for t in range(0, 1000, 1000 // steps)][:steps]
    img = noise()
    for index in reversed(range(steps)):
        t = timesteps[index]
        a_t, a_prev = alphas[t], alphas[timesteps[index - 1]] if index else alphas[0]
        for turn in range(turns):  # SD:127
            img_in = img.detach().requires_grad_(True)
            e_uncond = world.eps(img_in, t)
            e_t = e_uncond + scale * (world.eps(img_in, t, "text") - e_uncond)
            pred_x0 = (img_in - (1 - a_t).sqrt() * e_t) / a_t.sqrt()
            selected = sum(-s[name] * loss(world, name, world.images(pred_x0)) for name in s)  # SD:154-161
            (grad,) = torch.autograd.grad(selected.sum(), img_in)
            e_t = (e_t - (1 - a_t).sqrt() * grad).detach()  # SD:169
            pred_x0 = (img - (1 - a_t).sqrt() * e_t) / a_t.sqrt()
            sigma = eta * ((1 - a_prev) / (1 - a_t) * (1 - a_t / a_prev)).sqrt()
            x_prev = a_prev.sqrt() * pred_x0 + (1 - a_prev - sigma**2).sqrt() * e_t  # SD:208-216
            if eta:  # at the last step as well
                x_prev = x_prev + sigma * noise()
            if turn + 1 < turns:  # SD:217 draws after the last turn as well; SD:220 goes on from x_prev
                img = (a_t / a_prev).sqrt() * x_prev + (1 - a_t / a_prev).sqrt() * noise()
        img = x_prev
    return img


def imagenet(world: World, steps: int, turns: int, s: dict[str, float], iterations: int, **given: Any) -> Tensor:
    """GD:630-815 ddim_sample_operation: forward guidance, then Adam on x_0, clamped; eps from the clamped x_0."""
    rate, cutoff, forward = given.get("rate", 0.01), given.get("cutoff", 1e-5), given.get("forward", True)
    noise, stride = world.stream(), 1000 // steps
    abars = torch.cumprod(1 - world.toys.betas, dim=0)
    x = noise()
    for i in reversed(range(0, stride * steps, stride)):
        abar, abar_prev = abars[i], abars[i - stride] if i else torch.ones((), dtype=torch.float64)
        for turn in range(turns):
            x_in = x.detach().requires_grad_(True)
            eps = world.eps(x_in, i)
            x_0 = (x_in - (1 - abar).sqrt() * eps) / abar.sqrt()  # GD:673: its clamp(-1, 1) is not assigned
            if forward:
                selected = -sum(s[name] * loss(world, name, world.images(x_0)) for name in s)
                (grad,) = torch.autograd.grad(selected.sum(), x_in)
                x_0 = (x - (1 - abar).sqrt() * (eps - (1 - abar).sqrt() * grad)) / abar.sqrt()  # GD:688-692
            x_0 = x_0.detach().requires_grad_(True)  # GD:720
            optimizer = torch.optim.Adam([x_0], lr=rate)  # GD:731
            for _ in range(iterations):
                x_0.data.clamp_(-1, 1)  # GD:744
                optimizer.zero_grad()
                losses = sum(loss(world, name, world.images(x_0)) for name in s)  # GD:761: without s
                before, moves = x_0.data.clone(), (losses >= cutoff).reshape(-1, 1, 1, 1)
                losses.sum().backward()
                optimizer.step()
                x_0.data = torch.where(moves, x_0.data, before)  # GD:787
            x_0 = x_0.detach().clamp(-1, 1)  # GD:795
            eps = (x / abar.sqrt() - x_0) / (1 / abar - 1).sqrt()  # GD:803 _predict_eps_from_xstart
            sample = abar_prev.sqrt() * x_0 + (1 - abar_prev).sqrt() * eps  # GD:820
            if turn + 1 < turns:
                x = (abar / abar_prev).sqrt() * sample + (1 - abar / abar_prev).sqrt() * noise()
        x = sample.detach()
    return x


@pytest.mark.parametrize("names", [("text", "style"), ("text", "identity"), ("text", "mask")], ids="+".join)
@pytest.mark.parametrize("turns", [1, 3])
def test_the_sampler_for_stable_diffusion(names: tuple[str, ...], turns: int) -> None:
    world = World(
        UniversalGuidance, names, pixels=False, **EVERYWHERE, text_by="model", steps=20, repeat=turns, text_scale=2.0
    )
    reference = stable_diffusion(world, 20, turns, 2.0, {names[1]: STRENGTHS[names[1]]})
    case = f"{names[1]} on a text-driven model: 20 steps of {turns} turn(s), 2 images in a batch"
    compared("ugd", "official", case, STABLE, off(world.sample(), world.images(reference)), CLOSE)


@pytest.mark.parametrize(("steps", "turns", "eta"), [*seldom((100, 2, 0.5)), (50, 1, 1.0), (20, 6, 0.0)])
def test_other_steps_turns_and_noises(steps: int, turns: int, eta: float) -> None:
    names = ("text", "style")
    given = {**EVERYWHERE, "text_by": "model", "steps": steps, "repeat": turns, "text_scale": 3.0, "eta": eta}
    world = World(UniversalGuidance, names, pixels=False, batch=3, **given)
    reference = stable_diffusion(world, steps, turns, 3.0, {"style": STRENGTHS["style"]}, eta)
    case = f"style on a text-driven model: {steps} steps of {turns} turn(s), eta {eta:g}, 3 images in a batch"
    compared("ugd", "official", case, STABLE, off(world.sample(), world.images(reference)), CLOSE)


@pytest.mark.parametrize("names", [("text",), ("identity",), ("mask",), ("text", "mask")], ids="+".join)
@pytest.mark.parametrize("turns", [1, 3])
def test_the_sampler_for_imagenet(names: tuple[str, ...], turns: int) -> None:
    world = World(UniversalGuidance, names, **EVERYWHERE, steps=20, repeat=turns)
    reference = imagenet(world, 20, turns, {name: STRENGTHS[name] for name in names}, 0)
    case = f"{' + '.join(names)} on pixels: 20 steps of {turns} turn(s), 2 images in a batch"
    compared("ugd", "official", case, IMAGENET, off(world.sample(), world.images(reference)), CLOSE)


@pytest.mark.parametrize("forward", [True, False])
@pytest.mark.parametrize(("names", "cutoff"), [(("identity",), 0.02), (("mask",), 3.3), (("text", "mask"), -40.0)])
def test_backward_guidance(names: tuple[str, ...], cutoff: float, forward: bool) -> None:
    """Adam for three steps; a cutoff within the range of the losses holds one row and lets the other go."""
    world = World(
        UniversalGuidance,
        names,
        **EVERYWHERE,
        steps=10,
        repeat=2,
        forward=forward,
        backward_steps=3,
        backward_rate=0.05,
        backward_cutoff=cutoff,
    )
    strengths = {name: STRENGTHS[name] for name in names}
    reference = imagenet(world, 10, 2, strengths, 3, rate=0.05, cutoff=cutoff, forward=forward)
    before = "after forward guidance" if forward else "alone"
    case = f"backward {before}, {' + '.join(names)}: 10 steps of 2 turns, 3 of Adam, cutoff {cutoff:g}"
    compared("ugd", "official", case, IMAGENET, off(world.sample(), world.images(reference)), CLOSE)


def test_the_clamp_matters_here() -> None:
    """x_0 of the toy model leaves [-1, 1], so that a sampler without the clamp is told apart."""
    given = {**EVERYWHERE, "steps": 10, "repeat": 1}
    clamped, free = (World(UniversalGuidance, ("mask",), **given, clip_x0=clip) for clip in ("pixels", "never"))
    assert off(free.sample(), clamped.sample()) > 1e-3
