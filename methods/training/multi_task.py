"""Algorithm 2 of MT-Diffusion: one shared UNet that learns several joint generations, a part of every batch for each.

    masked-image   m patches of 16x16 of the picture are grey, m uniform in 0..10 (section 4.1); MT-Diffusion-X and -U
    mask           the 19-class mask (appendix E.1); MT-Diffusion-seg
    label          age and sex, 12 classes (section 4.2); MT-Diffusion-M and -E, both heads at once

Every part is the paper's process of one image and one modality; what is shared is the trunk, as the weights of all
instances have to fit into one file. The paper trains one network for each instance. A known modality is given to the
network as well (the paper's X) in a share `given` of its rows, in the others it enters through z_t alone (the paper's
U), so that any subset may be known at inference. The noise is learnt as v with min-SNR weights, as by every model of
this repository, where the paper learns eps with equal ones.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from concord.data.checkpoints import load_weights, weight_path
from concord.data.errors import ConcordError
from concord.methods.core.schedule import Schedule
from concord.methods.mt_diffusion import Aggregation, Weights
from concord.methods.networks.experts import CLASSES, IMAGE
from concord.methods.networks.multi_task import LABELS, MODALITIES, Encoders, Known, MultiTaskUNet, one_hot
from concord.methods.training.corpus import ATTRIBUTES, Corpus
from concord.methods.training.generators import Latents, load_autoencoder
from concord.methods.training.trainer import Recipe, Task

PATCH = 16
MOST = 10


def patch_masks(generator: torch.Generator, counts: Tensor, size: int = IMAGE, patch: int = PATCH) -> Tensor:
    """What is known after counts (B,) patches, bool (B, size, size). Corners anywhere, patches cut at the border.

    Raises ConcordError for a negative count.
    """
    if len(counts) and int(counts.min()) < 0:
        raise ConcordError(f"{int(counts.min())} masked patches: expected 0 or more")
    most = int(counts.max()) if len(counts) else 0
    corner = torch.randint(size, (len(counts), most, 2), generator=generator)
    place = torch.arange(size)
    inside = (place >= corner[..., None]) & (place < corner[..., None] + patch)  # (B, most, 2, size)
    covered = inside[:, :, 0, :, None] & inside[:, :, 1, None, :]  # (B, most, size, size)
    counted = torch.arange(most) < counts[:, None]
    return ~(covered & counted[..., None, None]).any(1)


def labels_of(corpus: Corpus) -> Tensor:
    """The class of each face, int64 (N,): age times 2 plus sex, as the class judge counts."""
    return corpus.attributes[:, ATTRIBUTES.index("Young")] * 2 + corpus.male


def velocity_error(
    schedule: Schedule, v: Tensor, clean: Tensor, noise: Tensor, t: Tensor, gamma: float = 5.0
) -> Tensor:
    """Squared error of each image's v (B,), by min-SNR weights (Hang et al. 2023)."""
    abar = schedule.alphas_cumprod[t.cpu()]
    weight = ((abar / (1 - abar)).clamp(max=gamma) * (1 - abar)).float().to(v.device)  # min-SNR for v
    return (v - schedule.velocity(clean, noise, t)).square().mean((1, 2, 3)) * weight


