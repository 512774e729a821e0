"""A method to copy: state the paper here, with the equation that the code below is.

    eps(x_t, t) = w eps_text(x_t, t, c_text) + (1 - w) eps_mask(x_t, t, c_mask)

To add a method:

1. Copy this file to methods/<your_method>.py (or keep it anywhere and pass `--plugin path.py`). No list needs an edit.
2. State the facts, the parameters with the paper's values, and write `sample`.
3. Run `concord check <name>` (or `concord check --plugin path.py <name>`): the contract tests.
4. Name it in a row of a suite (benchmarks/suites/*.yaml), or try it at once:
   `concord run face-generation --methods <name>`.

What helps you: `batch.conditions` (what each image has to agree with), `batch.generators` (each request's own noise:
use `concord.methods.core.noise.draw_noise`, never torch's global generator), `self.networks.get(role, kind)` (the
networks of the roles that it names), `self.space` and `self.schedule`, `concord.methods.core` (sampler, experts) and
`trace` (maps that figures are drawn from).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from concord.methods.base import Batch, Method, Trace, register
from concord.methods.core.experts import bind_experts
from concord.methods.core.sampler import ddim
from concord.methods.core.tunable import TuneRange


@register
class Template(Method["Template.Params"]):
    """A fixed convex combination of the text-driven and the mask-driven prediction."""

    name, title, paper = "template", "Weighted average", "arXiv:0000.00000"
    citation = "Authors: Title. Venue, year"
    conditions = frozenset({"text", "mask"})  # what it takes; a request that brings anything else is refused
    minimum_conditions = 2  # and how many of them it needs
    training_free = True

    class Params(Method.Params):
        steps: int = Field(50, ge=1, le=1000)  # where the paper states the value
        weight: Annotated[float, TuneRange(0, 1)] = Field(0.5, ge=0, le=1)  # w; `concord tune` may search the range

    def denoisers(self) -> Mapping[str, nn.Module]:
        return {f"eps-{name}": self.networks.get(f"expert/{name}", nn.Module) for name in ("text", "mask")}

    @classmethod
    def roles(cls, params: Params, conditions: Sequence[str]) -> tuple[str, ...]:
        """What it draws from a profile: these networks have to be there, and it can get no others."""
        return ("schedule", "space", "expert/text", "expert/mask")

    @classmethod
    def evaluations(
        cls, params: Params, conditions: Sequence[str], timesteps: Sequence[int] | None = None
    ) -> Mapping[str, float]:
        """What one image takes, so that `concord plan` can say what a row costs. Left out: unknown."""
        return {"eps-text": params.steps, "eps-mask": params.steps}

    @torch.inference_mode()
    def sample(self, batch: Batch, trace: Trace) -> Tensor:
        p = self.params
        text, mask = bind_experts(self.networks, batch, ["text", "mask"])

        def denoise(x_t: Tensor, t: int) -> Tensor:  # x_t and the result: (B, C, h, w)
            return p.weight * text(x_t, t) + (1 - p.weight) * mask(x_t, t)

        x_0 = ddim(denoise, self.schedule, batch.generators, self.space.latent_shape, self.device, p.steps)
        return self.space.decode(x_0).clamp(0, 1)  # images (B, 3, H, W); decoders go a little beyond [0, 1]
