"""The networks of FreeDoM's own distances: CLIP ViT-B/16, BiSeNet, IR-SE50, MobileFaceNet, each loaded when first used.

They guide FreeDoM and Z-Magic, and both papers' numbers are made with them; so the metrics named after those distances
look through these, and the tables mark that they are no independent judges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from concord.data.errors import ConcordError
from concord.data.files import sha256_file
from concord.metrics.face.square import Square
from concord.metrics.networks.pretrained.weights import weight_path

FILES: dict[str, str] = {
    "text-image": "clip-vit-b-16",
    "parser": "bisenet",
    "identity": "ir-se50",
    "landmarks": "mobilefacenet",
}
"""What a network is for -> its weight file."""


class FreeDoMNetworks:
    """Images are float32 (B, 3, H, W) RGB in [0, 1]; `network` gives the networks themselves, open to guidance.

    paths: weight files by use, where they are not those that `concord weights fetch` has put in place.
    """

    def __init__(self, device: torch.device | str = "cpu", paths: dict[str, Path] | None = None) -> None:
        self.device, self.paths = torch.device(device), dict(paths or {})
        self.networks: dict[str, nn.Module] = {}
        self.cards: dict[str, dict[str, Any]] = {}

    def network(self, kind: str) -> Any:
        """'text-image', 'parser', 'identity' or 'landmarks', in evaluation mode, its parameters frozen."""
        if kind not in FILES:
            raise ConcordError(f"network '{kind}': FreeDoM's are {', '.join(FILES)}")
        if kind not in self.networks:
            path = weight_path(FILES[kind], self.paths.get(kind))
            with torch.inference_mode(False):  # a score may be the first to ask, and guidance wants the same network
                self.networks[kind] = _loader(kind)(path, self.device)
            self.cards[kind] = {"name": FILES[kind], "sha256": sha256_file(path)}
        return self.networks[kind]

    @property
    def sha256(self) -> dict[str, str]:
        """SHA-256 of the weight files loaded so far, by use."""
        return {kind: card["sha256"] for kind, card in self.cards.items()}

    @torch.inference_mode()
    def parse(self, images: Tensor) -> Tensor:
        """Logits (B, 19, 512, 512), CelebAMask-HQ order."""
        return self.network("parser")(images.to(self.device))

    @torch.inference_mode()
    def image_features(self, images: Tensor) -> Tensor:
        """Unnormalised (B, 512)."""
        return self.network("text-image").guide_features(images.to(self.device))

    @torch.inference_mode()
    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Unnormalised (B, 512)."""
        return self.network("text-image").text_features(texts)

    @torch.inference_mode()
    def embed_faces(self, images: Tensor) -> tuple[Tensor, list[str]]:
        """Unit vectors (B, 512) of the fixed window, and 'ok' for each."""
        return self.network("identity").embed_faces(images.to(self.device))

    @torch.inference_mode()
    def landmark_vectors(self, images: Tensor, squares: Sequence[Square]) -> tuple[Tensor, list[str]]:
        """(B, 136), shares of each picture's square, and 'ok' for each: given the square, no face has to be found."""
        return self.network("landmarks")(images.to(self.device), squares), ["ok"] * len(images)


def _loader(kind: str) -> Callable[[Path, torch.device], nn.Module]:
    if kind == "parser":
        from concord.metrics.networks.pretrained.bisenet import load_bisenet

        return load_bisenet
    if kind == "identity":
        from concord.metrics.networks.pretrained.ir_se50 import load_ir_se50

        return load_ir_se50
    if kind == "landmarks":
        from concord.metrics.networks.pretrained.mobilefacenet import load_mobilefacenet

        return load_mobilefacenet
    from concord.metrics.networks.pretrained.clip import load_clip

    return lambda path, device: load_clip(path, device, FILES["text-image"])
