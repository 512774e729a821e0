"""SDEdit (Meng et al., ICLR 2022): an image is noised part of the way and denoised again.

    x_t0 = sqrt(abar_t0) x + sqrt(1 - abar_t0) z,   then the reverse process from t0 down to 0          (Algorithm 1)

The baseline of MT-Diffusion's Table 1 ("SDEdit-"): a masked image, its hidden pixels grey, is what is edited; which
pixels are known is not used, so that the known region changes too. A larger t0 fills holes better and keeps less. Works
in the latents of the unconditional model, as all rows of its tables. `clean-masked` is the masked image itself.

The authors' code (ermongroup/SDEdit at 66a5e44) takes every one of the first t0 steps, as `steps: 1000` does here on a
model of pixels; it can hold a part of the image besides, by noising it anew with the first noise at every step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from concord.data.conditions.masked_image import GREY
from concord.methods.base import Batch, Method, Trace, register
from concord.methods.core.masked import masked_images
from concord.methods.core.noise import draw_noise
from concord.methods.core.sampler import Step
from concord.methods.core.schedule import ddim_timesteps
from concord.methods.core.tunable import TuneRange
from concord.methods.networks.protocols import TrainedDenoiser


@register
class SDEdit(Method["SDEdit.Params"]):
    """Noise the masked image up to t0, denoise it unconditionally."""

    name, title, paper = "sdedit", "SDEdit", "arXiv:2108.01073"
    citation = (
        "Meng, He, Song, Song, Wu, Zhu, Ermon: "
        "SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations. ICLR 2022"
    )
    conditions = frozenset({"masked_image"})
    training_free = True
    auto_include = False

    class Params(Method.Params):
        start: Annotated[float, TuneRange(0.2, 0.9)] = Field(0.5, gt=0, le=1)
        # t0, a share of T; the paper recommends 0.3 to 0.6
        steps: int = Field(500, ge=1, le=1000)  # of the whole schedule, of which the share t0 is run

        def below_start(self, timesteps: Sequence[int], total: int) -> Sequence[int]:
            """The timesteps of `total` that are run: those below t0, or the last one where that is none."""
            return [t for t in timesteps if t < self.start * total] or timesteps[-1:]

    def denoisers(self) -> Mapping[str, nn.Module]:
        return {"eps-unconditional": self.networks.get("expert/unconditional", nn.Module)}

    @classmethod
    def roles(cls, params: Params, conditions: Sequence[str]) -> tuple[str, ...]:
        return ("schedule", "space", "expert/unconditional")

    @classmethod
    def evaluations(
        cls, params: Params, conditions: Sequence[str], timesteps: Sequence[int] | None = None
    ) -> Mapping[str, float]:
        return {"eps-unconditional": len(params.below_start(timesteps or ddim_timesteps(params.steps), 1000))}

    @torch.inference_mode()
    def sample(self, batch: Batch, trace: Trace) -> Tensor:
        p, schedule = self.params, self.schedule
        images, known = masked_images(batch, self.networks.image_size, self.device)
        x_0 = self.space.encode(torch.where(known[:, None], images, GREY))
        denoise = self.networks.get("expert/unconditional", TrainedDenoiser).bind(batch.conditions, schedule)
        timesteps = p.below_start(schedule.ddim_timesteps(p.steps), schedule.steps)
        x_t = schedule.diffuse(x_0, draw_noise(batch.generators, x_0.shape[1:], self.device), timesteps[0])
        for t, t_previous in zip(timesteps, [*timesteps[1:], -1], strict=True):
            noise = draw_noise(batch.generators, x_0.shape[1:], self.device) if t_previous >= 0 else None
            x_t = Step("ancestral", schedule, t, t_previous, noise)(x_t, denoise(x_t, t))
        return self.space.decode(x_t)


@register
class CleanMasked(Method[Method.Params]):
    """The masked image as it is: what a restoration starts from."""

    name, title, paper = "clean-masked", "Clean-Masked", "arXiv:2407.17571"
    conditions = frozenset({"masked_image"})
    training_free = True
    auto_include = False
    is_deterministic = True

    @classmethod
    def roles(cls, params: Method.Params, conditions: Sequence[str]) -> tuple[str, ...]:
        return ()

    @classmethod
    def evaluations(
        cls, params: Method.Params, conditions: Sequence[str], timesteps: Sequence[int] | None = None
    ) -> Mapping[str, float]:
        return {}

    def sample(self, batch: Batch, trace: Trace) -> Tensor:
        images, known = masked_images(batch, self.networks.image_size, self.device)
        return torch.where(known[:, None], images, GREY)
