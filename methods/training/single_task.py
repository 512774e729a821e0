"""What MT-Diffusion's network is compared with: single tasks at equal steps and size, and fine-tuning on one task.

    single tasks, from the trunk that mt-faces began with, by its recipe:
        mt-unconditional       v of the image: ADM's row of Table 2
        mt-class-conditional   v of the image, the class known: ADM's class-conditional row of Table 2
        mt-segmentation        v of the mask's encoding, the image known, and the mask head: Table 4's single-task row
        mt-classifier          the class of a noised image, by both label heads: what -M and -E are compared with
    fine-tuning, from mt-faces:
        mt-faces-generation    v of the image: the starred rows of Table 2
        mt-faces-classifier    the class, as mt-classifier: Figure 6
        mt-faces-segmentation  equation 6 of images and masks alone

The single tasks have the recipe of mt-faces, so that they are compared at equal steps. Those that read classes keep in
their cards what share of them was right on held-out faces, over the steps (`held_out.curve`).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from concord.data.checkpoints import load_weights, weight_path
from concord.methods.core.noise import draw_noise
from concord.methods.core.schedule import Schedule
from concord.methods.mt_diffusion import Aggregation, infer, predictor
from concord.methods.mt_single import capture_outputs
from concord.methods.networks.experts import CLASSES, LATENT
from concord.methods.networks.multi_task import LABELS, MODALITIES, Encoders, Known, MultiTaskUNet, one_hot
from concord.methods.training.generators import Latents, load_autoencoder
from concord.methods.training.multi_task import TrainMultiTask, held_out_terms, labels_of, velocity_error
from concord.methods.training.trainer import Recipe, Task

MULTI_TASK = "mt-faces"
EVERY = 100  # steps between two points of a curve
MEASURED = 128  # held-out faces of a point
FINE_TUNING = Recipe(steps=400, batch=32, lr=8e-4, ema=0.999)


def take_multi_task(network: MultiTaskUNet) -> None:
    """Start from MT-Diffusion's network."""
    state, card = load_weights(MULTI_TASK)
    whole = MultiTaskUNet(**card["config"])
    whole.load_state_dict(state)
    network.take_part(whole)


