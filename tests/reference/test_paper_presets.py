"""Preset "paper" of the guided methods and of AMDM against the papers' equations, over all steps in float64.

The same toy world as for the authors' code (tests/support/official_world.py), in which timesteps t of pixels are i + 1
of the papers' codes. Every image has its own norms here; presets "official" take them over the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import pytest
import torch
from compared import compared
from official_world import BATCH, Stream, World, off, pictures_of
from reference.test_official_amdm import Models, Three
from reference.test_official_ugd import loss
from torch import Tensor, nn
from toy_guidance import requests

from concord.methods.base import Batch, Trace, make_params
from concord.methods.freedom import FreeDoM
from concord.methods.ugd import UniversalGuidance
from concord.methods.z_magic import ZMagic

FREEDOM = "FreeDoM (arXiv:2303.09833), Algorithms 1 and 2"
Z_MAGIC = "Z-Magic (arXiv:2503.12124), Algorithm 1 and equations 6 and 7"
UNIVERSAL = "Universal Guidance (arXiv:2302.07121), Algorithm 1"
AMDM = "AMDM (arXiv:2410.01262), Algorithm 2 and equations 6, 9 and 10"
STRENGTHS = {"text": 0.02, "mask": 2.0, "identity": 3.0, "landmarks": 5.0}
LOW = {"text": -1, "mask": 200, "landmarks": 200, "identity": 100}  # guided where t > low


def energy(world: World, name: str, x_0: Tensor) -> Tensor:
    """|| r(c, x_0|t) || of every image (B,); embeddings of texts have unit length."""
    if name == "text":
        pair = world.toys.guide.get("text-image")
        seen, asked = pair.guide_features(world.images(x_0)), pair.text_features([c.text for c in world.conditions])
        return (nn.functional.normalize(seen, dim=1) - nn.functional.normalize(asked, dim=1)).norm(dim=1)
    return world.residual(name, x_0).flatten(1).norm(dim=1)


def rms(x: Tensor) -> Tensor:
    return x.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()


class Steps:
    """The grid of t, abar, and the unguided step of either sampler."""

    def __init__(self, world: World, steps: int, ancestral: bool, eta: float) -> None:
        self.abar = torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - world.toys.betas, dim=0)])
        self.ancestral, self.eta, self.noise = ancestral, eta, world.stream()
        self.pairs = [(t + 1, t + 1 - 1000 // steps) for t in range(0, 1000, 1000 // steps)][::-1]

    def alphas(self, t: int, before: int) -> tuple[Tensor, Tensor]:
        return self.abar[t], self.abar[max(before, 0)]

    def weight(self, t: int, before: int) -> Tensor:
        """c_1, the weight of x_0|t in DDPM's posterior mean."""
        a, b = self.alphas(t, before)
        return b.sqrt() * (1 - a / b) / (1 - a)

    def __call__(self, x: Tensor, eps: Tensor, t: int, before: int) -> Tensor:
        """x_{t'}, on the graph of x and eps; the last step draws no noise."""
        a, b = self.alphas(t, before)
        x_0 = (x - (1 - a).sqrt() * eps) / a.sqrt()
        z = self.noise() if before > 0 and (self.ancestral or self.eta > 0) else torch.zeros_like(x)
        if self.ancestral:  # DDPM, equations 6 and 7
            mean = self.weight(t, before) * x_0 + (a / b).sqrt() * (1 - b) / (1 - a) * x
            return mean + ((1 - b) * (1 - a / b) / (1 - a)).sqrt() * z
        sigma = self.eta * ((1 - b) / (1 - a) * (1 - a / b)).sqrt()  # DDIM, equation 16
        if before <= 0:
            sigma = 0 * sigma
        return b.sqrt() * x_0 + (1 - b - sigma**2).sqrt() * eps + sigma * z


def rho(world: World, name: str, gradient: Tensor, eps: Tensor, steps: Steps, t: int, before: int) -> Tensor:
    """Section 4.3 of FreeDoM and its scripts: sqrt(abar), or a share of what the noise moves x_0|t by."""
    a = steps.abar[t]
    if name != "text":
        return STRENGTHS[name] * a.sqrt()
    return 0.02 * rms(eps) * (1 - a).sqrt() / a.sqrt() * steps.weight(t, before) / rms(gradient)


def freedom(world: World, steps: Steps, turns: Callable[[int], int]) -> Tensor:
    x = steps.noise()
    for t, before in steps.pairs:
        count = turns(t) if before > 0 else 1
        for turn in range(count):
            leaf = x.detach().requires_grad_(True)
            eps = world.eps(leaf, t - 1)
            x_0 = (leaf - (1 - steps.abar[t]).sqrt() * eps) / steps.abar[t].sqrt()
            moved = steps(leaf, eps, t, before)
            for name in world.names:
                if t > LOW[name]:
                    (g,) = torch.autograd.grad(energy(world, name, x_0).sum(), leaf, retain_graph=True)
                    moved = moved - rho(world, name, g, eps.detach(), steps, t, before) * g
            ended = moved.detach()
            if turn + 1 < count:  # Algorithm 2: time travel
                a, b = steps.alphas(t, before)
                x = (a / b).sqrt() * ended + (1 - a / b).sqrt() * steps.noise()
        x = ended
    return x


