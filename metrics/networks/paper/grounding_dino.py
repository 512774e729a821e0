"""Grounding DINO (Liu et al., ECCV 2024), Swin-T, through transformers: boxes of whatever a phrase names.

As the COCO-MIG evaluator asks it: one phrase at a time, in lower case with a full stop; a query is kept where its best
token's probability exceeds 0.25; of boxes that overlap by more than 0.8 the surest stays. (The evaluator's threshold on
text, 0.25 too, decides which words label a box, and not which boxes there are: with one phrase it has no effect.)

The folder is one in transformers' own form (`groundingdino-swint-hf`): config.json, model.safetensors, the tokeniser
and the preprocessor. Its preprocessor brings the shorter side to 800 pixels, the longer to 1333 at most.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from data.errors import ConcordError
from metrics.networks.paper.weights import frozen, weight_path

THRESHOLD = 0.25
NMS = 0.8
WEIGHTS = "model.safetensors"


class GroundingDINO(nn.Module):
    """A `metrics.layout.Detector`."""

    def __init__(self, network: nn.Module, processor: Any, threshold: float = THRESHOLD, nms: float = NMS) -> None:
        super().__init__()
        self.network, self.processor = network, processor
        self.threshold, self.nms = threshold, nms

    @torch.inference_mode()
    def detect(self, image: np.ndarray, phrase: str) -> np.ndarray:
        """Boxes float64 (N, 4), the surest first, of uint8 (H, W, 3) RGB: x1, y1, x2, y2, shares of width and height.

        As the network gives them: not cut off at the image's edge.
        """
        from torchvision.ops import box_convert, nms

        device = next(self.network.parameters()).device
        inputs = self.processor(images=image, text=_sentence(phrase), return_tensors="pt").to(device)
        outputs = self.network(**inputs)
        scores = outputs.logits[0].sigmoid().amax(-1)  # (queries,): of the phrase's tokens, the likeliest
        kept = scores > self.threshold
        boxes = box_convert(outputs.pred_boxes[0][kept].float(), "cxcywh", "xyxy")
        chosen = nms(boxes, scores[kept].float(), self.nms)
        return np.asarray(boxes[chosen].double().cpu().numpy())


def _sentence(phrase: str) -> str:
    text = phrase.lower().strip()
    return text if text.endswith(".") else f"{text}."


def load_grounding_dino(path: Path | None = None, device: torch.device | str = "cpu") -> GroundingDINO:
    """The detector from a folder (or the safetensors file in it)."""
    folder = model_folder("groundingdino-swint-hf", path)
    from transformers import GroundingDinoForObjectDetection, GroundingDinoProcessor

    network = load_pretrained(GroundingDinoForObjectDetection, folder)
    detector = frozen(GroundingDINO(network, load_processor(GroundingDinoProcessor, folder)), device)
    assert isinstance(detector, GroundingDINO)
    return detector


def model_folder(name: str, path: Path | None = None) -> Path:
    """The folder of a model in transformers' form; ConcordError where it lacks its weights or its description."""
    if path is None:
        from data.manifest import weight_folder

        return weight_folder(name)
    found = weight_path(name, path)
    folder = found if found.is_dir() else found.parent
    for file in (WEIGHTS, "config.json"):
        if not (folder / file).is_file():
            raise ConcordError(
                f"{folder}: holds no {file}; expected a model folder as transformers saves it: "
                f"run `concord weights fetch {name}`"
            )
    return folder


def load_pretrained(kind: Any, folder: Path) -> nn.Module:
    """A transformers model from its folder alone: safetensors, no network, every key accounted for."""
    from safetensors import SafetensorError

    try:
        with _quiet():
            network, found = kind.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are reported below, with the others
            )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise ConcordError(f"{folder}: no weights of {kind.__name__} ({reason}); fetch the folder again") from None
    # Buffers of positions were saved by older versions of transformers; they hold 0, 1, 2, ... and are made anew.
    unknown = {key for key in found["unexpected_keys"] if not key.endswith("position_ids")}
    lacking = {*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])}
    if lacking or unknown:
        what = f"lacks '{min(lacking)}'" if lacking else f"holds '{min(unknown)}'"
        more = f"{len(lacking)} names are missing or of another shape, {len(unknown)} unknown"
        raise ConcordError(f"{folder}: no weights of {kind.__name__}: it {what} ({more}); fetch the folder again")
    assert isinstance(network, nn.Module)
    return network


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' own progress bars and reports of keys: what is wrong is said in one line here."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def load_processor(kind: Any, folder: Path) -> Any:
    """A transformers processor from its folder alone."""
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise ConcordError(f"{folder}: no {kind.__name__} ({reason}); fetch the folder again") from None
