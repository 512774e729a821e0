"""Z-Magic (Deng et al., CVPR 2025): each condition guides in the light of those before it, p(c_2 | c_1, x_t).

    g_1 = grad_{x_t} log p(c_1 | x_t),    x^ = step(x_t) guided by g_1 alone                  (Algorithm 1, lines 3-6)
    grad_{x_t} log p(c_2 | c_1, x_t) = A g_x^ + beta H g_x^,   g_x^ = grad_{x^} log p(c_2 | x^)         (equation 6)
    H g_x^ = d (g_1 . stopgrad(g_x^)) / d x_t                                                           (equation 7)
    x_{t'} = step(x_t) guided by g_1 + A g_x^ + beta H g_x^                                 (lines 8-10)

A is the Jacobian of the unguided step, H the Hessian of log p(c_1 | x_t): together they are the Jacobian of x^, and
both products are one pass backwards through it. log p is minus an energy, and beta is FreeDoM's rho (Z-Magic keeps its
settings): beta g_1 = -rho_1 grad E_1 and beta H = -rho_1 d^2 E_1 / d x_t^2, with rho_1 held constant.

For n > 2 conditions every one of them starts in turn; the gradients of log p(c_j, c_i | x_t) of all ordered pairs are
tasks that CAGrad joins (section 3.5; Algorithm 2 is printed as an image). CAGrad's average is scaled by n / 2: where
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
    style_reference         the style image goes from its own size to CLIP's 224 (clip/base_clip.py)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from concord.methods.base import Trace, register
from concord.methods.core.sampler import Step
from concord.methods.guidance.autodiff import DIFFERENCE, difference, twice_differentiable, vjp
from concord.methods.guidance.cagrad import Rescale, cagrad
from concord.methods.guidance.cagrad_published import cagrad_as_published
from concord.methods.guidance.context import GuidanceContext, State
from concord.methods.guidance.method import GuidedMethod, Passes
from concord.methods.guidance.parameters import GuidedParams

Pair = tuple[str | None, str]
"""(i, j): condition j after condition i has guided; None is the text of a text-driven model, which needs no energy."""


@dataclass(frozen=True)
class FirstGradient:
    """How the condition that goes first pulls: rho (a number or (B, 1, 1, 1)) and the gradient (B, C, h, w) of E."""

    rho: Tensor
    gradient: Tensor

    @property
    def scaled_grad(self) -> Tensor:
        """-beta g_1 (B, C, h, w)."""
        return self.rho * self.gradient


@register
class ZMagic(GuidedMethod["ZMagic.Params"]):
    """Conditional gradients by Hessian-vector products, joined by CAGrad."""

    name, title, paper = "z-magic", "Z-Magic", "arXiv:2503.12124"
    citation = "Deng, He, Tang, Dong: Z-Magic: Zero-shot Multiple Attributes Guided Image Creator. CVPR 2025"

    has_second_order = True

    class Params(GuidedParams):
        old_names: ClassVar[Mapping[str, str]] = {"look_at": "eval_timestep"}
        old_values: ClassVar[Mapping[str, Mapping[str, str]]] = {"joining": {"coded": "official"}}

        hvp: Literal["exact", "finite-difference", "none"] = "finite-difference"  # 'none': no beta H g, as the code
        hvp_step: float = Field(DIFFERENCE, gt=0)  # h of the difference
        eval_timestep: Literal["t", "previous"] = "t"  # at which the model sees x^ (the paper writes x^_t)
        joining: Literal["paper", "official"] = "paper"
        cagrad_c: float = Field(0.5, ge=0, lt=1)  # the paper gives none; the authors' code has 0.5
        cagrad_rescale: Rescale = "none"  # CAGrad's paper; see `cagrad`
        cagrad_solver: Literal["exact", "as_published"] = "exact"
        cagrad_per_channel: bool = False  # of joining 'official': a problem for every channel of x_t
        stop: int = Field(200, ge=-1, le=1000)  # no guidance where t <= stop: 'the final steps'; the code's --stop 200
        stop_text: bool = True  # False: a text is guided by to the end
        branch_noise: Literal["shared", "own"] = "shared"  # of joining 'official': the x^ of the third condition and on
        correction_at: Literal["x_t", "x_hat"] = "x_t"  # where 'relative-correction' measures eps_c - eps_u
        mask_strength_of_three: float | None = Field(None, ge=0)  # of three conditions or more; None: strengths.mask

        @classmethod
        def official(cls) -> dict[str, Any]:
            until_stop = (-1, 1000)
            return {
                "norm": "batch",
                "text_residual": "raw",
                "hvp": "none",
                "joining": "official",
                "strengths": {"mask": 0.1, "style": 0.2},
                "mask_strength_of_three": 0.2,
                "order": ("text", "mask", "identity", "landmarks", "style"),
                "windows": {**dict.fromkeys(("mask", "identity", "landmarks"), until_stop), "style": (300, 1000)},
                "stop": 201,
                "stop_text": False,
                "cagrad_solver": "as_published",
                "cagrad_per_channel": True,
                "ddim_noise": "official",
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
            if self.branch_noise == "shared" or self.joining != "official":
                return 0
            later = len(names) - (self.text_by == "energy")  # a text that drives the model stands not among the names
            return max(0, later - 1)

        def pairs(self, active: Sequence[str], text_conditioned: bool) -> list[Pair]:
            """(c_i, c_j) of every grad log p(c_j | c_i, x_t): one of two conditions (Algorithm 1), all of more."""
            starts: list[str | None] = [None, *active] if text_conditioned else list(active)
            if self.joining == "official" or len(starts) <= 2:
                starts = starts[:1]
            return [(i, j) for i in starts for j in active if j != i]

    @classmethod
    def passes(cls, params: Params, active: Sequence[str], text_conditioned: bool) -> Passes:
        pairs = params.pairs(active, text_conditioned)
        if not pairs:
            return Passes(1, 1)
        starts = [i for i, _ in pairs]
        first = len(set(starts) - {None})  # every g_1
        if params.branches(active):  # every pair has an x^ of its own
            points, turns = len(pairs), 1
        else:  # all x^ go backwards together, one condition of each a turn
            points, turns = len(set(starts)), max(starts.count(i) for i in starts)
        curved = len(pairs) - starts.count(None)  # pairs with a Hessian
        if params.hvp == "exact":
            return Passes(1 + points, first + points * turns + starts.count(None), curved)
        differences = curved if params.hvp == "finite-difference" else 0
        return Passes(1 + points + differences, first + points * turns + len(pairs) + differences)

    def correct(self, context: GuidanceContext, x_t: Tensor, step: Step, active: Sequence[str], trace: Trace) -> Tensor:
        """x_{t'} (B, C, h, w): Algorithm 1 from line 3 to line 10, for one pair of conditions or for all of them."""
        p, t = self.params, step.t
        pairs = p.pairs(active, context.text_conditioned)
        starts: list[str | None] = list(dict.fromkeys(i for i, _ in pairs)) or list(active)
        exact = p.hvp == "exact" and bool(pairs)

        with twice_differentiable() if exact else nullcontext():
            state = context.evaluate(x_t, t)  # eps, x_0|t and its image: one forward pass for all conditions
            unguided = step(state.x_t, state.eps)  # lines 4 to 6 without g_1: the score, the step and its noise z
            self.log_losses(context, state.x_0, t, trace, state.images)
            first: dict[str | None, FirstGradient] = {}
            for i in starts:  # line 3: g_1 = grad_{x_t} log p(c_1 | x_t)
                if i is not None:
                    gradient = context.gradient(i, state, t, create_graph=exact)
                    first[i] = FirstGradient(context.step_size(i, gradient, state, step), gradient)
        if not pairs:  # one condition alone: FreeDoM's step
            return unguided.detach() - first[active[0]].scaled_grad.detach()

        # Lines 4 to 6: x^ = step(x_t) guided by g_1 alone; where a text drives the model, the step itself.
        x_hat = {i: unguided - first[i].scaled_grad if i in first else unguided for i in starts}

        # Every pair (i, j) is looked at in the x^ of i, or in one of its own that differs by its noise.
        points: dict[Pair | str | None, Tensor] = dict(x_hat.items())
        point_of: dict[Pair, Pair | str | None] = {pair: pair[0] for pair in pairs}
        if step.branch_noises:
            branches = [step.branch(number)(state.x_t, state.eps) for number in range(len(pairs))]
            points = {
                (i, j): x - first[i].scaled_grad if i in first else x for (i, j), x in zip(pairs, branches, strict=True)
            }
            point_of = {pair: pair for pair in pairs}

        # Line 7: g_x^ = grad_{x^} log p(c_2 | x^), carried back to x_t by A + beta H (equations 6 and 7).
        t_hat = t if p.eval_timestep == "t" else max(step.t_previous, 0)
        at_x_hat = context.evaluate(torch.cat(list(points.values())), t_hat)  # every x^ in one forward pass
        gradients = context.gradients(at_x_hat, list(points), [(point_of[pair], pair[1]) for pair in pairs], t_hat)
        measured = dict.fromkeys(points, state)  # where the step size of 'relative-correction' is measured
        if at_x_hat.correction is not None and p.correction_at == "x_hat":
            corrections = at_x_hat.correction.chunk(len(points))
            measured = {key: replace(state, correction=one) for key, one in zip(points, corrections, strict=True)}
        second = {
            pairs[place]: context.step_size(pairs[place][1], gradient, measured[point_of[pairs[place]]], step)
            * gradient
            for place, gradient in gradients.items()
        }
        conditional = self._vjp_through_step(context, state, unguided, x_hat, first, second, t)

        # Lines 8 to 10: the step, moved by g_1 + A g_x^ + beta H g_x^; of more pairs by their CAGrad direction.
        scaled = {i: one.scaled_grad.detach() for i, one in first.items()}
        self._record(context, scaled, conditional, t, trace)
        return unguided.detach() - self._join(context, scaled, conditional, len(active))

    def _vjp_through_step(
        self,
        context: GuidanceContext,
        state: State,
        unguided: Tensor,
        x_hat: Mapping[str | None, Tensor],
        first: Mapping[str | None, FirstGradient],
        second: Mapping[Pair, Tensor],
        t: int,
    ) -> dict[Pair, Tensor]:
        """A g + beta H g (B, C, h, w) of every pair (i, j), for g = rho_j grad E_j(x^_i)  (equation 6)."""
        p = self.params
        found: dict[Pair, Tensor] = {}
        if p.hvp == "exact":  # A + beta H is the Jacobian of x^ = step(x_t) - rho_i grad E_i(x_t): both in one pass
            for i in x_hat:
                mine = [pair for pair in second if pair[0] == i]
                counter = context.counter if i is None else self.second_order
                pulled = vjp(x_hat[i], state.x_t, [second[pair] for pair in mine], retain_graph=True, counter=counter)
                found.update(zip(mine, pulled, strict=True))
        else:
            pulled = vjp(unguided, state.x_t, list(second.values()), counter=context.counter)  # A g
            found.update(zip(second, pulled, strict=True))
        if p.hvp == "finite-difference":  # H g (equation 7) of all pairs in one batch, by grad E_i at x_t + h g / |g|
            curved = [pair for pair in second if pair[0] is not None]

            def gradients(x: Tensor) -> Tensor:
                asked = [(pair, str(pair[0])) for pair in curved]
                return torch.cat(list(context.gradients(context.evaluate(x, t), curved, asked, t).values()))

            if curved:
                x_t = torch.cat([state.x_t.detach()] * len(curved))
                at_x_t = torch.cat([first[i].gradient for i, _ in curved])
                g = torch.cat([second[pair] for pair in curved])
                products = difference(gradients, x_t, at_x_t, g, p.hvp_step).chunk(len(curved))
                for pair, product in zip(curved, products, strict=True):
                    found[pair] = found[pair] - first[pair[0]].rho * product
        for pair, gradient in found.items():
            context.require_finite(gradient, (pair[1],), t)
        return found

    def _join(
        self,
        context: GuidanceContext,
        first: Mapping[str | None, Tensor],
        conditional: Mapping[Pair, Tensor],
        active: int,
    ) -> Tensor:
        """What the step moves by: the one pair's sum (line 8), or CAGrad's direction over all pairs (Algorithm 2)."""
        p = self.params
        parts = [*first.values(), *conditional.values()]
        if len(parts) == 1 or (p.joining == "paper" and len(conditional) == 1):
            return torch.stack(parts).sum(dim=0)
        if p.joining == "official":
            return 2 * torch.stack(parts).sum(dim=0) + self._official_direction(torch.stack(parts))
        tasks = [first[i] + conditional[i, j] if i in first else conditional[i, j] for i, j in conditional]
        if context.text_conditioned:  # (i, text): the text-driven model adds nothing to what i pulls
            tasks += first.values()
        n = active + context.text_conditioned
        return n / 2 * cagrad(torch.stack(tasks), p.cagrad_c, p.cagrad_rescale)

    def _official_direction(self, parts: Tensor) -> Tensor:
        """CAGrad's direction (B, C, h, w) of gradients (n, B, C, h, w), divided and scaled as the authors' code."""
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

    def _record(
        self,
        context: GuidanceContext,
        first: Mapping[str | None, Tensor],
        conditional: Mapping[Pair, Tensor],
        t: int,
        trace: Trace,
    ) -> None:
        """The cosine of grad log p(c_i | x_t) and grad log p(c_j | c_i, x_t), i before j in the order (Figure 1)."""
        order = list(context.energies)
        pairs = [(i, j) for i, j in conditional if i is not None and order.index(i) < order.index(j)]
        if {name for pair in pairs for name in pair} == set(order):  # all conditions are active
            self.record_cosines({(i, j): (first[i], conditional[i, j]) for i, j in pairs}, t, trace)