CASES: list[tuple[tuple[str, ...], int, float, int]] = [
    (("text",), 100, 0.5, 1),
    (("mask",), 100, 0.5, 1),
    (("landmarks",), 50, 0.0, 1),
    (("identity", "landmarks"), 100, 1.0, 1),
    (("text", "mask", "identity"), 20, 0.5, 3),
]


@pytest.mark.parametrize(("names", "count", "eta", "turns"), CASES)
def test_freedom(names: Sequence[str], count: int, eta: float, turns: int) -> None:
    given = {"strengths": STRENGTHS, "steps": count, "eta": eta, "repeat": turns, "repeat_window": (301, 801)}
    world = World(FreeDoM, names, **given)
    wanted = freedom(world, Steps(world, count, "text" in names, eta), lambda t: turns if 301 <= t <= 801 else 1)
    case = f"{' + '.join(names)}: {count} steps, eta {eta:g}, {turns} turn(s), {BATCH} images in a batch"
    compared("freedom", "paper", case, FREEDOM, off(world.sample(), world.images(wanted)))


def z_magic(world: World, steps: Steps, stop: int = 200) -> Tensor:
    """Two conditions by Algorithm 1; of more, every ordered pair, and CAGrad with c = 0, which is the average."""
    x = steps.noise()
    for t, before in steps.pairs:
        leaf = x.detach().requires_grad_(True)
        eps = world.eps(leaf, t - 1)
        x_0 = (leaf - (1 - steps.abar[t]).sqrt() * eps) / steps.abar[t].sqrt()
        unguided = steps(leaf, eps, t, before)  # lines 4 to 6, without g_1
        if t <= stop:
            x = unguided.detach()
            continue
        size = lambda name, g: rho(world, name, g.detach(), eps.detach(), steps, t, before)  # noqa: E731, B023
        first = {}
        for name in world.names:  # line 3
            (g,) = torch.autograd.grad(energy(world, name, x_0).sum(), leaf, create_graph=True)
            first[name] = size(name, g) * g
        starts = list(world.names) if len(world.names) > 2 else list(world.names)[:1]
        tasks = []
        for one in starts:
            x_hat = unguided - first[one]
            for other in world.names:
                if other == one:
                    continue
                ahead = x_hat.detach().requires_grad_(True)
                x_0_hat = (ahead - (1 - steps.abar[t]).sqrt() * world.eps(ahead, t - 1)) / steps.abar[t].sqrt()
                (g,) = torch.autograd.grad(energy(world, other, x_0_hat).sum(), ahead)  # line 7
                # (A + beta H) g: the Jacobian of x^ = step(x_t) - rho_1 grad E_1(x_t), rho_1 held (equations 6 and 7)
                pull = (x_hat * (size(other, g) * g).detach()).sum()
                (conditional,) = torch.autograd.grad(pull, leaf, retain_graph=True)
                tasks.append(first[one].detach() + conditional)
        n = len(world.names)
        joined = tasks[0] if n == 2 else n / 2 * torch.stack(tasks).mean(dim=0)
        x = unguided.detach() - joined  # lines 8 to 10
    return x


MAGIC: list[tuple[tuple[str, ...], int, float]] = [
    (("text", "mask"), 100, 0.5),
    (("identity", "landmarks"), 50, 0.5),
    (("text", "mask", "identity"), 20, 0.5),
]


@pytest.mark.parametrize(("names", "count", "eta"), MAGIC)
def test_z_magic(names: Sequence[str], count: int, eta: float) -> None:
    given: dict[str, Any] = {"strengths": STRENGTHS, "steps": count, "eta": eta, "hvp": "exact"}
    given |= {"cagrad_c": 0.0} if len(names) > 2 else {}
    given |= {"order": names, "windows": dict.fromkeys(names, (-1, 1000))}
    world = World(ZMagic, names, **given)
    wanted = z_magic(world, Steps(world, count, "text" in names, eta))
    case = f"{' + '.join(names)}: {count} steps, H exact, {BATCH} images in a batch"
    case = case.replace("H exact", "H exact, c = 0") if len(names) > 2 else case
    compared("z-magic", "paper", case, Z_MAGIC, off(world.sample(), world.images(wanted)))


