"""Precision and recall: how much of what is made is real, and how much of what is real is made.

A set's manifold is the union of balls around its images' features, each reaching to that image's k-th nearest
neighbour in the set (Kynkaanniemi et al. 2019, "Improved precision and recall").

    precision = share of generated images in the manifold of the reference        0 .. 1, higher is better
    recall    = share of reference images in the manifold of the generated        0 .. 1, higher is better

Three definitions are in use, which do not compare, so each has its names:

    precision, recall             k = 3, a ball holds its border (<=): that paper, torch-fidelity
    precision-adm, recall-adm     the same, with squared distances in float16 as ADM's evaluator takes them first, and
                                  in float32 where a block of 10,000 x 10,000 is not finite: up to 0.012 away
    precision-prdc, recall-prdc   k = 5, it does not (<): Naeem et al. 2020, the package prdc, dgm-eval

That paper reads VGG16 features; ADM and this file read the features of FID (the '-tf' names: by TensorFlow's resize, as
ADM). Both numbers depend on both set sizes, since larger sets have smaller balls.

Distances are float64, by tiles: 8 MiB at a time whatever the number of images. Squared distances below the rounding of
the squares they are taken from count as 0, so that copies of an image are at distance 0 wherever they stand.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from concord.data.errors import ConcordError
from concord.metrics.base import SetMetric, group_sizes, register
from concord.metrics.distribution.influence import half_replicates, influence_replicates
from concord.metrics.distribution.moments import Floats

TILE = 1024
"""Distances are made in tiles of TILE x TILE."""


class Manifold(SetMetric):
    """What precision and recall share: the neighbour k that a ball reaches to, and whether it holds its border."""

    unit = ""
    higher_is_better = True
    bounds = (0.0, 1.0)
    minimum_n = 50
    networks = ("features",)
    k: ClassVar[int] = 3
    closed: ClassVar[bool] = True

    def check_neighbours(self, n: int, side: str) -> None:
        """Raise ConcordError where n images have no k-th neighbour."""
        if n <= self.k:
            raise ConcordError(
                f"metric '{self.name}': {n} {side} image(s), a nearest neighbour number {self.k} needs {self.k + 1}"
            )


@register
class Precision(Manifold):
    """Share of generated images inside a ball of the reference."""

    name = "precision"
    label = "Precision"

    def inside(self, generated: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """bool (N,), one for each generated image."""
        self.check_features(generated, reference)
        self.check_neighbours(len(reference), "reference")
        return covered(generated, reference, neighbour_radii(reference, self.k), self.closed)

    def compute(self, generated: np.ndarray, reference: np.ndarray) -> float:
        return float(self.inside(generated, reference).mean())

    def replicates(self, generated: np.ndarray, reference: np.ndarray, items: np.ndarray) -> Floats:
        """A mean over images: each one's influence is whether it is inside, less the mean."""
        inside = self.inside(generated, reference).astype(np.float64)
        return influence_replicates(float(inside.mean()), inside - inside.mean(), items)

    def leave_group_out(self, generated: np.ndarray, reference: np.ndarray, groups: np.ndarray) -> np.ndarray:
        sizes = group_sizes(groups, len(generated))
        inside = self.inside(generated, reference)
        return np.asarray((inside.sum() - np.bincount(groups, inside)) / (len(generated) - sizes))


