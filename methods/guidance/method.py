"""What guided methods share: the model behind x_0|t, the energies on it, the sampling loop, checks and traces.

    x_t  -- denoise -->  eps  -->  x_0|t = (x_t - sqrt(1 - abar) eps) / sqrt(abar)  -- decode -->  image  -->  E_i

A method writes `correct`: one step with its guidance, from a `Space` in which points and gradients can be asked for.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, TypeVar

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from concord.data.errors import ConcordError
from concord.methods.base import Batch, Method, Trace
from concord.methods.core.experts import modalities
from concord.methods.core.sampler import Kind, Step, guided, posterior_weight
from concord.methods.core.schedule import Schedule
from concord.methods.guidance.autodiff import Tally, pull_back
from concord.methods.guidance.energies import (
    GUIDED,
    Energy,
    EnergyParams,
    Rules,
    Windows,
    make_energies,
    objective,
    step_size,
)


class GuidedParams(EnergyParams):
    """Sampling around the energies; see `EnergyParams` for theirs."""

    steps: int = Field(100, ge=1, le=1000)  # FreeDoM and Z-Magic, faces
    sampler: Literal["auto", "ancestral", "reverse-diffusion", "ddim", "ddim-coded"] = "auto"  # auto: see `kind`
    eta: float = Field(0.5, ge=0, le=1)  # of DDIM (FreeDoM's run scripts)
    windows: Windows = Windows()
    rules: Rules = Rules()
    order: tuple[str, ...] = GUIDED  # of the conditions; those left out come after, in this order
    ddim_noise: Literal["paper", "coded"] = "paper"  # Song et al.'s sigma_t, or FreeDoM's code: eta sqrt(1 - abar_t')
    noise_last_step: bool = False  # where latents end at abar_0 < 1 (Stable Diffusion in FreeDoM's code)
    repeat: int = Field(1, ge=1)  # time travel: turns of a step (faces 1; ImageNet 10; Stable Diffusion's style 3)
    repeat_window: tuple[int, int] = (0, 1000)  # where, low <= t <= high (ImageNet 500-800, style 400-700)
    repeat_last_step: bool = False  # the last step takes its turns as well
    style_repeat: int | None = Field(None, ge=1)  # `repeat` where a style guides a text-driven model; None: the same
    style_repeat_window: tuple[int, int] = (0, 1000)  # `repeat_window` there

    @field_validator("order")
    @classmethod
    def _known(cls, order: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in order if name not in GUIDED]
        if unknown or len(set(order)) < len(order):
            raise ValueError(f"expected each of {', '.join(GUIDED)} at most once")
        return (*order, *(name for name in GUIDED if name not in order))

    def strength(self, name: str) -> float:
        return getattr(self.strengths, name)

    def guides(self, name: str, t: int) -> bool:
        """Whether a condition pulls at t."""
        low, high = getattr(self.windows, name)
        return self.strength(name) > 0 and low < t < high

    def repeats(self, t: int) -> int:
        return self.repeat if self.repeat_window[0] <= t <= self.repeat_window[1] else 1

    def for_conditions(self, names: Sequence[str]) -> Self:
        """The parameters where these conditions are given: what depends on which ones they are stands in its place."""
        if self.style_repeat is None or self.text_by != "model" or "style" not in names:
            return self
        return self.model_copy(update={"repeat": self.style_repeat, "repeat_window": self.style_repeat_window})

    def branches(self, names: Sequence[str]) -> int:
        """How many noises of its own a step needs beside the first, where these conditions guide."""
        return 0

    def kind(self, names: Sequence[str]) -> Kind:
        """The base step; auto is what FreeDoM's code takes: ancestral where a text guides, else DDIM with eta."""
        kind = self.sampler
        if kind == "auto":
            kind = "ancestral" if "text" in names else "ddim"
        return "ddim-coded" if kind == "ddim" and self.ddim_noise == "coded" else kind


# ---------------------------------------------------------------------------------------------------------------- space


@dataclass(frozen=True)
class Point:
    """x_t (R, C, h, w) and what follows from it, on one graph.

    correction: eps_c - eps_u where a text-driven model samples, else None.
    """

    x_t: Tensor
    eps: Tensor
    x_0: Tensor
    images: Tensor
    correction: Tensor | None = None


