"""The model behind x_0|t and the energies on it, for one batch: what a guided step asks for, with every gradient.

    x_t  -- denoise -->  eps  -->  x_0|t = (x_t - sqrt(1 - abar) eps) / sqrt(abar)  -- decode -->  image  -->  E_i

R rows are B, the batch, or a multiple of it: blocks of B rows, each in the order of the requests.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from concord.data.errors import ConcordError
from concord.data.networks import Networks
from concord.methods.base import Batch
from concord.methods.core.sampler import Denoiser, Step, posterior_weight
from concord.methods.core.schedule import Schedule
from concord.methods.guidance.autodiff import vjp
from concord.methods.guidance.energies import Energy, objective, step_size
from concord.methods.guidance.parameters import GuidedParams
from concord.methods.networks.protocols import TrainedDenoiser

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class State:
    """x_t (R, C, h, w) and what follows from it, on one graph.

    correction: eps_c - eps_u where a text-driven model samples, else None.
    """

    x_t: Tensor
    eps: Tensor
    x_0: Tensor
    images: Tensor
    correction: Tensor | None = None


class Model:
    """eps(x_t, t) of a batch: the unconditional model, or the text-driven one with classifier-free guidance."""

    def __init__(self, networks: Networks, batch: Batch, text_scale: float | None) -> None:
        self.networks, self.batch, self.text_scale = networks, batch, text_scale
        self._bound: dict[tuple[str, int], Denoiser] = {}

    def __call__(self, x_t: Tensor, t: int) -> tuple[Tensor, Tensor | None]:
        """eps like x_t (R, C, h, w), and eps_c - eps_u where a text drives the model."""
        eps = self._expert("unconditional", len(x_t))(x_t, t)
        if self.text_scale is None:
            return eps, None
        correction = self._expert("text", len(x_t))(x_t, t) - eps
        return eps + self.text_scale * correction, correction

    def _expert(self, name: str, rows: int) -> Denoiser:
        """Bound to the conditions once for every number of blocks."""
        copies = rows // len(self.batch)
        if (name, copies) not in self._bound:
            with torch.no_grad():
                conditions = self.batch.conditions * copies
                expert = self.networks.get(f"expert/{name}", TrainedDenoiser)
                self._bound[name, copies] = expert.bind(conditions, self.networks.get("schedule", Schedule))
        return self._bound[name, copies]


class GuidanceContext:
    """States and gradients of one batch.

    model: (x_t, t) -> eps and eps_c - eps_u or None, as `Model`. ids: of the requests, for messages.
    counter: sees every pass backwards through the model. text_conditioned: whether a text drives the model itself.
    """

    def __init__(
        self,
        model: Callable[[Tensor, int], tuple[Tensor, Tensor | None]],
        schedule: Schedule,
        decode: Callable[[Tensor], Tensor],
        energies: Mapping[str, Energy],
        p: GuidedParams,
        ids: Sequence[str],
        method: str = "guided",
        counter: nn.Module | None = None,
        text_conditioned: bool = False,
    ) -> None:
        self.model, self.schedule, self.decode, self.energies = model, schedule, decode, dict(energies)
        self.p, self.ids, self.method = p, list(ids), method
        self.counter, self.text_conditioned = counter, text_conditioned

    def evaluate(self, x_t: Tensor, t: int) -> State:
        """The state at x_t (R, C, h, w), whose own history is cut off: one pass forwards."""
        x_t = x_t.detach().requires_grad_(True)
        eps, correction = self.model(x_t, t)
        x_0 = self.schedule.x0_from_eps(eps, x_t, t)
        return State(x_t, eps, x_0, self.decode(x_0), correction)

    # -------------------------------------------------------------------------------------------------------- gradients

    def image_grad(self, name: str, images: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """dE/d image (R, 3, H, W) and E (R,), on a graph of the guide alone."""
        images = images.detach().requires_grad_(True)
        energies = self.energies[name](images)
        (grad,) = torch.autograd.grad(objective(energies, self.p.norm), images)
        self.require_finite(grad, (name,), t)
        return grad, energies.detach()

    def image_grads(self, asked: Sequence[tuple[str, Tensor]], t: int) -> list[Tensor]:
        """dE/d image of every (condition, images (B, 3, H, W)); a guide sees all its images in one pass."""
        if self.p.norm == "batch":  # one batch is one tensor to the norm
            return [self.image_grad(name, images, t)[0] for name, images in asked]
        grads: dict[int, Tensor] = {}
        for name in dict.fromkeys(name for name, _ in asked):
            places = [place for place, (other, _) in enumerate(asked) if other == name]
            grad, _ = self.image_grad(name, torch.cat([asked[place][1] for place in places]), t)
            grads.update(zip(places, grad.chunk(len(places)), strict=True))
        return [grads[place] for place in range(len(asked))]

    def gradient(self, name: str, state: State, t: int, create_graph: bool = False) -> Tensor:
        """dE/dx_t (R, C, h, w); create_graph: on its graph, so that it can be differentiated again."""
        if create_graph:
            scalar = objective(self.energies[name](state.images), self.p.norm)
            (grad,) = torch.autograd.grad(scalar, state.x_t, create_graph=True)
            if self.counter is not None:
                self.counter(grad)
        else:
            image_grad, _ = self.image_grad(name, state.images, t)
            (grad,) = vjp(state.images, state.x_t, image_grad[None], retain_graph=True, counter=self.counter)
        return self.require_finite(grad, (name,), t)

    def gradients(
        self, states: State, points: Sequence[Key], asked: Sequence[tuple[Key, str]], t: int
    ) -> dict[int, Tensor]:
        """dE_j/dx (B, C, h, w) at the point i, for every (i, j) that is asked for.

        states: of all points at once (k B, C, h, w), block after block; points: the name of each block.
        One pass backwards takes one condition of every point: as many turns as the point has conditions that is asked
        for most of them. Returned by the place in `asked`, in the order in which they came: turn after turn.
        """
        images = dict(zip(points, states.images.chunk(len(points)), strict=True))
        image_grads = self.image_grads([(name, images[i]) for i, name in asked], t)
        queues = [[place for place, (i, _) in enumerate(asked) if i == point] for point in points]
        found: dict[int, Tensor] = {}
        for turn in range(max(map(len, queues))):
            places = [queue[turn] if turn < len(queue) else None for queue in queues]
            nothing = torch.zeros_like(image_grads[0])
            cotangent = torch.cat([nothing if place is None else image_grads[place] for place in places])
            (grad,) = vjp(states.images, states.x_t, cotangent[None], retain_graph=True, counter=self.counter)
            for place, block in zip(places, grad.chunk(len(places)), strict=True):
                if place is not None:
                    found[place] = self.require_finite(block, (asked[place][1],), t)
        return found

    def step_size(self, name: str, gradient: Tensor, state: State, step: Step) -> Tensor:
        """rho of a condition for a gradient (B, C, h, w); nothing is differentiated through it."""
        abar = self.schedule.abar(step.t, gradient)
        weight = posterior_weight(self.schedule, step.t, step.t_previous, gradient)
        correction = None if state.correction is None else state.correction.detach()
        rule, strength = self.p.rules.rule(name), self.p.strength(name)
        return step_size(rule, strength, gradient.detach(), state.eps.detach(), correction, abar, weight, self.p)

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
