"""The single-task diffusion models that MT-Diffusion (Chen et al., ICLR 2024) is compared with, and its starred rows.

    adm                     p(image): ADM's row of Table 2, at the budget of the others (`unconditional` is their start)
    adm-class-conditional   p(image | class): ADM's row of Table 2 (Dhariwal and Nichol, NeurIPS 2021, without guidance)
    single-task-diffusion   p(mask | image): Table 4's row; what is diffused is the mask's encoding, the image is given
    mt-diffusion-m-star     p(image), by MT-Diffusion's network after fine-tuning on that alone: Table 2's starred rows

One process each and nothing aggregated: Algorithm 1 without modalities is DDPM's ancestral sampling. Trunk, size, batch
and first weights are those of MT-Diffusion's network (methods/training/single_task.py); the cards name the steps.
`single-task-diffusion` reads the class of a pixel by the head that MT-Diffusion's network has, at the last step: the
autoencoder's image of a mask would need its colours rounded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from concord.methods.base import Batch, Method, Trace, register
from concord.methods.core.tunable import TuneRange
from concord.methods.mt_diffusion import Aggregation, Predict, infer, predictor

if TYPE_CHECKING:
    from concord.methods.networks.multi_task import MultiTaskUNet


S = TypeVar("S", bound="SingleTask.Params")


class SingleTask(Method[S]):
    """One diffusion process of the trunk that MT-Diffusion shares."""

    paper = "arXiv:2407.17571"
    citation = (
        "Chen, Ding, Sisman, Xu, Xie, Yao, Tran, Zeng: Diffusion Models for Multi-Modal Generative Modeling. ICLR 2024"
    )
    conditions: ClassVar[frozenset[str]] = frozenset()
    training_free = False
    minimum_conditions = 0
    auto_include = False
    file: ClassVar[str]  # its weights

    class Params(Method.Params):
        steps: int = Field(1000, ge=1, le=1000)  # appendix C
        eta: Annotated[float, TuneRange(0, 1)] = Field(1.0, ge=0, le=1)  # a draw from the posterior; 0 is DDIM's step

    @property
    def network(self) -> MultiTaskUNet:
        """The network; ConcordError in a profile that has none (the paper published no weights)."""
        from concord.methods.networks.multi_task import MultiTaskUNet

        return self.networks.get(f"multi-task/{self.file}", MultiTaskUNet)

    def denoisers(self) -> Mapping[str, nn.Module]:
        return {"eps-mt-single": self.network}

    @classmethod
    def roles(cls, params: S, conditions: Sequence[str]) -> tuple[str, ...]:
        return ("schedule", "space", f"multi-task/{cls.file}")

    @classmethod
    def evaluations(
        cls, params: S, conditions: Sequence[str], timesteps: Sequence[int] | None = None
    ) -> Mapping[str, float]:
        return {"eps-mt-single": params.steps}

    def denoised(self, batch: Batch, predict: Predict) -> Tensor:
        """z_0 (B, 6, 16, 16) by Algorithm 1 without modalities."""
        p = self.params
        alone = Aggregation.make(self.schedule, 0)
        shape = self.space.latent_shape
        return infer(predict, _no_modality, alone, {}, {}, batch.generators, shape, self.device, p.steps, p.eta)[0]


def capture_outputs(predict: Predict) -> tuple[Predict, dict[str, Tensor]]:
    """The noise alone, and beside it what the heads said last, by name."""
    last: dict[str, Tensor] = {}

    def eps_alone(z_t: Tensor, t: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        eps, outputs = predict(z_t, t)
        last.update(outputs)
        return eps, {}

    return eps_alone, last


def _no_modality(name: str, data: Tensor) -> Tensor:
    raise AssertionError(f"a single task encodes no modality, was asked for '{name}'")


@register
class ClassConditional(SingleTask["ClassConditional.Params"]):
    """The image of a class of age and sex; a class that is not named is drawn as often as the training data have it."""

    name, title, file = "adm-class-conditional", "ADM (class-conditional)", "mt-class-conditional"
    paper = "arXiv:2105.05233"
    citation = "Dhariwal, Nichol: Diffusion Models Beat GANs on Image Synthesis. NeurIPS 2021"

    class Params(SingleTask.Params):
        label: int | None = Field(None, ge=0, le=11)  # age times 2 plus sex

    @torch.inference_mode()
    def sample(self, batch: Batch, trace: Trace) -> Tensor:
        from concord.methods.networks.multi_task import LABELS, Known, one_hot

        label = one_hot(self.labels(batch), LABELS).to(self.device)
        predict = predictor(self.network, self.schedule, Known(label=label))
        return self.space.decode(self.denoised(batch, predict))

    def labels(self, batch: Batch) -> Tensor:
        """The class of each image, int64 (B,), drawn from its request's own generator where none is named."""
        p = self.params
        if p.label is not None:
            return torch.full((len(batch),), p.label)
        shares = torch.tensor(self.network.frequencies)
        return torch.cat([torch.multinomial(shares, 1, generator=generator) for generator in batch.generators])


@register
class SegmentationDiffusion(SingleTask[SingleTask.Params]):
    """The mask of an image, as an image in the colours of data/labels.py."""

    name, title, file = "single-task-diffusion", "Single-task diffusion", "mt-segmentation"
    conditions: ClassVar[frozenset[str]] = frozenset({"source_image"})
    minimum_conditions = 1

    @torch.inference_mode()
    def sample(self, batch: Batch, trace: Trace) -> Tensor:
        from concord.data.labels import PALETTE
        from concord.methods.core.masked import source_images

        images = source_images(batch, self.networks.image_size, self.device)
        found = self.classes(batch, self.space.encode(images))
        return torch.from_numpy(PALETTE.copy()).to(self.device)[found].movedim(-1, 1).float() / 255

    def classes(self, batch: Batch, image: Tensor) -> Tensor:
        """Masks int64 (B, 64, 64) of images by their latents (B, 6, 16, 16): what the head says at the last step."""
        from concord.methods.networks.multi_task import MODALITIES, Known

        known, kind = Known({"image": image}), MODALITIES["mask"]
        predict, last = capture_outputs(predictor(self.network, self.schedule, known, kind))
        self.denoised(batch, predict)
        return last["mask"].argmax(1)


class Generation(SingleTask[SingleTask.Params]):
    """Images from noise, nothing known."""

    @torch.inference_mode()
    def sample(self, batch: Batch, trace: Trace) -> Tensor:
        from concord.methods.networks.multi_task import Known

        return self.space.decode(self.denoised(batch, predictor(self.network, self.schedule, Known())))


@register
class Unconditional(Generation):
    """Images by the trunk after training on for images alone."""

    name, title, file = "adm", "ADM (unconditional)", "mt-unconditional"
    paper = "arXiv:2105.05233"
    citation = "Dhariwal, Nichol: Diffusion Models Beat GANs on Image Synthesis. NeurIPS 2021"


@register
class FineTunedGeneration(Generation):
    """Images by MT-Diffusion's network after fine-tuning on images alone; the heads of -M and -E have no part in it."""

    name, title, file = "mt-diffusion-m-star", "MT-Diffusion-M*", "mt-faces-generation"
