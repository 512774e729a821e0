"""Training of the embedded generators: autoencoder, uni-modal latent diffusion models, dynamic diffusers."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss, mse_loss

from concord.data.checkpoints import load_weights, weight_path
from concord.data.request import Conditions
from concord.methods.core.schedule import Schedule
from concord.methods.networks.autoencoder import Autoencoder
from concord.methods.networks.dynamic_diffuser import DynamicDiffuser
from concord.methods.networks.experts import Encoded, Expert
from concord.methods.training.corpus import Corpus, corpus
from concord.methods.training.layout_corpus import Scenes
from concord.methods.training.trainer import Recipe, Task


class TrainAutoencoder(Task):
    """L1 plus ten times the squared error of the reconstruction, and a thousandth of how far the latents are from zero
    mean and unit variance; no perceptual and no adversarial loss, which latent diffusion's autoencoder has.

    Noise on the latents makes the decoder forgive a sampler's errors.
    """

    name = "faces-autoencoder"
    recipe = Recipe(steps=1500, batch=32, lr=1.5e-3)
    noise = 0.05  # of a latent's unit standard deviation

    def build(self) -> nn.Module:
        self.corpus = self.pictures("train")
        self.config: dict[str, Any] = {}
        return Autoencoder(**self.config)

    def pictures(self, split: str, limit: int | None = None) -> Corpus | Scenes:
        """The images that are encoded."""
        return corpus(split, limit)

    def start(self) -> None:
        sample = self.corpus.pictures(torch.arange(2000))
        self.autoencoder.fit_linear(sample.to(self.device))

    @property
    def autoencoder(self) -> Autoencoder:
        assert isinstance(self.model, Autoencoder)
        return self.model

    def loss(self, generator: torch.Generator, batch: int) -> Tensor:
        index = torch.randint(len(self.corpus), (batch,), generator=generator)
        images = self.corpus.pictures(index).to(self.device)
        latents = self.autoencoder.encode(images)
        noise = torch.randn(latents.shape, generator=generator).to(self.device)
        decoded = self.autoencoder.decode(latents + self.noise * noise)
        # Holds the latents near zero mean and unit variance while the network moves them.
        spread = latents.var((0, 2, 3)).log().square().mean() + latents.mean((0, 2, 3)).square().mean()
        return l1_loss(decoded, images) + 10 * mse_loss(decoded, images) + 1e-3 * spread

    def outputs(self, model: nn.Module) -> dict[str, tuple[dict[str, Tensor], dict[str, Any]]]:
        return {self.name: (model.state_dict(), self.config)}

    @torch.inference_mode()
    def evaluate(self, model: nn.Module) -> dict[str, Any]:
        held_out = self.pictures("validation", 500)
        images = held_out.pictures(torch.arange(len(held_out))).to(self.device)
        decoded = torch.cat([self.autoencoder(chunk) for chunk in images.split(100)]).clamp(0, 1)
        psnr = -10 * (decoded - images).square().mean((1, 2, 3)).log10()
        latents = torch.cat([self.autoencoder.encode(chunk) for chunk in images.split(100)])
        return {
            "psnr_db": round(float(psnr.mean()), 2),
            "psnr_db_worst": round(float(psnr.min()), 2),
            "n": len(images),
            "latent_std": [round(float(s), 3) for s in latents.std((0, 2, 3))],
        }


def load_autoencoder(device: torch.device, name: str = "faces-autoencoder") -> Autoencoder:
    """A trained first stage, frozen."""
    state, card = load_weights(name)
    network = Autoencoder(**card["config"])
    network.load_state_dict(state)
    return network.to(device).eval().requires_grad_(False)


class Latents:
    """A corpus with every image encoded once: latents float32 (N, 6, 16, 16)."""

    def __init__(self, split: str, device: torch.device, limit: int | None = None) -> None:
        self.corpus: Corpus = corpus(split, limit)
        autoencoder = load_autoencoder(device)
        with torch.inference_mode():
            chunks = torch.arange(len(self.corpus)).split(256)
            encoded = [autoencoder.encode(self.corpus.pictures(i).to(device)).cpu() for i in chunks]
        self.values = torch.cat(encoded).clone()

    def conditions(self, index: Tensor) -> list[Conditions]:
        """Mask and trimmed caption of each face."""
        captions, masks = self.corpus.beard_and_age, self.corpus.masks
        return [Conditions(text=captions[i], mask=masks[i].long().numpy()) for i in index.tolist()]


class TrainExpert(Task):
    """A latent diffusion model: v-prediction with min-SNR weights (Hang et al. 2023, gamma 5)."""

    condition: ClassVar[str]
    depends_on: ClassVar[tuple[str, ...]] = ("faces-autoencoder",)
    trunk: ClassVar[str | None] = "faces-unconditional"  # start from these weights where they fit
    gamma = 5.0

    def build(self) -> nn.Module:
        self.data = Latents("train", self.device)
        self.schedule = Schedule.scaled_linear()
        self.config: dict[str, Any] = {"condition": self.condition, "encoder": self.encoder_config()}
        return Expert(**self.config)

    def encoder_config(self) -> dict[str, Any]:
        return {}

    def start(self) -> None:
        if self.trunk is None or not weight_path(self.trunk).is_file():
            return
        trunk, _ = load_weights(self.trunk)
        own = self.model.state_dict()
        for key, value in trunk.items():
            if key not in own or not key.startswith("unet."):
                continue
            if own[key].shape == value.shape:
                own[key].copy_(value)
            elif key == "unet.conv_in.weight":  # more input planes than the trunk has: the new ones start silent
                own[key].zero_()
                own[key][:, : value.shape[1]].copy_(value)
        self.model.load_state_dict(own)

    def encoded(self, index: Tensor) -> Encoded:
        """The conditions of these faces, encoded by the expert."""
        expert = self.model
        assert isinstance(expert, Expert)
        return expert.encode(self.data.conditions(index))

    def noised(self, generator: torch.Generator, batch: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """A batch at random timesteps, as `noised` gives it."""
        return noised(self.data, self.schedule, generator, batch, self.device)

    def loss(self, generator: torch.Generator, batch: int) -> Tensor:
        index, t, x_0, noise, x_t = self.noised(generator, batch)
        v = self.model(x_t, t, self.encoded(index))
        snr = self.schedule.alphas_cumprod[t.cpu()] / (1 - self.schedule.alphas_cumprod[t.cpu()])
        weight = (snr.clamp(max=self.gamma) / (snr + 1)).float().to(self.device)  # min-SNR for v-prediction
        target = self.schedule.velocity(x_0, noise, t)
        return ((v - target).square().mean((1, 2, 3)) * weight).mean()

    def outputs(self, model: nn.Module) -> dict[str, tuple[dict[str, Tensor], dict[str, Any]]]:
        return {self.name: (model.state_dict(), self.config)}

    @torch.inference_mode()
    def evaluate(self, model: nn.Module) -> dict[str, Any]:
        held_out, mine = Latents("validation", self.device, 512), self.data
        generator = torch.Generator("cpu").manual_seed(1)
        self.data = held_out
        losses = [float(self.loss(generator, 64)) for _ in range(16)]
        self.data = mine
        return {"weighted_v_loss": round(sum(losses) / len(losses), 5), "n": 1024}


class Encodings(Protocol):
    """Pictures that an autoencoder has encoded: latents float32 (N, 6, 16, 16)."""

    values: Tensor


def noised(
    data: Encodings, schedule: Schedule, generator: torch.Generator, batch: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Indices, t ~ Uniform, x_0, eps ~ N(0, I) and x_t of a training batch, drawn on the CPU, then moved."""
    index = torch.randint(len(data.values), (batch,), generator=generator)
    t = torch.randint(schedule.steps, (batch,), generator=generator).to(device)
    noise = torch.randn((batch, *data.values.shape[1:]), generator=generator).to(device)
    x_0 = data.values[index].to(device)
    return index, t, x_0, noise, schedule.diffuse(x_0, noise, t)


