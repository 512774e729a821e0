"""TediGAN (Xia et al., CVPR 2021): text and mask become codes of a StyleGAN, which are mixed layer by layer.

    w_m = E_m(mask),  w_t = E_t(text)                               encoders into W+
    w   = [w_m for layers 1..split, w_t for the later ones]         style mixing: what a layer decides, its code decides
    x   = G(w, noise)
    w  <- argmin |G(w) - x|^2 + a P(G(w), x) + b |w - w_0|^2 + c (1 - cos(I(G(w)), T(text)))   optional, instance-level

Collaborative Diffusion compares with it so (section 4.2, supplement B.2): both conditions projected into W+ and their
codes mixed; in editing, the codes begin at the inverted code of the image. Preset "official" is what the released
code can do with text and mask (IIGROUP/TediGAN, ext/demo.py at 31982c1): the mask's code, then Adam from the mean code
with the text's loss, unmixed. It differs by

    mixing, start    the text acts by the optimisation alone, which begins at the mean code
    steps            200
    last_update      False: the image that is kept is the one of the last loss, from before that step's update
    pixel_weight     4, since its images are in [-1, 1] and ours in [0, 1]: four times the squared difference

Its networks are others: VGG's features (weight 5e-5 of their mean squared difference) and CLIP ViT-B/32 as the demo
prepares images for it.

The split of 10 layers after 5 (4x4 to 16x16 from the mask, 32x32 and 64x64 from the text) is our choice: no source
names one. Where one condition is absent, the other's code stands in every layer. The mean code, the perceptual distance
P and the text guide (I, T) are those of the embedded networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import normalize

from concord.data.errors import ConcordError
from concord.methods.base import Batch, Method, Trace, register
from concord.methods.core.experts import modalities
from concord.methods.core.masked import source_images
from concord.methods.core.noise import draw_noise
from concord.methods.core.tunable import TuneRange
from concord.methods.networks.stylegan import StyleGenerator, draw_layer_noise, to_plus
from concord.metrics.networks.protocols import PerceptualFeatures, TextImageGuide

# -------------------------------------------------------------------------------------------------------- style mixing


def mix_styles(coarse: Tensor, fine: Tensor, split: int) -> Tensor:
    """W+ codes (B, L, D): the first `split` layers from `coarse`, the others from `fine`; 0 and L give the pure codes.

    Raises ConcordError for a split outside 0..L.
    """
    layers = coarse.shape[1]
    if not 0 <= split <= layers:
        raise ConcordError(f"method 'tedigan', parameter 'split': {split}; expected 0..{layers}, a number of layers")
    return torch.cat([coarse[:, :split], fine[:, split:]], dim=1)


# ------------------------------------------------------------------------------------------ instance-level optimisation


@dataclass(frozen=True)
class Objective:
    """What a code is optimised for; every term has one value for each image, so that no image sees its batch.

    target: (B, 3, S, S). code: w_0 (B, L, D). perceptual: (images, target) -> (B,). text: images -> (B,), 1 - cosine.
    """

    target: Tensor
    code: Tensor
    perceptual: Callable[[Tensor, Tensor], Tensor]
    text: Callable[[Tensor], Tensor] | None = None
    pixel_weight: float = 1.0
    perceptual_weight: float = 0.1
    code_weight: float = 2.0
    text_weight: float = 1.0

    def __call__(self, images: Tensor, code: Tensor) -> Tensor:
        """The loss of each image (B,)."""
        loss = self.pixel_weight * (images - self.target).square().mean((1, 2, 3))
        loss = loss + self.perceptual_weight * self.perceptual(images, self.target)
        loss = loss + self.code_weight * (code - self.code).square().mean((1, 2))
        if self.text is not None:
            loss = loss + self.text_weight * self.text(images)
        return loss


def ramp(step: int, steps: int, up: float = 0.05, down: float = 0.25) -> float:
    """The learning rate's factor: from 0 in the first `up` of the steps, a cosine to 0 in the last `down`."""
    t = step / steps
    late = min(1.0, (1 - t) / down) if down > 0 else 1.0
    early = min(1.0, t / up) if up > 0 else 1.0
    return early * (0.5 - 0.5 * math.cos(math.pi * late))


