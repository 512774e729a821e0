"""Faces in photographs by dlib (King, JMLR 2009): detector, 68 landmarks, identity; trained weights from a package.

    detector    histograms of oriented gradients in a sliding window; it comes with dlib itself
    landmarks   68 points in iBUG order by an ensemble of regression trees (Kazemi & Sullivan, CVPR 2014)
    identity    128 numbers of a ResNet-29 on the face aligned by its landmarks, brought to length 1

They compute on the CPU, image by image. Points are told with pixel centres at .5; dlib counts them from whole numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from concord.data.errors import ConcordError
from concord.metrics.networks.pretrained.weights import NO_FACE, to_uint8

if TYPE_CHECKING:
    import dlib

POINTS, NUMBERS = 68, 128
ENLARGEMENTS = (0, 1, 2)  # times that an image is doubled for the detector, whose window is 80 pixels wide
LARGE = 700  # pixels of the shorter side from which on an image is not doubled


@dataclass(frozen=True)
class FaceDetector:
    """Finds the largest face of an image."""

    network: dlib.fhog_object_detector

    def find(self, image: np.ndarray) -> dlib.rectangle | None:
        """The box of the largest face in uint8 (H, W, 3) RGB; None where there is none at any enlargement."""
        for doublings in ENLARGEMENTS:
            if doublings and min(image.shape[:2]) * 2 ** (doublings - 1) >= LARGE:
                break
            boxes = list(self.network(image, doublings))
            if boxes:
                return max(boxes, key=lambda box: box.area())
        return None


@dataclass(frozen=True)
class FaceLandmarks:
    """68 points of the largest face."""

    network: dlib.shape_predictor
    detector: FaceDetector

    def shapes(self, images: Tensor) -> Iterator[tuple[np.ndarray, Any]]:
        """Each image as uint8 (H, W, 3), and dlib's shape of its face; None where there is none."""
        for image in to_uint8(images):
            image = np.ascontiguousarray(image)
            box = self.detector.find(image)
            yield image, None if box is None else self.network(image, box)

    def landmarks(self, images: Tensor) -> tuple[Tensor, list[str]]:
        """(B, 68, 2), x and y in pixels, and for each 'ok' or 'no face found'."""
        points, statuses = torch.zeros(len(images), POINTS, 2), []
        for number, (_, shape) in enumerate(self.shapes(images)):
            statuses.append(NO_FACE if shape is None else "ok")
            if shape is not None:
                points[number] = torch.tensor([(part.x + 0.5, part.y + 0.5) for part in shape.parts()])
        return points, statuses


@dataclass(frozen=True)
class FaceIdentity:
    """128 numbers of the largest face."""

    network: dlib.face_recognition_model_v1
    landmarks: FaceLandmarks

    def embed_faces(self, images: Tensor) -> tuple[Tensor, list[str]]:
        """Unit vectors (B, 128), and for each 'ok' or 'no face found'."""
        vectors, statuses = torch.zeros(len(images), NUMBERS), []
        for number, (image, shape) in enumerate(self.landmarks.shapes(images)):
            statuses.append(NO_FACE if shape is None else "ok")
            if shape is not None:
                vectors[number] = torch.tensor(list(self.network.compute_face_descriptor(image, shape)))
        return normalize(vectors, dim=1), statuses


def load_detector() -> FaceDetector:
    """dlib's own detector of frontal faces."""
    return FaceDetector(_dlib().get_frontal_face_detector())


def load_landmarks(path: Path, detector: FaceDetector) -> FaceLandmarks:
    """From `shape_predictor_68_face_landmarks.dat`."""
    return FaceLandmarks(_read("shape_predictor", path), detector)


def load_identity(path: Path, landmarks: FaceLandmarks) -> FaceIdentity:
    """From `dlib_face_recognition_resnet_model_v1.dat`."""
    return FaceIdentity(_read("face_recognition_model_v1", path), landmarks)


def _dlib() -> Any:
    try:
        import dlib
    except ImportError as error:
        raise ConcordError(
            f"dlib: {error}; install it with `uv sync --extra photos`, or `pip install dlib-bin`"
        ) from None
    return dlib


def _read(kind: str, path: Path) -> Any:
    try:
        return getattr(_dlib(), kind)(str(path))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:90]
        raise ConcordError(f"{path}: no weights of dlib's {kind} ({reason}); install the package again") from None