class TrainUnconditional(TrainExpert):
    """The denoiser without a condition, from which the other two start."""

    name = "faces-unconditional"
    condition = "unconditional"
    trunk = None
    recipe = Recipe(steps=3000, batch=32, lr=1e-3, ema=0.9993)

    def encoded(self, index: Tensor) -> Encoded:
        expert = self.model
        assert isinstance(expert, Expert)
        return expert.encode([Conditions()] * len(index))


class TrainMask(TrainExpert):
    """The denoiser that a mask conditions."""

    name = "faces-mask"
    condition = "mask"
    seed = 1
    recipe = Recipe(steps=3500, batch=32, lr=1e-3, ema=0.9993)

    def encoded(self, index: Tensor) -> Encoded:  # straight from the label maps: the boundary's checks cost more
        expert = self.model
        assert isinstance(expert, Expert)
        return expert.encoder(self.data.corpus.masks[index].long().to(self.device))


class TrainText(TrainExpert):
    """The denoiser that a caption conditions."""

    name = "faces-text"
    condition = "text"
    seed = 2
    recipe = Recipe(steps=5000, batch=32, lr=1e-3, ema=0.9993)
    unknown = 0.03  # of the words are hidden, so that a word outside the vocabulary does no harm

    def encoder_config(self) -> dict[str, Any]:
        from concord.data.synthetic.faces.captions import all_words

        return {"words": all_words()}

    def loss(self, generator: torch.Generator, batch: int) -> Tensor:
        self.words = generator  # the hidden words follow the step's generator too
        return super().loss(generator, batch)

    def encoded(self, index: Tensor) -> Encoded:
        from concord.methods.training.words import hide_words

        expert = self.model
        assert isinstance(expert, Expert)
        ids = expert.encoder.prepare(self.data.conditions(index))
        return expert.encoder(hide_words(ids, self.unknown, self.words).to(self.device))


