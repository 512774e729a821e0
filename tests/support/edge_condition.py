"""A condition of one's own in one file: the edge map of a face, an energy, a metric with its judge, and a method.

Nothing of Concord names it. It is found by `--plugin`, or by entry points of the groups that its classes belong to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import conv2d, pad

from concord.data.conditions.base import Condition, entry_file, read_png, register, write_png
from concord.data.datasets.item import Item
from concord.data.errors import ConcordError
from concord.methods.base import Batch, Method, Request, Trace
from concord.methods.base import register as register_method
from concord.methods.guidance.energies import Energy
from concord.metrics.base import Observation, SampleMetric, Score
from concord.metrics.base import register as register_metric

SOBEL = torch.tensor([[1.0, 2, 1], [0, 0, 0], [-1, -2, -1]]) / 8
SCHARR = torch.tensor([[3.0, 10, 3], [0, 0, 0], [-3, -10, -3]]) / 32


def edges(images: Tensor, kernel: Tensor) -> Tensor:
    """Strength of the edges of images (B, 3, H, W) in [0, 1]: (B, 1, H, W), by a kernel of derivatives."""
    grey = pad(images.mean(dim=1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    down, right = (conv2d(grey, k[None, None].to(images)) for k in (kernel, kernel.T))
    return (down.square() + right.square() + 1e-8).sqrt()


@register
class EdgeMap(Condition[np.ndarray]):
    """uint8 (H, W): strength of the edges, 255 where the image jumps from black to white."""

    name, title = "edge_map", "Edge map"
    format = "`edge_map/<id>.png`: 8-bit grey, the lighter the stronger the edge."

    gain: float = Field(2.0, gt=0)  # faces have soft edges

    @classmethod
    def has(cls, item: Item) -> bool:
        return item.has_image

    def read(self, item: Item, size: int) -> np.ndarray:
        return _edge_map(item.image(size), self.gain)

    @classmethod
    def check(cls, value: np.ndarray) -> None:
        if value.ndim != 2 or value.dtype != np.uint8:
            raise ConcordError(f"condition 'edge_map' has shape {value.shape} and type {value.dtype}: expected uint8")

    @classmethod
    def write(cls, value: np.ndarray, folder: Path, stem: str) -> dict[str, Any]:
        write_png(folder / f"{stem}.png", value)
        return {"file": f"{stem}.png"}

    @classmethod
    def parse(cls, entry: Mapping[str, Any], folder: Path) -> np.ndarray:
        return read_png(entry_file(entry, folder, cls.name), "L")

    @classmethod
    def draw(cls, value: np.ndarray, truth: np.ndarray | None, side: int) -> np.ndarray:
        return np.repeat(255 - value[..., None], 3, axis=2)

    @classmethod
    def example(cls, index: int) -> np.ndarray:
        from concord.data.synthetic import face

        return _edge_map(face(index).image, 2.0)


def _edge_map(image: np.ndarray, gain: float) -> np.ndarray:
    strength = edges(torch.from_numpy(image.copy()).movedim(-1, 0)[None].float() / 255, SOBEL)
    return np.asarray((strength[0, 0] * gain).clamp(0, 1).mul(255).round().to(torch.uint8))


class EdgeEnergy(Energy):
    """|| edges(image) - edge map ||, by Sobel's kernel."""

    condition = "edge_map"

    def __init__(self, requests: Sequence[Request]) -> None:
        maps = np.stack([request.conditions["edge_map"] for request in requests])
        self.target = torch.from_numpy(maps)[:, None].float() / 255

    def residual(self, images: Tensor, target: Tensor) -> Tensor:
        return (edges(images, SOBEL) * 2).clamp(0, 1) - target


@register_method
class EdgeGuided(Method):
    """Noise that follows the energy's gradient."""

    name, title, paper = "edge-guided", "Edge guided", "none"
    conditions = frozenset({"edge_map"})
    training_free = True

    class Params(Method.Params):
        steps: int = Field(60, ge=1)
        rate: float = Field(0.5, gt=0)

    def sample(self, batch: Batch, trace: Trace) -> Tensor:
        side = batch.conditions[0]["edge_map"].shape[0]
        energy = EdgeEnergy(batch.requests)
        x = torch.stack([torch.rand(3, side, side, generator=g) for g in batch.generators]) * 0.2 + 0.4
        for _ in range(self.params.steps):
            x = x.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(energy(x).sum(), x)
            x = (x - self.params.rate * gradient).clamp(0, 1)
        return x.detach()


@register_metric
class EdgeCorrelation(SampleMetric):
    """Correlation of the edge map asked for with the image's edges, by a judge (Scharr) that guides no method."""

    name, label, unit = "edge-correlation", "Edges", ""
    higher_is_better = True
    bounds = (-1.0, 1.0)
    needs = frozenset({"edge_map"})

    def score(self, observation: Observation) -> list[Score]:
        self.require_conditions(observation)
        strengths = edges(observation.images, SCHARR)[:, 0].double().cpu().numpy()
        values = [
            float(np.corrcoef(strength.ravel(), condition["edge_map"].ravel())[0, 1])
            for strength, condition in zip(strengths, observation.conditions, strict=True)
        ]
        return self.scores(values, "no edges")
