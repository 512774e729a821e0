"""Training of the judges of the embedded world of layouts: detector, segmenter, interactions; they guide no method."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from concord.methods.training.judges import jitter
from concord.methods.training.layout_corpus import Scenes, scenes
from concord.methods.training.trainer import Recipe, Task
from concord.metrics.networks.embedded.scenes import GRID, SceneDetector, SceneInteractions, SceneSegmenter, cut, pasted


class TrainSceneDetector(Task):
    """Focal loss on the centres, IoU and distance loss on the boxes (CenterNet with FCOS's sides)."""

    name = "scenes-detector-judge"
    world = "SynthScenes"
    recipe = Recipe(steps=900, batch=32, lr=5e-3, ema=0.99)
    seed = 61
    config: ClassVar[dict[str, Any]] = {"width": 16}

    def build(self) -> nn.Module:
        from concord.data.synthetic.scenes.scene import CATEGORIES

        self.corpus, self.settings = scenes("train"), {"categories": list(CATEGORIES), **self.config}
        return SceneDetector(**self.settings).to(memory_format=torch.channels_last)

    def loss(self, generator: torch.Generator, batch: int) -> Tensor:
        index = torch.randint(len(self.corpus), (batch,), generator=generator)
        images = jitter(self.corpus.pictures(index), generator)
        heat, near, wanted = targets(self.corpus, index, len(self.settings["categories"]))
        turned = torch.rand((batch, 1, 1, 1), generator=generator) < 0.5  # a mirrored scene is as likely
        images = torch.where(turned, images.flip(-1), images).to(self.device)
        heat, near, wanted = (part.to(self.device) for part in mirrored(turned, heat, near, wanted))
        centres, sides = self.model(images.contiguous(memory_format=torch.channels_last))
        return focal(centres, heat) / max(int((heat == 1).sum()), 1) + box_loss(sides, near, wanted)

    def outputs(self, model: nn.Module) -> dict[str, tuple[dict[str, Tensor], dict[str, object]]]:
        return {self.name: (model.state_dict(), self.settings)}

    @torch.inference_mode()
    def evaluate(self, model: nn.Module) -> dict[str, object]:
        """As the benchmark looks at real images: the share of instances found, and of detections that are instances."""
        assert isinstance(model, SceneDetector)
        return detection_errors(model, scenes("validation", 500))


def targets(corpus: Scenes, index: Tensor, categories: int) -> tuple[Tensor, Tensor, Tensor]:
    """Heat (B, K, 32, 32) with 1 at centres, which cells tell a box (B, 32, 32), and which box (B, 4, 32, 32).

    A cell tells the box of the smallest object whose middle third it lies in.
    """
    boxes, kinds = corpus.boxes[index], corpus.categories[index]  # (B, 6, 4), (B, 6)
    middle, size = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
    steps = (torch.arange(GRID) + 0.5) / GRID
    cell = (middle * GRID).long().clamp(max=GRID - 1)  # where the peak is
    peak = (cell + 0.5) / GRID
    spread = (size / 6).clamp(min=0.6 / GRID)  # a Gaussian as wide as the object
    across = ((steps - peak[..., :1]) / spread[..., :1]).square()[:, :, None, :]  # (B, 6, 1, 32)
    down = ((steps - peak[..., 1:]) / spread[..., 1:]).square()[:, :, :, None]
    bumps = torch.exp(-0.5 * (across + down)) * (kinds >= 0)[:, :, None, None]  # (B, 6, 32, 32)
    heat = torch.zeros(len(index), categories, GRID, GRID)
    for number in range(boxes.shape[1]):
        rows = torch.arange(len(index))
        kind = kinds[:, number].clamp(min=0)
        heat[rows, kind] = torch.maximum(heat[rows, kind], bumps[:, number])
    inside = (across <= 1.0) & (down <= 1.0) & (kinds >= 0)[:, :, None, None]  # the middle third
    area = torch.where(inside, size.prod(-1)[:, :, None, None], torch.full((), 9.0))
    smallest, owner = area.min(dim=1)  # (B, 32, 32)
    picked = boxes[torch.arange(len(index))[:, None, None], owner]  # (B, 32, 32, 4)
    x, y = steps[None, None, :], steps[None, :, None]
    wanted = torch.stack([x - picked[..., 0], y - picked[..., 1], picked[..., 2] - x, picked[..., 3] - y], 1)
    return heat, smallest < 9.0, wanted.clamp(min=1e-3)


def mirrored(turned: Tensor, heat: Tensor, near: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What `targets` are where images are mirrored. turned: bool (B, 1, 1, 1)."""
    return (
        torch.where(turned, heat.flip(-1), heat),
        torch.where(turned[:, 0], near.flip(-1), near),
        torch.where(turned, wanted.flip(-1)[:, [2, 1, 0, 3]], wanted),  # left is right
    )


def focal(logits: Tensor, heat: Tensor) -> Tensor:
    """CenterNet's penalty-reduced focal loss, summed; (B, K, h, w) each."""
    probability = logits.sigmoid()
    right = -logsigmoid(logits) * (1 - probability).square() * (heat == 1)
    wrong = -logsigmoid(-logits) * probability.square() * (1 - heat).pow(4) * (heat < 1)
    return right.sum() + wrong.sum()


def box_loss(sides: Tensor, near: Tensor, wanted: Tensor) -> Tensor:
    """1 - IoU, and the relative error of each side, over the cells that tell a box."""
    found, true = sides.movedim(1, -1)[near], wanted.movedim(1, -1)[near]  # (M, 4) each
    shared = torch.minimum(found, true)
    overlap = (shared[:, 0] + shared[:, 2]) * (shared[:, 1] + shared[:, 3])
    areas = [(s[:, 0] + s[:, 2]) * (s[:, 1] + s[:, 3]) for s in (found, true)]
    iou = overlap / (areas[0] + areas[1] - overlap).clamp(min=1e-9)
    return (1 - iou).mean() + 0.5 * (found.log() - true.log()).abs().mean()


def detection_errors(detector: SceneDetector, held_out: Scenes) -> dict[str, object]:
    """Instances found at IoU 0.5, overall and by the share of them that is seen; detections that are no instance."""
    from concord.data.synthetic.scenes.scene import CATEGORIES
    from concord.metrics.networks.boxes import box_iou

    found, ious, false, made = [], [], 0, 0
    small = []
    for number in range(len(held_out)):
        image = held_out.images[number].movedim(0, -1).numpy()
        level = int((held_out.categories[number] >= 0).sum())
        boxes, kinds = held_out.boxes[number, :level].numpy(), held_out.categories[number, :level].tolist()
        for kind in sorted(set(kinds)):
            detections = detector.detect(image, CATEGORIES[kind])
            own = np.stack([box for box, k in zip(boxes, kinds, strict=True) if k == kind])
            for box in own:
                iou = float(box_iou(box, detections).max()) if len(detections) else 0.0
                ious.append(iou)
                found.append(iou >= 0.5)
                small.append(float((box[2:] - box[:2]).prod()) < 0.04)
            made += len(detections)
            false += sum(float(box_iou(d, own).max()) < 0.5 for d in detections)
        for kind in sorted(set(range(len(CATEGORIES))) - set(kinds)):
            extra = len(detector.detect(image, CATEGORIES[kind]))
            made, false = made + extra, false + extra
    hits, tiny = np.array(found), np.array(small)
    return {
        "found_at_iou_0.5": round(float(hits.mean()), 4),
        "found_small": round(float(hits[tiny].mean()), 4),
        "mean_iou": round(float(np.mean(ious)), 4),
        "precision": round(1 - false / max(made, 1), 4),
        "instances": len(hits),
        "n": len(held_out),
    }


class TrainSceneSegmenter(Task):
    """Cross entropy per pixel of the patch, and the overlap of mask and truth (dice)."""

    name = "scenes-segmenter-judge"
    world = "SynthScenes"
    recipe = Recipe(steps=500, batch=32, lr=5e-3, ema=0.99)
    seed = 62
    config: ClassVar[dict[str, Any]] = {"width": 16}

    def build(self) -> nn.Module:
        self.corpus = scenes("train")
        self.rows = torch.nonzero(self.corpus.categories >= 0)  # (M, 2): scene, object
        return SceneSegmenter(**self.config).to(memory_format=torch.channels_last)

    def loss(self, generator: torch.Generator, batch: int) -> Tensor:
        chosen = self.rows[torch.randint(len(self.rows), (batch,), generator=generator)]
        images = jitter(self.corpus.pictures(chosen[:, 0]), generator)
        boxes = self.corpus.boxes[chosen[:, 0], chosen[:, 1]]
        shift = 0.06 * (torch.rand(boxes.shape, generator=generator) - 0.5)  # a layout's box never fits to the pixel
        boxes = boxes + shift * (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        truth = (self.corpus.instances[chosen[:, 0]] == (chosen[:, 1] + 1)[:, None, None]).float()
        patches, wanted = cut(images, boxes), (cut(truth[:, None].repeat(1, 3, 1, 1), boxes)[:, :1] > 0).float()
        logits = self.model(patches.to(self.device).contiguous(memory_format=torch.channels_last))
        wanted = wanted.to(self.device)
        probability = logits.sigmoid()
        shared, both = (probability * wanted).sum((1, 2, 3)), (probability + wanted).sum((1, 2, 3))
        return binary_cross_entropy_with_logits(logits, wanted) + 0.3 * (1 - (2 * shared + 1) / (both + 1)).mean()

    def outputs(self, model: nn.Module) -> dict[str, tuple[dict[str, Tensor], dict[str, object]]]:
        return {self.name: (model.state_dict(), self.config)}

    @torch.inference_mode()
    def evaluate(self, model: nn.Module) -> dict[str, object]:
        """Mask IoU on held-out scenes, and how often the asked colour (and a wrong one) is seen in the mask."""
        assert isinstance(model, SceneSegmenter)
        return segmentation_errors(model, scenes("validation", 500))


def segmentation_errors(segmenter: SceneSegmenter, held_out: Scenes) -> dict[str, object]:
    """Mean IoU of the masks; the share of instances that show their colour, and any other, by the benchmark's rule."""
    from concord.data.datasets.layouts.layout import COLOURS
    from concord.metrics.layout.instances import SHARE, colour_share

    ious, right, wrong, exact = [], [], [], []
    for number in range(len(held_out)):
        pixels = held_out.pictures(torch.tensor([number]))
        level = int((held_out.categories[number] >= 0).sum())
        boxes = held_out.boxes[number, :level]
        device = next(segmenter.parameters()).device
        logits = segmenter(cut(pixels.expand(level, -1, -1, -1), boxes).to(device)).cpu()
        masks = (pasted(logits, boxes, 64, 64) > 0).numpy()
        image = held_out.images[number].movedim(0, -1).numpy()
        for k in range(level):
            truth = held_out.instances[number].numpy() == k + 1
            ious.append(float((masks[k] & truth).sum() / max((masks[k] | truth).sum(), 1)))
            shares = [colour_share(image, masks[k], colour) for colour in COLOURS]
            true = int(held_out.colours[number, k])
            right.append(shares[true] >= SHARE)
            wrong.append(max(s for c, s in enumerate(shares) if c != true) >= SHARE)
            exact.append(colour_share(image, truth, COLOURS[true]) >= SHARE)
    return {
        "mask_iou": round(float(np.mean(ious)), 4),
        "colour_right": round(float(np.mean(right)), 4),
        "colour_right_by_exact_masks": round(float(np.mean(exact)), 4),
        "other_colour_too": round(float(np.mean(wrong)), 4),
        "instances": len(ious),
        "n": len(held_out),
    }


class TrainSceneInteractions(Task):
    """Cross entropy over pairs: half of them with an interaction, half without one, or asked the other way round."""

    name = "scenes-interactions-judge"
    world = "SynthScenes"
    recipe = Recipe(steps=1500, batch=48, lr=4e-3, ema=0.995)
    seed = 63
    config: ClassVar[dict[str, Any]] = {"width": 16}

    def build(self) -> nn.Module:
        from concord.data.synthetic.scenes.scene import INTERACTIONS

        self.corpus, self.settings = scenes("train"), {"kinds": list(INTERACTIONS), **self.config}
        pairs = ordered_pairs(self.corpus)
        with_one = pairs[:, 3] > 0
        near = torch.zeros(len(self.corpus), dtype=torch.bool)
        near[pairs[with_one, 0]] = True
        self.pairs = [pairs[with_one], pairs[~with_one & near[pairs[:, 0]]], pairs[~with_one & ~near[pairs[:, 0]]]]
        return SceneInteractions(**self.settings).to(memory_format=torch.channels_last)

    def loss(self, generator: torch.Generator, batch: int) -> Tensor:
        counts = (batch // 2, batch - batch // 2 - batch // 8, batch // 8)
        chosen = torch.cat(
            [
                rows[torch.randint(len(rows), (n,), generator=generator)]
                for rows, n in zip(self.pairs, counts, strict=True)
            ]
        )
        images = self.corpus.pictures(chosen[:, 0])
        boxes = [self.corpus.boxes[chosen[:, 0], chosen[:, k]] for k in (1, 2)]
        mirrored = torch.rand(batch, generator=generator) < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        turned = [torch.stack([1 - box[:, 2], box[:, 1], 1 - box[:, 0], box[:, 3]], 1) for box in boxes]
        boxes = [torch.where(mirrored[:, None], flip, box) for flip, box in zip(turned, boxes, strict=True)]
        # a generated object never fills its box to the pixel
        shifts = [0.12 * (torch.rand(box.shape, generator=generator) - 0.5) for box in boxes]
        boxes = [
            (box + s * (box[:, 2:] - box[:, :2]).repeat(1, 2)).to(self.device)
            for box, s in zip(boxes, shifts, strict=True)
        ]
        images = jitter(images, generator).to(self.device).contiguous(memory_format=torch.channels_last)
        logits = self.model(images, *boxes)
        return torch.nn.functional.cross_entropy(logits, chosen[:, 3].to(self.device), label_smoothing=0.02)

    def outputs(self, model: nn.Module) -> dict[str, tuple[dict[str, Tensor], dict[str, object]]]:
        return {self.name: (model.state_dict(), self.settings)}

    @torch.inference_mode()
    def evaluate(self, model: nn.Module) -> dict[str, object]:
        """The share of interactions that are named right, kind by kind, and of other ordered pairs given none."""
        assert isinstance(model, SceneInteractions)
        return interaction_errors(model, scenes("validation", 1000))


def ordered_pairs(corpus: Scenes) -> Tensor:
    """Every ordered pair of different instances, int64 (M, 4): scene, subject, object, and 1 + its kind or 0.

    A link has no direction: it is there in both orders.
    """
    from concord.data.synthetic.scenes.scene import INTERACTIONS

    link = INTERACTIONS.index("link")
    n, most = corpus.categories.shape
    kinds = torch.zeros(n, most, most, dtype=torch.int64)
    for row in range(corpus.interactions.shape[1]):
        subject, kind, other = corpus.interactions[:, row].unbind(1)
        there = torch.nonzero(subject >= 0)[:, 0]
        kinds[there, subject[there], other[there]] = 1 + kind[there]
        linked = there[kind[there] == link]
        kinds[linked, other[linked], subject[linked]] = 1 + link
    seen = corpus.categories >= 0
    pairs = seen[:, :, None] & seen[:, None, :] & ~torch.eye(most, dtype=torch.bool)
    return torch.cat([torch.nonzero(pairs), kinds[pairs][:, None]], 1)


def interaction_errors(judge: SceneInteractions, held_out: Scenes, batch: int = 250) -> dict[str, object]:
    """Over all ordered pairs of held-out scenes, their boxes as they are."""
    pairs = ordered_pairs(held_out)
    device = next(judge.parameters()).device
    said = []
    for rows in pairs.split(batch):
        boxes = [held_out.boxes[rows[:, 0], rows[:, k]].to(device) for k in (1, 2)]
        said.append(judge(held_out.pictures(rows[:, 0]).to(device), *boxes).argmax(1).cpu())
    found, true = torch.cat(said), pairs[:, 3]
    right = {kind: round(float((found == true)[true == 1 + k].float().mean()), 4) for k, kind in enumerate(judge.kinds)}
    return {
        "interactions_right": round(float((found == true)[true > 0].float().mean()), 4),
        "by_kind": right,
        "pairs_without_one_given_none": round(float((found == 0)[true == 0].float().mean()), 4),
        "interactions": int((true > 0).sum()),
        "pairs_without_one": int((true == 0).sum()),
        "n": len(held_out),
    }
