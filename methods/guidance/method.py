"""What guided methods share: the sampling loop around a guided step, what it costs, its traces.

A method writes `correct`, one step with its guidance, from a `GuidanceContext` in which states and gradients can be
asked for, and `passes`, how often it goes through the model for that.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from concord.data.networks import Networks
from concord.methods.base import Batch, Method, Trace
from concord.methods.core.experts import modalities
from concord.methods.core.sampler import Step, guided, turns
from concord.methods.core.schedule import ddim_timesteps
from concord.methods.guidance.autodiff import CallCounter
from concord.methods.guidance.context import GuidanceContext, Model
from concord.methods.guidance.energies import Energy, Guide, make_energies
from concord.methods.guidance.parameters import GUIDED, GuidedParams

G = TypeVar("G", bound=GuidedParams)


class Passes(NamedTuple):
    """Passes of one image through the model: forwards, backwards, and backwards through a backward pass."""

    forward: int
    backward: int = 0
    second_order: int = 0


class GuidedMethod(Method[G]):
    """An unconditional diffusion model, steered at sampling time by any set of differentiable conditions."""

    conditions = frozenset(GUIDED)
    training_free = True
    auto_include = False
    traces: ClassVar[tuple[str, ...]] = ("gradient-cosine", "condition-loss")
    has_second_order: ClassVar[bool] = False  # whether it passes backwards through a backward pass

    class Params(GuidedParams):
        pass

    def __init__(self, params: G, networks: Networks) -> None:
        super().__init__(params, networks)
        self.backward, self.second_order = CallCounter(), CallCounter()

    @abstractmethod
    def correct(self, context: GuidanceContext, x_t: Tensor, step: Step, active: Sequence[str], trace: Trace) -> Tensor:
        """x_{t'} (B, C, h, w) under the guidance of the active conditions (one at least), gradients enabled."""

    @classmethod
    @abstractmethod
    def passes(cls, params: G, active: Sequence[str], text_conditioned: bool) -> Passes:
        """What one call of `correct` takes, for one image."""

    def denoisers(self) -> Mapping[str, nn.Module]:
        """The models, and what passes backwards through them, counted beside the evaluations."""
        names = model_names(self.params)
        models: dict[str, nn.Module] = {f"eps-{name}": self.networks.get(f"expert/{name}", nn.Module) for name in names}
        second = {"second-order": self.second_order} if self.has_second_order else {}
        return models | {"backward": self.backward} | second

    @classmethod
    def roles(cls, params: G, conditions: Sequence[str]) -> tuple[str, ...]:
        looked_through = {params.guide_role(name) for name in params.pulling(conditions)}
        return ("schedule", "space", *(f"expert/{name}" for name in model_names(params)), *sorted(looked_through))

    @classmethod
    def evaluations(
        cls, params: G, conditions: Sequence[str], timesteps: Sequence[int] | None = None
    ) -> Mapping[str, float]:
        params = params.for_conditions(conditions)
        pulling, by_model = params.pulling(conditions), params.uses_text_model(conditions)
        times = ddim_timesteps(params.steps) if timesteps is None else timesteps
        total = dict.fromkeys(Passes._fields, 0)
        for t, _, count in turns(times, params.repeats, params.repeat_last_step):
            active = [name for name in pulling if params.guides(name, t)]
            passes = cls.passes(params, active, by_model) if active else Passes(1)
            total = {name: total[name] + count * rows for name, rows in passes._asdict().items()}
        used = {"unconditional": True, "text": by_model}
        models = {f"eps-{name}": total["forward"] * used[name] for name in model_names(params)}
        second = {"second-order": total["second_order"]} if cls.has_second_order else {}
        return models | {"backward": total["backward"]} | second

    @torch.no_grad()
    def sample(self, batch: Batch, trace: Trace) -> Tensor:
        names = modalities(batch, order=self.params.order)
        p = self.params.for_conditions(names)
        pulling = p.pulling(names)
        context = self.context(batch, pulling, p.uses_text_model(names), p)

        def correct(x_t: Tensor, step: Step) -> Tensor:
            active = [name for name in pulling if p.guides(name, step.t)]
            if not active:
                eps, _ = context.model(x_t, step.t)
                self.log_losses(context, context.schedule.x0_from_eps(eps, x_t, step.t), step.t, trace)
                return step(x_t, eps)
            with torch.enable_grad():
                return self.correct(context, x_t, step, active, trace).detach()

        x_0 = guided(
            correct,
            self.schedule,
            batch.generators,
            self.space.latent_shape,
            self.device,
            p.steps,
            p.kind(names),
            p.eta,
            p.repeats,
            repeat_last_step=p.repeat_last_step,
            noise_last_step=p.noise_last_step,
            branches=p.branches(pulling),
        )
        return self.space.decode(x_0)

    def context(
        self, batch: Batch, names: Sequence[str], by_model: bool, params: GuidedParams | None = None
    ) -> GuidanceContext:
        """The energies of the named conditions on this batch's model.

        by_model: whether the text drives it. params: the method's own where absent.
        """
        p = self.params if params is None else params
        energies: dict[str, Energy] = {}
        if names:
            energies = make_energies(names, batch.requests, Guide(self.networks, p.guide), p, self.networks.image_size)
        model = Model(self.networks, batch, p.text_scale if by_model else None)
        ids = [request.id for request in batch.requests]
        decode = self.space.decode
        return GuidanceContext(model, self.schedule, decode, energies, p, ids, self.name, self.backward, by_model)

    # ----------------------------------------------------------------------------------------------------------- traces

    def log_losses(
        self, context: GuidanceContext, x_0: Tensor, t: int, trace: Trace, images: Tensor | None = None
    ) -> None:
        """Trace 'condition-loss': E of every condition at x_0|t, (B, conditions). images: those of x_0, if decoded."""
        if "condition-loss" in trace.wanted and context.energies:
            with torch.no_grad():
                images = context.decode(x_0.detach()) if images is None else images.detach()
                losses = torch.stack([energy(images) for energy in context.energies.values()], dim=1)
            trace("condition-loss", t, losses, parts=list(context.energies))

    def record_cosines(self, gradients: Mapping[tuple[str, str], tuple[Tensor, Tensor]], t: int, trace: Trace) -> None:
        """Trace 'gradient-cosine' (B, pairs) of every pair of conditions: the cosine of its two gradients."""
        if gradients:
            cosines = [torch.cosine_similarity(a.flatten(1), b.flatten(1), dim=1) for a, b in gradients.values()]
            trace("gradient-cosine", t, torch.stack(cosines, dim=1), parts=["|".join(pair) for pair in gradients])


def model_names(params: GuidedParams) -> tuple[str, ...]:
    """The diffusion models that a row goes through: a text-driven one needs the unconditional one too."""
    return ("unconditional", "text") if params.text_by == "model" else ("unconditional",)
