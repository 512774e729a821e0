"""Remakes the large reference of profile 'embedded': 20,000 faces, drawn once and reduced to moments.

    python -m concord.benchmarks.large_reference

The faces are numbers 1,000,000 and on of the world of data/synthetic/faces: none of the training, validation, tuning
and test faces, of one distribution with them. Each goes through the JPEG that a tree on disk has, as the other
reference images do. Of their pool features go the mean, the covariance and the third moments into
data/references/synthfaces.npz, of the spatial ones mean and covariance (metrics/distribution/reference_moments.py).
Scenes have no feature network, so that no metric of theirs compares with a set."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from concord.data.device import exact_float32
from concord.data.profile import load_profile
from concord.data.synthetic.faces.tree import JPEG
from concord.data.synthetic.faces.world import RENDERER_VERSION, WORLD_SEED, iter_faces
from concord.metrics.distribution.reference_moments import ReferenceMoments, write_large_reference
from concord.metrics.evaluation import numpy_features, to_tensor
from concord.metrics.networks.judges import features_sha256, open_judges

PROFILE = "embedded"
FIRST, COUNT = 1_000_000, 20_000
KINDS = {"pool": True, "spatial": False}  # with KID's third moments or without
BATCH = 250


def as_in_a_tree(image: np.ndarray) -> np.ndarray:
    """A drawn image after the JPEG of a tree on disk."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, **JPEG)
    return np.asarray(Image.open(buffer).convert("RGB"))


def make_large_reference(path: Path, first: int = FIRST, count: int = COUNT, workers: int | None = None) -> None:
    """Draw the faces, look at them, and write their moments."""
    networks = open_judges(PROFILE)
    rows: dict[str, list[np.ndarray]] = {kind: [] for kind in KINDS}
    faces = iter_faces(range(first, first + count), workers=workers, title="Drawing the reference")
    images: list[np.ndarray] = []
    with exact_float32():
        for number, face in enumerate(faces, start=1):
            images.append(as_in_a_tree(face.image))
            if len(images) == BATCH or number == count:
                for kind, features in numpy_features(networks, to_tensor(np.stack(images)), list(KINDS)).items():
                    rows[kind].append(features)
                images = []
    about = {
        "network": features_sha256(networks, "pool"),
        "faces": [first, first + count],
        "world_seed": WORLD_SEED,
        "renderer_version": RENDERER_VERSION,
    }
    moments = {kind: ReferenceMoments.of(np.concatenate(rows[kind]), cubic) for kind, cubic in KINDS.items()}
    write_large_reference(path, about, moments)


if __name__ == "__main__":
    file = load_profile(PROFILE).datasets["faces"].moments_file
    assert file is not None, "the profile names the file"
    make_large_reference(file)
    print(f"{file}: {file.stat().st_size:,} bytes, moments of {COUNT:,} faces")
