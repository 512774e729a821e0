"""MT-Diffusion (Chen et al., ICLR 2024): one diffusion process for several modalities at once.

    q(z_t | z_{t-1}, X) = N(sqrt(alpha_t) (z_{t-1} + sum_i w_t^i E_i(x_i)), (1 - alpha_t) I)           (equation 3)
    q(z_t | z_0, X)     = N(sqrt(abar_t) z_0 + sum_i atilde_t^i E_i(x_i), (1 - abar_t) I)              (equation 4)
                          atilde_t = sqrt(alpha_t) (w_t + atilde_{t-1}),  atilde_0 = 0
    posterior mean      = (z_t - (1 - alpha_t) / sqrt(1 - abar_t) eps) / sqrt(alpha_t) - sum_i w_t^i E_i(x_i)   (5)
    loss                = |eps_theta - eps|^2 + lambda sum_i KL(q_i(x_i) || p_theta(x_i | z_t))        (equation 6)

Equation 3 is read in the form that its "change of notation" leaves, which the paper says it implements: the (N + 1) of
its first form does not agree with it. Algorithm 1 adds betatilde_t eps where the posterior has sqrt(betatilde_t); the
square root is taken. The steps may be fewer than T: between any s < t the process is one of the same kind, with
alpha = abar_t / abar_s and w = atilde_t / sqrt(alpha) - atilde_s.

The paper's w_t = t / (1000 - t) is infinite at t = T, and its atilde is in the thousands (for DDPM's linear schedule
atilde_{T-1} = 4,548, and atilde_T = 5,491 where w_T is taken as w_{T-1}), while Algorithm 1 starts from N(0, I): z_T
has forgotten z_0 but not X, so that the start is far from where training ever was.
`bounded`, the default, takes w_t = scale sqrt(abar_{t-1}) / T instead, which gives

    atilde_t = scale (t / T) sqrt(abar_t):    z_t is DDPM's of a clean signal that moves from z_0 to z_0 + scale E(x)

It is small while t is small, as the paper wants it to be, never larger than what the image itself has in z_t, and
vanishes at T with the image, so that N(0, I) is the right start. `paper` keeps the paper's with w_T = w_{T-1} = T - 1:
atilde_T is then 5,538 (latent diffusion's schedule), and Algorithm 1 with an exact denoiser ends 66 E(x) from z_0.
It runs where `concord train mt-faces-paper-weights` has made its network (which learns eps, as v would have targets of
464,000 E(x)); `python -m concord.benchmarks.profiling.multi_task_weights` compares short trainings under both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from concord.data.errors import ConcordError, warn
from concord.methods.base import Batch, Method, Trace, register
from concord.methods.core.noise import draw_noise
from concord.methods.core.schedule import Schedule
from concord.methods.core.tunable import TuneRange

if TYPE_CHECKING:
    import numpy as np

    from concord.methods.networks.multi_task import Known, Modality, MultiTaskUNet

Weights = Literal["bounded", "paper"]

# --------------------------------------------------------------------------------------------- forward aggregation


@dataclass(frozen=True)
class Aggregation:
    """The forward process that N modalities are aggregated into.

    weights: float64 (N, T), w_t of each modality; the first entry is that of the first step. Timesteps are the
    schedule's: t = 0 means diffused for one step, -1 not at all.
    """

    schedule: Schedule
    weights: Tensor

    def __post_init__(self) -> None:
        if self.weights.ndim != 2 or self.weights.shape[1] != self.schedule.steps:
            raise ValueError(f"weights {tuple(self.weights.shape)}: expected (N, {self.schedule.steps})")
        if not bool(torch.isfinite(self.weights).all()):
            raise ValueError("weights are not finite: the paper's t / (T - t) needs an end point at t = T")

    @classmethod
    def make(cls, schedule: Schedule, modalities: int, kind: Weights = "bounded", scale: float = 1.0) -> Aggregation:
        """The same weights for each of the modalities: 'bounded' or 'paper' (see the head of this file)."""
        steps = schedule.steps
        t = torch.arange(1, steps + 1, dtype=torch.float64)
        if kind == "paper":
            t = t.clamp(max=steps - 1)
            weights = t / (steps - t)
        else:
            before = torch.cat([torch.ones(1, dtype=torch.float64), schedule.alphas_cumprod[:-1]])
            weights = before.sqrt() / steps
        return cls(schedule, (scale * weights).expand(modalities, -1).clone())

    @cached_property
    def drift(self) -> Tensor:
        """atilde_t, float64 (N, T), by its recursion."""
        abar = self.schedule.alphas_cumprod
        alpha = abar / torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])
        found, last = [], torch.zeros(len(self.weights), dtype=torch.float64)
        for t in range(self.schedule.steps):
            last = alpha[t].sqrt() * (self.weights[:, t] + last)
            found.append(last)
        return torch.stack(found, dim=1)

    def abar(self, t: int) -> float:
        """alpha-bar of timestep t; 1 for t = -1, the clean end."""
        return float(self.schedule.alphas_cumprod[t]) if t >= 0 else 1.0

    def signal(self, encoded: Sequence[Tensor], t: int | Tensor) -> Tensor | float:
        """sum_i atilde_t^i E_i(x_i); t an int (0 at -1) or int64 (B,)."""
        total: Tensor | float = 0.0
        for drift, e in zip(self.drift, encoded, strict=True):
            if isinstance(t, int):
                total = total + (float(drift[t]) if t >= 0 else 0.0) * e
            else:
                total = total + drift[t.cpu()].to(e).reshape(-1, *[1] * (e.ndim - 1)) * e
        return total

    def diffuse(self, z_0: Tensor, noise: Tensor, encoded: Sequence[Tensor], t: int | Tensor) -> Tensor:
        """z_t by equation 4."""
        return self.schedule.diffuse(z_0, noise, t) + self.signal(encoded, t)

    def clean(self, z_0: Tensor, encoded: Sequence[Tensor], t: int | Tensor) -> Tensor:
        """y_t = z_0 + sum_i atilde_t^i E_i(x_i) / sqrt(abar_t): z_t is DDPM's of it, and v and eps mean the same."""
        return z_0 + self.signal(encoded, t) / self.schedule.abar(t, z_0).sqrt()

    # ---------------------------------------------------------------------------------------------------- the reverse

    def between(self, t: int, s: int) -> tuple[float, list[float]]:
        """alpha and each modality's w of the step from s to t, s < t: those of equation 3 where s = t - 1."""
        if not -1 <= s < t < self.schedule.steps:
            raise ValueError(f"step from {s} to {t}: expected -1 <= s < t < {self.schedule.steps}")
        alpha = self.abar(t) / self.abar(s)
        before = self.drift[:, s].tolist() if s >= 0 else [0.0] * len(self.drift)
        now = self.drift[:, t].tolist()
        return alpha, [a / alpha**0.5 - b for a, b in zip(now, before, strict=True)]

    def variance(self, t: int, s: int) -> float:
        """betatilde of the posterior q(z_s | z_t, z_0, X) (equation 5)."""
        return (1 - self.between(t, s)[0]) * (1 - self.abar(s)) / (1 - self.abar(t))

    def posterior_mean(self, z_t: Tensor, z_0: Tensor, encoded: Sequence[Tensor], t: int, s: int) -> Tensor:
        """Equation 5 in its first form, from z_t and z_0."""
        alpha, weights = self.between(t, s)
        abar, before = self.abar(t), self.abar(s)
        mean = alpha**0.5 * (1 - before) * z_t + (1 - alpha) * before**0.5 * z_0
        for drift, w, e in zip(self.drift[:, t].tolist(), weights, encoded, strict=True):
            mean = mean + ((1 - alpha) * drift / alpha**0.5 - (1 - abar) * w) * e
        return mean / (1 - abar)

    def mean(self, z_t: Tensor, eps: Tensor, encoded: Sequence[Tensor], t: int, s: int) -> Tensor:
        """Equation 5 in its second form, from z_t and the noise in it (Algorithm 1, line 12)."""
        alpha, weights = self.between(t, s)
        mean = (z_t - (1 - alpha) / (1 - self.abar(t)) ** 0.5 * eps) / alpha**0.5
        for w, e in zip(weights, encoded, strict=True):
            mean = mean - w * e
        return mean

    def step(
        self, z_t: Tensor, eps: Tensor, encoded: Sequence[Tensor], t: int, s: int, eta: float, noise: Tensor | None
    ) -> Tensor:
        """z_s: a draw from the posterior for eta = 1 (Algorithm 1), DDIM's step of the same process for less.

        noise: like z_t; None leaves it out, as the last step does.
        """
        std = eta * self.variance(t, s) ** 0.5 if noise is not None else 0.0
        if eta == 1:
            z_s = self.mean(z_t, eps, encoded, t, s)
        else:
            z_0 = (z_t - self.signal(encoded, t) - (1 - self.abar(t)) ** 0.5 * eps) / self.abar(t) ** 0.5
            left = max(1 - self.abar(s) - std**2, 0.0)
            z_s = self.abar(s) ** 0.5 * z_0 + self.signal(encoded, s) + left**0.5 * eps
        return z_s if noise is None else z_s + std * noise