class TrainMultiTask(Task):
    """The shared network of every MT-Diffusion row."""

    name = "mt-faces"
    seed = 31
    depends_on: ClassVar[tuple[str, ...]] = ("faces-autoencoder", "faces-unconditional")
    recipe = Recipe(steps=4200, batch=32, lr=8e-4, ema=0.999)
    bits = 8
    trunk: ClassVar[str] = "faces-unconditional"
    weights: ClassVar[Weights] = "bounded"
    further: ClassVar[dict[str, Any]] = {}  # what else the network is told
    shares: ClassVar[dict[str, float]] = {"masked-image": 0.5, "mask": 0.3125, "label": 0.1875}  # of a batch
    given: ClassVar[dict[str, float]] = {"masked-image": 0.75, "mask": 0.5, "label": 0.5}
    full = 0.125  # of the masked images hide everything: generation starts from such a one
    gamma = 5.0
    balance = 0.1  # lambda of equation 6
    faces: ClassVar[int | None] = None  # how many to learn from; all of them

    def build(self) -> nn.Module:
        self.data = Latents("train", self.device, self.faces)
        self.schedule = Schedule.scaled_linear()
        self.aggregation = Aggregation.make(self.schedule, 1, self.weights)
        self.config: dict[str, Any] = {"modalities": list(self.shares), "weights": self.weights, **self.further}
        network = MultiTaskUNet(**self.config)
        self.encoders = Encoders(load_autoencoder(self.device), network)
        return network

    def start(self) -> None:
        if weight_path(self.trunk).is_file():
            self.network.take_trunk(load_weights(self.trunk)[0])

    @property
    def network(self) -> MultiTaskUNet:
        assert isinstance(self.model, MultiTaskUNet)
        return self.model

    def draw(self, name: str, index: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The data of a modality for these faces, and what its loss compares the prediction with."""
        faces = self.data.corpus
        if name == "mask":
            classes = faces.masks[index].long().to(self.device)
            return one_hot(classes, CLASSES), classes
        if name == "label":
            classes = labels_of(faces)[index].to(self.device)
            return one_hot(classes, LABELS), classes
        counts = torch.randint(MOST + 1, (len(index),), generator=generator)
        known = patch_masks(generator, counts)
        known &= (torch.rand(len(index), generator=generator) >= self.full)[:, None, None]
        latents = self.encoders.masked_image(faces.pictures(index).to(self.device), known.to(self.device))
        return latents, latents

    def loss(self, generator: torch.Generator, batch: int) -> Tensor:
        return self.terms(generator, batch)[0]

    def terms(self, generator: torch.Generator, batch: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Equation 6, and its parts: 'v' of each modality's rows and each head's loss."""
        index = torch.randint(len(self.data.values), (batch,), generator=generator)
        t = torch.randint(self.schedule.steps, (batch,), generator=generator).to(self.device)  # line 3
        noise = torch.randn((batch, *self.data.values.shape[1:]), generator=generator).to(self.device)  # line 5
        z_0 = self.data.values[index].to(self.device)  # line 2
        encoded = torch.zeros_like(z_0)
        planes = {name: torch.zeros_like(z_0) for name in self.network.planes}
        label = z_0.new_zeros(batch, LABELS)
        parts: dict[str, tuple[slice, Tensor]] = {}
        for name, rows in self.split(batch).items():
            data, target = self.draw(name, index[rows], generator)
            encoded[rows] = self.encoders(name, data)  # line 4
            there = (torch.rand(len(data), generator=generator) < self.given[name]).to(z_0)
            if MODALITIES[name].as_planes:
                planes[name][rows] = encoded[rows] * there[:, None, None, None]
            else:
                label[rows] = data * there[:, None]
            parts[name] = (rows, target)
        clean = self.aggregation.clean(z_0, [encoded], t)
        z_t = self.schedule.diffuse(clean, noise, t)  # line 6: equation 4
        shared = self.network(z_t, t, Known(planes, label if "label" in parts else None))  # line 8
        v = self.network.velocity(shared)
        error, found = self.compared(v, clean, noise, z_t, t)
        told: dict[str, Tensor] = {}
        loss = error.mean()
        if not parts:  # images alone
            told["v"] = loss
        for name, (rows, target) in parts.items():
            told[f"{self.network.predicts} {name}"] = error[rows].mean()
            kind = MODALITIES[name]
            for head in kind.heads:
                predicted = self.network.read(head, shared.rows(rows), found[rows])
                term = (mse_loss if kind.loss == "mse" else cross_entropy)(predicted, target)
                told[head] = term
                loss = loss + self.balance * len(target) / batch * term
        return loss, told  # line 9

    def compared(self, v: Tensor, clean: Tensor, noise: Tensor, z_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The error of each image's v (B,), and the clean signal that v finds (B, 6, 16, 16)."""
        error = velocity_error(self.schedule, v, clean, noise, t, self.gamma)
        found = self.schedule.abar(t, z_t).sqrt() * z_t - (1 - self.schedule.abar(t, z_t)).sqrt() * v
        return error, found

    def split(self, batch: int) -> dict[str, slice]:
        """Which rows of a batch belong to which modality; the last takes what rounding leaves."""
        ends, start = {}, 0
        names = list(self.shares)
        for name in names:
            end = batch if name == names[-1] else start + round(batch * self.shares[name])
            ends[name] = slice(start, end)
            start = end
        return ends

    def outputs(self, model: nn.Module) -> dict[str, tuple[dict[str, Tensor], dict[str, Any]]]:
        return {self.name: (model.state_dict(), self.config)}

    def evaluate(self, model: nn.Module) -> dict[str, Any]:
        return held_out_terms(self)


@torch.inference_mode()
def held_out_terms(task: Any) -> dict[str, Any]:
    """The parts of a task's loss on held-out faces. task: has `data` (Latents) and `terms(generator, batch)`."""
    learned, task.data = task.data, Latents("validation", task.device, 512)
    totals: dict[str, float] = {}
    for k in range(16):
        for name, value in task.terms(torch.Generator("cpu").manual_seed(k), 64)[1].items():
            totals[name] = totals.get(name, 0.0) + float(value) / 16
    task.data = learned
    named = {name.replace(" ", "_").replace("-", "_"): round(value, 5) for name, value in totals.items()}
    return {**named, "n": 1024}


class TrainPaperWeights(TrainMultiTask):
    """The same under the paper's w_t, which learns the noise by equal weights, as the paper does.

    v of a clean signal that moves by atilde_t E(x) / sqrt(abar_t) would have targets of 464,000 E(x) at t = T.
    """

    name = "mt-faces-paper-weights"
    recipe = Recipe(steps=600, batch=32, lr=8e-4, ema=0.999)
    committed = False
    weights: ClassVar[Weights] = "paper"
    further: ClassVar[dict[str, Any]] = {"predicts": "eps"}

    def compared(self, v: Tensor, clean: Tensor, noise: Tensor, z_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return (v - noise).square().mean((1, 2, 3)), self.schedule.x0_from_eps(v, z_t, t)
