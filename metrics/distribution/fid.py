"""FID: the Frechet distance between two Gaussians fitted to feature vectors (Heusel et al. 2017, equation 6).

    FID = |mu_1 - mu_2|^2 + tr S_1 + tr S_2 - 2 tr (S_1 S_2)^(1/2)                     0 .. inf, lower is better

mu and S are mean and unbiased covariance (ddof = 1, as np.cov) of the features; float64 throughout. In profile
'embedded' the features are those of a 64-d network trained on SynthFaces: such a value is comparable only with others
of the same network. The name promises the distance, the score's record says which network.

Protocols. In profile 'paper' all read Inception's pool3 and differ in how an image reaches 299 x 299
(metrics/image/resize.py), which can move FID by more than two methods differ: each is a metric of its own, and no
column
mixes them.

    fid          clean-fid's antialiased bicubic resize
    fid-legacy   pytorch-fid's bilinear resize of [0, 1]: what Collaborative Diffusion's authors used
    fid-tf       TensorFlow 1's bilinear resize of 0..255: torch-fidelity, ADM's evaluator

The trace. S_1 S_2 is similar to R^T S_1 R for any R with R R^T = S_2, which is symmetric: its eigenvalues are real and
not negative, so tr (S_1 S_2)^(1/2) is the sum of their square roots, taken by `eigvalsh`. R is the Cholesky factor, or
where S_2 is singular or nearly so, V diag(w)^(1/2) of its `eigh`. The references take the square root of the
non-symmetric product (scipy.linalg.sqrtm: clean-fid, pytorch-fid) or its complex eigenvalues (torch-fidelity,
torchmetrics): the same number, several times slower, and with imaginary parts to explain away.

With fewer images than dimensions S_1 is singular. Its zero eigenvalues would each add the square root of a rounding
error, so the same trace is taken from the n x n matrix that holds the others: for centred features X (n, D),
R^T S_1 R = (X R)^T (X R) / (n - 1), which shares its non-zero eigenvalues with (X R)(X R)^T / (n - 1) (the squares of
the nuclear norm's singular values).

Bias. FID rises by about c/n above its limit, c depending on the model (Chong & Forsyth 2020), so values of different n
do not compare: only rows of equal n are, and an interval says where the FID *at this n* lies. It comes from the
influence function (metrics/distribution/influence.py), the derivative of the distance in the direction of one image:

    IF_i = 2 (mu_1 - mu_2)^T c_i + (c_i^T G c_i - mean_j c_j^T G c_j) n / (n - 1)        c_i = x_i - mu_1
    G = dFID/dS_1 = 1 - R (R^T S_1 R)^(-1/2) R^T

as d tr M^(1/2) = tr(M^(-1/2) dM) / 2. Of fewer images than dimensions c_i^T R (R^T S_1 R)^(-1/2) R^T c_i is (n - 1)
times the i-th diagonal entry of K^(1/2), K = C S_2 C^T / (n - 1). A naive bootstrap is invalid: repeated images shrink
the covariance and raise FID itself, past the interval's own end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from concord.data.errors import ConcordError
from concord.metrics.base import MomentMetric, group_sizes, register
from concord.metrics.distribution.influence import influence_replicates
from concord.metrics.distribution.moments import Floats, Moments
from concord.metrics.distribution.reference_moments import ReferenceMoments

NEGATIVE = 1e-8
"""A covariance's eigenvalues down to -NEGATIVE x the largest are rounding of float64; below that, it is an error."""
PIVOT = 1e-10
"""The Cholesky factor is taken while every squared pivot is above PIVOT x the largest variance."""


