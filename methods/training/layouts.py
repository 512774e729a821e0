"""Training of the embedded world of layouts' generators: an autoencoder, and the models that AMDM aggregates.

All of one world's pictures, but each model is told another part of what is known about them, as AMDM's two models come
from data sets of which one has no colours in its captions and the other no interactions.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from concord.data.checkpoints import load_weights
from concord.data.datasets.layouts.layout import COLOURS, Layout
from concord.data.files import atomic_path
from concord.data.request import Conditions
from concord.data.synthetic.scenes.scene import (
    CATEGORIES,
    INTERACTIONS,
    RENDERER_VERSION,
    SPLITS,
    WORLD_SEED,
    reference,
)
from concord.methods.core.sampler import ddim
from concord.methods.core.schedule import Schedule
from concord.methods.networks.autoencoder import Autoencoder
from concord.methods.networks.experts import Encoded
from concord.methods.networks.layout_experts import LayoutBatch, LayoutExpert
from concord.methods.training.corpus import CACHE
from concord.methods.training.generators import TrainAutoencoder, TrainExpert, load_autoencoder, noised
from concord.methods.training.layout_corpus import Scenes, scenes
from concord.methods.training.trainer import Recipe

AUTOENCODER = "scenes-autoencoder"


class TrainScenesAutoencoder(TrainAutoencoder):
    """As for faces, from whose weights it starts: edges and flat parts are the same."""

    name = AUTOENCODER
    world = "SynthScenes"
    depends_on = ("faces-autoencoder",)
    trunk: ClassVar[str | None] = "faces-autoencoder"
    seed = 71
    recipe = Recipe(steps=640, batch=16, lr=1.5e-3, warmup=40, ema=0.995)

    def pictures(self, split: str, limit: int | None = None) -> Scenes:
        return scenes(split, limit)

    def start(self) -> None:
        assert self.trunk is not None
        self.model.load_state_dict(load_weights(self.trunk)[0])

    @torch.inference_mode()
    def evaluate(self, model: nn.Module) -> dict[str, Any]:
        """PSNR, and what the judges find in the reconstructions beside what they find in the pictures themselves."""
        held_out = scenes("validation", 100)
        images = held_out.pictures(torch.arange(len(held_out))).to(self.device)
        layouts = [layout_of(held_out, k) for k in range(len(held_out))]
        found = {"truth": success(images, layouts), "reconstructed": success(self.autoencoder(images), layouts)}
        return {**super().evaluate(model), **{f"{k}_{name}": v for name, row in found.items() for k, v in row.items()}}


class SceneLatents:
    """Scenes with every image encoded once, and once more from right to left: latents float32 (2 N, 6, 16, 16).

    Row N + i is row i mirrored; a mirrored scene is as likely as the scene itself.
    """

    references: Tensor  # uint8 (N, 64, 64, 3), for the model that is told one

    def __init__(self, split: str, device: torch.device, limit: int | None = None, mirrored: bool = True) -> None:
        self.scenes = scenes(split, limit)
        autoencoder = load_autoencoder(device, AUTOENCODER)
        turns = (False, True) if mirrored else (False,)
        with torch.inference_mode():
            encoded = [
                autoencoder.encode(self.pictures(rows, turn).to(device)).cpu()
                for turn in turns
                for rows in torch.arange(len(self.scenes)).split(256)
            ]
        self.values = torch.cat(encoded).clone()

    def pictures(self, rows: Tensor, mirrored: bool) -> Tensor:
        images = self.scenes.pictures(rows)
        return images.flip(-1) if mirrored else images

    def layouts(self, index: Tensor) -> LayoutBatch:
        """What is in the scenes of these rows."""
        rows, mirrored = index % len(self.scenes), index >= len(self.scenes)
        boxes = self.scenes.boxes[rows]
        there = (self.scenes.categories[rows] >= 0)[..., None]
        turned = torch.stack([1 - boxes[..., 2], boxes[..., 1], 1 - boxes[..., 0], boxes[..., 3]], -1)
        boxes = torch.where(mirrored[:, None, None] & there, turned, boxes)
        kept = self.scenes
        return LayoutBatch(boxes, kept.categories[rows], kept.colours[rows], kept.interactions[rows])


class TrainLayoutExpert(TrainExpert):
    """A model of `concord.methods.networks.layout_experts.KINDS`, trained for guidance too: some rows get the null
    condition.

    Min-SNR weights (gamma 5) with a floor: AMDM's models meet in the first, noisiest steps, for which those weights
    leave next to nothing.
    """

    world = "SynthScenes"
    depends_on: ClassVar[tuple[str, ...]] = (AUTOENCODER,)
    trunk: ClassVar[str | None] = None
    channels: ClassVar[tuple[int, ...]] = (48, 64, 64)
    dropped: ClassVar[float] = 0.1  # of the rows: the null condition
    unpainted: ClassVar[float] = 0.05  # of the instances: of any colour
    floor: ClassVar[float] = 0.1
    bits = 8
    data: SceneLatents  # type: ignore[assignment]

    def build(self) -> nn.Module:
        self.data = self.latents("train")
        self.schedule = Schedule.scaled_linear()
        self.learning = True
        self.config = {"condition": self.condition, "channels": list(self.channels)}
        return LayoutExpert(**self.config)

    def latents(self, split: str, limit: int | None = None) -> SceneLatents:
        return SceneLatents(split, self.device, limit, mirrored=split == "train")

    def start(self) -> None:
        """The trunk's weights where they fit; the planes that only one of the two has are left out or start silent."""
        if self.trunk is None:
            return
        own, trunk = self.model.state_dict(), load_weights(self.trunk)[0]
        for key, value in trunk.items():
            if key not in own:
                continue
            if own[key].shape == value.shape:
                own[key].copy_(value)
            elif key == "unet.conv_in.weight":
                shared = min(value.shape[1], own[key].shape[1])
                own[key].zero_()
                own[key][:, :shared].copy_(value[:, :shared])
        self.model.load_state_dict(own)

    @property
    def expert(self) -> LayoutExpert:
        assert isinstance(self.model, LayoutExpert)
        return self.model

    def loss(self, generator: torch.Generator, batch: int) -> Tensor:
        index, t, x_0, noise, x_t = noised(self.data, self.schedule, generator, batch, self.device)
        v = self.model(x_t, t, self.told(index, generator))
        snr = self.schedule.alphas_cumprod[t.cpu()] / (1 - self.schedule.alphas_cumprod[t.cpu()])
        weight = (snr.clamp(max=self.gamma) / (snr + 1)).clamp(min=self.floor).float().to(self.device)
        target = self.schedule.velocity(x_0, noise, t)
        return ((v - target).square().mean((1, 2, 3)) * weight).mean()

    def told(self, index: Tensor, generator: torch.Generator) -> Encoded:
        """tau(c) of these rows, while learning without what is hidden from some of them."""
        given = self.data.layouts(index)
        if not self.learning:
            return self.expert.encoder(given.to(self.device))
        hidden = torch.rand(given.colours.shape, generator=generator) < self.unpainted
        colours = torch.where(hidden & (given.colours >= 0), len(COLOURS), given.colours)
        given = LayoutBatch(given.boxes, given.categories, colours, given.interactions)
        return self.expert.encoder(given.to(self.device), self.drop(len(index), generator))

    def drop(self, rows: int, generator: torch.Generator) -> Tensor:
        """Which of the rows lose their condition, bool (rows,)."""
        return (torch.rand(rows, generator=generator) < self.dropped).to(self.device)

    @torch.inference_mode()
    def evaluate(self, model: nn.Module) -> dict[str, Any]:
        """Weighted loss on held-out scenes, and what the judges find in samples of 64 held-out layouts."""
        mine, self.data, self.learning = self.data, self.latents("validation", 512), False
        generator = torch.Generator("cpu").manual_seed(1)
        losses = [float(self.loss(generator, 64)) for _ in range(16)]
        found = self.judged()
        self.data, self.learning = mine, True
        return {"weighted_v_loss": round(sum(losses) / len(losses), 5), "n": 1024, **found}

    def judged(self) -> dict[str, float]:
        """What the judges find in samples of the first 64 layouts of `data`."""
        count = min(64, len(self.data.scenes))
        layouts = [layout_of(self.data.scenes, k) for k in range(count)]
        asked = [Conditions(layout=layout) for layout in layouts]
        return success(sample(load_autoencoder(self.device, AUTOENCODER), self.expert, asked), layouts)


