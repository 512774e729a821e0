"""CLIP (Radford et al. 2021) with OpenAI's weights through open_clip: judge ViT-L/14, guide ViT-B/16.

OpenAI trained with QuickGELU, x sigmoid(1.702 x). open_clip builds GELU unless the architecture's name ends in
`-quickgelu`, and loads the same file into either without a word; cosines then differ in the fourth digit, which no test
on random weights sees. So such names are required here, and the activations of the network that was built are looked
at.

Two preparations, each with unit and unnormalised features from one pass:
    open_clip's evaluation transform: Pillow bicubic, shortest side to 224, centre crop; what scores are made with
    FreeDoM's: bicubic (a = -0.75, no antialiasing) of the whole image to 224; what guidance differentiates
"""

from __future__ import annotations

import logging
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from concord.data.errors import ConcordError
from concord.metrics.networks.pretrained.weights import (
    frozen,
    load_strictly,
    read_state,
    to_uint8,
    unfilled,
    weight_path,
)

MODELS: dict[str, str] = {
    "clip-rn50": "RN50-quickgelu",
    "clip-vit-b-32": "ViT-B-32-quickgelu",
    "clip-vit-b-16": "ViT-B-16-quickgelu",
    "clip-vit-l-14": "ViT-L-14-quickgelu",
    "clip-vit-l-14-336": "ViT-L-14-336-quickgelu",
}
"""Weight file -> open_clip's architecture."""
FACTS = ("input_resolution", "context_length", "vocab_size")
"""Numbers that OpenAI's TorchScript files keep beside the weights."""


class Clip(nn.Module):
    """Images (B, 3, H, W) RGB in [0, 1] and texts -> features (B, E), unnormalised; `embed_*` gives unit vectors.

    Texts beyond 77 tokens are cut, as by every CLIP.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, architecture: str) -> None:
        super().__init__()
        import open_clip

        self.model, self.architecture = model, architecture
        visual = model.visual
        size = visual.image_size[0] if isinstance(visual.image_size, (tuple, list)) else visual.image_size
        self.size = int(size)
        mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
        self.transform = open_clip.image_transform(self.size, is_train=False, mean=mean, std=std)
        self.tokenizer = open_clip.get_tokenizer(architecture)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def prepare(self, images: Tensor) -> Tensor:
        """open_clip's evaluation transform of the images at 8 bits: (B, 3, size, size), without gradient."""
        from PIL import Image

        return torch.stack([self.transform(Image.fromarray(image)) for image in to_uint8(images)])

    def image_features(self, images: Tensor) -> Tensor:
        """By open_clip's preparation; no gradient reaches the images."""
        return self.model.encode_image(self.prepare(images).to(self.mean.device))

    def guide_features(self, images: Tensor) -> Tensor:
        """By FreeDoM's preparation; differentiable."""
        if images.shape[2:] != (self.size, self.size):
            images = F.interpolate(images, self.size, mode="bicubic", align_corners=False)
        return self.model.encode_image((images - self.mean) / self.std)

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Unnormalised (B, E); the places behind the longest text's end are not computed, as nothing looks there."""
        return encode_text(self.model, self.tokenizer(list(texts)).to(self.mean.device))

    def embed_images(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> unit vectors (B, D)."""
        return F.normalize(self.image_features(images), dim=-1)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Captions -> unit vectors (B, D)."""
        return F.normalize(self.text_features(texts), dim=-1)


class ClipFeatures:
    """The image embedding of a CLIP as features of a set metric (CMMD)."""

    def __init__(self, clip: Clip, kind: str) -> None:
        self.clip, self.kind = clip, kind

    @torch.inference_mode()
    def features(self, images: Tensor, kinds: Sequence[str]) -> dict[str, Tensor]:
        """Unit vectors float32 (B, E) under the one kind."""
        return {self.kind: self.clip.embed_images(images.to(self.clip.mean.device)).float()}


def load_clip_features(
    path: Path | None = None,
    device: torch.device | str = "cpu",
    name: str = "clip-vit-l-14-336",
    kind: str = "clip-l-336",
) -> ClipFeatures:
    """CLIP of those weights as features of that kind."""
    return ClipFeatures(load_clip(path, device, name), kind)


def encode_text(model: Any, tokens: Tensor) -> Tensor:
    """open_clip's `encode_text` of tokens (B, 77), without the padding: its attention is causal, and it reads the end.

    Captions of 15 words take a fifth of the places. Models of another form are asked themselves.
    """
    mask = getattr(model, "attn_mask", None)
    if (
        mask is None
        or not bool(torch.isneginf(mask[0, 1:]).all())
        or model.text_pool_type != "argmax"
        or not isinstance(model.text_projection, nn.Parameter)
    ):
        return model.encode_text(tokens)
    ends = tokens.argmax(-1)  # the end mark has the highest number
    length = int(ends.max()) + 1
    x = model.token_embedding(tokens[:, :length]) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=mask[:length, :length]))
    return x[torch.arange(len(x), device=x.device), ends] @ model.text_projection


def load_clip(
    path: Path | None = None,
    device: torch.device | str = "cpu",
    name: str = "clip-vit-l-14",
    architecture: str | None = None,
) -> Clip:
    """CLIP from a file: OpenAI's TorchScript archive, or a state dict (.pt, .bin, .safetensors).

    name: the weight file, a key of `MODELS`; architecture: open_clip's name where it is another one.
    """
    if architecture is None:
        if name not in MODELS:
            raise ConcordError(f"unknown CLIP weights '{name}': expected one of {', '.join(MODELS)}")
        architecture = MODELS[name]
    if not architecture.endswith("-quickgelu"):
        raise ConcordError(
            f"CLIP architecture '{architecture}': OpenAI's weights need '{architecture}-quickgelu'; "
            "with GELU the features would be wrong without any error"
        )
    path = weight_path(name, path)
    model = _open(architecture, path)
    require_quickgelu(model, architecture)
    clip = frozen(Clip(model, architecture), device)
    assert isinstance(clip, Clip)
    return clip


def _open(architecture: str, path: Path) -> nn.Module:
    import open_clip

    if path.suffix == ".safetensors":
        try:
            return open_clip.create_model(architecture, pretrained=str(path))
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            reason = " ".join(str(error).split())[:120]
            raise ConcordError(f"{path}: no weights of {architecture} ({reason}); fetch the file again") from None
    if _is_torchscript(path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # OpenAI published in no other form
            state = torch.jit.load(str(path), map_location="cpu").state_dict()
        state = {key: value for key, value in state.items() if key not in FACTS}
    else:
        state = read_state(path)
    logging.disable(logging.WARNING)  # "initialized randomly": it is filled below
    try:
        with unfilled():
            model: nn.Module = open_clip.create_model(architecture, pretrained=None)
    finally:
        logging.disable(logging.NOTSET)
    load_strictly(model, state, path, architecture)
    return model


def _is_torchscript(path: Path) -> bool:
    """A zip archive of code and constants; a state dict has neither."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("constants.pkl") for name in archive.namelist())


def require_quickgelu(model: nn.Module, what: str) -> None:
    """ConcordError unless every activation of the transformers is open_clip's QuickGELU."""
    from open_clip.transformer import QuickGELU

    quick = sum(isinstance(module, QuickGELU) for module in model.modules())
    plain = sum(isinstance(module, nn.GELU) for module in model.modules())
    if plain or not quick:
        raise ConcordError(
            f"CLIP '{what}' was built with {plain} GELU and {quick} QuickGELU activations: "
            "OpenAI's weights need QuickGELU throughout; use an architecture named '-quickgelu'"
        )
