"""Detector and segmenter of the embedded world of layouts, behind the interface of metrics/layout/instances.py.

The detector finds centres of objects by category and the box around each (CenterNet; Zhou, Wang, Kraehenbuehl 2019).
The segmenter says which pixels of a box are the object in it (box prompts; Kirillov et al. 2023). Both look at 64 x 64
pixels: larger images, as the evaluator hands them over, are reduced first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample, interpolate, max_pool2d, pixel_unshuffle, softplus

from concord.data.errors import ConcordError
from concord.metrics.networks.embedded.blocks import ResidualBlock, load_perception

SIZE, GRID = 64, 32  # of the images, of the detector's map
PATCH = 32  # side of what the segmenter looks at
CONTEXT = 1.3  # its sides by those of the box
THRESHOLD = 0.25  # of a centre's probability, as the benchmark's detector has it
OVERLAP = 0.8  # detections of one category that overlap more are one (as the evaluator's NMS)
EDGE = 0.5  # of a pixel's probability


class SceneDetector(nn.Module):
    """Images (B, 3, 64, 64) in [0, 1] -> centres' logits (B, K, 32, 32) and boxes (B, 4, 32, 32).

    boxes: the distances from the cell's middle to left, top, right and bottom, in shares of the image's side.
    """

    side = SIZE  # at which the evaluator looks: more pixels than the world's own would show nothing more

    def __init__(self, categories: Sequence[str], width: int = 24) -> None:
        super().__init__()
        self.categories = tuple(categories)
        w = width
        self.stem = nn.Sequential(nn.Conv2d(12, w, 3, padding=1), ResidualBlock(w))  # 32
        self.down1 = nn.Sequential(nn.Conv2d(w, 2 * w, 2, stride=2), ResidualBlock(2 * w), ResidualBlock(2 * w))  # 16
        self.down2 = nn.Sequential(nn.Conv2d(2 * w, 3 * w, 2, stride=2), ResidualBlock(3 * w), ResidualBlock(3 * w))
        self.middle = nn.Sequential(nn.Conv2d(3 * w, 3 * w, 2, stride=2), ResidualBlock(3 * w))  # 4
        self.up2 = nn.Sequential(nn.Conv2d(6 * w, 3 * w, 1), ResidualBlock(3 * w))  # 8
        self.up1 = nn.Sequential(nn.Conv2d(5 * w, 2 * w, 1), ResidualBlock(2 * w))  # 16
        self.up0 = nn.Sequential(nn.Conv2d(3 * w, w, 1), ResidualBlock(w))  # 32
        self.head = nn.Sequential(nn.GroupNorm(8, w), nn.SiLU(), nn.Conv2d(w, 2 * w, 3, padding=1), nn.SiLU())
        self.centres = nn.Conv2d(2 * w, len(self.categories), 1)
        self.sides = nn.Conv2d(2 * w, 4, 1)
        assert self.centres.bias is not None
        nn.init.constant_(self.centres.bias, -4.0)  # nearly all cells are no centre
        self._seen: tuple[str, np.ndarray, np.ndarray] | None = None

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x0 = self.stem(pixel_unshuffle(images * 2 - 1, 2))
        x1 = self.down1(x0)
        x2 = self.down2(x1)
        x = self.up2(torch.cat([_double(self.middle(x2)), x2], 1))
        x = self.up1(torch.cat([_double(x), x1], 1))
        x = self.head(self.up0(torch.cat([_double(x), x0], 1)))
        return self.centres(x), softplus(self.sides(x) - 2)

    def both_ways(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, but the mean over the images and their mirrors: of logits, and of the logarithms of distances.

        On held-out scenes it finds more and invents less than one look: a mirrored scene is as likely as the scene.
        """
        centres, sides = self(torch.cat([images, images.flip(-1)]))
        turned = sides[len(images) :].flip(-1)[:, [2, 1, 0, 3]]  # what was left of the cell is right of it
        return (
            (centres[: len(images)] + centres[len(images) :].flip(-1)) / 2,
            (sides[: len(images)] * turned).sqrt(),
        )

    def detect(self, image: np.ndarray, phrase: str) -> np.ndarray:
        """Boxes (N, 4) of every `phrase` in uint8 (H, W, 3) RGB: x1, y1, x2, y2, shares of width and height."""
        if phrase not in self.categories:
            raise ConcordError(
                f"category '{phrase}': the embedded detector knows {', '.join(self.categories)}; "
                "leave out the metrics that look through it, or score with profile 'paper'"
            )
        number = self.categories.index(phrase)
        small = reduced(image)
        key = hashlib.sha256(small.tobytes()).hexdigest()
        if self._seen is None or self._seen[0] != key:  # a layout asks for several categories of one image
            with torch.inference_mode():
                centres, sides = self.both_ways(_tensor(small, self))
            self._seen = (key, centres[0].sigmoid().cpu().numpy(), sides[0].cpu().numpy())
        return peaks(self._seen[1][number], self._seen[2])