class SingleTask(Task):
    """One task of the trunk that MT-Diffusion shares."""

    recipe = TrainMultiTask.recipe
    bits = TrainMultiTask.bits
    depends_on: ClassVar[tuple[str, ...]] = TrainMultiTask.depends_on
    faces: ClassVar[int | None] = None  # how many to learn from; all of them
    trunk: ClassVar[str] = "faces-unconditional"

    def build(self) -> nn.Module:
        self.data = Latents("train", self.device, self.faces)
        self.schedule = Schedule.scaled_linear()
        self.config: dict[str, Any] = self.configuration()
        network = MultiTaskUNet(**self.config)
        self.encoders = Encoders(load_autoencoder(self.device), network)
        return network

    @abstractmethod
    def configuration(self) -> dict[str, Any]:
        """What the network is told, beside its size."""

    def start(self) -> None:
        if weight_path(self.trunk).is_file():
            self.network.take_trunk(load_weights(self.trunk)[0])

    @property
    def network(self) -> MultiTaskUNet:
        assert isinstance(self.model, MultiTaskUNet)
        return self.model

    def draw(self, generator: torch.Generator, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Indices, t and noise of a training batch."""
        index = torch.randint(len(self.data.values), (batch,), generator=generator)
        t = torch.randint(self.schedule.steps, (batch,), generator=generator).to(self.device)
        return index, t, torch.randn((batch, *LATENT), generator=generator).to(self.device)

    def loss(self, generator: torch.Generator, batch: int) -> Tensor:
        return self.terms(generator, batch)[0]

    @abstractmethod
    def terms(self, generator: torch.Generator, batch: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and its parts by name."""

    def outputs(self, model: nn.Module) -> dict[str, tuple[dict[str, Tensor], dict[str, Any]]]:
        return {self.name: (model.state_dict(), self.config)}

    def evaluate(self, model: nn.Module) -> dict[str, Any]:
        return held_out_terms(self)

    # ------------------------------------------------------------------------------------------------ held-out faces

    def held_out(self) -> Latents:
        """The faces of a curve's points, encoded once."""
        if not hasattr(self, "_held_out"):
            self._held_out = Latents("validation", self.device, MEASURED)
        return self._held_out


def pixel_accuracy(found: Tensor, classes: Tensor) -> float:
    """Percent of the pixels (or of the images) with the right class."""
    return round(100 * float((found.cpu() == classes.cpu()).float().mean()), 2)


# ------------------------------------------------------------------------------------------------------- single tasks


class TrainUnconditional(SingleTask):
    """p(image): nothing is known of it, nothing reads it."""

    name = "mt-unconditional"
    seed = 38

    def configuration(self) -> dict[str, Any]:
        return {"modalities": []}

    def known(self, index: Tensor) -> Known:
        """What the network is told of these faces."""
        return Known()

    def terms(self, generator: torch.Generator, batch: int) -> tuple[Tensor, dict[str, Tensor]]:
        index, t, noise = self.draw(generator, batch)
        z_0 = self.data.values[index].to(self.device)
        z_t = self.schedule.diffuse(z_0, noise, t)
        v = self.network.velocity(self.network(z_t, t, self.known(index)))
        loss = velocity_error(self.schedule, v, z_0, noise, t).mean()
        return loss, {"v": loss}


class TrainClassConditional(TrainUnconditional):
    """p(image | class): the class is always given, nothing reads it."""

    name = "mt-class-conditional"
    seed = 32

    def configuration(self) -> dict[str, Any]:
        counts = torch.bincount(labels_of(self.data.corpus), minlength=LABELS).double()
        shares = [round(float(share), 5) for share in counts / counts.sum()]
        return {"modalities": ["label"], "heads": False, "frequencies": shares}

    def known(self, index: Tensor) -> Known:
        return Known(label=one_hot(labels_of(self.data.corpus)[index], LABELS).to(self.device))


class TrainSegmentation(SingleTask):
    """p(mask | image): the mask's encoding is diffused, the image's is given as planes, the mask head reads both."""

    name = "mt-segmentation"
    seed = 33
    measured_every = EVERY
    balance = TrainMultiTask.balance

    def configuration(self) -> dict[str, Any]:
        return {"modalities": ["mask"], "planes": ["image"]}

    def terms(self, generator: torch.Generator, batch: int) -> tuple[Tensor, dict[str, Tensor]]:
        index, t, noise = self.draw(generator, batch)
        classes = self.data.corpus.masks[index].long().to(self.device)
        z_0 = self.encoders("mask", one_hot(classes, CLASSES))
        z_t = self.schedule.diffuse(z_0, noise, t)
        shared = self.network(z_t, t, Known({"image": self.data.values[index].to(self.device)}))
        error = velocity_error(self.schedule, self.network.velocity(shared), z_0, noise, t).mean()
        entropy = cross_entropy(self.network.read("mask", shared, z_t), classes)
        return error + self.balance * entropy, {"v": error, "mask": entropy}

    @torch.inference_mode()
    def measure(self, model: nn.Module) -> dict[str, Any]:
        """Percent of the pixels with the right class, on held-out faces, in 4 steps."""
        faces = self.held_out()
        known, each = Known({"image": faces.values.to(self.device)}), generators(len(faces.values))
        predict, last = capture_outputs(predictor(self.network, self.schedule, known, MODALITIES["mask"]))
        alone = Aggregation.make(self.schedule, 0)
        infer(predict, lambda _, x: x, alone, {}, {}, each, LATENT, self.device, 4)
        return {"pixel_accuracy": pixel_accuracy(last["mask"].argmax(1), faces.corpus.masks), "n": len(faces.values)}


class TrainClassifier(SingleTask):
    """The class of an image noised for a uniform t, as ADM's classifier learns it; both heads, by cross entropy."""

    name = "mt-classifier"
    committed = False  # no method needs it: its card holds the curve
    seed = 34
    measured_every = EVERY

    def configuration(self) -> dict[str, Any]:
        return {"modalities": ["label"]}

    def read(self, z_t: Tensor, t: Tensor | int) -> dict[str, Tensor]:
        """Logits (B, 12) by head."""
        shared = self.network(z_t, t)
        eps = self.network.eps(shared, z_t, t, self.schedule)
        clean = self.schedule.x0_from_eps(eps, z_t, t)
        return {head: self.network.read(head, shared, clean) for head in MODALITIES["label"].heads}

    def terms(self, generator: torch.Generator, batch: int) -> tuple[Tensor, dict[str, Tensor]]:
        index, t, noise = self.draw(generator, batch)
        target = labels_of(self.data.corpus)[index].to(self.device)
        z_t = self.schedule.diffuse(self.data.values[index].to(self.device), noise, t)
        terms = {head.replace("-", "_"): cross_entropy(found, target) for head, found in self.read(z_t, t).items()}
        return torch.stack(list(terms.values())).sum(), terms

    @torch.inference_mode()
    def measure(self, model: nn.Module) -> dict[str, Any]:
        """Percent of held-out faces whose class each head finds, in one pass at t = 0."""
        faces = self.held_out()
        z_0 = faces.values.to(self.device)
        noise = draw_noise(generators(len(z_0)), LATENT, self.device)
        found = self.read(self.schedule.diffuse(z_0, noise, 0), 0)
        truth = labels_of(faces.corpus)
        return {
            **{head.replace("-", "_"): pixel_accuracy(logits.argmax(1), truth) for head, logits in found.items()},
            "n": len(z_0),
        }


def generators(count: int) -> list[torch.Generator]:
    """CPU generators with the seeds 0 .. count - 1."""
    return [torch.Generator("cpu").manual_seed(k) for k in range(count)]


# --------------------------------------------------------------------------------------------------------- fine-tuning


class TrainMultiTaskClassifier(TrainClassifier):
    """mt-faces, fine-tuned as a classifier."""

    name = "mt-faces-classifier"
    seed = 35
    depends_on: ClassVar[tuple[str, ...]] = (*TrainMultiTask.depends_on, MULTI_TASK)
    recipe = FINE_TUNING
    trunk = MULTI_TASK

    def start(self) -> None:
        take_multi_task(self.network)


class FineTuning(TrainMultiTask):
    """mt-faces, trained on for fewer modalities."""

    depends_on: ClassVar[tuple[str, ...]] = (*TrainMultiTask.depends_on, MULTI_TASK)
    recipe = FINE_TUNING
    trunk = MULTI_TASK

    def start(self) -> None:
        take_multi_task(self.network)


class TrainMultiTaskGeneration(FineTuning):
    """mt-faces, fine-tuned on images alone: nothing is aggregated, no head is left."""

    name = "mt-faces-generation"
    seed = 36
    shares: ClassVar[dict[str, float]] = {}


class TrainMultiTaskSegmentation(FineTuning):
    """mt-faces, fine-tuned on images with their masks."""

    name = "mt-faces-segmentation"
    seed = 37
    shares: ClassVar[dict[str, float]] = {"mask": 1.0}
    measured_every = EVERY

    @torch.inference_mode()
    def measure(self, model: nn.Module) -> dict[str, Any]:
        """Percent of the pixels with the right class, on held-out faces that are known, in 4 steps of Algorithm 1."""
        if not hasattr(self, "_held_out"):
            self._held_out = Latents("validation", self.device, MEASURED)
        faces, kind = self._held_out, MODALITIES["mask"]
        each = generators(len(faces.values))
        start = {kind.name: draw_noise(each, kind.space, self.device).softmax(1)}
        predict = predictor(self.network, self.schedule, Known(), kind)
        z_0 = faces.values.to(self.device)
        found = infer(predict, self.encoders, self.aggregation, {}, start, each, LATENT, self.device, 4, z_0=z_0)[1]
        truth = faces.corpus.masks
        return {"pixel_accuracy": pixel_accuracy(found[kind.name].argmax(1), truth), "n": len(z_0)}
