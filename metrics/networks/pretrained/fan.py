"""FAN (Bulat & Tzimiropoulos, ICCV 2017) through face-alignment: the judge of landmarks, 2DFAN-4 behind S3FD.

Heatmaps of 64 x 64 of the image and of its mirror image are added; each point is the highest cell, moved a quarter of
a cell towards its higher neighbour, brought back to the image and cut to whole pixels.
`concord.metrics.face.landmark_nme.noise_floor` tells what that costs. Where face-alignment says pixel k, the point's
place here is
the pixel's centre, k + 0.5.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from concord.data.errors import ConcordError
from concord.metrics.networks.pretrained.weights import NO_FACE, load_strictly, read_state, to_uint8, weight_path

POINTS = 68


class Fan:
    """Images (B, 3, H, W) RGB in [0, 1] -> landmarks (B, 68, 2) in pixels (centres at .5) and for each its status."""

    def __init__(self, alignment: Any) -> None:
        self.alignment = alignment  # face_alignment.FaceAlignment

    def landmarks(self, images: Tensor) -> tuple[Tensor, list[str]]:
        """Of the largest face of each image; (float32 on the CPU, NaN where no face was found; status of each)."""
        points, statuses = torch.full((len(images), POINTS, 2), float("nan")), []
        for number, image in enumerate(to_uint8(images)):
            box = self._largest_face(image)
            if box is not None:
                landmarks = self.alignment.get_landmarks_from_image(image, detected_faces=[box])
                points[number] = torch.from_numpy(np.asarray(landmarks[0], np.float32)) + 0.5
            statuses.append(NO_FACE if box is None else "ok")
        return points, statuses

    def _largest_face(self, image: np.ndarray) -> np.ndarray | None:
        """The box (x1, y1, x2, y2, score) of the largest area."""
        boxes = self.alignment.face_detector.detect_from_image(image)
        return max(boxes, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]), default=None)


def load_fan(path: Path | None = None, device: torch.device | str = "cpu", detector: Path | None = None) -> Fan:
    """2DFAN-4 from `2DFAN4-*.pth.tar`, S3FD from `s3fd-*.pth`; neither is downloaded, nothing is compiled."""
    network_file, detector = weight_path("fan-2d4", path), weight_path("s3fd", detector)
    read_state(detector)  # face-alignment loads it; this one says in one line when it is broken
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import face_alignment
        from face_alignment.models import FAN

        class LocalAlignment(face_alignment.FaceAlignment):
            """face-alignment with FAN from a given file; the library itself looks in TORCH_HOME, or downloads."""

            def _load_native(self, network_name: str, network_size: int, device: str, dtype: torch.dtype) -> FAN:
                network = FAN(network_size)
                load_strictly(network, read_state(network_file), network_file)
                return network.to(device, dtype=dtype).eval()

        build: Callable[..., Any] = LocalAlignment
        try:
            alignment = build(
                face_alignment.LandmarksType.TWO_D,
                device=str(device),
                compile=False,
                face_detector_kwargs={"path_to_detector": str(detector)},
            )
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:120]
            raise ConcordError(f"{detector}: not the weights of S3FD ({reason}); fetch s3fd again") from None
    return Fan(alignment)
