"""Latent diffusion models whose condition is a layout: what AMDM aggregates, at the embedded world's size.

    interaction   boxes, categories and interactions; it never hears of a colour (InteractDiffusion's part in the paper)
    attribute     boxes, categories and colours; it never hears of an interaction (MIGC's part)
    style         the palette and texture of a reference image, and no boxes (IP-Adapter's part)

A layout is told in two ways. Grounding tokens, one for each instance and each interaction, made from the Fourier
features of its boxes and from what it is, go into cross-attention (GLIGEN, Li et al. 2023; InteractDiffusion, Hoe et
al. 2024). And every instance is shaded into its box: at each of the 16 x 16 cells that its box covers, a small network
says from the instance and the place inside the box what is there, and how much of it is seen before the others, by a
softmax over the instances of the cell (the instance shading and its aggregation of MIGC, Zhou et al. 2024). The planes
that come of it are concatenated to x_t: a small model learns places from them much sooner than from attention.

Classifier-free guidance (Ho and Salimans 2022): eps = eps(null) + g (eps(c) - eps(null)). The null condition is a
learned token and empty planes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from concord.data.checkpoints import load_network
from concord.data.datasets.layouts.layout import COLOURS, Layout
from concord.data.errors import ConcordError
from concord.data.request import Conditions
from concord.data.synthetic.scenes.scene import CATEGORIES, INTERACTIONS
from concord.methods.core.schedule import Schedule
from concord.methods.networks.experts import IMAGE, LATENT, Bound, ConditionEncoder, Encoded, Expert
from concord.metrics.networks.embedded.blocks import ResidualBlock

MOST, MOST_INTERACTIONS = 6, 2  # instances and interactions that a layout may have
GRID = LATENT[1]
OCTAVES = 6  # of the Fourier features of a coordinate in [0, 1]
UNSEEN = -1e4  # logit of an instance where its box is not


@dataclass(frozen=True)
class LayoutBatch:
    """Layouts as tensors; rows past the last instance or interaction are -1 (boxes: 0).

    boxes: float32 (B, 6, 4) x1, y1, x2, y2 in [0, 1]. categories, colours: int64 (B, 6), numbers in
    data.synthetic.scenes.CATEGORIES and data.layouts.COLOURS; an instance of any colour has len(COLOURS).
    interactions: int64 (B, 2, 3): subject, number in data.synthetic.scenes.INTERACTIONS, object.
    """

    boxes: Tensor
    categories: Tensor
    colours: Tensor
    interactions: Tensor

    def to(self, device: torch.device | str) -> LayoutBatch:
        parts = (self.boxes, self.categories, self.colours, self.interactions)
        return LayoutBatch(*(part.to(device) for part in parts))

    def __len__(self) -> int:
        return len(self.boxes)


def layout_batch(conditions: Sequence[Conditions]) -> LayoutBatch:
    """The layouts of a batch of conditions.

    Raises ConcordError where a layout has more instances or interactions than the models take, or names a category,
    colour or kind of interaction that they do not know.
    """
    n = len(conditions)
    boxes = np.zeros((n, MOST, 4), np.float32)
    categories, colours = np.full((n, MOST), -1, np.int64), np.full((n, MOST), -1, np.int64)
    interactions = np.full((n, MOST_INTERACTIONS, 3), -1, np.int64)
    for row, condition in enumerate(conditions):
        layout = condition.layout
        if not isinstance(layout, Layout):
            raise ConcordError(f"condition 'layout' is {type(layout).__name__}: expected a data.layouts.Layout")
        triples = layout.interactions
        _check_size(layout, "instances", layout.level, MOST)
        _check_size(layout, "interactions", len(triples), MOST_INTERACTIONS)
        boxes[row, : layout.level] = layout.boxes
        for k, (category, colour) in enumerate(zip(layout.categories, layout.colours, strict=True)):
            categories[row, k] = _number(layout, "category", category, CATEGORIES)
            colours[row, k] = len(COLOURS) if colour is None else _number(layout, "colour", colour, COLOURS)
        for k, (subject, kind, other) in enumerate(triples):
            interactions[row, k] = subject, _number(layout, "interaction", kind, INTERACTIONS), other
    return LayoutBatch(*(torch.from_numpy(part) for part in (boxes, categories, colours, interactions)))


def _check_size(layout: Layout, what: str, found: int, most: int) -> None:
    if found > most:
        raise ConcordError(
            f"layout '{layout.caption}': {found} {what}; the embedded layout models take at most {most}: "
            "leave some out, or use profile 'paper'"
        )


def _number(layout: Layout, what: str, name: str, known: Sequence[str]) -> int:
    if name not in known:
        raise ConcordError(
            f"layout '{layout.caption}': {what} '{name}' is unknown to the embedded layout models; "
            f"expected one of {', '.join(known)}"
        )
    return list(known).index(name)


def fourier(x: Tensor, octaves: int = OCTAVES) -> Tensor:
    """sin and cos of pi 2^k x for k = 0 .. octaves - 1: (..., D) -> (..., 2 D octaves)."""
    angles = math.pi * x[..., None] * 2.0 ** torch.arange(octaves, device=x.device, dtype=x.dtype)
    return torch.cat([angles.sin(), angles.cos()], -1).flatten(-2)


class Shading(nn.Module):
    """What of several things is seen in each cell: planes (B, P, 16, 16) from what each is and where the cell lies.

    A cell that nothing covers gets zeros. The order of the things does not matter.
    """

    def __init__(self, named: int, placed: int, planes: int, hidden: int = 64) -> None:
        super().__init__()
        self.planes = planes
        self.network = nn.Sequential(
            nn.Linear(named + placed, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, planes + 1),
        )

    def forward(self, named: Tensor, placed: Tensor, covers: Tensor) -> Tensor:
        """named (B, K, D), placed (B, K, 16, 16, E), covers bool (B, K, 16, 16)."""
        batch, thing, row, column = covers.nonzero(as_tuple=True)
        found = self.network(torch.cat([named[batch, thing], placed[batch, thing, row, column]], -1))  # (M, P + 1)
        shape = covers.shape
        logits = found.new_full(shape, UNSEEN)
        logits[batch, thing, row, column] = found[:, 0]
        values = found.new_zeros(*shape, self.planes)
        values[batch, thing, row, column] = found[:, 1:]
        nothing = logits.new_zeros(shape[0], 1, *shape[2:])
        seen = torch.cat([logits, nothing], 1).softmax(1)[:, :-1]  # (B, K, 16, 16)
        return (seen[..., None] * values).sum(1).movedim(-1, 1)


class LayoutEncoder(ConditionEncoder[LayoutBatch]):
    """tau(c) of a layout: tokens and planes of its instances, and of their colours or interactions, as is asked for."""

    def __init__(
        self,
        width: int,
        colours: bool = False,
        interactions: bool = False,
        named: int = 32,
        shade: int = 24,
        marks: int = 16,
    ) -> None:
        super().__init__()
        self.planes = shade + (marks if interactions else 0)
        self.null = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.category = nn.Embedding(len(CATEGORIES), named)
        self.colour = nn.Embedding(len(COLOURS) + 1, named) if colours else None
        self.kind = nn.Embedding(len(INTERACTIONS), named) if interactions else None
        self.instance_token = _token(named + 8 * OCTAVES, width)
        self.shading = Shading(named, 4 * 3 + 2 + 1 + 2, shade)
        if interactions:
            self.interaction_token = _token(3 * named + 16 * OCTAVES, width)
            self.marking = Shading(named, 2 * 3 + 3 + 4 + 5 * 3, marks)

    def prepare(self, conditions: Sequence[Conditions]) -> LayoutBatch:
        return layout_batch(conditions)

    def forward(self, given: LayoutBatch, drop: Tensor | None = None) -> Encoded:
        """drop: bool (B,), the rows that get the null condition in place of their own."""
        there = given.categories >= 0  # (B, 6)
        named = self.category(given.categories.clamp(min=0))  # (B, 6, D)
        kinds = named
        if self.colour is not None:
            named = named + self.colour(given.colours.clamp(min=0))
        tokens = [self.instance_token(torch.cat([named, fourier(given.boxes)], -1))]
        keep = [there]
        planes = [self.shading(named, *placed_in_boxes(given.boxes, there))]
        if self.kind is not None:
            ends = given.interactions.clamp(min=0)
            related = given.interactions[..., 1] >= 0  # (B, 2)
            rows = torch.arange(len(given), device=ends.device)[:, None]
            kind = self.kind(ends[..., 1])
            boxes = [given.boxes[rows, ends[..., k]] for k in (0, 2)]  # (B, 2, 4) each
            parts = [kind, *(kinds[rows, ends[..., k]] for k in (0, 2)), *map(fourier, boxes)]
            tokens.append(self.interaction_token(torch.cat(parts, -1)))
            keep.append(related)
            planes.append(self.marking(kind, *placed_between(boxes[0], boxes[1], related)))
        return nullified(
            Encoded(torch.cat(tokens, 1), torch.cat(keep, 1).float(), torch.cat(planes, 1)), self.null, drop
        )


def _token(features: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))


def nullified(encoded: Encoded, null: Tensor, drop: Tensor | None) -> Encoded:
    """With the null condition in the rows of `drop` (B,): the token `null` (1, 1, D) alone, and no planes."""
    if drop is None:
        return encoded
    assert encoded.keep is not None
    first = torch.zeros_like(encoded.keep)
    first[:, 0] = 1
    return Encoded(
        torch.where(drop[:, None, None], null, encoded.tokens),
        torch.where(drop[:, None], first, encoded.keep),
        None if encoded.planes is None else encoded.planes * ~drop[:, None, None, None],
    )


def placed_in_boxes(boxes: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Where each cell lies in each box (B, K, 16, 16, 17), and which cells the box covers, bool (B, K, 16, 16).

    Shares of the box's width and height with their Fourier features, the share of the cell that is covered, and the
    logarithm of the box's width and height.
    """
    steps = (torch.arange(GRID, device=boxes.device, dtype=boxes.dtype) + 0.5) / GRID
    low, size = boxes[..., :2], (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-3)
    inside = (steps - low[..., None]) / size[..., None]  # (B, K, 2, 16)
    shared = torch.minimum(boxes[..., 2:, None], steps + 0.5 / GRID) - torch.maximum(low[..., None], steps - 0.5 / GRID)
    covered = (shared * GRID).clamp(0, 1)
    cover = covered[:, :, 1, :, None] * covered[:, :, 0, None, :]  # (B, K, 16, 16)
    place = _over_grid(inside)  # (B, K, 16, 16, 2)
    sizes = size.log()[:, :, None, None].expand(*place.shape)
    placed = torch.cat([place, fourier(place, 3), cover[..., None], sizes], -1)
    return placed, (cover > 0) & there[:, :, None, None]


