"""Segment Anything (Kirillov et al., ICCV 2023), ViT-H, through transformers: the pixels of what is in a box.

As the COCO-MIG evaluator asks it: prompted by one box, three masks are proposed and the one that the network itself
rates best is taken; a pixel belongs to it where its logit, brought back to the image's size, is above 0.

The folder is one in transformers' own form (`sam-vit-h-hf`): config.json, model.safetensors and the preprocessor.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from concord.metrics.networks.pretrained.transformers_folder import load_pretrained, load_processor, model_folder
from concord.metrics.networks.pretrained.weights import frozen


class SegmentAnything(nn.Module):
    """A `concord.metrics.layout.instances.Segmenter`. The encoder runs once an image: what it says of the last one is
    kept."""

    def __init__(self, network: Any, processor: Any) -> None:
        super().__init__()
        self.network, self.processor = network, processor
        self._last: tuple[bytes, Tensor] | None = None

    @torch.inference_mode()
    def segment(self, image: np.ndarray, box: np.ndarray) -> np.ndarray:
        """Bool (H, W) of uint8 (H, W, 3) RGB; box (4,): x1, y1, x2, y2, shares of width and height."""
        height, width = image.shape[:2]
        corners = (np.asarray(box, dtype=np.float64) * (width, height, width, height)).tolist()
        inputs = self.processor(images=image, input_boxes=[[corners]], return_tensors="pt")
        device = next(self.network.parameters()).device
        outputs = self.network(
            image_embeddings=self._encoded(image, inputs["pixel_values"].to(device)),
            input_boxes=inputs["input_boxes"].float().to(device),
            multimask_output=True,
        )
        best = int(outputs.iou_scores[0, 0].argmax())
        masks = self.processor.image_processor.post_process_masks(
            outputs.pred_masks[:, :, best : best + 1].cpu(), inputs["original_sizes"], inputs["reshaped_input_sizes"]
        )
        return np.asarray(masks[0][0, 0].numpy(), dtype=np.bool_)

    def _encoded(self, image: np.ndarray, pixels: Tensor) -> Tensor:
        key = hashlib.sha256(np.ascontiguousarray(image).data).digest() + str(image.shape).encode()
        if self._last is None or self._last[0] != key:
            self._last = key, self.network.get_image_embeddings(pixels)
        return self._last[1]


def load_sam(path: Path | None = None, device: torch.device | str = "cpu") -> SegmentAnything:
    """The segmenter from a folder (or the safetensors file in it)."""
    folder = model_folder("sam-vit-h-hf", path)
    from transformers import SamModel, SamProcessor

    network = load_pretrained(SamModel, folder)
    segmenter = frozen(SegmentAnything(network, load_processor(SamProcessor, folder)), device)
    assert isinstance(segmenter, SegmentAnything)
    return segmenter