def peaks(centres: np.ndarray, sides: np.ndarray, threshold: float = THRESHOLD) -> np.ndarray:
    """Boxes (N, 4) at the local maxima of (32, 32) probabilities, surest first, near-equal ones once."""
    from concord.metrics.networks.boxes import box_iou

    highest = max_pool2d(torch.from_numpy(np.array(centres))[None, None], 3, 1, 1)[0, 0].numpy()
    rows, columns = np.nonzero((centres >= threshold) & (centres == highest))
    order = np.argsort(-centres[rows, columns], kind="stable")
    boxes: list[np.ndarray] = []
    for row, column in zip(rows[order], columns[order], strict=True):
        x, y = (column + 0.5) / GRID, (row + 0.5) / GRID
        left, top, right, bottom = (float(v) for v in sides[:, row, column])
        box = np.array([x - left, y - top, x + right, y + bottom]).clip(0, 1)
        if not boxes or float(box_iou(box, np.stack(boxes)).max()) < OVERLAP:
            boxes.append(box)
    return np.stack(boxes) if boxes else np.zeros((0, 4))


class SceneSegmenter(nn.Module):
    """Patches (B, 4, 32, 32), the box with its surroundings and which of it is the box -> logits (B, 1, 32, 32)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        w = width
        self.stem = nn.Sequential(nn.Conv2d(4, w, 3, padding=1), ResidualBlock(w))  # 32
        self.down1 = nn.Sequential(nn.Conv2d(w, 2 * w, 2, stride=2), ResidualBlock(2 * w))  # 16
        self.down2 = nn.Sequential(nn.Conv2d(2 * w, 3 * w, 2, stride=2), ResidualBlock(3 * w), ResidualBlock(3 * w))
        self.up1 = nn.Sequential(nn.Conv2d(5 * w, 2 * w, 1), ResidualBlock(2 * w))
        self.up0 = nn.Sequential(nn.Conv2d(3 * w, w, 1), ResidualBlock(w))
        self.head = nn.Conv2d(w, 1, 1)

    def forward(self, patches: Tensor) -> Tensor:
        x0 = self.stem(patches)
        x1 = self.down1(x0)
        x = self.up1(torch.cat([_double(self.down2(x1)), x1], 1))
        return self.head(self.up0(torch.cat([_double(x), x0], 1)))

    def segment(self, image: np.ndarray, box: np.ndarray) -> np.ndarray:
        """Bool (H, W): the pixels of what is in the box (x1, y1, x2, y2 in [0, 1]) of uint8 (H, W, 3) RGB."""
        height, width = image.shape[:2]
        one = torch.as_tensor(np.array(box, dtype=np.float32)).reshape(1, 4)
        with torch.inference_mode():
            logits = self(cut(_tensor(reduced(image), self), one.to(next(self.parameters()).device))).cpu()
            mask = pasted(logits, one, height, width)[0] > 0
        return np.asarray(mask.numpy(), dtype=np.bool_)


def cut(images: Tensor, boxes: Tensor) -> Tensor:
    """Patches (B, 4, 32, 32): each box (B, 4) of an image (B, 3, H, W) in [0, 1] with its surroundings, and the box."""
    middle, half = _window(boxes)
    steps = ((torch.arange(PATCH, device=boxes.device, dtype=boxes.dtype) + 0.5) / PATCH * 2 - 1)[None]  # -1 .. 1
    x, y = (middle[:, k : k + 1] + half[:, k : k + 1] * steps for k in (0, 1))  # (B, 32), shares of the image
    grid = torch.stack([x[:, None].expand(-1, PATCH, -1), y[:, :, None].expand(-1, -1, PATCH)], -1)
    pixels = grid_sample(images * 2 - 1, grid * 2 - 1, align_corners=False, padding_mode="border")
    inside = (grid >= boxes[:, None, None, :2]) & (grid <= boxes[:, None, None, 2:])
    return torch.cat([pixels, inside.all(-1)[:, None].to(pixels.dtype)], 1)


def pasted(logits: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """Logits (B, 1, 32, 32) of patches back in their places: (B, H, W), far below 0 outside the boxes."""
    middle, half = _window(boxes)
    y, x = ((torch.arange(n, dtype=boxes.dtype) + 0.5) / n for n in (height, width))
    grid = torch.stack(
        [x[None, None, :].expand(len(boxes), height, -1), y[None, :, None].expand(len(boxes), -1, width)], -1
    )
    where = (grid - middle[:, None, None]) / half[:, None, None]
    sampled = grid_sample(logits, where, align_corners=False, padding_mode="border")[:, 0]
    inside = ((grid >= boxes[:, None, None, :2]) & (grid <= boxes[:, None, None, 2:])).all(-1)
    return torch.where(inside, sampled, torch.full_like(sampled, -10.0))


def _window(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Middle and half the sides (B, 2) of the boxes with their surroundings."""
    return (boxes[:, :2] + boxes[:, 2:]) / 2, CONTEXT * (boxes[:, 2:] - boxes[:, :2]) / 2


def reduced(image: np.ndarray) -> np.ndarray:
    """uint8 (64, 64, 3) of uint8 (H, W, 3)."""
    if image.shape[:2] == (SIZE, SIZE):
        return image
    import cv2

    return np.asarray(cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA))


