"""Training of the embedded judges and guides: parser, features, text-image pair, each twice.

A judge scores, a guide may steer a method; the two differ in seed and width, so that no method is scored by the very
network that it followed.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, log_softmax, mse_loss

from concord.methods.training.corpus import ATTRIBUTES, Corpus, corpus
from concord.methods.training.trainer import Recipe, Task
from concord.methods.training.words import hide_words
from concord.metrics.networks.embedded.features import FeatureNetwork
from concord.metrics.networks.embedded.parser import FaceParser
from concord.metrics.networks.embedded.text_image import TextImagePair

CLASSES = 19
LEVELS = 6


def jitter(images: Tensor, generator: torch.Generator) -> Tensor:
    """Slight noise and brightness, and for half of the images a slight blur, as a decoder leaves them.

    What a network scores are generated images; it must not depend on the last bit of sharpness of the drawn ones.
    """
    amount = torch.rand((len(images), 1, 1, 1), generator=generator)
    noise = torch.randn(images.shape, generator=generator)
    bright = 1 + 0.1 * (torch.rand((len(images), 1, 1, 1), generator=generator) - 0.5)
    soft = torch.nn.functional.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
    blend = torch.rand((len(images), 1, 1, 1), generator=generator) * 0.8
    blurred = torch.rand((len(images), 1, 1, 1), generator=generator) < 0.5
    images = torch.where(blurred, images.lerp(soft, blend), images)
    return (images * bright + 0.04 * amount * noise).clamp(0, 1)


class JudgeTask(Task):
    """Shared: faces in memory, the batch of a step."""

    config: ClassVar[dict[str, Any]] = {}

    def batch(self, generator: torch.Generator, size: int) -> tuple[Tensor, Tensor]:
        """Indices (size,) of random training faces and their images, jittered, (size, 3, H, W)."""
        index = torch.randint(len(self.corpus), (size,), generator=generator)
        images = jitter(self.corpus.pictures(index), generator)
        return index, images.to(self.device).contiguous(memory_format=torch.channels_last)

    @property
    def corpus(self) -> Corpus:
        return corpus("train")

    def build(self) -> nn.Module:
        return self.network().to(memory_format=torch.channels_last)

    @abstractmethod
    def network(self) -> nn.Module:
        """The network, and what its loss needs beside the corpus."""

    def outputs(self, model: nn.Module) -> dict[str, tuple[dict[str, Tensor], dict[str, object]]]:
        return {self.name: (model.state_dict(), self.settings())}

    def settings(self) -> dict[str, Any]:
        return self.config


class TrainParser(JudgeTask):
    """Cross entropy per pixel; rare classes weigh more, by the square root of their rarity."""

    def network(self) -> nn.Module:
        counts = torch.bincount(self.corpus.masks[:2000].long().flatten(), minlength=CLASSES).float()
        share = (counts / counts.sum()).clamp(min=1e-4)
        weight = share.rsqrt()
        self.weight = (weight / (weight * share).sum()).clamp(max=8.0).to(self.device)
        return FaceParser(**self.config)

    def loss(self, generator: torch.Generator, batch: int) -> Tensor:
        index, images = self.batch(generator, batch)
        target = self.corpus.masks[index].long().to(self.device)
        logits = self.model(images)
        return cross_entropy(logits, target) + 0.3 * cross_entropy(logits, target, weight=self.weight)

    @torch.inference_mode()
    def evaluate(self, model: nn.Module) -> dict[str, object]:
        from concord.data.labels import CELEBAMASK_HQ

        held_out = corpus("validation", 1000)
        confusion = torch.zeros(CLASSES, CLASSES, dtype=torch.long)
        for index in torch.arange(1000).split(50):
            found = model(held_out.pictures(index).to(self.device)).argmax(1).cpu()
            pairs = held_out.masks[index].long() * CLASSES + found
            confusion += torch.bincount(pairs.flatten(), minlength=CLASSES**2).reshape(CLASSES, CLASSES)
        hits = confusion.diag().double()
        union = confusion.sum(0) + confusion.sum(1) - confusion.diag()
        iou = hits / union
        names = CELEBAMASK_HQ
        return {
            "pixel_accuracy": round(float(hits.sum() / confusion.sum()), 4),
            "miou": round(float(iou.nanmean()), 4),
            "n": 1000,
            "iou": {name: round(float(value), 4) for name, value in zip(names, iou, strict=True)},
        }


class TrainParserJudge(TrainParser):
    """The face parser that scores."""

    name = "faces-parser-judge"
    recipe = Recipe(steps=1500, batch=32, lr=3e-3, ema=0.998)
    config: ClassVar[dict[str, int]] = {"width": 16}
    seed = 11


class TrainParserGuide(TrainParser):
    """The face parser that guides."""

    name = "faces-parser-guide"
    recipe = Recipe(steps=1500, batch=32, lr=3e-3, ema=0.998)
    config: ClassVar[dict[str, int]] = {"width": 8}
    seed = 12


class TrainFeatures(JudgeTask):
    """Every attribute's level, the sex, which classes are present, and the identity vector, all from 64 features."""

    def settings(self) -> dict[str, Any]:
        heads = {**dict.fromkeys(ATTRIBUTES, LEVELS), "Male": 2}
        return {"heads": heads, "identity": self.corpus.identities.shape[1], **self.config}

    def network(self) -> nn.Module:
        identities = self.corpus.identities
        self.mean, self.std = identities.mean(0), identities.std(0).clamp(min=1e-3)
        self.present = torch.stack([(self.corpus.masks == c).flatten(1).any(1) for c in range(CLASSES)], dim=1).float()
        return FeatureNetwork(**self.settings())

    def loss(self, generator: torch.Generator, batch: int) -> Tensor:
        index, images = self.batch(generator, batch)
        found = self.model(images)
        levels = self.corpus.attributes[index].to(self.device)
        total = sum(
            (cross_entropy(found[name], levels[:, k]) for k, name in enumerate(ATTRIBUTES)),
            start=cross_entropy(found["Male"], self.corpus.male[index].to(self.device)),
        )
        total = total + binary_cross_entropy_with_logits(found["presence"], self.present[index].to(self.device))
        identity = (self.corpus.identities[index] - self.mean) / self.std
        return total + mse_loss(found["identity"], identity.to(self.device))

    @torch.inference_mode()
    def evaluate(self, model: nn.Module) -> dict[str, object]:
        held_out = corpus("validation", 1000)
        chunks = [model(held_out.pictures(i).to(self.device)) for i in torch.arange(1000).split(100)]
        right = {}
        for k, name in enumerate(ATTRIBUTES):
            found = torch.cat([c[name] for c in chunks]).argmax(1).cpu()
            right[name] = round(float((found == held_out.attributes[:, k]).double().mean()), 4)
        male = torch.cat([c["Male"] for c in chunks]).argmax(1).cpu()
        identity = torch.cat([c["identity"] for c in chunks]).cpu()
        wanted = (held_out.identities - self.mean) / self.std
        explained = 1 - (identity - wanted).square().mean() / wanted.var(0).mean()
        return {
            "accuracy": {**right, "Male": round(float((male == held_out.male).double().mean()), 4)},
            "identity_r2": round(float(explained), 4),
            "n": 1000,
        }


