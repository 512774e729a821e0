"""What a reference set is compared by, kept: features under a key of everything they follow from, and exchange files.

Features of a kind are kept as `<folder>/<key>.npz`, where the key is the SHA-256 of

    (SHA-256 of the images in their order, kind of features with its protocol, SHA-256 of the network's weights, dtype)

so that another image, order, resize, network or precision makes another key, and nothing is ever to be deleted by hand.

Exchange. A Gaussian of features, which is all that FID needs, goes in and out as the `.npz` that other tools keep:

    clean-fid, pytorch-fid    mu (D,), sigma (D, D)                        of pool3
    clean-fid, for KID        feats (N, D)                                 of pool3
    ADM's evaluator           mu, sigma, mu_s (2023,), sigma_s             of pool3, and of the spatial features

Such a file says neither with which resize it was made nor from how many images: whoever gives it as a reference vouches
for both. KID, precision and recall need the features themselves and refuse a file of mu and sigma.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from concord.data.errors import ConcordError
from concord.data.files import atomic_path
from concord.data.npz import read_npz
from concord.metrics.distribution.moments import Floats, Moments

if TYPE_CHECKING:
    from concord.metrics.distribution.fid import ReferenceGaussian

FORMAT = 1
"""Raised when features of the same images, kind and weights come out otherwise than before."""
FLOAT32 = float(np.finfo(np.float32).eps)
"""Other tools may compute a covariance in single precision: so far from exact, relative to its largest eigenvalue."""


def default_folder() -> Path:
    """`statistics/` in Concord's cache: beside the fetched weights."""
    from concord.data.download.manifest import cache_folder

    return cache_folder() / "statistics"


@dataclass(frozen=True)
class ReferenceKey:
    """What reference features follow from; two keys are the same file only where all of it is the same."""

    images: str  # ImageSet.fingerprint
    n: int
    kind: str  # as `Perception.features` calls it: the network's output and the protocol of its input
    network: str  # SHA-256 of its weights
    dtype: str = "float32"

    @property
    def digest(self) -> str:
        """SHA-256 of all facts: the name of the file."""
        facts = [FORMAT, self.images, self.n, self.kind, self.network, self.dtype]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _digest_of(features: np.ndarray) -> str:
    """SHA-256 of features: a cache that has changed since it was written counts as none."""
    return hashlib.sha256(f"{features.dtype}{features.shape}".encode() + features.tobytes()).hexdigest()


class ReferenceCache:
    """Reference features by key, in a folder; without one, nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def path(self, key: ReferenceKey) -> Path | None:
        """Where features of this key lie; None without a cache."""
        return None if self.folder is None else self.folder / f"{key.digest}.npz"

    def load(self, key: ReferenceKey) -> np.ndarray | None:
        """Features (n, D), or None where they are not kept; a file that is broken or not of that key counts as none."""
        path = self.path(key)
        if path is None:
            return None
        try:
            found = read_npz(path, names=("features", "key", "sha256"))
            features, kept, digest = found["features"], str(found["key"]), str(found["sha256"])
        except (ConcordError, KeyError):
            return None
        whole = digest == _digest_of(features)
        return features if whole and kept == key.digest and features.shape[:1] == (key.n,) else None

    def save(self, key: ReferenceKey, features: np.ndarray) -> str:
        """Keep features (n, D); '' or, as they only save time, why that was not possible."""
        path = self.path(key)
        if path is None:
            return ""
        try:
            with atomic_path(path) as temporary, open(temporary, "wb") as file:
                np.savez(file, features=features, key=np.array(key.digest), sha256=np.array(_digest_of(features)))
        except (ConcordError, OSError) as error:
            return str(error)
        return ""


# ------------------------------------------------------------------------------------------------------------- exchange


@dataclass(frozen=True)
class Gaussian:
    """mean: float64 (D,). covariance: float64 (D, D), unbiased (ddof = 1) as all three tools write it."""

    mean: Floats
    covariance: Floats
    source: str = ""  # what errors begin with: the file

    def distance(self, generated: np.ndarray) -> float:
        """FID of features (N, D) against this Gaussian: what `concord.metrics.distribution.fid.FID` computes against
        its features."""
        if generated.shape[1] != len(self.mean):
            raise ConcordError(
                f"{self.source}statistics of {len(self.mean)} dimensions beside features of {generated.shape[1]}: "
                "give statistics of the same network and layer"
            )
        if len(generated) <= generated.shape[1]:
            return self.reference.distance_low_rank(generated.astype(np.float64))
        return self.reference.distance(Moments.of(generated))

    @cached_property
    def reference(self) -> ReferenceGaussian:
        """The Gaussian with its square root, computed once."""
        from concord.metrics.distribution.fid import ReferenceGaussian, square_root

        return ReferenceGaussian(self.mean, float(np.trace(self.covariance)), square_root(self.covariance, FLOAT32))

    @classmethod
    def of(cls, features: np.ndarray) -> Gaussian:
        """Mean (D,) and covariance (D, D) of features (N, D), float64."""
        moments = Moments.of(features)
        return cls(moments.mean, moments.covariance)


@dataclass(frozen=True)
class Statistics:
    """A reference without its images. `spatial`: of the features that sFID reads; `features`: (N, D) of pool3."""

    path: Path
    pool: Gaussian | None = None
    spatial: Gaussian | None = None
    features: np.ndarray | None = None

    def gaussian(self, kind: str) -> Gaussian | None:
        """'spatial' and its protocols ('spatial-tf') are the second pair; every other kind is the first."""
        if kind.partition("-")[0] == "spatial":
            return self.spatial
        if self.pool is None and self.features is not None:
            return Gaussian.of(self.features)
        return self.pool


def is_statistics(path: Path) -> bool:
    """Whether an .npz holds statistics. ADM's reference files hold images beside them: the statistics come first."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False
    return {"mu.npy", "sigma.npy"} <= names or "feats.npy" in names