# --------------------------------------------------------------------------------------------------- Algorithm 1

Predict = Callable[[Tensor, int], tuple[Tensor, Mapping[str, Tensor]]]
"""predict(z_t, t) -> eps like z_t, and x~ of every modality that is not known."""
Encode = Callable[[str, Tensor], Tensor]
"""encode(name, x) -> E(x), like z_t."""


def infer(
    predict: Predict,
    encode: Encode,
    aggregation: Aggregation,
    known: Mapping[str, Tensor],
    start: Mapping[str, Tensor],
    generators: Sequence[torch.Generator],
    shape: Sequence[int],
    device: torch.device | str,
    steps: int,
    eta: float = 1.0,
    z_0: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Algorithm 1: z_0 (B, *shape) and the data of every modality, those that are known as they came.

    known: data of the modalities that are given. start: what the others begin with (lines 2 to 4). The modalities are
    aggregated in the order known, then start; the paper's weights are the same for all of them.
    z_0: the image's own latents, where that is known too: then nothing is denoised, and z_t is drawn by equation 4.
    """
    both = sorted(set(known) & set(start))
    if both:
        raise ConcordError(f"modality '{both[0]}' is both known and to be found; give it once")
    fixed = {name: encode(name, x) for name, x in known.items()}
    found = dict(start)
    z_t = draw_noise(generators, shape, device)  # line 1
    for t, s in pairs(aggregation.schedule, steps):  # line 5
        encoded = [*fixed.values(), *(encode(name, x) for name, x in found.items())]  # line 7
        if z_0 is not None:
            z_t = aggregation.diffuse(z_0, draw_noise(generators, shape, device), encoded, t)
        eps, predicted = predict(z_t, t)  # line 8
        found = {name: predicted[name] for name in found}  # lines 9 to 11
        if z_0 is None:
            noise = draw_noise(generators, shape, device) if eta > 0 and s >= 0 else None  # line 6
            z_t = aggregation.step(z_t, eps, encoded, t, s, eta, noise)  # line 12
    return (z_t if z_0 is None else z_0), {**known, **found}


def pairs(schedule: Schedule, steps: int) -> list[tuple[int, int]]:
    """(t, s) of every step, descending to s = -1: all T of them, or latent diffusion's selection of fewer."""
    if steps == schedule.steps:
        timesteps = list(range(schedule.steps - 1, -1, -1))
    else:
        timesteps = schedule.ddim_timesteps(steps)
    return list(zip(timesteps, [*timesteps[1:], -1], strict=True))


# ------------------------------------------------------------------------------------------------------- the instances


M = TypeVar("M", bound="MultiTask.Params")


class MultiTask(Method[M]):
    """An image and one other modality, generated together or from whatever is known of them."""

    paper = "arXiv:2407.17571"
    citation = (
        "Chen, Ding, Sisman, Xu, Xie, Yao, Tran, Zeng: Diffusion Models for Multi-Modal Generative Modeling. ICLR 2024"
    )
    training_free = False
    minimum_conditions = 0
    modality: ClassVar[str]  # beside the image
    file: ClassVar[str] = "mt-faces"  # its weights

    class Params(Method.Params):
        weights: Weights = "bounded"  # w_t: see the head of this file
        steps: int = Field(1000, ge=1, le=1000)  # appendix C
        eta: Annotated[float, TuneRange(0, 1)] = Field(1.0, ge=0, le=1)
        # Algorithm 1 draws from the posterior; 0 is DDIM's step

        @model_validator(mode="before")
        @classmethod
        def _weights_of_before(cls, values: dict[str, Any]) -> dict[str, Any]:
            """`preset` chose the weights once, and meant what `weights` says now."""
            if "weights" in values or values.get("preset") not in ("bounded", "paper"):
                return values
            chosen = values["preset"]
            warn(f"mt-diffusion: `preset: {chosen}` is read as `weights: {chosen}`, as it was called once; write that")
            return {**values, "preset": "paper", "weights": chosen}

    @property
    def network(self) -> MultiTaskUNet:
        """The network of the weights w_t; ConcordError in a profile that has none (none were published)."""
        from concord.methods.networks.multi_task import MultiTaskUNet

        p, file = self.params, self.weights_file(self.params)
        try:
            network = self.networks.get(f"multi-task/{file}", MultiTaskUNet)
        except ConcordError as error:
            if p.weights == "bounded":
                raise
            need = f"needs a network trained under them (`concord train {file}`): {error}"
            raise ConcordError(f"method '{self.name}': weights '{p.weights}' {need}") from error
        if network.weights != p.weights:  # it would be asked about inputs that it has never seen
            raise ConcordError(
                f"method '{self.name}': weights '{p.weights}' needs a network trained under them, the card of "
                f"{file} says '{network.weights}'; train it again (`concord train {file}`)"
            )
        return network

    @classmethod
    def weights_file(cls, params: M) -> str:
        """The name of the network that was trained under the weights w_t."""
        return cls.file if params.weights == "bounded" else f"{cls.file}-{params.weights}-weights"

    def denoisers(self) -> Mapping[str, nn.Module]:
        return {"eps-mt": self.network}

    @classmethod
    def roles(cls, params: M, conditions: Sequence[str]) -> tuple[str, ...]:
        return ("schedule", "space", f"multi-task/{cls.weights_file(params)}")

    @classmethod
    def evaluations(
        cls, params: M, conditions: Sequence[str], timesteps: Sequence[int] | None = None
    ) -> Mapping[str, float]:
        return {"eps-mt": params.steps}

    def joint(
        self,
        batch: Batch,
        known: Mapping[str, Tensor] | None = None,
        z_0: Tensor | None = None,
        head: str | None = None,
        given: bool = True,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Latents (B, 6, 16, 16) and the data of every modality, by Algorithm 1.

        known: data by modality, as `Modality.space` says. z_0: the image's latents, where the image is known.
        head: which decoder predicts the modality. given: whether the network sees what is known (the paper's X), or
        learns of it through z_t alone (the paper's U).
        Raises ConcordError for an unknown modality, or data of another shape or class.
        """
        from concord.methods.networks.multi_task import LATENT, Encoders, Known, modality

        p, network = self.params, self.network
        known = dict(known or {})
        for name, x in known.items():
            check_data(name, x, len(batch), (self.modality,))
        kind = modality(self.modality, network.modalities)
        encode = Encoders(self.space, network)
        schedule = self.schedule
        aggregation = Aggregation.make(schedule, 1, p.weights)
        told = Known()
        if kind.name in known and given:
            data = known[kind.name]
            told = Known({kind.name: encode(kind.name, data)}) if kind.as_planes else Known(label=data)
        predict = predictor(network, schedule, told, None if kind.name in known else kind, head)
        start = {} if kind.name in known else {kind.name: self.random(batch, kind.space, kind.loss)}
        return infer(
            predict, encode, aggregation, known, start, batch.generators, LATENT, self.device, p.steps, p.eta, z_0
        )

    def random(self, batch: Batch, space: tuple[int, ...], loss: str) -> Tensor:
        """Lines 2 to 4 of Algorithm 1: normal latents, or probabilities that are a softmax of normal logits."""
        drawn = draw_noise(batch.generators, space, self.device)
        return drawn if loss == "mse" else drawn.softmax(1)


def predictor(
    network: MultiTaskUNet, schedule: Schedule, told: Known, kind: Modality | None = None, head: str | None = None
) -> Predict:
    """Line 8 of Algorithm 1: the noise, and a modality that is not known, as one of its heads reads it."""

    def predict(z_t: Tensor, t: int) -> tuple[Tensor, dict[str, Tensor]]:
        shared = network(z_t, t, told)
        eps = network.eps(shared, z_t, t, schedule)
        if kind is None:
            return eps, {}
        found = network.read(head or kind.heads[0], shared, schedule.x0_from_eps(eps, z_t, t))
        return eps, {kind.name: found if kind.loss == "mse" else found.softmax(1)}

    return predict


def check_data(name: str, data: Tensor, batch: int, modalities: Sequence[str]) -> None:
    """Raise ConcordError unless this is data of one of these modalities, for every image of the batch."""
    from concord.methods.networks.multi_task import modality

    kind = modality(name, modalities)
    if data.shape != (batch, *kind.space):
        raise ConcordError(
            f"modality '{name}' has shape {tuple(data.shape)}: expected {(batch, *kind.space)} (B, then its space); "
            "a modality without data is left out"
        )
    if not bool(torch.isfinite(data).all()):
        raise ConcordError(f"modality '{name}' holds NaN or infinity: expected finite data")


@register
class MTDiffusionX(MultiTask["MTDiffusionX.Params"]):
    """Image and masked image; what is left of a masked image is known, the network is given it. Restoration."""

    name, title, modality = "mt-diffusion-x", "MT-Diffusion-X", "masked-image"
    conditions = frozenset({"masked_image"})
    auto_include = False

    class Params(MultiTask.Params):
        keep: Literal["paste", "model"] = "paste"
        # 'paste': known pixels are put back, so that none of them changes; 'model': the network's own, as in the paper,
        # which trains it to leave them alone but does not make sure of it

    @torch.inference_mode()
    def sample(self, batch: Batch, trace: Trace) -> Tensor:
        from concord.methods.core.masked import masked_images
        from concord.methods.networks.multi_task import Encoders

        p = self.params
        masked, known = masked_images(batch, self.networks.image_size, self.device)  # all hidden where there is none
        encode = Encoders(self.space, self.network)
        z_0, _ = self.joint(batch, {"masked-image": encode.masked_image(masked, known)})
        images = self.space.decode(z_0)
        return torch.where(known[:, None], masked, images) if p.keep == "paste" else images


@register
class MTDiffusionU(MultiTask[MultiTask.Params]):
    """Image and masked image, both from noise: unconditional generation."""

    name, title, modality = "mt-diffusion-u", "MT-Diffusion-U", "masked-image"
    conditions: ClassVar[frozenset[str]] = frozenset()

    @torch.inference_mode()
    def sample(self, batch: Batch, trace: Trace) -> Tensor:
        return self.space.decode(self.joint(batch)[0])


@register
class MTDiffusionSeg(MultiTask[MultiTask.Params]):
    """Image and segmentation mask: the image of a known mask, or both from noise where there is none."""

    name, title, modality = "mt-diffusion-seg", "MT-Diffusion (image and mask)", "mask"
    conditions = frozenset({"mask"})
    auto_include = False
    traces = ("mask",)

    @torch.inference_mode()
    def sample(self, batch: Batch, trace: Trace) -> Tensor:
        from concord.methods.networks.multi_task import CLASSES, one_hot

        known: dict[str, Tensor] = {}
        masks = [condition.mask for condition in batch.conditions]
        if any(mask is not None for mask in masks):
            classes = mask_tensor(masks, self.networks.image_size)
            known["mask"] = one_hot(classes, CLASSES).to(self.device)
        z_0, found = self.joint(batch, known)
        trace("mask", 0, found["mask"].argmax(1))
        return self.space.decode(z_0)


@register
class MTDiffusionParse(MultiTask[MultiTask.Params]):
    """Image and segmentation mask: the mask of a known image, as an image in the colours of data/labels.py."""

    name, title, modality = "mt-diffusion-parse", "MT-Diffusion (mask of an image)", "mask"
    conditions = frozenset({"source_image"})
    minimum_conditions = 1
    auto_include = False

    @torch.inference_mode()
    def sample(self, batch: Batch, trace: Trace) -> Tensor:
        from concord.data.labels import PALETTE
        from concord.methods.core.masked import source_images

        images = source_images(batch, self.networks.image_size, self.device)
        _, found = self.joint(batch, z_0=self.space.encode(images))
        colours = torch.from_numpy(PALETTE.copy()).to(self.device)[found["mask"].argmax(1)]  # (B, 64, 64, 3)
        return colours.movedim(-1, 1).float() / 255


@register
class FineTunedParse(MTDiffusionParse):
    """The mask of a known image by MT-Diffusion's network after fine-tuning on images and masks alone."""

    name, title, file = "mt-diffusion-parse-star", "MT-Diffusion*", "mt-faces-segmentation"


class JointLabel(MultiTask["JointLabel.Params"]):
    """Image and class of age and sex: both from noise, or the image of a class."""

    modality = "label"
    conditions: ClassVar[frozenset[str]] = frozenset()
    head: ClassVar[str]

    class Params(MultiTask.Params):
        label: int | None = Field(None, ge=0, le=11)  # age times 2 plus sex; None: found together with the image

    @classmethod
    def evaluations(
        cls, params: Params, conditions: Sequence[str], timesteps: Sequence[int] | None = None
    ) -> Mapping[str, float]:
        encoded = params.steps if params.label is None else 1  # the encoder of a label is the network itself
        return {"eps-mt": params.steps + encoded}

    @torch.inference_mode()
    def sample(self, batch: Batch, trace: Trace) -> Tensor:
        from concord.methods.networks.multi_task import LABELS, one_hot

        p = self.params
        known: dict[str, Tensor] = {}
        if p.label is not None:
            known["label"] = one_hot(torch.full((len(batch),), p.label), LABELS).to(self.device)
        return self.space.decode(self.joint(batch, known, head=self.head)[0])

    @torch.inference_mode()
    def classify(self, batch: Batch, images: Tensor) -> Tensor:
        """Class probabilities (B, 12) of known images (B, 3, H, W) in [0, 1]."""
        return self.joint(batch, z_0=self.space.encode(images), head=self.head)[1]["label"]


@register
class MTDiffusionM(JointLabel):
    """Labels are read from the middle block."""

    name, title, head = "mt-diffusion-m", "MT-Diffusion-M", "label-middle"


@register
class MTDiffusionE(JointLabel):
    """Labels are read by a classifier after the output."""

    name, title, head = "mt-diffusion-e", "MT-Diffusion-E", "label-end"


def mask_tensor(masks: Sequence[np.ndarray | None], size: int) -> Tensor:
    """Masks int64 (B, size, size); ConcordError where one is missing or of another size."""
    made = []
    for number, mask in enumerate(masks):
        if mask is None:
            raise ConcordError(f"image {number} of the batch has no condition 'mask'; give every image one, or none")
        if mask.shape != (size, size):
            raise ConcordError(f"condition 'mask' has shape {mask.shape}: the embedded models expect ({size}, {size})")
        made.append(torch.from_numpy(mask.astype("int64")))
    return torch.stack(made)
