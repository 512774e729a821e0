"""The networks that score at the papers' scale, each loaded when something is first measured through it.

    kind            weight file                      what for
    features        inception-fidelity               FID, KID, Inception Score, sFID, precision and recall: one pass
    features-legacy inception-pytorch-fid            pytorch-fid's protocol
    dinov2          dinov2-vit-l-14                  FD-DINOv2
    clip-l-336      clip-vit-l-14-336                CMMD
    text-image      clip-vit-l-14                    text similarity and distance
    parser          parsenet                         masks
    identity        buffalo-l                        ArcFace on detected, aligned faces
    landmarks       fan-2d4, s3fd                    2DFAN-4 behind its detector
    lpips-alex, lpips-vgg, vgg19                     pairs and style
    detector, segmenter   groundingdino-swint-hf, sam-vit-h-hf   layouts

None of them guides a method; the networks that do (`FreeDoMNetworks`) score under names of their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from concord.data.errors import ConcordError
from concord.data.files import sha256_file
from concord.metrics.networks.pretrained.freedom import FreeDoMNetworks
from concord.metrics.networks.pretrained.inception import KINDS, WEIGHTS
from concord.metrics.networks.pretrained.weights import weight_path

FILES: dict[str, str] = {
    "features": "inception-fidelity",
    "features-legacy": "inception-pytorch-fid",
    "dinov2": "dinov2-vit-l-14",
    "clip-l-336": "clip-vit-l-14-336",
    "text-image": "clip-vit-l-14",
    "parser": "parsenet",
    "identity": "buffalo-l",
    "landmarks": "fan-2d4",
    "landmarks-detector": "s3fd",
    "lpips-alex": "lpips-alexnet",
    "lpips-vgg": "lpips-vgg16",
    "vgg19": "vgg19",
    "detector": "groundingdino-swint-hf",
    "segmenter": "sam-vit-h-hf",
}
"""Kind of network -> the name of its weights in data/manifests."""
FOLDERS = frozenset({"dinov2", "detector", "segmenter"})  # of several files, as transformers saves them
WEIGHT_SUFFIXES = frozenset({".onnx", ".safetensors", ".bin", ".pth", ".pt"})

OTHER_FEATURES: dict[str, str] = {"dinov2": "dinov2", "clip-l-336": "clip-l-336"}
"""Kinds of features that are not Inception's -> their network."""
_INCEPTION = {"inception-fidelity": "features", "inception-pytorch-fid": "features-legacy"}