def universal(world: World, steps: Steps, s: dict[str, float], turns: int, forward: bool, m: int) -> Tensor:
    x = steps.noise()
    for t, before in steps.pairs:
        a, b = steps.alphas(t, before)
        for turn in range(turns):  # per-step self-recurrence, k times
            leaf = x.detach().requires_grad_(True)
            raw = world.eps(leaf, t - 1)
            z_0 = (leaf - (1 - a).sqrt() * raw) / a.sqrt()
            eps = raw.detach()
            total = lambda z: sum(s[name] * unit_loss(world, name, world.images(z)).sum() for name in s)  # noqa: E731
            if forward:  # equation 6
                eps = eps + (1 - a).sqrt() * torch.autograd.grad(total(z_0), leaf)[0]
            if m:  # equations 7 and 9, by gradient descent from 0
                delta = torch.zeros_like(x)
                for _ in range(m):
                    moved = (z_0.detach() + delta).requires_grad_(True)
                    delta = delta - 0.01 * torch.autograd.grad(total(moved), moved)[0]
                eps = eps - (a / (1 - a)).sqrt() * delta
            ended = b.sqrt() * (x - (1 - a).sqrt() * eps) / a.sqrt() + (1 - b).sqrt() * eps
            if turn + 1 < turns:
                x = (a / b).sqrt() * ended + (1 - a / b).sqrt() * steps.noise()
        x = ended
    return x


def unit_loss(world: World, name: str, images: Tensor) -> Tensor:
    """The losses that `UniversalGuidance` has where it is not the authors' code: norms of unit embeddings."""
    if name == "mask":  # the paper's own, a cross entropy
        return loss(world, name, images)
    if name == "identity":
        embed = world.toys.guide.get("identity").embed
        return (embed(images) - embed(pictures_of([c.identity for c in world.conditions]))).norm(dim=1)
    pair = world.toys.guide.get("text-image")
    seen, asked = pair.guide_features(images), pair.text_features([c.text for c in world.conditions])
    return (nn.functional.normalize(seen, dim=1) - nn.functional.normalize(asked, dim=1)).norm(dim=1)


@pytest.mark.parametrize(
    ("names", "count", "turns", "forward", "m"),
    [(("mask",), 100, 1, True, 0), (("identity",), 20, 6, True, 0), (("text", "mask"), 20, 2, True, 3),
     (("mask",), 20, 1, False, 5)],
)  # fmt: skip  # a table
def test_universal_guidance(names: Sequence[str], count: int, turns: int, forward: bool, m: int) -> None:
    s = {name: {"text": 0.3, "identity": 2.0, "mask": 0.4}[name] for name in names}
    world = World(UniversalGuidance, names, strengths=s, steps=count, repeat=turns, forward=forward, backward_steps=m)
    wanted = universal(world, Steps(world, count, False, 0.0), s, turns, forward, m)
    how = " and ".join([*(["forward"] if forward else []), *([f"backward ({m} of descent)"] if m else [])])
    case = f"{' + '.join(names)}: {how}, {count} steps of {turns} turn(s), {BATCH} images in a batch"
    compared("ugd", "paper", case, UNIVERSAL, off(world.sample(), world.images(wanted)))


def aggregated(toys: Models, names: Sequence[str], conditions: Any, sizes: Sequence[float], s: int) -> Tensor:
    """Algorithm 2: one x_T, s steps together, theta_1 alone to the end."""
    noise, abar = Stream(toys.latent_shape), toys.schedule.alphas_cumprod
    weights = {2: (0.5,), 3: (0.47, 0.5)}[len(names)]  # section 4
    length = math.sqrt(math.prod(toys.latent_shape))
    x = [noise()] * len(names)  # line 1
    for k, t in enumerate(range(981, 0, -20)):
        a, b = abar[t], abar[t - 20] if t > 20 else abar[0]
        if k >= s:
            x = x[:1]
        mu = []  # equation 6 without noise, DDIM
        for name, x_t in zip(names, x, strict=False):
            eps = toys.experts[name].eps(x_t, t, conditions)
            mu.append(b.sqrt() * (x_t - (1 - a).sqrt() * eps) / a.sqrt() + (1 - b).sqrt() * eps)
        x = mu
        if k < s:
            if len(names) == 2:  # equation 9
                mixed = weights[0] * mu[0] + math.sqrt(1 - weights[0] ** 2) * mu[1]
            else:  # line 6
                rest = [math.sqrt(1 - w**2) for w in weights]
                mixed = weights[0] * weights[1] * mu[0] + rest[0] * weights[1] * mu[1] + rest[0] * rest[1] * mu[2]
            away = [mixed - m for m in mu]  # equation 10, each image by itself
            x = [
                mixed - size * length * v / v.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
                for v, size in zip(away, sizes, strict=True)
            ]
    return x[0]


@pytest.mark.parametrize("names", [("text", "mask"), ("text", "mask", "style")], ids="+".join)
@torch.inference_mode()
def test_amdm(names: tuple[str, ...]) -> None:
    toys, asked = Models(), requests(BATCH, names)
    sizes = {2: (45 / 128, 55 / 128), 3: (45 / 128, 40 / 128, 35 / 128)}[len(names)]  # shares of 128, section 4
    method = Three(make_params(Three, {"order": names}), toys.networks)
    with mock.patch("concord.methods.amdm.draw_noise", Stream(toys.latent_shape)):
        found = method.sample(Batch(asked, [torch.Generator()] * BATCH, toys.device), Trace())
    wanted = aggregated(toys, names, [request.conditions for request in asked], sizes, 3)
    case = f"{' + '.join(names)}: 50 steps, 3 of them together, {BATCH} images in a batch"
    compared("amdm", "paper", case, AMDM, off(found, wanted))
