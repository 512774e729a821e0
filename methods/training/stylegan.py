"""Training of the StyleGAN2-type generator and of the encoders into its W+ (TediGAN's networks).

The generator: non-saturating logistic loss, lazy R1 (Karras et al. 2020, appendix B: every 16th step, times 16), style
mixing, averaged weights; path regularisation is off. Both players move at once, from one forward pass of each: the
gradient of the generator's loss at its pictures comes from the discriminator's graph before that graph is used for the
discriminator's own loss. One step costs a quarter less than two alternating ones.

    L_D = softplus(D(G(z))) + softplus(-D(x)) + [every 16th step] 16 gamma / 2 |grad_x D(x)|^2
    L_G = softplus(-D(G(z)))

The encoders, with the generator frozen, after pSp (Richardson et al. 2021) and TediGAN (Xia et al. 2021):

    mask    |G(E(m)) - x|^2 + 0.8 P(G(E(m)), x) + 0.005 |E(m)|^2        P: perceptual distance of the guide's features
    text    1 - cos(I(G(E(c))), T(c)) + 0.02 |E(c)|^2                   I, T: the text guide; |E| in deviations of W
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, normalize, softplus

from concord.data.checkpoints import EMBEDDED, load_weights
from concord.data.errors import ConcordError
from concord.data.networks import Networks
from concord.methods.networks.stylegan import (
    MaskToCode,
    StyleDiscriminator,
    StyleGAN,
    StyleGenerator,
    TextToCode,
    to_plus,
)
from concord.methods.training.corpus import corpus
from concord.methods.training.trainer import Recipe, Task
from concord.metrics.networks.embedded.perceptual import SynthFeatures
from concord.metrics.networks.judges import open_judges
from concord.metrics.networks.protocols import Parser, PerceptualFeatures, TextImage, TextImageGuide

EVERY = 16  # steps from one R1 term to the next
PERCEPTUAL, CLOSE_MASK, CLOSE_TEXT = 0.8, 0.005, 0.02  # weights of the encoders' losses


def adversarial_loss(discriminator: nn.Module, fakes: Tensor, reals: Tensor) -> Tensor:
    """L_D + L_G, whose gradient is L_D's on the discriminator and L_G's on what made `fakes`.

    fakes (B, 3, H, W) with a graph to the generator; reals like it.
    """
    leaf = fakes.detach().requires_grad_()
    logits = discriminator(leaf)
    toward = softplus(-logits).mean()
    (slope,) = torch.autograd.grad(toward, leaf, retain_graph=True)
    surrogate = (fakes * slope).sum()  # its gradient at the generator is L_G's, its value is of no use
    return (
        softplus(logits).mean()
        + softplus(-discriminator(reals)).mean()
        + surrogate
        - surrogate.detach()
        + toward.detach()
    )


def r1_penalty(discriminator: nn.Module, reals: Tensor) -> Tensor:
    """Mean over the batch of |grad_x D(x)|^2 at real images (Mescheder et al. 2018), differentiable."""
    reals = reals.detach().requires_grad_()
    (slope,) = torch.autograd.grad(discriminator(reals).sum(), reals, create_graph=True)
    return slope.square().sum((1, 2, 3)).mean()


def step_of(generator: torch.Generator) -> int:
    """Which step the trainer made this generator for: its seed is (task seed << 32) + step."""
    return generator.initial_seed() & 0xFFFFFFFF


def batch_noise(network: StyleGenerator, count: int, generator: torch.Generator, device: torch.device) -> list[Tensor]:
    """Noise inputs of a training batch."""
    return [torch.randn((count, 1, s, s), generator=generator).to(device) for s in network.noise_sizes]


class TrainStyleGAN(Task):
    """Generator and discriminator. The generator alone is kept: nothing else reads the discriminator's weights."""

    name = "faces-stylegan"
    seed = 61
    recipe = Recipe(steps=8000, batch=16, lr=2.5e-3, weight_decay=0.0, ema=0.999, clip=1e6)
    betas = (0.0, 0.99)
    gamma: ClassVar[float] = 0.3  # of R1, on images in [0, 1]: 1.2 on images in [-1, 1]
    mixing: ClassVar[float] = 0.9  # share of pictures with two codes (StyleGAN, section 3.1)
    generator_config: ClassVar[dict[str, Any]] = {}
    discriminator_config: ClassVar[dict[str, Any]] = {}

    def build(self) -> nn.Module:
        self.corpus = corpus("train")
        return StyleGAN(StyleGenerator(**self.generator_config), StyleDiscriminator(**self.discriminator_config))

    @property
    def pair(self) -> StyleGAN:
        assert isinstance(self.model, StyleGAN)
        return self.model

    def pictures(self, generator: torch.Generator, count: int) -> Tensor:
        """Generated images with their graph, from codes that are mixed at a random layer."""
        network = self.pair.generator
        z = torch.randn((2, count, network.width), generator=generator).to(self.device)
        first, second = (network.plus(network.map(part)) for part in z)
        cut = torch.randint(1, network.codes, (count, 1), generator=generator)
        cut[torch.rand((count, 1), generator=generator) >= self.mixing] = network.codes
        later = (torch.arange(network.codes) >= cut).to(self.device)  # (B, L)
        codes = torch.where(later[..., None], second, first)
        return network(codes, batch_noise(network, count, generator, self.device))

    def loss(self, generator: torch.Generator, batch: int) -> Tensor:
        index = torch.randint(len(self.corpus), (batch,), generator=generator)
        reals = self.corpus.pictures(index).to(self.device)
        total = adversarial_loss(self.pair.discriminator, self.pictures(generator, batch), reals)
        if step_of(generator) % EVERY == 0:
            total = total + EVERY * self.gamma / 2 * r1_penalty(self.pair.discriminator, reals)
        return total

    def warm_start(self) -> None:
        raise ConcordError(f"{self.name}: its discriminator was not kept; train anew (`concord train {self.name}`)")

    def outputs(self, model: nn.Module) -> dict[str, tuple[dict[str, Tensor], dict[str, Any]]]:
        assert isinstance(model, StyleGAN)
        model.generator.measure()
        return {self.name: (model.generator.state_dict(), self.generator_config)}

    @torch.inference_mode()
    def evaluate(self, model: nn.Module) -> dict[str, Any]:
        """Frechet distance of 1,000 samples from held-out faces by the judge's features."""
        from concord.metrics.distribution.fid import frechet_distance
        from concord.metrics.distribution.moments import Moments

        assert isinstance(model, StyleGAN)
        n, network = 1000, model.generator
        judge = open_judges("embedded", self.device).get("judge/features", SynthFeatures)
        held_out = corpus("validation", n)
        noise = torch.Generator("cpu").manual_seed(1)
        made, real = [], []
        for index in torch.arange(n).split(50):
            z = torch.randn((len(index), network.width), generator=noise).to(self.device)
            codes = network.plus(network.map(z))
            images = network(codes, batch_noise(network, len(index), noise, self.device)).clamp(0, 1)
            made.append(judge.features(images, ["pool"])["pool"].cpu())
            real.append(judge.features(held_out.pictures(index), ["pool"])["pool"].cpu())
        moments = [Moments.of(torch.cat(part).double().numpy()) for part in (made, real)]
        return {"fid": round(frechet_distance(*moments), 3), "n": n}