@register
class Recall(Manifold):
    """Share of reference images inside a ball of the generated ones."""

    name = "recall"
    label = "Recall"

    def compute(self, generated: np.ndarray, reference: np.ndarray) -> float:
        self.check_features(generated, reference)
        self.check_neighbours(len(generated), "generated")
        return float(covered(reference, generated, neighbour_radii(generated, self.k), self.closed).mean())

    def replicates(self, generated: np.ndarray, reference: np.ndarray, items: np.ndarray) -> Floats:
        """By halves of the items: balls that end at a neighbour have no influence function (see influence.py)."""
        if (int(items.max(initial=-1)) + 1) // 2 <= self.k:  # a half has to have a k-th neighbour
            return super().replicates(generated, reference, items)
        return half_replicates(
            self.compute(generated, reference), lambda half: self.compute(generated[half], reference), items
        )

    def leave_group_out(self, generated: np.ndarray, reference: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """Exact, in one pass over the distances: balls whose neighbours leave grow, the others stay."""
        self.check_features(generated, reference)
        sizes = group_sizes(groups, len(generated))
        self.check_neighbours(len(generated) - int(sizes.max()), "generated (without one of the groups)")
        radius, grown = _radii_without(generated, groups, self.k)
        members = [np.flatnonzero(groups == g) for g in range(len(sizes))]
        held = np.zeros(len(sizes))
        for i in range(0, len(reference), TILE):
            rows = reference[i : i + TILE]
            by_group = np.zeros((len(rows), len(sizes)), dtype=bool)  # held by a ball of group h as it is
            by_grown = np.zeros_like(by_group)  # held by a ball that grew when group g left
            for h, member in enumerate(members):
                for j in range(0, len(member), TILE):
                    part = member[j : j + TILE]
                    distances = squared_distances(rows, generated[part])
                    by_group[:, h] |= _within(distances, radius[part], self.closed)
                    larger = grown[part] > radius[part, None]  # (n, G)
                    for g in np.flatnonzero(larger.any(axis=0)):
                        if g != h:
                            column = larger[:, g]
                            by_grown[:, g] |= _within(distances[:, column], grown[part[column], g], self.closed)
            others = by_group.sum(axis=1, keepdims=True) - by_group > 0  # held without group g
            held += (others | by_grown).sum(axis=0)
        return np.asarray(held / len(reference))


@register
class PrecisionTensorFlow(Precision):
    """Precision by the protocol of TensorFlow 1 and ADM's evaluator (see metrics/distribution/fid.py)."""

    name = "precision-tf"
    label = "Precision (TF)"
    features = "pool-tf"


@register
class RecallTensorFlow(Recall):
    """Recall by the protocol of TensorFlow 1 and ADM's evaluator (see metrics/distribution/fid.py)."""

    name = "recall-tf"
    label = "Recall (TF)"
    features = "pool-tf"


@register
class PrecisionADM(PrecisionTensorFlow):
    """Precision with the half-precision distances of ADM's evaluator."""

    name = "precision-adm"
    label = "Precision (ADM, float16)"

    def inside(self, generated: np.ndarray, reference: np.ndarray) -> np.ndarray:
        self.check_features(generated, reference)
        self.check_neighbours(len(reference), "reference")
        return half_covered(generated, reference, half_radii(reference, self.k))


@register
class RecallADM(RecallTensorFlow):
    """Recall with the half-precision distances of ADM's evaluator."""

    name = "recall-adm"
    label = "Recall (ADM, float16)"

    def compute(self, generated: np.ndarray, reference: np.ndarray) -> float:
        self.check_features(generated, reference)
        self.check_neighbours(len(generated), "generated")
        return float(half_covered(reference, generated, half_radii(generated, self.k)).mean())

    def leave_group_out(self, generated: np.ndarray, reference: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """Anew for every group: rounded distances have no exact update."""
        count = len(group_sizes(groups, len(generated)))
        return np.array([self.compute(generated[groups != group], reference) for group in range(count)])


@register
class PrecisionPRDC(Precision):
    """Precision as the package prdc defines it: open balls, k = 5."""

    name = "precision-prdc"
    label = "Precision (prdc)"
    k, closed = 5, False


@register
class RecallPRDC(Recall):
    """Recall as the package prdc defines it: open balls, k = 5."""

    name = "recall-prdc"
    label = "Recall (prdc)"
    k, closed = 5, False


def squared_distances(x: np.ndarray, y: np.ndarray) -> Floats:
    """|x_i - y_j|^2 for each pair of rows: (n, D), (m, D) -> float64 (n, m), never negative."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    squares = np.square(x).sum(axis=1)[:, None] + np.square(y).sum(axis=1)
    distances = x @ y.T
    distances *= -2
    distances += squares
    squares *= x.shape[1] * np.finfo(np.float64).eps  # what rounding may leave of a distance that is 0
    distances[distances < squares] = 0
    return np.asarray(distances)


def neighbour_radii(x: np.ndarray, k: int) -> Floats:
    """Squared distance of each row of (n, D) to its k-th nearest other row: float64 (n,); n > k."""
    nearest = np.full((len(x), k), np.inf)
    for i in range(0, len(x), TILE):
        for j in range(i, len(x), TILE):  # each pair once
            rows, columns = slice(i, i + TILE), slice(j, j + TILE)
            tile = squared_distances(x[rows], x[columns])
            if i == j:
                np.fill_diagonal(tile, np.inf)  # its own neighbour it is not; its copies are
            else:
                nearest[columns] = _smallest(np.hstack([nearest[columns], tile.T]), k)
            nearest[rows] = _smallest(np.hstack([nearest[rows], tile]), k)
    return np.asarray(nearest.max(axis=1))


def covered(points: np.ndarray, centres: np.ndarray, radii: Floats, closed: bool) -> np.ndarray:
    """Which rows of points (n, D) lie in a ball around a row of centres (m, D) of squared radius (m,): bool (n,)."""
    inside = np.zeros(len(points), dtype=bool)
    for i in range(0, len(points), TILE):
        for j in range(0, len(centres), TILE):
            tile = squared_distances(points[i : i + TILE], centres[j : j + TILE])
            inside[i : i + TILE] |= _within(tile, radii[j : j + TILE], closed)
    return inside


HALF_BLOCK = 10_000
"""Rows and columns of one block of distances in ADM's evaluator, which falls back to float32 block by block."""


def half_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared distances (n, m) of one block in float16, as float32; in float32 where one of them is not finite.

    Each operation of ADM's `_batch_pairwise_distances` (evaluations/evaluator.py) rounds to float16. Inferred: sums of
    squares and products of matrices are accumulated in float32 and rounded once, as GPUs do.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        u, v = x.astype(np.float16), y.astype(np.float16)
        squares = [(z * z).astype(np.float32).sum(axis=1).astype(np.float16) for z in (u, v)]
        products = (u.astype(np.float32) @ v.astype(np.float32).T).astype(np.float16)
        half = np.maximum(squares[0][:, None] - np.float16(2) * products + squares[1][None], np.float16(0))
    if np.isfinite(half).all():
        return half.astype(np.float32)
    u, v = x.astype(np.float32), y.astype(np.float32)
    whole = (u * u).sum(axis=1)[:, None] - 2 * (u @ v.T) + (v * v).sum(axis=1)[None]
    return np.asarray(np.maximum(whole, np.float32(0)))


def half_radii(x: np.ndarray, k: int) -> np.ndarray:
    """The (k + 1)-th smallest of each row's distances to all rows, itself among them: float32 (n,)."""
    radii = np.zeros(len(x), dtype=np.float32)
    for i in range(0, len(x), HALF_BLOCK):
        rows = x[i : i + HALF_BLOCK]
        nearest = np.full((len(rows), k + 1), np.inf, dtype=np.float32)
        for j in range(0, len(x), HALF_BLOCK):
            nearest = np.partition(np.hstack([nearest, half_distances(rows, x[j : j + HALF_BLOCK])]), k, axis=1)
            nearest = nearest[:, : k + 1]
        radii[i : i + HALF_BLOCK] = nearest.max(axis=1)
    return radii


def half_covered(points: np.ndarray, centres: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Which rows of points lie in a ball around a row of centres, by `half_distances`: bool (n,)."""
    inside = np.zeros(len(points), dtype=bool)
    for i in range(0, len(points), HALF_BLOCK):
        for j in range(0, len(centres), HALF_BLOCK):
            block = half_distances(points[i : i + HALF_BLOCK], centres[j : j + HALF_BLOCK])
            inside[i : i + HALF_BLOCK] |= (block <= radii[j : j + HALF_BLOCK]).any(axis=1)
    return inside


def _within(distances: Floats, radii: Floats, closed: bool) -> np.ndarray:
    return np.asarray((distances <= radii if closed else distances < radii).any(axis=1))


def _smallest(values: Floats, k: int) -> Floats:
    return np.asarray(np.partition(values, k - 1, axis=1)[:, :k])


def _radii_without(x: np.ndarray, groups: np.ndarray, k: int) -> tuple[Floats, Floats]:
    """Squared radii with all rows (n,), and with the rows of each group left out (n, G).

    Of each group no more than k rows can be among a row's k nearest, so the 2 k nearest that remain after each group
    has given its k nearest are enough: taking one group away leaves k.
    """
    count = int(groups.max()) + 1
    nearest = np.full((len(x), 2 * k), np.inf)
    owner = np.full((len(x), 2 * k), -1)
    for g in range(count):
        member = np.flatnonzero(groups == g)
        for i in range(0, len(x), TILE):
            rows = np.arange(i, min(i + TILE, len(x)))
            own = np.full((len(rows), k), np.inf)  # the k nearest in this group
            for j in range(0, len(member), TILE):
                part = member[j : j + TILE]
                tile = squared_distances(x[rows], x[part])
                tile[rows[:, None] == part] = np.inf
                own = _smallest(np.hstack([own, tile]), k)
            values = np.hstack([nearest[rows], own])
            owners = np.hstack([owner[rows], np.full((len(rows), k), g)])
            order = np.argpartition(values, 2 * k - 1, axis=1)[:, : 2 * k]
            nearest[rows] = np.take_along_axis(values, order, axis=1)
            owner[rows] = np.take_along_axis(owners, order, axis=1)
    without = [_smallest(np.where(owner == g, np.inf, nearest), k).max(axis=1) for g in range(count)]
    return _smallest(nearest, k).max(axis=1), np.stack(without, axis=1)
