"""ArcFace (Deng et al., CVPR 2019) through insightface: the judge of identity, on faces found and aligned.

SCRFD finds the face and its five points at 640 x 640; a similarity transform brings the points to ArcFace's places on
112 x 112 (`norm_crop`); the network gives 512 numbers, here as a unit vector. Of several faces the largest, most
central one counts, by insightface's own rule. insightface 2.1 would look at 128 x 128 as well unless told otherwise;
one size, as in the versions before it, so that the version does not change who is found.

The file is the folder `buffalo_l` (or the zip of it); its networks are for non-commercial research only.
"""

from __future__ import annotations

import contextlib
import io
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from concord.data.errors import ConcordError
from concord.data.files import atomic_path
from concord.metrics.networks.pretrained.weights import NO_FACE, to_uint8, weight_path

DETECTION_SIZE = 640
THRESHOLD = 0.5  # insightface's default


class ArcFace:
    """Images (B, 3, H, W) RGB in [0, 1] -> unit vectors (B, 512) and for each 'ok' or 'no face found'."""

    def __init__(self, folder: Path, device: torch.device | str = "cpu", size: int = DETECTION_SIZE) -> None:
        self.provider, context = _provider(torch.device(device))
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # prints the folder's contents
            warnings.simplefilter("ignore")
            from insightface.app import FaceAnalysis

            self.app: Any = FaceAnalysis(
                name=str(folder), allowed_modules=["detection", "recognition"], providers=[self.provider]
            )
            self.app.prepare(ctx_id=context, det_thresh=THRESHOLD, det_size=(size, size))
        if "recognition" not in self.app.models:
            raise ConcordError(f"{folder}: no recognition network; expected w600k_r50.onnx of buffalo_l")
        self.dimensions = int(self.app.models["recognition"].output_shape[-1])

    def embed_faces(self, images: Tensor) -> tuple[Tensor, list[str]]:
        """(float32 (B, 512) unit vectors on the CPU, zero where no face was found; status of each)."""
        vectors, statuses = torch.zeros(len(images), self.dimensions), []
        for number, image in enumerate(to_uint8(images)):
            faces = self._faces(np.ascontiguousarray(image[:, :, ::-1]))  # insightface reads BGR
            if faces:
                vectors[number] = torch.from_numpy(np.asarray(faces[0].normed_embedding, np.float32))
            statuses.append("ok" if faces else NO_FACE)
        return vectors, statuses

    def _faces(self, image: np.ndarray) -> list[Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # scikit-image on SimilarityTransform.estimate
            return list(self.app.get(image, max_num=1))


def _provider(device: torch.device) -> tuple[str, int]:
    """ONNX Runtime's provider and insightface's device number; a GPU that it does not offer is said, once."""
    if device.type == "cpu":
        return "CPUExecutionProvider", -1
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        return "CUDAExecutionProvider", device.index or 0
    warnings.warn("ArcFace runs on the CPU: this onnxruntime has no CUDA provider (onnxruntime-gpu has)", stacklevel=3)
    return "CPUExecutionProvider", -1


def load_arcface(path: Path | None = None, device: torch.device | str = "cpu", size: int = DETECTION_SIZE) -> ArcFace:
    """From the folder of `buffalo_l`'s ONNX files, or from its zip, which is unpacked beside itself once."""
    path = weight_path("buffalo-l", path)
    folder = _unpacked(path) if path.is_file() else path
    if not any(folder.glob("*.onnx")) and any((folder / "buffalo_l").glob("*.onnx")):
        folder = folder / "buffalo_l"
    if not any(folder.glob("*.onnx")):
        raise ConcordError(f"{folder}: no .onnx files; expected det_10g.onnx and w600k_r50.onnx of buffalo_l")
    try:
        return ArcFace(folder, device, size)
    except ConcordError:
        raise
    except Exception as error:  # ONNX Runtime raises classes of its own; a broken file needs its name and one line
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise ConcordError(f"{folder}: insightface cannot load it ({reason}); fetch buffalo-l again") from None


def _unpacked(path: Path) -> Path:
    """The folder beside a zip that holds its .onnx files, by their bare names: nothing can land elsewhere."""
    if not zipfile.is_zipfile(path):
        raise ConcordError(f"{path}: expected the folder or the zip of buffalo_l; fetch buffalo-l again")
    folder = path.with_suffix("")
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = member.filename.replace("\\", "/").rsplit("/", 1)[-1]
            if not name.endswith(".onnx") or _whole(folder / name, member.file_size):
                continue
            with atomic_path(folder / name) as temporary, archive.open(member) as source, open(temporary, "wb") as out:
                while block := source.read(1 << 20):
                    out.write(block)
    return folder


def _whole(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size