def load_stylegan(device: torch.device, folder: Path = EMBEDDED) -> StyleGenerator:
    """The trained generator, frozen."""
    state, card = load_weights("faces-stylegan", folder)
    network = StyleGenerator(**card["config"])
    network.load_state_dict(state)
    return network.to(device).eval().requires_grad_(False)


class TrainStyleEncoder(Task):
    """Shared by the encoders: the frozen generator and the guide that they see through."""

    config: ClassVar[dict[str, Any]] = {}

    def build(self) -> nn.Module:
        self.corpus = corpus("train")
        self.generator = load_stylegan(self.device, self.folder)
        self.networks = Networks("embedded", device=self.device)
        self.settings = {"codes": self.generator.codes, "width": self.generator.width, **self.config}
        return self.encoder()

    @abstractmethod
    def encoder(self) -> nn.Module:
        """The module that is trained: conditions -> W+ codes in deviations from the mean."""

    def decode(self, deviations: Tensor, generator: torch.Generator) -> Tensor:
        """W+ codes in deviations (B, L, D) -> images (B, 3, H, W) with fresh noise."""
        noise = batch_noise(self.generator, len(deviations), generator, self.device)
        return self.generator(to_plus(self.generator, deviations), noise)

    def outputs(self, model: nn.Module) -> dict[str, tuple[dict[str, Tensor], dict[str, Any]]]:
        return {self.name: (model.state_dict(), self.settings)}