class Model:
    """eps(x_t, t) of a batch: the unconditional model, or the text-driven one with classifier-free guidance.

    x_t may hold several blocks of the batch: (k B, C, h, w).
    """

    def __init__(self, bank: Any, batch: Batch, text_scale: float | None) -> None:
        self.bank, self.batch, self.text_scale = bank, batch, text_scale
        self._bound: dict[tuple[str, int], Any] = {}

    def __call__(self, x_t: Tensor, t: int) -> tuple[Tensor, Tensor | None]:
        eps = self._expert("unconditional", len(x_t))(x_t, t)
        if self.text_scale is None:
            return eps, None
        correction = self._expert("text", len(x_t))(x_t, t) - eps
        return eps + self.text_scale * correction, correction

    def _expert(self, name: str, rows: int) -> Callable[[Tensor, int], Tensor]:
        """Bound to the conditions once for every number of blocks."""
        copies = rows // len(self.batch)
        if (name, copies) not in self._bound:
            with torch.no_grad():
                conditions = self.batch.conditions * copies
                self._bound[name, copies] = self.bank.expert(name).bind(conditions, self.bank.schedule)
        return self._bound[name, copies]


class Space:
    """Points and gradients of one batch; `tally` sees every pass backwards through the model."""

    def __init__(
        self,
        model: Callable[[Tensor, int], tuple[Tensor, Tensor | None]],
        schedule: Schedule,
        decode: Callable[[Tensor], Tensor],
        energies: Mapping[str, Energy],
        p: GuidedParams,
        ids: Sequence[str],
        method: str = "guided",
        tally: nn.Module | None = None,
        driven: bool = False,
    ) -> None:
        self.driven = driven  # whether a text drives the model itself
        self.model, self.schedule, self.decode, self.energies = model, schedule, decode, dict(energies)
        self.p, self.ids, self.method, self.tally = p, list(ids), method, tally

    def at(self, x_t: Tensor, t: int) -> Point:
        """The point at x_t, whose own history is cut off."""
        x_t = x_t.detach().requires_grad_(True)
        eps, correction = self.model(x_t, t)
        x_0 = self.schedule.x0_from_eps(eps, x_t, t)
        return Point(x_t, eps, x_0, self.decode(x_0), correction)

    def slope(self, name: str, images: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """dE/d image (R, 3, H, W) and E (R,), on a graph of the guide alone."""
        images = images.detach().requires_grad_(True)
        energies = self.energies[name](images)
        (slope,) = torch.autograd.grad(objective(energies, self.p.norm), images)
        self.require_finite(slope, (name,), t)
        return slope, energies.detach()

    def slopes(self, wanted: Sequence[tuple[str, Tensor]], t: int) -> list[Tensor]:
        """dE/d image of every (condition, images (B, 3, H, W)); a guide sees all its images in one pass."""
        if self.p.norm == "batch":  # one batch is one tensor to the norm
            return [self.slope(name, images, t)[0] for name, images in wanted]
        found: dict[int, Tensor] = {}
        for name in dict.fromkeys(name for name, _ in wanted):
            places = [place for place, (other, _) in enumerate(wanted) if other == name]
            slope, _ = self.slope(name, torch.cat([wanted[place][1] for place in places]), t)
            found.update(zip(places, slope.chunk(len(places)), strict=True))
        return [found[place] for place in range(len(wanted))]

    def gradient(self, name: str, point: Point, t: int, keep: bool = True) -> Tensor:
        """dE/dx_t (R, C, h, w)."""
        slope, _ = self.slope(name, point.images, t)
        (found,) = pull_back(point.images, point.x_t, slope[None], keep=keep, tally=self.tally)
        return self.require_finite(found, (name,), t)

    def step_size(self, name: str, gradient: Tensor, point: Point, step: Step) -> Tensor:
        """rho of a condition for a gradient (B, C, h, w); nothing is differentiated through it."""
        abar = self.schedule.abar(step.t, gradient)
        weight = posterior_weight(self.schedule, step.t, step.t_previous, gradient)
        correction = None if point.correction is None else point.correction.detach()
        rule, strength = self.p.rules.rule(name), self.p.strength(name)
        return step_size(rule, strength, gradient.detach(), point.eps.detach(), correction, abar, weight, self.p)

    def require_finite(self, gradient: Tensor, names: Sequence[str], t: int) -> Tensor:
        """The gradient, or ConcordError naming the condition, the step and the request."""
        if bool(torch.isfinite(gradient).all()):
            return gradient
        rows = (~torch.isfinite(gradient).flatten(1).all(dim=1)).nonzero().flatten().tolist()
        bad = sorted({self.ids[row % len(self.ids)] for row in rows})
        raise ConcordError(
            f"method '{self.method}', condition '{' + '.join(names)}', step t = {t}: NaN or infinity in the gradient "
            f"of request {bad[0]} ({len(bad)} in all); lower its strength, or look for NaN in the condition"
        )


# --------------------------------------------------------------------------------------------------------------- method


G = TypeVar("G", bound=GuidedParams, covariant=True)


class GuidedMethod(Method[G]):
    """An unconditional diffusion model, steered at sampling time by any set of differentiable conditions."""

    conditions = frozenset(GUIDED)
    training_free = True
    joins_open_suites = False
    traces: ClassVar[tuple[str, ...]] = ("gradient-cosine", "condition-loss")

    class Params(GuidedParams):
        pass

    def __init__(self, params: G, bank: Any) -> None:
        super().__init__(params, bank)
        self.backward, self.second_order = Tally(), Tally()

    @abstractmethod
    def correct(self, space: Space, x_t: Tensor, step: Step, active: Sequence[str], trace: Trace) -> Tensor:
        """x_{t'} under the guidance of the active conditions (one at least), gradients enabled."""

    def denoisers(self) -> Mapping[str, nn.Module]:
        """The models, and what passes backwards through them, counted beside the evaluations."""
        p = self.params
        names = ["unconditional", *(["text"] if p.text_by == "model" else [])]
        return {f"eps-{name}": self.bank.expert(name) for name in names} | {"backward": self.backward}

    @torch.no_grad()
    def sample(self, batch: Batch, trace: Trace) -> Tensor:
        p = self.params
        names = modalities(batch, order=p.order)
        p = p.for_conditions(names)
        by_model = p.text_by == "model" and "text" in names
        pulling = [name for name in names if not (by_model and name == "text") and p.strength(name) > 0]
        space = self.space(batch, pulling, by_model, p)

        def correct(x_t: Tensor, step: Step) -> Tensor:
            active = [name for name in pulling if p.guides(name, step.t)]
            if not active:
                eps, _ = space.model(x_t, step.t)
                self.tell_losses(space, space.schedule.x0_from_eps(eps, x_t, step.t), step.t, trace)
                return step(x_t, eps)
            with torch.enable_grad():
                return self.correct(space, x_t, step, active, trace).detach()

        x_0 = guided(
            correct,
            self.bank.schedule,
            batch.generators,
            self.bank.latent_shape,
            self.device,
            p.steps,
            p.kind(names),
            p.eta,
            p.repeats,
            repeat_last_step=p.repeat_last_step,
            noise_last_step=p.noise_last_step,
            branches=p.branches(pulling),
        )
        return self.bank.autoencoder.decode(x_0)

    def space(self, batch: Batch, names: Sequence[str], by_model: bool, p: GuidedParams | None = None) -> Space:
        """The energies of the named conditions on this batch's model; p: the method's parameters where absent."""
        p = self.params if p is None else p
        energies: dict[str, Energy] = {}
        if names:
            guide = self.bank.guide if p.guide == "guide" else self.bank.judge
            energies = make_energies(names, batch.requests, guide, p, self.bank.image_size)
        model = Model(self.bank, batch, p.text_scale if by_model else None)
        ids = [request.id for request in batch.requests]
        decode = self.bank.autoencoder.decode
        return Space(model, self.bank.schedule, decode, energies, p, ids, self.name, self.backward, by_model)

    # ----------------------------------------------------------------------------------------------------------- traces

    def tell_losses(self, space: Space, x_0: Tensor, t: int, trace: Trace, images: Tensor | None = None) -> None:
        """'condition-loss': E of every condition at x_0|t, (B, conditions)."""
        if "condition-loss" in trace.wanted and space.energies:
            with torch.no_grad():
                images = space.decode(x_0.detach()) if images is None else images.detach()
                losses = torch.stack([energy(images) for energy in space.energies.values()], dim=1)
            trace("condition-loss", t, losses, parts=list(space.energies))

    def tell_cosines(
        self,
        space: Space,
        pairs: Sequence[tuple[str, str]],
        gradients: Mapping[Any, tuple[Tensor, Tensor]],
        t: int,
        trace: Trace,
    ) -> None:
        """'gradient-cosine' of every pair of conditions, (B, pairs), where all conditions are active."""
        if pairs:
            both = [gradients[pair] for pair in pairs]
            values = [torch.cosine_similarity(a.flatten(1), b.flatten(1), dim=1) for a, b in both]
            trace("gradient-cosine", t, torch.stack(values, dim=1), parts=["|".join(pair) for pair in pairs])