class TrainDynamicDiffusers(Task):
    """Algorithm 1 of Collaborative Diffusion: all influence functions together, the uni-modal models frozen."""

    name = "faces-dynamic"
    conditions = ("mask", "text")
    depends_on = ("faces-autoencoder", "faces-mask", "faces-text")
    output_names = ("faces-dynamic-mask", "faces-dynamic-text")
    seed = 3
    recipe = Recipe(steps=1200, batch=32, lr=2e-3, ema=0.999)

    def build(self) -> nn.Module:
        self.data = Latents("train", self.device)
        self.schedule = Schedule.scaled_linear()
        self.experts = []
        for condition in self.conditions:
            state, card = load_weights(f"faces-{condition}")
            expert = Expert(**card["config"])
            expert.load_state_dict(state)
            self.experts.append(expert.to(self.device).eval().requires_grad_(False))
        self.config: dict[str, Any] = {}
        return nn.ModuleDict({condition: DynamicDiffuser(**self.config) for condition in self.conditions})

    def loss(self, generator: torch.Generator, batch: int) -> Tensor:
        index, t, _, noise, x_t = noised(self.data, self.schedule, generator, batch, self.device)  # lines 2-4
        eps, influence = [], []
        given = self.data.conditions(index)
        for expert in self.experts:  # lines 5-8
            with torch.no_grad():
                encoded = expert.encode(given)
                eps.append(self.schedule.eps_from_velocity(expert(x_t, t, encoded), x_t, t))  # (B, 6, 16, 16)
            influence.append(self.diffusers[expert.condition](x_t, t, encoded))  # (B, 1, 16, 16)
        weight = torch.stack(influence).softmax(dim=0)  # (M, B, 1, 16, 16)  line 9
        predicted = (weight * torch.stack(eps)).sum(dim=0)  # line 10
        return mse_loss(predicted, noise)  # line 11

    def warm_start(self) -> None:
        for condition in self.conditions:
            self.diffusers[condition].load_state_dict(load_weights(f"faces-dynamic-{condition}", self.folder)[0])

    @property
    def diffusers(self) -> nn.ModuleDict:
        assert isinstance(self.model, nn.ModuleDict)
        return self.model

    def outputs(self, model: nn.Module) -> dict[str, tuple[dict[str, Tensor], dict[str, Any]]]:
        return {f"faces-dynamic-{c}": (self.diffusers[c].state_dict(), self.config) for c in self.conditions}

    @torch.inference_mode()
    def evaluate(self, model: nn.Module) -> dict[str, Any]:
        """Loss on held-out faces beside the plain average's and each expert's alone, on the same noise."""
        mine, self.data = self.data, Latents("validation", self.device, 512)
        totals: dict[str, float] = {}
        for k in range(16):
            generator = torch.Generator("cpu").manual_seed(k)
            index, t, _, noise, x_t = noised(self.data, self.schedule, generator, 64, self.device)
            given = self.data.conditions(index)
            encoded = [expert.encode(given) for expert in self.experts]
            velocities = [e(x_t, t, c) for e, c in zip(self.experts, encoded, strict=True)]
            eps = torch.stack([self.schedule.eps_from_velocity(v, x_t, t) for v in velocities])
            scores = [self.diffusers[e.condition](x_t, t, c) for e, c in zip(self.experts, encoded, strict=True)]
            weight = torch.stack(scores).softmax(0)
            losses = {
                "eps_loss": mse_loss((weight * eps).sum(0), noise),
                "eps_loss_average": mse_loss(eps.mean(0), noise),
                **{f"eps_loss_{e.condition}": mse_loss(eps[m], noise) for m, e in enumerate(self.experts)},
            }
            for name, value in losses.items():
                totals[name] = totals.get(name, 0.0) + float(value) / 16
        self.data = mine
        return {**{name: round(value, 5) for name, value in totals.items()}, "n": 1024}