def read_statistics(path: Path) -> Statistics:
    """mu and sigma, or feats, of an .npz of clean-fid, pytorch-fid or ADM; ConcordError where they are neither."""
    try:
        found = read_npz(path, names=_KEYS)
        with zipfile.ZipFile(path) as archive:
            kept = ", ".join(sorted(name.removesuffix(".npy") for name in archive.namelist())) or "nothing"
    except ConcordError as error:
        raise ConcordError(f"{error}; write the statistics again") from None
    for name, array in found.items():
        if array.dtype.kind not in "fiu":
            raise ConcordError(f"{path}: {name} holds {array.dtype} values; expected floats")
    features = found.get("feats")
    if features is not None and (features.ndim != 2 or not np.isfinite(features).all()):
        raise ConcordError(f"{path}: feats of shape {features.shape}; expected finite features (N, D)")
    if features is None and not {"mu", "sigma"} <= set(found):
        raise ConcordError(f"{path}: holds {kept}; expected mu and sigma, as clean-fid and pytorch-fid write them")
    pool = _gaussian(path, "", found["mu"], found["sigma"]) if {"mu", "sigma"} <= set(found) else None
    spatial = _gaussian(path, "_s", found["mu_s"], found["sigma_s"]) if {"mu_s", "sigma_s"} <= set(found) else None
    return Statistics(path, pool, spatial, features)


_KEYS = ("mu", "sigma", "mu_s", "sigma_s", "feats")


def _gaussian(path: Path, suffix: str, mean: np.ndarray, covariance: np.ndarray) -> Gaussian:
    mean, covariance = mean.astype(np.float64), covariance.astype(np.float64)
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        shapes = f"mu{suffix} of shape {mean.shape} and sigma{suffix} of shape {covariance.shape}"
        raise ConcordError(f"{path}: {shapes}; expected (D,) and (D, D)")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ConcordError(f"{path}: mu{suffix} or sigma{suffix} holds NaN or infinity; write the statistics again")
    size = float(np.abs(covariance).max())
    if float(np.abs(covariance - covariance.T).max()) > 1e-6 * max(size, 1e-300):
        raise ConcordError(f"{path}: sigma{suffix} is not symmetric; expected a covariance matrix")
    if float(covariance.diagonal().min(initial=0.0)) < -1e-9 * size:
        raise ConcordError(
            f"{path}: sigma{suffix} has a negative variance on its diagonal; compute the statistics again, in float64"
        )
    return Gaussian(mean, (covariance + covariance.T) / 2, f"{path}: ")


def write_statistics(path: Path, pool: Gaussian, spatial: Gaussian | None = None) -> None:
    """The .npz that clean-fid and pytorch-fid read, and with `spatial`, ADM's evaluator."""
    arrays = {"mu": pool.mean, "sigma": pool.covariance}
    if spatial is not None:
        arrays |= {"mu_s": spatial.mean, "sigma_s": spatial.covariance}
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stub takes every keyword for `allow_pickle`