class TrainTrunk(TrainLayoutExpert):
    """Where both models start: the interaction model's first part, learnt once. No method needs its file."""

    name = "scenes-trunk"
    committed = False
    condition = "interaction"
    seed = 72
    recipe = Recipe(steps=2500, batch=32, lr=1e-3, ema=0.998)


class TrainInteraction(TrainLayoutExpert):
    """Boxes, categories and interactions; no colours."""

    name = "scenes-interaction"
    condition = "interaction"
    depends_on = (AUTOENCODER, "scenes-trunk")
    trunk = "scenes-trunk"
    seed = 74
    recipe = Recipe(steps=2000, batch=32, lr=1e-3, ema=0.998)


class TrainAttribute(TrainLayoutExpert):
    """Boxes, categories and colours; no interactions."""

    name = "scenes-attribute"
    condition = "attribute"
    depends_on = (AUTOENCODER, "scenes-trunk")
    trunk = "scenes-trunk"
    seed = 73
    recipe = Recipe(steps=1600, batch=32, lr=1e-3, ema=0.998)


class TrainStyle(TrainLayoutExpert):
    """The ground that a scene stands on, from a picture of other things on the same ground."""

    name = "scenes-style"
    condition = "style"
    depends_on = (AUTOENCODER, "scenes-interaction")
    trunk = "scenes-interaction"  # the trunk's own file is no part of the repository
    seed = 75
    recipe = Recipe(steps=1800, batch=32, lr=1e-3, ema=0.998)

    def latents(self, split: str, limit: int | None = None) -> SceneLatents:
        found = super().latents(split, limit)
        found.references = references(split, len(found.scenes))
        return found

    def told(self, index: Tensor, generator: torch.Generator) -> Encoded:
        references = self.data.references
        rows, mirrored = index % len(references), index >= len(references)
        pictures = references[rows]
        pictures = torch.where(mirrored[:, None, None, None], pictures.flip(2), pictures).to(self.device)
        return self.expert.encoder(pictures, self.drop(len(index), generator) if self.learning else None)

    def judged(self) -> dict[str, float]:
        """How far the grounds of samples are from those of their references, and from those of other references."""
        count = min(64, len(self.data.scenes))
        asked = [Conditions(style=self.data.references[k].numpy()) for k in range(count)]
        made = sample(load_autoencoder(self.device, AUTOENCODER), self.expert, asked).cpu()
        scenes = self.data.scenes.pictures(torch.arange(count))
        layouts = [layout_of(self.data.scenes, k) for k in range(count)]
        return {
            "ground_palette": grounds(made, scenes, layouts),
            "ground_palette_of_others": grounds(made.roll(1, 0), scenes, layouts),
        }