@register
class FID(MomentMetric):
    """Frechet distance of feature Gaussians; a squared distance in the features' unit."""

    name = "fid"
    label = "FID"
    unit = ""
    higher_is_better = False
    bounds = (0.0, math.inf)
    # The least n with which a paper reproduced here printed one (Collaborative Diffusion's Table 1, by its authors'
    # word). It is no promise of quality: see 'Bias' above, and the n and the ground-truth row in every table.
    minimum_n = 50
    networks = ("features",)
    paper_key: ClassVar[str | None] = "fid"
    version = 2  # 2: profile 'embedded' compares with the moments of 20,000 drawn images

    def compute(self, generated: np.ndarray, reference: np.ndarray | ReferenceMoments) -> float:
        self.check_features(generated, reference)
        gaussian = gaussian_of(reference)
        if fewer_than_dimensions(generated):
            return gaussian.distance_low_rank(generated.astype(np.float64))
        return gaussian.distance(Moments.of(generated))

    def replicates(self, generated: np.ndarray, reference: np.ndarray | ReferenceMoments, items: np.ndarray) -> Floats:
        self.check_features(generated, reference)
        value, influence = gaussian_of(reference).influence(generated.astype(np.float64))
        return influence_replicates(value, influence, items)

    def leave_group_out(
        self, generated: np.ndarray, reference: np.ndarray | ReferenceMoments, groups: np.ndarray
    ) -> np.ndarray:
        self.check_features(generated, reference)
        count = len(group_sizes(groups, len(generated)))
        gaussian = gaussian_of(reference)
        if fewer_than_dimensions(generated):
            features = generated.astype(np.float64)
            return np.array([gaussian.distance_low_rank(features[groups != g]) for g in range(count)])
        whole = Moments.of(generated)
        return np.array([gaussian.distance(whole - Moments.of(generated[groups == g])) for g in range(count)])


@register
class FIDLegacy(FID):
    """FID by pytorch-fid's protocol, with its weights."""

    name = "fid-legacy"
    label = "FID (pytorch-fid)"
    features = "pool-legacy"
    networks = ("features-legacy",)
    paper_key = None


@register
class FIDTensorFlow(FID):
    """FID by the protocol of TensorFlow 1, torch-fidelity and ADM's evaluator."""

    name = "fid-tf"
    label = "FID (TF)"
    features = "pool-tf"
    paper_key = None


def frechet_distance(generated: Moments, reference: Moments) -> float:
    """FID from sums alone, which can come from streams and merged shards."""
    return ReferenceGaussian.of(reference).distance(generated)


def gaussian_of(reference: np.ndarray | ReferenceMoments) -> ReferenceGaussian:
    """The reference's Gaussian, from its features (M, D) or its moments."""
    if isinstance(reference, np.ndarray):
        return ReferenceGaussian.of_features(reference)
    return ReferenceGaussian.of(Moments.of_statistics(reference.mean, reference.covariance, reference.count))


def fewer_than_dimensions(features: np.ndarray) -> bool:
    """Whether the covariance of features (N, D) is singular for want of images, and `distance_low_rank` the way."""
    return len(features) <= features.shape[1]  # n images span at most n - 1 dimensions around their mean