class TrainFeaturesJudge(TrainFeatures):
    """The features that FID and its kin are computed from."""

    name = "faces-features-judge"
    recipe = Recipe(steps=4000, batch=32, lr=2e-3, ema=0.998)
    config: ClassVar[dict[str, int]] = {"width": 24}
    seed = 21


class TrainFeaturesGuide(TrainFeatures):
    """The features that a guide or a training's loss compares images by."""

    name = "faces-features-guide"
    recipe = Recipe(steps=2000, batch=32, lr=2e-3, ema=0.998)
    config: ClassVar[dict[str, int]] = {"width": 16}
    seed = 22


class TrainTextImage(JudgeTask):
    """Contrastive loss over a batch (CLIP), where captions that say the same are all right answers.

    A batch holds full captions or trimmed ones (beard and age), never both: their meanings are of different detail.
    """

    hidden = 0.03

    def settings(self) -> dict[str, Any]:
        from concord.data.synthetic.faces.captions import all_words

        return {"words": all_words(), **self.config}

    def network(self) -> nn.Module:
        return TextImagePair(**self.settings())

    def loss(self, generator: torch.Generator, batch: int) -> Tensor:
        index, images = self.batch(generator, batch)
        trimmed = bool(torch.rand((), generator=generator) < 0.4)
        captions = self.corpus.beard_and_age if trimmed else self.corpus.overall
        pair = self.model
        assert isinstance(pair, TextImagePair)
        ids = hide_words(pair.tokenizer([captions[i] for i in index.tolist()]), self.hidden, generator)
        similarity = pair.embed_images(images) @ pair.embed_ids(ids.to(self.device)).T  # (B, B)
        logits = similarity * pair.log_scale.clamp(max=4.6).exp()
        facts = self.corpus.attributes[index][:, [2, 4]] if trimmed else self.corpus.attributes[index]
        facts = torch.cat([facts, self.corpus.male[index, None]], 1)
        same = (facts[:, None] == facts[None]).all(-1)
        if not trimmed:  # full captions also speak of hair and hats, which the levels do not tell: only itself is right
            same = torch.eye(len(index), dtype=torch.bool)
        target = (same.float() / same.sum(1, keepdim=True)).to(self.device)
        by_image = -(target * log_softmax(logits, dim=1)).sum(1).mean()
        return (by_image - (target * log_softmax(logits.T, dim=1)).sum(1).mean()) / 2

    @torch.inference_mode()
    def evaluate(self, model: nn.Module) -> dict[str, object]:
        """Retrieval among 64 distinct full captions, and the trimmed caption's meaning among all trimmed meanings."""
        pair = model
        assert isinstance(pair, TextImagePair)
        held_out = corpus("validation", 2000)
        chunks = torch.arange(2000).split(100)
        images = torch.cat([pair.embed_images(held_out.pictures(i).to(self.device)) for i in chunks])
        top1, rounds = [], 20
        for k in range(rounds):
            order = torch.randperm(2000, generator=torch.Generator().manual_seed(k)).tolist()
            chosen: dict[str, int] = {}
            for i in order:
                chosen.setdefault(held_out.overall[i], i)
                if len(chosen) == 64:
                    break
            texts = pair.embed_texts(list(chosen))
            found = (images[list(chosen.values())] @ texts.T).argmax(1).cpu()
            top1.append(float((found == torch.arange(64)).double().mean()))
        facts = torch.cat([held_out.attributes[:, [2, 4]], held_out.male[:, None]], 1)
        meanings: dict[tuple[int, ...], int] = {}
        first = []
        for i, row in enumerate(facts.tolist()):
            if tuple(row) not in meanings:
                meanings[tuple(row)] = len(meanings)
                first.append(held_out.beard_and_age[i])
        truth = torch.tensor([meanings[tuple(row)] for row in facts.tolist()])
        found = (images @ pair.embed_texts(first).T).argmax(1).cpu()
        return {
            "retrieval_top1_of_64": round(sum(top1) / rounds, 4),
            "n": 64 * rounds,
            "beard_and_age_top1": round(float((found == truth).double().mean()), 4),
            "meanings": len(meanings),
        }


class TrainTextImageJudge(TrainTextImage):
    """The pair of encoders that scores captions."""

    name = "faces-text-image-judge"
    recipe = Recipe(steps=1500, batch=64, lr=2e-3, ema=0.998)
    config: ClassVar[dict[str, int]] = {"width": 24}
    seed = 31


class TrainTextImageGuide(TrainTextImage):
    """The pair of encoders that guides by captions."""

    name = "faces-text-image-guide"
    recipe = Recipe(steps=2000, batch=64, lr=2e-3, ema=0.998)
    config: ClassVar[dict[str, int]] = {"width": 16}
    seed = 32