def optimise(
    synthesize: Callable[[Tensor], Tensor],
    objective: Objective,
    start: Tensor,
    steps: int,
    rate: float,
    up: float = 0.05,
    down: float = 0.25,
    last_update: bool = True,
) -> tuple[Tensor, list[Tensor]]:
    """Adam on W+ codes from `start` (B, L, D) for `steps`; returns the codes and each step's losses (B,) before it.

    last_update: False leaves the last step out: the codes are those whose loss it would have taken.
    Adam moves every number by its own history alone and the losses are summed: each code is optimised as if alone.
    """
    with torch.inference_mode(False), torch.enable_grad():
        code = start.detach().clone().requires_grad_()
        adam = torch.optim.Adam([code], lr=rate, betas=(0.9, 0.999))
        losses = []
        for step in range(steps if last_update else steps - 1):
            adam.param_groups[0]["lr"] = rate * ramp(step, steps, up, down)
            loss = objective(synthesize(code), code)
            (code.grad,) = torch.autograd.grad(loss.sum(), code)
            adam.step()
            losses.append(loss.detach())
    return code.detach(), losses


# ---------------------------------------------------------------------------------------------------------- the method


@register
class TediGAN(Method["TediGAN.Params"]):
    """Style mixing of a mask's and a text's code, and optimisation of the code for the text."""

    name, title, paper = "tedigan", "TediGAN", "arXiv:2012.03308"
    citation = "Xia, Yang, Xue, Wu: TediGAN: Text-Guided Diverse Face Image Generation and Manipulation. CVPR 2021"
    conditions = frozenset({"text", "mask", "source_image"})
    training_free = False
    auto_include = False  # its suites name it

    class Params(Method.Params):
        split: Annotated[int, TuneRange(1, 9)] = Field(5, ge=0)
        # layers that follow the mask; the later ones follow the text
        mixing: bool = True  # False: the text acts by the optimisation alone, as in the authors' demo
        diversity: float = Field(0.0, ge=0, le=1)  # how far the text's layers go to a random code (`mix_alpha`)
        steps: int = Field(0, ge=0, le=2000)  # of the optimisation for the text; 0 leaves it out
        rate: float = Field(0.1, gt=0)  # Adam's, before its ramp; this and the next two are the authors' demo's
        ramp_up: float = Field(0.05, ge=0, le=1)
        ramp_down: float = Field(0.25, ge=0, le=1)
        start: Literal["code", "mean"] = "code"  # where the optimisation begins; the authors' demo: at the mean code
        last_update: bool = True  # False: what is kept is the picture of the last loss, before its update
        pixel_weight: float = Field(1.0, ge=0)
        perceptual_weight: float = Field(0.1, ge=0)  # 5e-5 there, on VGG features without unit length: another scale
        code_weight: float = Field(2.0, ge=0)
        text_weight: float = Field(1.0, ge=0)
        edit: float = Field(0.5, ge=0, le=1)  # share of the conditions' codes in the layers of an inverted image
        inversion_steps: int = Field(200, ge=1, le=2000)  # the authors' base/invert.py
        inversion_rate: float = Field(0.01, gt=0)
        inversion_code_weight: float = Field(0.01, ge=0)  # 2 there, from an image encoder's code; here from the mean

        @classmethod
        def official(cls) -> dict[str, Any]:
            return {"mixing": False, "steps": 200, "start": "mean", "last_update": False, "pixel_weight": 4.0}

        @model_validator(mode="after")
        def _text_acts(self) -> Self:
            if not self.mixing and self.steps == 0:
                raise ValueError("mixing is off and steps is 0, so that a text would do nothing; set one of them")
            return self

    def denoisers(self) -> Mapping[str, nn.Module]:
        return {"generator": self.generator}

    @classmethod
    def roles(cls, params: Params, conditions: Sequence[str]) -> tuple[str, ...]:
        encoders = [f"stylegan/{name}" for name in ("mask", "text") if name in conditions]
        optimised = "source_image" in conditions or (params.steps > 0 and "text" in conditions)
        guides = (["guide/text-image"] if "text" in conditions else []) + (["guide/features"] if optimised else [])
        return ("stylegan", *encoders, *guides)

    @classmethod
    def evaluations(
        cls, params: Params, conditions: Sequence[str], timesteps: Sequence[int] | None = None
    ) -> Mapping[str, float]:
        """The generator synthesizes the end, every step of an optimisation, and what a text is to leave alone."""
        inverted = params.inversion_steps if "source_image" in conditions else 0
        updates = params.steps - (not params.last_update)
        optimised = updates + (not inverted) if params.steps and "text" in conditions else 0
        return {"generator": 1 + inverted + optimised}

    @property
    def generator(self) -> StyleGenerator:
        return self.networks.get("stylegan", StyleGenerator)

    def sample(self, batch: Batch, trace: Trace) -> Tensor:
        p = self.params
        names, network = modalities(batch), self.generator
        random = draw_noise(batch.generators, (network.width,), self.device)
        noise = draw_layer_noise(batch.generators, network.noise_sizes, self.device)

        def synthesize(w: Tensor) -> Tensor:
            return network(w, noise)

        with torch.no_grad():
            average = network.plus(network.w_mean.expand(len(batch), -1))
            mask_code = self.mask_code(batch) if "mask" in names else None
            text_code = self.text_code(batch) if "text" in names and p.mixing else None
            if text_code is not None and p.diversity > 0:
                text_code = text_code.lerp(network.plus(network.map(random)), p.diversity)
        target = None
        if "source_image" in names:  # editing: the codes begin at the inverted image's (supplement B.2)
            target = source_images(batch, network.size, self.device)
            mean = Objective(target, average, self.perceptual, code_weight=p.inversion_code_weight)
            inverted, _ = optimise(
                synthesize, mean, average, p.inversion_steps, p.inversion_rate, p.ramp_up, p.ramp_down
            )
            coarse, fine = (inverted if c is None else inverted.lerp(c, p.edit) for c in (mask_code, text_code))
        else:
            given = [code for code in (mask_code, text_code) if code is not None] or [average]
            coarse = given[0] if mask_code is None else mask_code
            fine = given[0] if text_code is None else text_code
        code = mix_styles(coarse, fine, p.split)
        if p.steps > 0 and "text" in names:
            with torch.no_grad():
                image = synthesize(code) if target is None else target
            objective = Objective(
                image,
                code,
                self.perceptual,
                self.text_loss(batch),
                p.pixel_weight,
                p.perceptual_weight,
                p.code_weight,
                p.text_weight,
            )
            begin = code if p.start == "code" else average
            code, _ = optimise(synthesize, objective, begin, p.steps, p.rate, p.ramp_up, p.ramp_down, p.last_update)
        with torch.no_grad():
            return synthesize(code)

    # --------------------------------------------------------------------------------------------------- the encoders

    def mask_code(self, batch: Batch) -> Tensor:
        """E_m: (B, L, D)."""
        masks, size = [], self.generator.size
        for condition in batch.conditions:
            assert condition.mask is not None
            if condition.mask.shape != (size, size):
                raise ConcordError(
                    f"condition 'mask' has shape {condition.mask.shape}: the embedded models expect ({size}, {size})"
                )
            masks.append(torch.from_numpy(np.ascontiguousarray(condition.mask, dtype=np.int64)))
        encoder = self.networks.get("stylegan/mask", nn.Module)
        return to_plus(self.generator, encoder(torch.stack(masks).to(self.device)))

    def text_code(self, batch: Batch) -> Tensor:
        """E_t: (B, L, D)."""
        return to_plus(self.generator, self.networks.get("stylegan/text", nn.Module)(self.embedded_texts(batch)))

    @property
    def guide(self) -> TextImageGuide:
        """The text-image pair that is followed."""
        return self.networks.get("guide/text-image", TextImageGuide)

    def embedded_texts(self, batch: Batch) -> Tensor:
        """The captions' embeddings (B, E) by the guide; unit vectors."""
        texts = self.guide.embed_texts([condition.text or "" for condition in batch.conditions])
        with torch.inference_mode(False):
            return texts.clone()  # scoring code embeds in inference mode, whose tensors no gradient may meet

    # ------------------------------------------------------------------------------------------------------ the losses

    def perceptual(self, images: Tensor, target: Tensor) -> Tensor:
        """Distance of each image to its target, both (B, 3, H, W) in [0, 1]: (B,)."""
        return self.networks.get("guide/features", PerceptualFeatures).perceptual_distance(images, target)

    def text_loss(self, batch: Batch) -> Callable[[Tensor], Tensor]:
        """1 - cosine of image and caption, as the authors' 1 - logits / 100."""
        wanted, pair = self.embedded_texts(batch), self.guide
        return lambda images: 1 - (normalize(pair.guide_features(images), dim=-1) * wanted).sum(1)
