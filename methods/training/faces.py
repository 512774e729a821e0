"""Training of the identity embedders and landmark regressors, each as a judge and as a guide.

As in judges.py, the two of a kind differ in seed and width: no method is scored by the very network it followed.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from concord.methods.training.corpus import corpus, landmarks, variants
from concord.methods.training.judges import JudgeTask, jitter
from concord.methods.training.trainer import Recipe
from concord.metrics.networks.embedded.identity import IdentityNetwork
from concord.metrics.networks.embedded.landmarks import LandmarkNetwork

OUTER_CORNERS = (36, 45)  # of the eyes, in iBUG order: their distance is what landmark errors are divided by


class TrainIdentity(JudgeTask):
    """Who is who among the persons of a batch, each in two pictures (InfoNCE; van den Oord et al. 2018).

    The pictures differ in everything but the person: age, smile, beard, bangs, glasses, hat, clothes, pose and light.
    """

    persons = 12_000
    scale = 16.0  # logits = scale * cosine

    def network(self) -> nn.Module:
        self.pictures = [self.corpus.images[: self.persons], *(variants("train", v, self.persons) for v in (1, 2))]
        return IdentityNetwork(**self.config)

    def loss(self, generator: torch.Generator, batch: int) -> Tensor:
        person = torch.randperm(self.persons, generator=generator)[:batch]
        first = torch.randint(3, (), generator=generator).item()
        second = (first + 1 + torch.randint(2, (), generator=generator).item()) % 3
        two = torch.cat([self.pictures[int(which)][person] for which in (first, second)]).float() / 255
        images = jitter(two, generator).to(self.device).contiguous(memory_format=torch.channels_last)
        embedding = self.model(images)
        # every picture looks for the other one of its person among all the others
        logits = self.scale * (embedding @ embedding.T).fill_diagonal_(-1e4)
        partner = torch.arange(2 * batch, device=self.device).roll(batch)
        return cross_entropy(logits, partner)

    @torch.inference_mode()
    def evaluate(self, model: nn.Module) -> dict[str, Any]:
        """Verification among persons that the training never saw, two pictures of each."""
        n = 1000
        held_out = corpus("validation", n)
        pictures = (held_out.images, variants("validation", 1, n))
        first, second = (
            torch.cat([model(part.to(self.device).float() / 255).cpu() for part in p.split(100)]) for p in pictures
        )
        cosine = (first @ second.T).numpy()
        same = np.eye(n, dtype=bool)
        male = held_out.male.numpy()
        alike = (male[:, None] == male[None]) & ~same
        threshold = np.quantile(cosine[~same], 0.99)
        return {
            "auc": round(auc(cosine[same], cosine[~same]), 4),
            "auc_same_sex": round(auc(cosine[same], cosine[alike]), 4),
            "found_at_1_percent_false": round(float((cosine[same] > threshold).mean()), 4),
            "mean_cosine_same": round(float(cosine[same].mean()), 4),
            "mean_cosine_other": round(float(cosine[~same].mean()), 4),
            "n": n,
        }


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """The share of (positive, negative) pairs in which the positive is greater, ties counted half."""
    ordered = np.sort(negative)
    below, upto = np.searchsorted(ordered, positive, "left"), np.searchsorted(ordered, positive, "right")
    return float((below + upto).mean() / 2 / len(negative))


class TrainIdentityJudge(TrainIdentity):
    """The face network that scores."""

    name = "faces-identity-judge"
    recipe = Recipe(steps=1500, batch=48, lr=2e-3, ema=0.998)
    config: ClassVar[dict[str, Any]] = {"width": 16}
    seed = 41


class TrainIdentityGuide(TrainIdentity):
    """The face network that guides: another width, seed and data order than the judge's."""

    name = "faces-identity-guide"
    recipe = Recipe(steps=2000, batch=48, lr=2e-3, ema=0.998)
    config: ClassVar[dict[str, Any]] = {"width": 8}
    seed = 42


class TrainLandmarks(JudgeTask):
    """Mean distance between the points found and the true ones, in pixels."""

    def network(self) -> nn.Module:
        self.points = landmarks("train")
        network = LandmarkNetwork(**self.config)
        network.mean.copy_(self.points.mean(0))
        network.spread.copy_(self.points.std(0))
        return network

    def loss(self, generator: torch.Generator, batch: int) -> Tensor:
        index, images = self.batch(generator, batch)
        off = self.model(images) - self.points[index].to(self.device)  # (B, 68, 2)
        # smooth near zero, so that the points settle instead of trembling about the truth
        return (off.square().sum(-1) + 0.01).sqrt().mean()

    @torch.inference_mode()
    def evaluate(self, model: nn.Module) -> dict[str, Any]:
        """Mean distance over the eyes' outer corners' distance (NME), in percent, on held-out faces."""
        n = 1000
        held_out, truth = corpus("validation", n), landmarks("validation")[:n]
        found = torch.cat([model(held_out.pictures(i).to(self.device)).cpu() for i in torch.arange(n).split(100)])
        left, right = OUTER_CORNERS
        apart = (truth[:, left] - truth[:, right]).norm(dim=-1)  # (n,)
        pixels = (found - truth).norm(dim=-1).mean(1)
        nme = 100 * pixels / apart
        return {
            "nme_percent": round(float(nme.mean()), 3),
            "nme_percent_p95": round(float(nme.quantile(0.95)), 3),
            "error_pixels": round(float(pixels.mean()), 3),
            "n": n,
        }


class TrainLandmarksJudge(TrainLandmarks):
    """The landmark network that scores."""

    name = "faces-landmarks-judge"
    recipe = Recipe(steps=2000, batch=64, lr=2e-3, ema=0.998)
    config: ClassVar[dict[str, Any]] = {"width": 16}
    seed = 51


class TrainLandmarksGuide(TrainLandmarks):
    """The landmark network that guides: another width, seed and data order than the judge's."""

    name = "faces-landmarks-guide"
    recipe = Recipe(steps=2000, batch=64, lr=2e-3, ema=0.998)
    config: ClassVar[dict[str, Any]] = {"width": 8}
    seed = 52