def _tensor(image: np.ndarray, network: nn.Module) -> Tensor:
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    return pixels.to(next(network.parameters()).device)


def _double(x: Tensor) -> Tensor:
    return interpolate(x, scale_factor=2, mode="nearest")


class SceneInteractions(nn.Module):
    """Images (B, 3, 64, 64) in [0, 1] with boxes of a subject and an object (B, 4) each -> logits (B, 1 + K).

    Class 0: nothing of the kind goes from the first to the second; 1 + k: interaction k. Beside its colour, every pixel
    tells the network where it lies on the line from the subject's middle to the object's, and whether in which box.
    """

    def __init__(self, kinds: Sequence[str], width: int = 16) -> None:
        super().__init__()
        self.kinds = tuple(kinds)
        w = width
        self.stem = nn.Sequential(nn.Conv2d(28, 2 * w, 3, padding=1), ResidualBlock(2 * w))  # 32
        self.down1 = nn.Sequential(nn.Conv2d(2 * w, 3 * w, 2, stride=2), ResidualBlock(3 * w), ResidualBlock(3 * w))
        self.down2 = nn.Sequential(nn.Conv2d(3 * w, 4 * w, 2, stride=2), ResidualBlock(4 * w))  # 8
        self.norm = nn.Sequential(nn.GroupNorm(8, 4 * w), nn.SiLU())
        self.head = nn.Sequential(nn.Linear(3 * 4 * w, 4 * w), nn.SiLU(), nn.Linear(4 * w, 1 + len(self.kinds)))

    def forward(self, images: Tensor, subjects: Tensor, objects: Tensor) -> Tensor:
        planes = pair_planes(subjects, objects, images.shape[-1])
        x = self.stem(pixel_unshuffle(torch.cat([images * 2 - 1, planes], 1), 2))
        x = self.norm(self.down2(self.down1(x)))
        # what is seen where the subject, the object and the way between them are
        where = torch.nn.functional.adaptive_avg_pool2d(_places(planes), x.shape[-1])  # (B, 3, 8, 8)
        where = where / where.sum((2, 3), keepdim=True).clamp(min=1e-6)
        return self.head(torch.einsum("bchw,bkhw->bkc", x, where).flatten(1))

    def judge(self, image: np.ndarray, subject: np.ndarray, other: np.ndarray) -> str | None:
        """The interaction that uint8 (H, W, 3) RGB shows from the first box to the second, or None."""
        pixels = _tensor(reduced(image), self)
        boxes = [torch.as_tensor(np.array(box, dtype=np.float32)).reshape(1, 4).to(pixels) for box in (subject, other)]
        with torch.inference_mode():
            kind = int(self(pixels, *boxes).argmax(1))
        return self.kinds[kind - 1] if kind else None


def pair_planes(subjects: Tensor, objects: Tensor, size: int) -> Tensor:
    """Planes (B, 4, size, size) of boxes (B, 4) each: inside the subject, inside the object, along and across.

    along: 0 at the subject's middle, 1 at the object's, cut to -1..2. across: the distance from that line by its
    length, cut to -2..2, positive to the right of who looks from the subject to the object.
    """
    steps = (torch.arange(size, device=subjects.device, dtype=subjects.dtype) + 0.5) / size
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    inside = [
        (
            (x >= box[:, 0, None, None])
            & (x <= box[:, 2, None, None])
            & (y >= box[:, 1, None, None])
            & (y <= box[:, 3, None, None])
        ).to(subjects.dtype)
        for box in (subjects, objects)
    ]
    start, end = ((box[:, :2] + box[:, 2:]) / 2 for box in (subjects, objects))
    way = end - start
    length = way.square().sum(1).clamp(min=1e-4)[:, None, None]
    dx, dy = x - start[:, 0, None, None], y - start[:, 1, None, None]
    ux, uy = way[:, 0, None, None], way[:, 1, None, None]
    along = ((dx * ux + dy * uy) / length).clamp(-1, 2)
    across = ((dy * ux - dx * uy) / length).clamp(-2, 2)
    return torch.stack([*inside, along, across], 1)


def _places(planes: Tensor) -> Tensor:
    """(B, 3, H, W): the subject's box, the object's, and a band between their middles."""
    subject, other, along, across = planes.unbind(1)
    band = ((along > -0.1) & (along < 1.1) & (across.abs() < 0.35)).to(planes.dtype)
    return torch.stack([subject, other, band], 1)


def load_detector(path: Path, device: torch.device | str = "cpu") -> SceneDetector:
    """The detector of SynthScenes from its committed weights."""
    return load_perception(SceneDetector, path, device)


def load_segmenter(path: Path, device: torch.device | str = "cpu") -> SceneSegmenter:
    """The segmenter of SynthScenes from its committed weights."""
    return load_perception(SceneSegmenter, path, device)


def load_interactions(path: Path, device: torch.device | str = "cpu") -> SceneInteractions:
    """The judge of interactions of SynthScenes from its committed weights."""
    return load_perception(SceneInteractions, path, device)
