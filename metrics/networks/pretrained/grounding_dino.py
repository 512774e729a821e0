"""Grounding DINO (Liu et al., ECCV 2024), Swin-T, through transformers: boxes of whatever a phrase names.

As the COCO-MIG evaluator asks it: one phrase at a time, in lower case with a full stop; a query is kept where its best
token's probability exceeds 0.25; of boxes that overlap by more than 0.8 the surest stays. (The evaluator's threshold on
text, 0.25 too, decides which words label a box, and not which boxes there are: with one phrase it has no effect.)

The folder is one in transformers' own form (`groundingdino-swint-hf`): config.json, model.safetensors, the tokeniser
and the preprocessor. Its preprocessor brings the shorter side to 800 pixels, the longer to 1333 at most.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from concord.metrics.networks.pretrained.transformers_folder import load_pretrained, load_processor, model_folder
from concord.metrics.networks.pretrained.weights import frozen

THRESHOLD = 0.25
NMS = 0.8


class GroundingDINO(nn.Module):
    """A `concord.metrics.layout.instances.Detector`."""

    side = 512  # pixels at which the benchmark looks at images

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
        confident = scores > self.threshold
        boxes = box_convert(outputs.pred_boxes[0][confident].float(), "cxcywh", "xyxy")
        chosen = nms(boxes, scores[confident].float(), self.nms)
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