@dataclass(frozen=True)
class ReferenceGaussian:
    """The reference's Gaussian, ready to be compared with many: mean (D,), trace of S, and R (D, r) with R R^T = S."""

    mean: Floats
    trace: float
    root: Floats

    @classmethod
    def of(cls, reference: Moments) -> ReferenceGaussian:
        """The Gaussian of a set's moments; its square root costs a decomposition of (D, D)."""
        covariance = reference.covariance
        return cls(reference.mean, float(np.trace(covariance)), square_root(covariance))

    @classmethod
    def of_features(cls, reference: np.ndarray) -> ReferenceGaussian:
        """Of features (M, D). Of fewer images than dimensions R is their deviations, and nothing is decomposed."""
        if not fewer_than_dimensions(reference):
            return cls.of(Moments.of(reference))
        rows = reference.astype(np.float64)
        mean = rows.mean(axis=0)
        root = (rows - mean).T / math.sqrt(len(rows) - 1)  # (D, M)
        return cls(mean, float(np.square(root).sum()), root)

    def distance(self, generated: Moments) -> float:
        """FID of at least two images; exact where they outnumber the dimensions (else see `distance_low_rank`)."""
        covariance = generated.covariance
        cross = sum_of_roots(self.root.T @ covariance @ self.root)
        return self._assemble(generated.mean - self.mean, float(np.trace(covariance)), cross)

    def distance_low_rank(self, features: Floats) -> float:
        """FID of fewer images than dimensions, float64 (n, D)."""
        n = len(features)
        offset = features.mean(axis=0) - self.mean
        centred = features - features.mean(axis=0)
        projected = centred @ self.root  # (n, r)
        small = projected @ projected.T if n <= projected.shape[1] else projected.T @ projected  # (min(n, r),) * 2
        return self._assemble(offset, float(np.square(centred).sum() / (n - 1)), sum_of_roots(small / (n - 1)))

    def influence(self, features: Floats) -> tuple[float, Floats]:
        """FID of features (n, D) and the influence of each image on it (n,), which sums to zero."""
        n = len(features)
        mean = features.mean(axis=0)
        centred = features - mean
        offset = mean - self.mean
        projected = centred @ self.root  # (n, r)
        if n <= projected.shape[1]:
            values, vectors = np.linalg.eigh(projected @ projected.T / (n - 1))
            kept = _above_rounding(values)
            roots = np.sqrt(values[kept])
            explained = (n - 1) * (np.square(vectors[:, kept]) @ roots)  # (n,)
        else:
            values, vectors = np.linalg.eigh(projected.T @ projected / (n - 1))
            kept = _above_rounding(values)
            roots = np.sqrt(values[kept])
            explained = np.square(projected @ vectors[:, kept]) @ (1 / roots)
        curved = (np.square(centred).sum(axis=1) - explained) * n / (n - 1)  # c_i^T G c_i, of the unbiased covariance
        trace = float(np.square(centred).sum() / (n - 1))
        value = self._assemble(offset, trace, float(roots.sum()))
        return value, np.asarray(2 * centred @ offset + curved - curved.mean())

    def _assemble(self, offset: Floats, trace: float, cross: float) -> float:
        # A squared distance; between equal sets, rounding may leave it below 0 by about 1e-12 of the traces.
        return max(0.0, float(offset @ offset) + trace + self.trace - 2 * cross)


def square_root(covariance: Floats, rounding: float = 0.0) -> Floats:
    """R (D, r) with R R^T = covariance (D, D), r its numerical rank.

    rounding: the unit roundoff of whoever computed it, where that was not float64. The most negative eigenvalue then
    says how large the noise is, and positive ones of its size are left out as noise too.
    """
    try:
        lower = np.asarray(np.linalg.cholesky(covariance), dtype=np.float64)
    except np.linalg.LinAlgError:  # singular: an eigenvalue is 0 or below it by rounding
        lower = np.zeros_like(covariance)
    if np.square(np.diagonal(lower)).min() > PIVOT * np.diagonal(covariance).max():
        return lower
    values, vectors = np.linalg.eigh(covariance)
    if values[0] < -max(NEGATIVE, len(values) * rounding) * max(values[-1], 0.0):
        raise ConcordError(
            f"a covariance matrix has the eigenvalue {values[0]:.3g} beside {values[-1]:.3g}, and none may be that far "
            "below zero; compute the statistics again, in float64"
        )
    positive = _above_rounding(values)
    if rounding:
        positive &= values > 2 * abs(min(values[0], 0.0))
    return np.asarray(vectors[:, positive] * np.sqrt(values[positive]))


def sum_of_roots(matrix: Floats) -> float:
    """tr M^(1/2) of M = R^T S R (k, k), whose eigenvalues are below zero by rounding alone and then count as 0."""
    values = np.asarray(np.linalg.eigvalsh((matrix + matrix.T) / 2), dtype=np.float64)
    return float(np.sqrt(values[_above_rounding(values)]).sum())


def _above_rounding(values: Floats) -> np.ndarray:
    """Which of the ascending eigenvalues (k,) are more than rounding: above k x 2^-52 of the largest, as in a rank."""
    return values > len(values) * np.finfo(np.float64).eps * np.max(values, initial=0.0)