def grounds(images: Tensor, scenes: Tensor, layouts: list[Layout]) -> float:
    """Mean distance of the ground's colours (metrics/style/ground_palette.py) from the scenes', where no box lies."""
    from concord.metrics.style.ground_palette import ground_of, palette_distance

    found = []
    for image, truth, layout in zip(images.movedim(1, -1).numpy(), scenes.movedim(1, -1).numpy(), layouts, strict=True):
        ground = ground_of(layout, *image.shape[:2])
        found.append(palette_distance(image[ground], truth[ground]))
    return round(float(np.mean(found)), 3)


def references(split: str, count: int) -> Tensor:
    """The reference pictures of the first scenes of a split: uint8 (count, 64, 64, 3), kept on disk."""
    path = CACHE / f"synthscenes-{WORLD_SEED}-v{RENDERER_VERSION}-{split}-references-{count}.npy"
    if not path.is_file():
        drawn = [reference(index) for index in SPLITS[split][:count]]
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.save(file, np.stack(drawn))
    return torch.from_numpy(np.load(path, allow_pickle=False))


# ------------------------------------------------------------------------------------------------------------- figures


def layout_of(corpus: Scenes, row: int) -> Layout:
    """The layout of a row, with its interactions."""
    level = int((corpus.categories[row] >= 0).sum())
    names = [CATEGORIES[k] for k in corpus.categories[row, :level].tolist()]
    colours = [COLOURS[k] for k in corpus.colours[row, :level].tolist()]
    labels = [f"a {colour} {name}" for colour, name in zip(colours, names, strict=True)]
    triples = [(a, INTERACTIONS[kind], b) for a, kind, b in corpus.interactions[row].tolist() if kind >= 0]
    boxes = corpus.boxes[row, :level].double().numpy()
    return Layout.of(f"a photo of {' and '.join(labels)}", boxes, labels, str(row), triples)


@torch.inference_mode()
def sample(
    autoencoder: Autoencoder, expert: LayoutExpert, conditions: list[Conditions], guidance: float = 2.0, steps: int = 25
) -> Tensor:
    """Images (B, 3, 64, 64) of one model, row i from seed i."""
    schedule, device = Schedule.scaled_linear(), next(expert.parameters()).device
    images = []
    for first in range(0, len(conditions), 32):
        chunk = conditions[first : first + 32]
        generators = [torch.Generator("cpu").manual_seed(first + k) for k in range(len(chunk))]
        denoise = expert.bind(chunk, schedule, guidance)
        shape = (autoencoder.channels, 16, 16)
        images.append(autoencoder.decode(ddim(denoise, schedule, generators, shape, device, steps)))
    return torch.cat(images).clamp(0, 1)


def success(images: Tensor, layouts: list[Layout]) -> dict[str, float]:
    """What the judges find: shares of the instances in their place, and in their place and colour, and of the
    interactions that are seen between the right pair.
    """
    from concord.metrics.base import Observation
    from concord.metrics.layout.instances import observed_instances, observed_interactions
    from concord.metrics.networks.judges import open_judges

    judge = open_judges("embedded", images.device)
    seen = Observation(images.clamp(0, 1), [Conditions(layout=layout) for layout in layouts], judge)
    found = [one for instances in seen.memo(observed_instances) for one in instances]
    related = [right for rights in seen.memo(observed_interactions) for right in rights]
    return {
        "placed": round(float(np.mean([one.located for one in found])), 4),
        "placed_and_coloured": round(float(np.mean([one.success for one in found])), 4),
        "instances": len(found),
        **({"related": round(float(np.mean(related)), 4), "interactions": len(related)} if related else {}),
    }
