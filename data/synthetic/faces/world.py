"""The embedded world of faces: index in, face out.

Everything about face ``index`` is a pure function of ``(world_seed, index)``: random numbers come from NumPy's Philox
generator, seeded by ``SeedSequence([world_seed, index])`` and split into independent streams for identity, attributes,
scene and captions.

Tolerance: with the same versions of NumPy and OpenCV on the same kind of processor the bytes are equal, in any order
and any number of processes. Elsewhere the last bit of a sine or of a resize may differ, which can move an edge by 1/16
of a canvas pixel (1/64 of a pixel of the image): allow for 0.5 % of the mask's pixels and a mean absolute difference
of 1 grey level in the image. Attributes, identities and captions do not depend on the drawing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from concord.data.progress import watched
from concord.data.synthetic.faces.captions import Captions, make_captions
from concord.data.synthetic.faces.paint import paint_face
from concord.data.synthetic.faces.person import (
    ATTRIBUTES,
    Person,
    Scene,
    decode_identity,
    sample_attributes,
    sample_identity,
    sample_scene,
    streams,
)

WORLD_SEED = 2304
RENDERER_VERSION = "1"
#: Like CelebA-HQ with 30,000 faces; the test faces are the last 3,000, as Collaborative Diffusion splits them.
SPLITS: dict[str, range] = {
    "train": range(24_000),
    "validation": range(24_000, 27_000),
    "test": range(27_000, 30_000),
}


@dataclass(frozen=True)
class Face:
    """One face with everything that is known about it."""

    index: int
    image: np.ndarray  # (64, 64, 3) uint8 RGB
    mask: np.ndarray  # (64, 64) uint8, the 19 classes in the CelebAMask-HQ order
    landmarks: np.ndarray  # (68, 2) float32 x, y in pixels, pixel centres at .5, iBUG order
    identity: np.ndarray  # (24,) float32
    sex: str  # "female" or "male"
    attributes: dict[str, int]  # Bangs, Eyeglasses, No_Beard, Smiling, Young: levels 0-5
    captions: Captions


@dataclass(frozen=True)
class FaceArrays:
    """Many faces, stacked in the order of ``indices``."""

    indices: np.ndarray  # (N,) int64
    images: np.ndarray  # (N, 64, 64, 3) uint8 RGB
    masks: np.ndarray  # (N, 64, 64) uint8
    landmarks: np.ndarray  # (N, 68, 2) float32
    identities: np.ndarray  # (N, 24) float32
    attributes: np.ndarray  # (N, 5) int8, columns as in ATTRIBUTES
    sex: np.ndarray  # (N,) str
    captions: list[Captions]

    def __len__(self) -> int:
        return len(self.indices)


def describe(
    index: int, world_seed: int = WORLD_SEED, variant: int = 0
) -> tuple[np.ndarray, Person, dict[str, int], Scene, Captions]:
    """Everything about a face except its pixels: identity vector, person, attributes, scene, captions."""
    rng = streams(world_seed, index, variant)
    identity = sample_identity(rng["identity"])
    person = decode_identity(identity)
    scene = sample_scene(rng["scene"], person)
    attributes = sample_attributes(rng["attributes"], person, scene.hat is not None)
    return identity, person, attributes, scene, make_captions(rng["captions"], person, attributes, scene)


def face(index: int, world_seed: int = WORLD_SEED, variant: int = 0) -> Face:
    """Face ``index`` of a world; ``variant`` > 0: another image of this person (other age, smile, pose, light)."""
    identity, person, attributes, scene, captions = describe(index, world_seed, variant)
    image, mask, landmarks = paint_face(person, attributes, scene)
    return Face(index, image, mask, landmarks, identity, person.sex, attributes, captions)


def _face_of(job: tuple[int, int, int]) -> Face:
    return face(*job)


def _one_thread() -> None:
    import cv2

    cv2.setNumThreads(1)


def available_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def iter_faces(
    indices: Iterable[int],
    world_seed: int = WORLD_SEED,
    workers: int | None = None,
    progress: bool = False,
    title: str = "Drawing faces",
    variant: int = 0,
) -> Iterator[Face]:
    """Render faces one after the other, in the order asked for, on ``workers`` processes (default: all cores)."""
    jobs = [(int(i), world_seed, variant) for i in indices]
    # a process takes about half a second to start: not worth it for fewer than 200 faces
    workers = max(1, min(workers if workers is not None else available_cores(), len(jobs) // 200 + 1))
    if workers == 1:
        yield from watched(map(_face_of, jobs), title, len(jobs), progress)
        return
    import multiprocessing

    # spawn, not fork: the caller may hold threads (torch) that do not survive a fork
    with multiprocessing.get_context("spawn").Pool(workers, initializer=_one_thread) as pool:
        yield from watched(pool.imap(_face_of, jobs, chunksize=32), title, len(jobs), progress)


def render_many(
    indices: Iterable[int],
    world_seed: int = WORLD_SEED,
    workers: int | None = None,
    progress: bool = False,
    variant: int = 0,
) -> FaceArrays:
    """Render faces on ``workers`` processes (default: all cores) and stack them; ``progress`` shows a bar.

    A script that calls this with more than 200 faces needs the usual ``if __name__ == "__main__":`` guard.
    """
    return stack(list(iter_faces(indices, world_seed, workers, progress, variant=variant)))


def stack(faces: list[Face]) -> FaceArrays:
    """Stack faces into arrays."""
    n = len(faces)
    return FaceArrays(
        indices=np.array([f.index for f in faces], np.int64),
        images=np.stack([f.image for f in faces]) if n else np.zeros((0, 64, 64, 3), np.uint8),
        masks=np.stack([f.mask for f in faces]) if n else np.zeros((0, 64, 64), np.uint8),
        landmarks=np.stack([f.landmarks for f in faces]) if n else np.zeros((0, 68, 2), np.float32),
        identities=np.stack([f.identity for f in faces]) if n else np.zeros((0, 24), np.float32),
        attributes=np.array([[f.attributes[a] for a in ATTRIBUTES] for f in faces], np.int8).reshape(
            n, len(ATTRIBUTES)
        ),
        sex=np.array([f.sex for f in faces]),
        captions=[f.captions for f in faces],
    )
