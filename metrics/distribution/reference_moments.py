"""A large reference without its images: what Frechet distances and KID need of it, in less than a megabyte.

The worlds of profile 'embedded' are drawn by programs, so that their reference can be as large as one likes. FID needs
its mean and covariance alone. KID's kernel is a polynomial of third degree,

    mean_y (x.y / D + 1)^3 = 1 + 3 x.m_1 / D + 3 x^T M_2 x / D^2 + M_3[x, x, x] / D^3

(M_k: the mean over y of its k-fold outer product), so that the mean over y follows exactly from three moments, and the
reference's mean kernel with itself is a number. No feature vector is kept. Metrics that count neighbours (precision,
recall) still compare with a sampled reference.

A file (`data/references/*.npz`) holds such moments by kind of features and, as JSON, of which images they are and which
network gave the features. `python -m concord.benchmarks.large_reference` remakes it.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np

from concord.data.errors import ConcordError
from concord.data.files import atomic_path
from concord.metrics.distribution.moments import Floats, Moments

FORMAT = 1
BLOCK = 256  # feature vectors whose third powers are in memory at once


@dataclass(frozen=True)
class ReferenceMoments:
    """Moments of M feature vectors of D dimensions.

    mean: (D,). covariance: (D, D), unbiased. third: (D (D + 1) (D + 2) / 6,), the mean of y_a y_b y_c for a <= b <= c,
    or empty where KID is not asked for. own_kernel: the mean of (y.y' / D + 1)^3 over all pairs of two images.
    """

    count: int
    mean: Floats
    covariance: Floats
    third: Floats = field(default_factory=lambda: np.zeros(0))
    own_kernel: float = float("nan")

    def __len__(self) -> int:
        return self.count

    @property
    def dimensions(self) -> int:
        return len(self.mean)

    def kernel_means(self, features: np.ndarray) -> Floats:
        """For each row x of (n, D), the mean over the reference of (x.y / D + 1)^3: float64 (n,)."""
        if not len(self.third):
            raise ConcordError("the reference's moments go up to the second order, and KID needs the third")
        d = self.dimensions
        second = self.covariance * ((self.count - 1) / self.count) + np.outer(self.mean, self.mean)
        a, b, c = _triples(d)
        weights = self.third * _orders(a, b, c)
        means = np.empty(len(features))
        for start in range(0, len(features), BLOCK):
            x = features[start : start + BLOCK].astype(np.float64)
            cubic = np.array([(row[a] * row[b] * row[c]) @ weights for row in x])  # of one image at a time: 8 D^3 / 6
            linear, square = x @ self.mean, np.einsum("ij,jk,ik->i", x, second, x)
            means[start : start + len(x)] = 1 + 3 * linear / d + 3 * square / d**2 + cubic / d**3
        return means

    @classmethod
    def of(cls, features: np.ndarray, cubic: bool = True) -> ReferenceMoments:
        """Of features (M, D); `cubic`: with what KID needs."""
        moments = Moments.of(features)
        if not cubic:
            return cls(moments.count, moments.mean, moments.covariance)
        a, b, c = _triples(features.shape[1])
        third = np.zeros(len(a))
        for start in range(0, len(features), BLOCK):
            x = features[start : start + BLOCK].astype(np.float64)
            for low in range(0, len(a), 4096):
                part = slice(low, low + 4096)
                third[part] += (x[:, a[part]] * x[:, b[part]] * x[:, c[part]]).sum(axis=0)
        m, d = features.shape
        found = cls(m, moments.mean, moments.covariance, third / m)
        itself = (np.square(features.astype(np.float64)).sum(axis=1) / d + 1) ** 3  # k(y, y), which is no pair
        own = float((m * found.kernel_means(features).mean() - itself.mean()) / (m - 1))
        return replace(found, own_kernel=own)


def _triples(dimensions: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices a <= b <= c of the packed third moment."""
    packed = np.array(list(combinations_with_replacement(range(dimensions), 3)), dtype=np.int64)
    return packed[:, 0], packed[:, 1], packed[:, 2]


def _orders(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """How many orders of (a, b, c) there are: 1, 3 or 6."""
    same = (a == b).astype(np.int64) + (b == c)
    return np.select([same == 2, same == 1], [1.0, 3.0], 6.0)


# ------------------------------------------------------------------------------------------------------------- the file


@dataclass(frozen=True)
class LargeReference:
    """The moments of a file by kind of features; `network`: the SHA-256 of the weights that gave the features."""

    path: Path
    about: Mapping[str, object]
    kinds: Mapping[str, ReferenceMoments]

    @property
    def network(self) -> str:
        return str(self.about["network"])

    def moments(self, kind: str, network: str) -> ReferenceMoments | None:
        """Of a kind of features, which another network must not have given; None where the file has no such kind."""
        found = self.kinds.get(kind)
        if found is not None and network != self.network:
            raise ConcordError(
                f"{self.path}: of features by a network {self.network[:12]}, these are by {network[:12]}; remake it "
                "with `python -m concord.benchmarks.large_reference`, or leave 'moments' out of the profile's dataset"
            )
        return found


def write_large_reference(path: Path, about: Mapping[str, object], kinds: Mapping[str, ReferenceMoments]) -> None:
    """One .npz of all kinds."""
    arrays: dict[str, np.ndarray] = {"about": np.array(json.dumps({"format": FORMAT, **about}, sort_keys=True))}
    for kind, moments in kinds.items():
        low = np.tril_indices(moments.dimensions)
        arrays |= {
            f"{kind}/count": np.array(moments.count),
            f"{kind}/mean": moments.mean,
            f"{kind}/covariance": moments.covariance[low],
            f"{kind}/third": moments.third,
            f"{kind}/own_kernel": np.array(moments.own_kernel),
        }
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_large_reference(path: Path) -> LargeReference:
    """The file's moments; ConcordError where it is damaged or of another format."""
    again = "remake it with `python -m concord.benchmarks.large_reference`"
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for name in file.files}
        about = json.loads(str(arrays.pop("about")))
        kinds = {kind: _unpacked(arrays, kind) for kind in _kinds(arrays)}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:90]
        raise ConcordError(f"{path}: no readable moments of a reference ({reason}); {again}") from None
    if about.get("format") != FORMAT:
        raise ConcordError(f"{path}: format {about.get('format')}, expected {FORMAT}; {again}")
    return LargeReference(path, about, kinds)


def _kinds(names: Iterable[str]) -> list[str]:
    return sorted({name.partition("/")[0] for name in names})


def _unpacked(arrays: Mapping[str, np.ndarray], kind: str) -> ReferenceMoments:
    mean = arrays[f"{kind}/mean"].astype(np.float64)
    covariance = np.zeros((len(mean), len(mean)))
    covariance[np.tril_indices(len(mean))] = arrays[f"{kind}/covariance"]
    covariance += np.tril(covariance, -1).T
    third, count = arrays[f"{kind}/third"].astype(np.float64), int(arrays[f"{kind}/count"])
    d = len(mean)
    if len(third) not in (0, d * (d + 1) * (d + 2) // 6) or count < 2:
        raise ValueError(f"'{kind}': {len(third)} third moments of {d} dimensions, {count} images")
    if not all(np.isfinite(array).all() for array in (mean, covariance, third)):
        raise ValueError(f"'{kind}' holds NaN or infinity")
    return ReferenceMoments(count, mean, covariance, third, float(arrays[f"{kind}/own_kernel"]))
