"""Z-Magic (Deng et al., CVPR 2025): each condition guides in the light of those before it, p(c_2 | c_1, x_t).

    g_1 = grad_{x_t} log p(c_1 | x_t),    x^ = step(x_t) guided by g_1 alone                  (Algorithm 1, lines 3-6)
    grad_{x_t} log p(c_2 | c_1, x_t) = A g_x^ + beta H g_x^,   g_x^ = grad_{x^} log p(c_2 | x^)         (equation 6)
    H g_x^ = d (g_1 . stopgrad(g_x^)) / d x_t                                                           (equation 7)
    x_{t'} = step(x_t) guided by g_1 + A g_x^ + beta H g_x^                                 (lines 8-10)

A is the Jacobian of the unguided step, H the Hessian of log p(c_1 | x_t): together they are the Jacobian of x^, and
both products are one pass backwards through it. log p is minus an energy, and beta is FreeDoM's rho (Z-Magic keeps its
settings): beta g_1 = -rho_1 grad E_1 and beta H = -rho_1 d^2 E_1 / d x_t^2, with rho_1 held constant.

For n > 2 conditions every one of them starts in turn; the gradients of log p(c_j, c_i | x_t) of all ordered pairs are
tasks that CAGrad joins (section 3.5; Algorithm 2 is printed as a picture). CAGrad's average is scaled by n / 2: where
the conditions do not depend on each other (A = I, H = 0) and c = 0, the step is FreeDoM's sum, for any n.

What the paper leaves open is a parameter. Preset "official" is the authors' code (HolmesShuan/FreeDoM, a fork of
FreeDoM that the paper does not name): the first gradient is taken without its graph, which leaves H out; only the first
condition starts; twice the sum of the gradients and their CAGrad direction are subtracted; norms run over the batch. At
c94329e, with FG = Face-GD/functions/denoising.py and SD = SD_style/ldm/models/diffusion/ddim.py as their run.sh call
them, it also differs by

    stop, windows           guided where i > 200, i = t - 1 (FG:387): t > 201; styles where 301 <= t <= 991 (SD:408)
    stop_text               a text guides to the end, alone there (FG:384, 945)
    cagrad_per_channel      CAGrad is solved for each colour channel (FG:412-421), over the batch where `norm` is
    cagrad_solver           by inexact solvers with small constants (FG:34-98; `cagrad_published`)
    ddim_noise              identity + landmarks go by DDIM, eta 0.5, with noise eta sqrt(1 - abar_t') (FG:733-736)
    branch_noise, order     of three conditions the last one's x^ has a noise of its own: the identity's (FG:939)
    mask_strength_of_three  the mask pulls with 0.1 beside a text and with 0.2 of three (run.sh and main.py)
    identity_window         a larger window of the face (arcface/model.py:36)
    style_repeat            three turns at every index, the unguided and the last one too (SD:356, 428: also
                            `repeat_last_step`), and noise in the last step (SD:388: `noise_last_step`)
    correction_at           the style's step length takes eps_c - eps_u at x^ (SD:402-404, 416-421)
    strengths               style 0.2 (run.sh)
    style_reference         the style picture goes from its own size to CLIP's 224 (clip/base_clip.py)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from concord.methods.base import Trace, register
from concord.methods.core.sampler import Step
from concord.methods.guidance.autodiff import DIFFERENCE, difference, pull_back, twice_differentiable
from concord.methods.guidance.cagrad import Rescale, cagrad
from concord.methods.guidance.cagrad_published import cagrad_as_published
from concord.methods.guidance.energies import objective
from concord.methods.guidance.method import GuidedMethod, GuidedParams, Point, Space

Pair = tuple[str | None, str]
"""(i, j): condition j after condition i has guided; None is the text of a text-driven model, which needs no energy."""


@dataclass(frozen=True)
class Start:
    """How the condition that goes first pulls: rho (a number or (B, 1, 1, 1)) and the gradient (B, C, h, w) of E."""

    rho: Tensor
    gradient: Tensor

    @property
    def pull(self) -> Tensor:
        """-beta g_1."""
        return self.rho * self.gradient


@register
class ZMagic(GuidedMethod["ZMagic.Params"]):
    """Conditional gradients by Hessian-vector products, joined by CAGrad."""

    name, title, paper = "z-magic", "Z-Magic", "arXiv:2503.12124"
    citation = "Deng, He, Tang, Dong: Z-Magic: Zero-shot Multiple Attributes Guided Image Creator. CVPR 2025"

    class Params(GuidedParams):
        hvp: Literal["exact", "finite-difference", "none"] = "finite-difference"  # 'none' leaves beta H g out, as coded
        hvp_step: float = Field(DIFFERENCE, gt=0)  # h of the difference
        look_at: Literal["t", "previous"] = "t"  # the timestep at which the model sees x^ (the paper writes x^_t)
        joining: Literal["paper", "coded"] = "paper"
        cagrad_c: float = Field(0.5, ge=0, lt=1)  # the paper gives none; the authors' code has 0.5
        cagrad_rescale: Rescale = "none"  # CAGrad's paper; see `cagrad`
        cagrad_solver: Literal["exact", "as_published"] = "exact"
        cagrad_per_channel: bool = False  # of joining 'coded': a problem for every channel of x_t
        stop: int = Field(200, ge=-1, le=1000)  # no guidance where t <= stop: 'the final steps'; the code's --stop 200
        stop_text: bool = True  # False: a text is guided by to the end
        branch_noise: Literal["shared", "own"] = "shared"  # of joining 'coded': the x^ of the third condition and on
        correction_at: Literal["x_t", "x_hat"] = "x_t"  # where 'relative-correction' measures eps_c - eps_u
        mask_strength_of_three: float | None = Field(None, ge=0)  # of three conditions or more; None: strengths.mask

        @classmethod
        def official(cls) -> dict[str, Any]:
            until_stop = (-1, 1000)
            return {
                "norm": "batch",
                "text_residual": "raw",
                "hvp": "none",
                "joining": "coded",
                "strengths": {"mask": 0.1, "style": 0.2},
                "mask_strength_of_three": 0.2,
                "order": ("text", "mask", "identity", "landmarks", "style"),
                "windows": {**dict.fromkeys(("mask", "identity", "landmarks"), until_stop), "style": (300, 1000)},
                "stop": 201,
                "stop_text": False,
                "cagrad_solver": "as_published",
                "cagrad_per_channel": True,
                "ddim_noise": "coded",
                "branch_noise": "own",
                "identity_window": (25, 233, 22, 230),
                "noise_last_step": True,
                "repeat_last_step": True,
                "style_repeat": 3,
                "correction_at": "x_hat",
                "style_reference": "encoder",
            }

        def guides(self, name: str, t: int) -> bool:
            stops = self.stop_text or name != "text"
            return (t > self.stop or not stops) and super().guides(name, t)

        def for_conditions(self, names: Sequence[str]) -> Self:
            found = super().for_conditions(names)
            if self.mask_strength_of_three is None or len(names) < 3:
                return found
            strengths = found.strengths.model_copy(update={"mask": self.mask_strength_of_three})
            return found.model_copy(update={"strengths": strengths})

        def branches(self, names: Sequence[str]) -> int:
            if self.branch_noise == "shared" or self.joining != "coded":
                return 0
            later = len(names) - (self.text_by == "energy")  # a text that drives the model stands not among the names
            return max(0, later - 1)

    def denoisers(self) -> Mapping[str, nn.Module]:
        return {**super().denoisers(), "second-order": self.second_order}

    def correct(self, space: Space, x_t: Tensor, step: Step, active: Sequence[str], trace: Trace) -> Tensor:
        p = self.params
        pairs = self._pairs(space, active)
        starts: list[str | None] = list(dict.fromkeys(i for i, _ in pairs)) or list(active)
        exact = p.hvp == "exact" and bool(pairs)
        with twice_differentiable() if exact else nullcontext():
            point = space.at(x_t, step.t)  # one forward pass for all conditions
            base = step(point.x_t, point.eps)
            self.tell_losses(space, point.x_0, step.t, trace, point.images)
            first = {i: self._start(space, i, point, step, exact) for i in starts if i is not None}  # line 3
        if not pairs:
            return base.detach() - first[active[0]].pull.detach()  # one condition alone: FreeDoM's step
        x_hat = {i: base if i is None else base - first[i].pull for i in starts}  # lines 4-6
        seen: dict[Any, Tensor] = dict(x_hat)
        if step.branch_noises:  # every pair at an x^ of its own: the same but for its noise
            for number, (i, j) in enumerate(pairs):
                branch = step.branch(number)(point.x_t, point.eps)
                seen[i, j] = branch if i is None else branch - first[i].pull
            seen = {pair: seen[pair] for pair in pairs}
        ahead = self._ahead(space, seen, pairs, point, step)  # rho_j grad E_j(x^_i) of every pair
        then = self._carry_back(space, point, base, x_hat, first, ahead, step.t)  # line 7
        pulls = {i: start.pull.detach() for i, start in first.items()}
        self._tell(space, pulls, then, step.t, trace)
        return base.detach() - self._join(space, pulls, then, len(active))  # lines 8-10

    def _pairs(self, space: Space, active: Sequence[str]) -> list[Pair]:
        """One pair for two conditions (Algorithm 1), all ordered pairs for more (Algorithm 2)."""
        starts: list[str | None] = [None, *active] if space.driven else list(active)
        if self.params.joining == "coded" or len(starts) <= 2:
            starts = starts[:1]
        return [(i, j) for i in starts for j in active if j != i]

    def _start(self, space: Space, i: str, point: Point, step: Step, exact: bool) -> Start:
        """rho_i and grad E_i(x_t), the latter on its graph where the Hessian is wanted exactly."""
        if not exact:
            gradient = space.gradient(i, point, step.t)
        else:
            scalar = objective(space.energies[i](point.images), space.p.norm)
            (gradient,) = torch.autograd.grad(scalar, point.x_t, create_graph=True)
            self.backward(gradient)
            space.require_finite(gradient, (i,), step.t)
        return Start(space.step_size(i, gradient, point, step), gradient)

    def _ahead(
        self, space: Space, x_hat: Mapping[Any, Tensor], pairs: Sequence[Pair], point: Point, step: Step
    ) -> dict[Pair, Tensor]:
        """rho_j grad_{x^} E_j(x^_i) of every pair: all x^ in one forward pass, then backwards turn by turn.

        x_hat: by condition i, or by pair where every pair has one of its own.
        """
        t = step.t if self.params.look_at == "t" else max(step.t_previous, 0)
        there = space.at(torch.cat(list(x_hat.values())), t)  # (k B, C, h, w)
        blocks = dict(zip(x_hat, there.images.chunk(len(x_hat)), strict=True))
        place: dict[Pair, Any] = {pair: pair if pair in x_hat else pair[0] for pair in pairs}
        points = dict.fromkeys(x_hat, point)
        if there.correction is not None and self.params.correction_at == "x_hat":
            corrections = there.correction.chunk(len(x_hat))
            points = {key: replace(point, correction=found) for key, found in zip(x_hat, corrections, strict=True)}
        slopes = dict(zip(pairs, space.slopes([(pair[1], blocks[place[pair]]) for pair in pairs], t), strict=True))
        queues = [[pair for pair in pairs if place[pair] == key] for key in x_hat]
        found: dict[Pair, Tensor] = {}
        for turn in range(max(map(len, queues))):
            now = [queue[turn] if turn < len(queue) else None for queue in queues]
            rest = torch.zeros_like(slopes[pairs[0]])
            cotangent = torch.cat([rest if pair is None else slopes[pair] for pair in now])
            (pulled,) = pull_back(there.images, there.x_t, cotangent[None], keep=True, tally=space.tally)
            for pair, gradient in zip(now, pulled.chunk(len(now)), strict=True):
                if pair is not None:
                    space.require_finite(gradient, (pair[1],), step.t)
                    found[pair] = space.step_size(pair[1], gradient, points[place[pair]], step) * gradient
        return found

    def _carry_back(
        self,
        space: Space,
        point: Point,
        base: Tensor,
        x_hat: Mapping[str | None, Tensor],
        first: Mapping[str, Start],
        ahead: Mapping[Pair, Tensor],
        t: int,
    ) -> dict[Pair, Tensor]:
        """A g + beta H g of every pair, for g = `ahead` (equations 6 and 7)."""
        p = self.params
        found: dict[Pair, Tensor] = {}
        if p.hvp == "exact":  # both in one pass: they are the Jacobian of x^
            for i in x_hat:
                mine = [pair for pair in ahead if pair[0] == i]
                tally = space.tally if i is None else self.second_order
                pulled = pull_back(x_hat[i], point.x_t, [ahead[pair] for pair in mine], keep=True, tally=tally)
                found.update(zip(mine, pulled, strict=True))
        else:
            found.update(zip(ahead, pull_back(base, point.x_t, list(ahead.values()), tally=space.tally), strict=True))
            bent = [pair for pair in ahead if pair[0] is not None and p.hvp == "finite-difference"]
            if bent:
                products = self._hessian_products(space, point, first, {pair: ahead[pair] for pair in bent}, t)
                found.update({pair: found[pair] - products[pair] for pair in bent})
        for pair, gradient in found.items():
            space.require_finite(gradient, (pair[1],), t)
        return found

    def _hessian_products(
        self, space: Space, point: Point, first: Mapping[str, Start], ahead: Mapping[Pair, Tensor], t: int
    ) -> dict[Pair, Tensor]:
        """rho_i d^2 E_i / d x_t^2 g of every pair by forward differences, all in one batch."""
        pairs = list(ahead)
        x_t = torch.cat([point.x_t.detach()] * len(pairs))
        here = torch.cat([first[i].gradient for i, _ in pairs if i is not None])

        def gradient(x: Tensor) -> Tensor:
            there = space.at(x, t)
            slopes = space.slopes([(str(i), block) for (i, _), block in zip(pairs, there.images.chunk(len(pairs)))], t)
            return pull_back(there.images, there.x_t, torch.cat(slopes)[None], tally=space.tally)[0]

        products = difference(gradient, x_t, here, torch.cat(list(ahead.values())), self.params.hvp_step)
        return {pair: first[str(pair[0])].rho * product for pair, product in zip(pairs, products.chunk(len(pairs)))}

    def _join(self, space: Space, first: Mapping[str, Tensor], then: Mapping[Pair, Tensor], active: int) -> Tensor:
        """What the step moves by: the one pair's sum (line 8), or CAGrad's direction over all pairs (Algorithm 2)."""
        p = self.params
        parts = [*first.values(), *then.values()]
        if len(parts) == 1 or (p.joining == "paper" and len(then) == 1):
            return torch.stack(parts).sum(dim=0)
        if p.joining == "coded":
            return 2 * torch.stack(parts).sum(dim=0) + self._coded_direction(torch.stack(parts))
        tasks = [then[i, j] if i is None else first[i] + then[i, j] for i, j in then]
        if space.driven:  # (i, text): the text-driven model adds nothing to what i pulls
            tasks += first.values()
        n = active + space.driven
        return n / 2 * cagrad(torch.stack(tasks), p.cagrad_c, p.cagrad_rescale)

    def _coded_direction(self, parts: Tensor) -> Tensor:
        """CAGrad's direction (B, C, h, w) of gradients (n, B, C, h, w), divided and scaled as coded."""
        p = self.params
        joint = p.norm == "batch"
        if p.cagrad_solver == "as_published":
            return cagrad_as_published(parts, p.cagrad_c, p.cagrad_per_channel, joint)
        rescale: Rescale = "1+c" if len(parts) == 2 else "1+c^2"
        n, rows, channels = parts.shape[:3]
        problems = parts.movedim(2, 1) if p.cagrad_per_channel else parts[:, None]  # (n, problems, B, ...)
        problems = problems if joint else problems.flatten(1, 2)
        found = cagrad(problems.reshape(n, problems.shape[1], -1), p.cagrad_c, rescale)
        if p.cagrad_per_channel:
            return found.reshape(channels, rows, *parts.shape[3:]).movedim(0, 1)
        return found.reshape(parts.shape[1:])

    def _tell(
        self, space: Space, first: Mapping[str, Tensor], then: Mapping[Pair, Tensor], t: int, trace: Trace
    ) -> None:
        """The cosine of grad log p(c_i | x_t) and grad log p(c_j | c_i, x_t), i before j in the order (Figure 1)."""
        order = list(space.energies)
        pairs = [(i, j) for i, j in then if i is not None and order.index(i) < order.index(j)]
        if {name for pair in pairs for name in pair} == set(order):
            self.tell_cosines(space, pairs, {(i, j): (first[i], then[i, j]) for i, j in pairs}, t, trace)