class TrainMaskToCode(TrainStyleEncoder):
    """From a mask to the code of a picture that has it."""

    name = "faces-stylegan-mask"
    depends_on = ("faces-stylegan", "faces-features-guide", "faces-parser-judge")
    bits = 8
    seed = 62
    recipe = Recipe(steps=3000, batch=16, lr=1e-3, weight_decay=0.0)

    def encoder(self) -> nn.Module:
        return MaskToCode(**self.settings)

    def loss(self, generator: torch.Generator, batch: int) -> Tensor:
        index = torch.randint(len(self.corpus), (batch,), generator=generator)
        reals = self.corpus.pictures(index).to(self.device)
        deviations = self.model(self.corpus.masks[index].long().to(self.device))
        images = self.decode(deviations, generator)
        seen = self.networks.get("guide/features", PerceptualFeatures).perceptual_distance(images, reals).mean()
        return mse_loss(images, reals) + PERCEPTUAL * seen + CLOSE_MASK * deviations.square().mean()

    @torch.inference_mode()
    def evaluate(self, model: nn.Module) -> dict[str, Any]:
        """How the judge's parser agrees with the masks of held-out faces."""
        n, judge, right = 500, self.networks.get("judge/parser", Parser), []
        held_out, noise = corpus("validation", n), torch.Generator("cpu").manual_seed(1)
        for index in torch.arange(n).split(50):
            masks = held_out.masks[index].long().to(self.device)
            found = judge.labels(self.decode(model(masks), noise).clamp(0, 1))
            right.append((found == masks).double().mean((1, 2)).cpu())
        return {"mask_accuracy": round(float(torch.cat(right).mean()), 4), "n": n}


class TrainTextToCode(TrainStyleEncoder):
    """From a caption's embedding to the code of a picture that the text guide finds alike."""

    name = "faces-stylegan-text"
    depends_on = ("faces-stylegan", "faces-text-image-guide", "faces-text-image-judge")
    seed = 63
    recipe = Recipe(steps=2000, batch=16, lr=1e-3, weight_decay=0.0)
    trimmed = 0.6  # share of batches with captions of beard and age alone, which suites ask for

    def encoder(self) -> nn.Module:
        return TextToCode(**self.settings)

    @property
    def guide(self) -> TextImageGuide:
        """The text-image pair that guides."""
        return self.networks.get("guide/text-image", TextImageGuide)

    def loss(self, generator: torch.Generator, batch: int) -> Tensor:
        index = torch.randint(len(self.corpus), (batch,), generator=generator).tolist()
        short = bool(torch.rand((), generator=generator) < self.trimmed)
        captions = self.corpus.beard_and_age if short else self.corpus.overall
        wanted = self.guide.embed_texts([captions[i] for i in index]).clone()
        deviations = self.model(wanted)
        seen = normalize(self.guide.guide_features(self.decode(deviations, generator)), dim=-1)
        return (1 - (seen * wanted).sum(1)).mean() + CLOSE_TEXT * deviations.square().mean()

    @torch.inference_mode()
    def evaluate(self, model: nn.Module) -> dict[str, Any]:
        """Cosine of held-out captions (beard and age) and their pictures, by the judge."""
        n, judge, found = 500, self.networks.get("judge/text-image", TextImage), []
        held_out, noise = corpus("validation", n), torch.Generator("cpu").manual_seed(1)
        for index in torch.arange(n).split(50):
            captions = [held_out.beard_and_age[i] for i in index.tolist()]
            images = self.decode(model(self.guide.embed_texts(captions)), noise).clamp(0, 1)
            found.append((judge.embed_images(images) * judge.embed_texts(captions)).sum(1).cpu())
        return {"text_cosine": round(float(torch.cat(found).mean()), 4), "n": n}