def placed_between(subject: Tensor, other: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Where each cell lies to two boxes (B, K, 4): (B, K, 16, 16, 28), and the cells around them, bool (B, K, 16, 16).

    Along the line from middle to middle (0 to 1) and in either box; and in cells, since what is drawn there is thinner
    than a cell, across that line, past the subject's edge, before the object's, to the ellipse round the object and
    below its top.
    """
    steps = (torch.arange(GRID, device=subject.device, dtype=subject.dtype) + 0.5) / GRID
    a, b = ((box[..., :2] + box[..., 2:]) / 2 for box in (subject, other))  # (B, K, 2)
    length = (b - a).norm(dim=-1, keepdim=True).clamp(min=1e-3)
    unit = (b - a) / length
    cells = _over_grid(steps.expand(*subject.shape[:2], 2, GRID))  # (B, K, 16, 16, 2)
    away = cells - a[:, :, None, None]
    x, y = unit[:, :, None, None].unbind(-1)  # (B, K, 1, 1)
    along = ((away[..., 0] * x + away[..., 1] * y) / length[:, :, None])[..., None]
    across = (away[..., 1] * x - away[..., 0] * y)[..., None]
    inside, reach = [], []
    for box in (subject, other):
        size = (box[..., 2:] - box[..., :2]).clamp(min=1e-3)
        inside.append((cells - box[..., :2][:, :, None, None]) / size[:, :, None, None])
        reach.append((size / 2 / unit.abs().clamp(min=1e-3)).amin(-1)[:, :, None, None, None])
    half = (other[..., 2:] - other[..., :2]).clamp(min=1e-3) / 2
    around_it = ((inside[1] * 2 - 1).norm(dim=-1, keepdim=True) - 1) * half.mean(-1)[:, :, None, None, None]
    path = along * length[:, :, None, None]
    past, before = path - reach[0], length[:, :, None, None] - reach[1] - path
    below = cells[..., 1:] - other[..., 1][:, :, None, None, None]
    near = torch.cat([across, past, before, around_it, below], -1) * GRID  # in cells
    directions = torch.cat([unit, length], -1)[:, :, None, None].expand(*along.shape[:-1], 3)
    narrow = [(near / 4).clamp(-2, 2), torch.exp(-near.square() / 2), near.tanh()]
    placed = torch.cat(
        [fourier(along.clamp(-0.5, 1.5), 3), directions, torch.cat(inside, -1).clamp(-1, 2), *narrow], -1
    )
    low, high = torch.minimum(subject, other)[..., :2] - 1 / GRID, torch.maximum(subject, other)[..., 2:] + 1 / GRID
    around = ((cells > low[:, :, None, None]) & (cells < high[:, :, None, None])).all(-1)
    return placed, around & there[:, :, None, None]


def _over_grid(axes: Tensor) -> Tensor:
    """(B, K, 2, 16), a value for each column and for each row -> (B, K, 16, 16, 2)."""
    x = axes[:, :, 0, None, :].expand(-1, -1, GRID, -1)
    y = axes[:, :, 1, :, None].expand(-1, -1, -1, GRID)
    return torch.stack([x, y], -1)


class StyleEncoder(ConditionEncoder[Tensor]):
    """tau(c) of a reference image: a few tokens that queries gather from all over it (as IP-Adapter's four)."""

    planes = 0

    def __init__(self, width: int, tokens: int = 4, channels: int = 32) -> None:
        super().__init__()
        self.null = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.look = nn.Sequential(
            nn.Conv2d(3, channels, 4, stride=4),
            ResidualBlock(channels),
            nn.Conv2d(channels, width, 2, stride=2),
        )
        self.queries = nn.Parameter(torch.randn(1, tokens, width) * 0.1)
        self.gather = nn.MultiheadAttention(width, 4, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.out = _token(2 * width, width)

    def prepare(self, conditions: Sequence[Conditions]) -> Tensor:
        """Pictures uint8 (B, 64, 64, 3)."""
        pictures = []
        for condition in conditions:
            style = condition.style
            assert style is not None
            if style.shape != (IMAGE, IMAGE, 3) or style.dtype != np.uint8:
                raise ConcordError(
                    f"condition 'style' has shape {style.shape} and type {style.dtype}: "
                    f"the embedded models expect uint8 ({IMAGE}, {IMAGE}, 3)"
                )
            pictures.append(torch.from_numpy(np.array(style)))
        return torch.stack(pictures)

    def forward(self, given: Tensor, drop: Tensor | None = None) -> Encoded:
        """given: uint8 (B, 64, 64, 3); drop: as LayoutEncoder's."""
        seen = self.norm(self.look(given.movedim(-1, 1).float() / 127.5 - 1).flatten(2).movedim(1, 2))  # (B, 64, D)
        queries = self.queries.expand(len(given), -1, -1)
        found = self.gather(queries, seen, seen, need_weights=False)[0]
        mean = seen.mean(1, keepdim=True).expand_as(found)
        tokens = queries + self.out(torch.cat([found, mean], -1))
        return nullified(Encoded(tokens, torch.ones(tokens.shape[:2], device=tokens.device)), self.null, drop)


KINDS: dict[str, tuple[str, dict[str, Any]]] = {  # name -> the condition that it takes, what its encoder is told
    "interaction": ("layout", {"interactions": True}),
    "attribute": ("layout", {"colours": True}),
    "style": ("style", {}),
}


class LayoutExpert(Expert):
    """eps_theta_m of one of `KINDS`; forward predicts v."""

    def make_encoder(self, condition: str, width: int, encoder: dict[str, Any]) -> ConditionEncoder[Any]:
        given, told = KINDS[condition]
        return LayoutEncoder(width, **told, **encoder) if given == "layout" else StyleEncoder(width, **encoder)

    def bind(self, conditions: Sequence[Conditions], schedule: Schedule, guidance: float = 1.0) -> Bound:
        """This model with its condition fixed: a denoiser. guidance: g of the file's head; 1 is none."""
        if guidance == 1:
            return super().bind(conditions, schedule)
        given = self.encoder.prepare(conditions).to(next(self.parameters()).device)
        own = self.encoder(given)
        null = self.encoder(given, torch.ones(len(given), dtype=torch.bool, device=own.tokens.device))
        planes = None if own.planes is None else torch.cat([null.planes, own.planes])
        both = replace(
            own, tokens=torch.cat([null.tokens, own.tokens]), keep=torch.cat([null.keep, own.keep]), planes=planes
        )
        return Guided(self, both, schedule, guidance)


@dataclass(frozen=True)
class Guided(Bound):
    """Classifier-free guidance; both predictions come from one evaluation of twice the rows.

    encoded: of 2 B rows, the null conditions first.
    """

    guidance: float

    def __call__(self, x_t: Tensor, t: int) -> Tensor:
        """The guided noise, like x_t."""
        null, own = self.expert(torch.cat([x_t, x_t]), t, self.encoded).chunk(2)
        v = null + self.guidance * (own - null)
        return self.schedule.eps_from_velocity(v, x_t, t)


def load_layout_expert(path: Path, device: torch.device | str = "cpu") -> LayoutExpert:
    """A layout model of SynthScenes from its committed weights; its card says of which kind."""
    return load_network(LayoutExpert, path, device)