class PaperPerception:
    """The judges of profile 'paper'. Images are float32 (B, 3, H, W) RGB in [0, 1], of any size unless it is said.

    paths: weight files by kind, where they are not those that `concord weights fetch` has put in place.
    """

    role = "judge"

    def __init__(self, device: torch.device | str = "cpu", paths: Mapping[str, Path] | None = None) -> None:
        self.device, self.paths = torch.device(device), dict(paths or {})
        self.networks: dict[str, Any] = {}
        self._cards: dict[str, dict[str, Any]] = {}

    def network(self, kind: str) -> Any:
        """The network itself, in evaluation mode, its parameters frozen; ConcordError for an unknown kind."""
        if kind not in self.networks:
            if kind not in FILES or kind == "landmarks-detector":
                known = ", ".join(name for name in FILES if name != "landmarks-detector")
                raise ConcordError(f"network '{kind}': profile 'paper' has {known}")
            path = self._path(kind)
            self.networks[kind] = _loader(kind, self._path)(path, self.device)
            self._record(kind, path)
            if kind == "landmarks":
                self._record("landmarks-detector", self._path("landmarks-detector"))
        return self.networks[kind]

    def _path(self, kind: str) -> Path:
        given = self.paths.get(kind)
        if given is None and kind in FOLDERS:
            from concord.data.download.manifest import weight_folder

            return weight_folder(FILES[kind])
        return weight_path(FILES[kind], given)

    def _record(self, kind: str, path: Path) -> None:
        self._cards[kind] = {"name": FILES[kind], "sha256": weights_sha256(path)}

    @property
    def cards(self) -> dict[str, dict[str, Any]]:
        """Name and SHA-256 of the weights loaded so far, by kind; those of FreeDoM's distances as 'freedom-...'."""
        if "freedom" not in self.__dict__:
            return dict(self._cards)
        return self._cards | {f"freedom-{kind}": card for kind, card in self.freedom.cards.items()}

    @property
    def sha256(self) -> dict[str, str]:
        """SHA-256 of the weights loaded so far, by kind as in `cards`."""
        return {kind: card["sha256"] for kind, card in self.cards.items()}

    @cached_property
    def freedom(self) -> FreeDoMNetworks:
        """The networks of FreeDoM's own distances, which guide methods and are no independent judges."""
        return FreeDoMNetworks(self.device)

    # -------------------------------------------------------------------------------------------------------- features

    def feature_network(self, kind: str) -> str:
        """Which network (a key of `sha256`) gives a kind of features; it is loaded, so that its hash is known."""
        name = _feature_network(kind)
        self.network(name)
        return name

    @torch.inference_mode()
    def features(self, images: Tensor, kinds: Sequence[str] = ("pool",)) -> dict[str, Tensor]:
        """Features for the set metrics by kind, float32 (B, D); one pass for all kinds of one network and protocol."""
        by_network: dict[str, list[str]] = {}
        for kind in dict.fromkeys(kinds):
            by_network.setdefault(_feature_network(kind), []).append(kind)
        found: dict[str, Tensor] = {}
        for name, wanted in by_network.items():
            network = self.network(name)
            if name == "clip-l-336":
                found["clip-l-336"] = network.embed_images(images.to(self.device)).float()
            else:
                found |= network(images.to(self.device), tuple(wanted))
        return {kind: found[kind] for kind in kinds}

    # --------------------------------------------------------------------------------------------------------- samples

    @torch.inference_mode()
    def parse(self, images: Tensor) -> Tensor:
        """Logits (B, 19, 512, 512), CelebAMask-HQ order."""
        return self.network("parser")(images.to(self.device))

    @torch.inference_mode()
    def labels(self, images: Tensor) -> Tensor:
        """Classes int64 (B, H, W) at the images' size, CelebAMask-HQ order."""
        return self.network("parser").labels(images.to(self.device))

    @torch.inference_mode()
    def embed_images(self, images: Tensor) -> Tensor:
        """Unit vectors (B, 768)."""
        return self.network("text-image").embed_images(images.to(self.device))

    @torch.inference_mode()
    def embed_texts(self, captions: Sequence[str]) -> Tensor:
        """Unit vectors (B, 768); what is beyond 77 tokens is cut off, as by every CLIP."""
        return self.network("text-image").embed_texts(list(captions))

    def embed_faces(self, images: Tensor) -> tuple[Tensor, list[str]]:
        """Unit vectors (B, 512) of the faces, and for each 'ok' or 'no face found'."""
        return self.network("identity").embed_faces(images)

    def landmarks(self, images: Tensor) -> tuple[Tensor, list[str]]:
        """(B, 68, 2), x and y in pixels, and for each 'ok' or 'no face found'."""
        return self.network("landmarks").landmarks(images)


def _feature_network(kind: str) -> str:
    if kind in KINDS:
        return _INCEPTION[WEIGHTS[KINDS[kind][1]]]
    if kind in OTHER_FEATURES:
        return OTHER_FEATURES[kind]
    raise ConcordError(f"features '{kind}': profile 'paper' has {', '.join((*KINDS, *OTHER_FEATURES))}")


def weights_sha256(path: Path) -> str:
    """SHA-256 of a weight file; of a folder, over its weight files' names and hashes, in order of their names."""
    if path.is_file():
        return sha256_file(path)
    total = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.suffix in WEIGHT_SUFFIXES and p.is_file()):
        total.update(f"{file.relative_to(path).as_posix()} {sha256_file(file)}\n".encode())
    return total.hexdigest()


def _loader(kind: str, path: Callable[[str], Path]) -> Callable[[Path, torch.device], Any]:
    """(path, device) -> network. `path` finds a second file, where a network needs one."""
    if kind in ("features", "features-legacy"):
        from concord.metrics.networks.pretrained.inception import load_inception

        return load_inception
    if kind in ("text-image", "clip-l-336"):
        from concord.metrics.networks.pretrained.clip import load_clip

        return partial(load_clip, name=FILES[kind])
    if kind in ("lpips-alex", "lpips-vgg"):
        from concord.metrics.networks.pretrained.lpips import load_lpips

        return lambda file, device: load_lpips("alex" if kind == "lpips-alex" else "vgg", file, device)
    if kind == "landmarks":
        from concord.metrics.networks.pretrained.fan import load_fan

        return lambda file, device: load_fan(file, device, path("landmarks-detector"))
    if kind == "dinov2":
        from concord.metrics.networks.pretrained.dinov2 import load_dinov2

        return load_dinov2
    if kind == "parser":
        from concord.metrics.networks.pretrained.parsenet import load_parsenet

        return load_parsenet
    if kind == "identity":
        from concord.metrics.networks.pretrained.arcface import load_arcface

        return load_arcface
    if kind == "vgg19":
        from concord.metrics.networks.pretrained.vgg19 import load_vgg19

        return load_vgg19
    if kind == "detector":
        from concord.metrics.networks.pretrained.grounding_dino import load_grounding_dino

        return load_grounding_dino
    from concord.metrics.networks.pretrained.sam import load_sam

    return load_sam
