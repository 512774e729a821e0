"""Collaborative Diffusion's published networks (Huang et al., CVPR 2023), at 256x256 and at 512x512.

    256_codiff_mask_text.ckpt   model.{text,seg_mask}_unet.diffusion_model.*                   experts, 403.6M each
                                model.{text,seg_mask}_confidence_predictor.diffusion_model.*   dynamic diffusers, 13.1M
                                cond_stage_model.{text,seg_mask}_cond_stage_model.*            tau(c)
                                first_stage_model.*                                            autoencoder
    256_text.ckpt, 256_mask.ckpt   model.diffusion_model.*, cond_stage_model.*, first_stage_model.*
    256_vae.ckpt                   encoder.*, decoder.*, quant_conv.*, post_quant_conv.*, loss.*

The first file holds everything; a part that it lacks comes from the file of its own. Experts and dynamic diffusers have
latent diffusion's UNet (diffusers builds the same, see ldm.py), over latents (3, 64, 64) at both sizes; the dynamic
diffuser has a sixth of the width and one output plane. Its timestep is added between the convolutions, as in latent
diffusion and in the authors' configuration; the paper's equation 9 writes an adaptive normalisation instead.

tau of a text: BERT's word pieces, lower case, 77 of them, padding included and attended to, 32 layers of 640.
tau of a mask: 32x32 by nearest neighbour, one-hot (19, 1024), one linear layer: 19 tokens of 640.

No file keeps a moving average of its weights and none is used (`use_ema: False`); should one be there, it is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from concord.data.errors import ConcordError
from concord.data.request import Conditions
from concord.methods.core.schedule import Schedule
from concord.methods.networks.checkpoints.ldm import (
    AutoencoderShape,
    Influence,
    LatentAutoencoder,
    NoiseExpert,
    UNetShape,
    autoencoder_names,
    is_autoencoder_attention,
    unet_names,
)
from concord.methods.networks.checkpoints.loading import Checkpoint, read_checkpoint
from concord.methods.networks.experts import ConditionEncoder, Encoded
from concord.methods.networks.space import LatentSpace
from concord.metrics.networks.pretrained.transformers_folder import load_processor
from concord.metrics.networks.pretrained.weights import frozen, unfilled, weight_path

CLASSES = 19
GRID = 32  # masks are seen at 32 x 32
TOKENIZER = "bert-base-uncased"
MODELS = {"text": "text", "mask": "seg_mask"}
"""Condition -> what the authors' names call it."""
KINDS = {
    "codiff": "both experts and their dynamic diffusers",
    "text": "the text expert",
    "mask": "the mask expert",
    "vae": "the autoencoder",
}


@dataclass(frozen=True)
class TextShape:
    """The text embedder: `layers` of `width`, 8 heads of 64 whatever the width."""

    width: int = 640
    layers: int = 32
    vocabulary: int = 30_522
    length: int = 77
    heads: int = 8
    head: int = 64


@dataclass(frozen=True)
class Shape:
    """The numbers of one size's networks."""

    unet: UNetShape
    influence: UNetShape
    autoencoder: AutoencoderShape
    text: TextShape
    scale: float  # of the latents

    @property
    def latent(self) -> tuple[int, int, int]:
        side = self.autoencoder.size // 2 ** (len(self.autoencoder.multipliers) - 1)
        return (self.unet.inputs, side, side)


_UNET: dict[str, Any] = {
    "multipliers": (1, 2, 3, 5),
    "attention": (8, 4, 2),
    "heads": 32,
    "context": 640,
    "inputs": 3,
}
SHAPES: dict[int, Shape] = {
    size: Shape(
        unet=UNetShape(channels=192, outputs=3, **_UNET),
        influence=UNetShape(channels=32, outputs=1, **_UNET),
        autoencoder=AutoencoderShape(latents=3, multipliers=multipliers, size=size),
        text=TextShape(),
        scale=scale,
    )
    for size, multipliers, scale in ((256, (1, 2, 4), 0.058), (512, (1, 2, 4, 4), 0.141))
}


def schedule() -> Schedule:
    """beta from 0.0015 to 0.0195, linear in its root, 1000 steps."""
    return Schedule.scaled_linear(0.0015, 0.0195, 1000)


# ------------------------------------------------------------------------------------------------------------------ tau


class _Attention(nn.Module):
    def __init__(self, shape: TextShape) -> None:
        super().__init__()
        inner = shape.heads * shape.head
        self.heads = shape.heads
        self.to_q = nn.Linear(shape.width, inner, bias=False)
        self.to_k = nn.Linear(shape.width, inner, bias=False)
        self.to_v = nn.Linear(shape.width, inner, bias=False)
        self.to_out = nn.Linear(inner, shape.width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, L, head)
            for layer in (self.to_q, self.to_k, self.to_v)
        )
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        widen = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU())
        self.net = nn.Sequential(widen, nn.Identity(), nn.Linear(4 * width, width))  # a dropout stood between

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TextTransformer(nn.Module):
    """Token ids (B, L) -> (B, L, width): attention and feed-forward layers by turns, each normalised before (x +)."""

    def __init__(self, shape: TextShape) -> None:
        super().__init__()
        self.token_emb = nn.Embedding(shape.vocabulary, shape.width)
        self.pos_emb = nn.ModuleDict({"emb": nn.Embedding(shape.length, shape.width)})
        layers: list[nn.Module] = []
        for _ in range(shape.layers):
            for block in (_Attention(shape), _FeedForward(shape.width)):
                layers.append(nn.ModuleList([nn.LayerNorm(shape.width), block]))
        self.attn_layers = nn.ModuleDict({"layers": nn.ModuleList(layers)})
        self.norm = nn.LayerNorm(shape.width)

    def forward(self, tokens: Tensor) -> Tensor:
        positions: Any = self.pos_emb["emb"]
        x = self.token_emb(tokens) + positions.weight[: tokens.shape[1]]
        layers: Any = self.attn_layers["layers"]
        for norm, block in layers:
            x = x + block(norm(x))
        return self.norm(x)


class BertText(ConditionEncoder[Tensor]):
    """tau of a text: (B, 77, 640). `tokenizer`: BERT's of transformers."""

    condition: ClassVar[str] = "text"

    def __init__(self, tokenizer: Any, shape: TextShape) -> None:
        super().__init__()
        self.tokenizer, self.length = tokenizer, shape.length
        self.transformer = TextTransformer(shape)

    def prepare(self, conditions: Sequence[Conditions]) -> Tensor:
        """Word pieces int64 (B, 77) of the lower-cased captions, cut or padded."""
        texts = [(condition.text or "").lower() for condition in conditions]
        found = self.tokenizer(
            texts, truncation=True, max_length=self.length, padding="max_length", return_tensors="pt"
        )
        return found["input_ids"]

    def forward(self, prepared: Tensor) -> Encoded:
        return Encoded(self.transformer(prepared))  # padding is seen like a word: the authors mask nothing


class MaskTokens(ConditionEncoder[Tensor]):
    """tau of a mask: (B, 19, 640), one token for each class from where it lies."""

    condition: ClassVar[str] = "mask"

    def __init__(self, context: int) -> None:
        super().__init__()
        self.linear = nn.Linear(GRID * GRID, context)

    def prepare(self, conditions: Sequence[Conditions]) -> Tensor:
        """Masks int64 (B, 32, 32) of squares of any size, by the pixel in the middle (Pillow's nearest neighbour).

        The authors do so from 512x512, and so does profile 'paper' (`reads` of its generator): from a mask that came
        down to 256x256 first, it is the pixel one further on.
        """
        masks = []
        for condition in conditions:
            mask = condition.mask
            assert mask is not None
            height, width = mask.shape
            rows = ((np.arange(GRID) + 0.5) * height / GRID).astype(np.int64)
            columns = ((np.arange(GRID) + 0.5) * width / GRID).astype(np.int64)
            masks.append(torch.from_numpy(np.ascontiguousarray(mask[rows][:, columns], dtype=np.int64)))
        return torch.stack(masks)

    def forward(self, prepared: Tensor) -> Encoded:
        one_hot = F.one_hot(prepared.flatten(1), CLASSES).transpose(1, 2)  # (B, 19, 1024)
        return Encoded(self.linear(one_hot.to(self.linear.weight.dtype)))


# -------------------------------------------------------------------------------------------------------------- loading


@dataclass(frozen=True)
class CollaborativeNetworks:
    """What the three rows of Collaborative Diffusion's table draw from.

    experts: 'text' and 'mask'; dynamic_diffusers the same, empty where only the experts' own files were given.
    cards: one for each file that was read, by its manifest's name.
    """

    autoencoder: LatentAutoencoder
    experts: dict[str, NoiseExpert]
    dynamic_diffusers: dict[str, Influence]
    schedule: Schedule
    latent_shape: tuple[int, int, int]
    image_size: int
    cards: dict[str, dict[str, object]]

    def expert(self, condition: str) -> NoiseExpert:
        """The denoiser of a condition; ConcordError that lists them."""
        return _choose(self.experts, condition, "expert")

    def dynamic_diffuser(self, condition: str) -> Influence:
        """The influence network of a condition; ConcordError that lists them."""
        return _choose(self.dynamic_diffusers, condition, "dynamic diffuser")


def _choose(networks: dict[str, Any], condition: str, what: str) -> Any:
    if condition not in networks:
        known = ", ".join(networks) or "none in the files that were given"
        raise ConcordError(f"Collaborative Diffusion has no {what} for '{condition}': its checkpoints have {known}")
    return networks[condition]


class _Files:
    """The published files of one size, each opened when the first part is asked of it."""

    def __init__(self, size: int, paths: Mapping[str, Path]) -> None:
        self.size, self.paths = size, dict(paths)
        self.opened: dict[str, Checkpoint] = {}

    def name(self, key: str) -> str:
        return f"collab-{self.size}-" + ("codiff-mask-text" if key == "codiff" else key)

    def open(self, key: str) -> Checkpoint:
        if key not in self.opened:
            path = weight_path(self.name(key), self.paths.get(key))
            kind = f"Collaborative Diffusion at {self.size}x{self.size}, {KINDS[key]}"
            found = self.opened[key] = read_checkpoint(path, kind)
            found.compare_schedule(schedule().alphas_cumprod)
            found.ignore(r"model_ema\..*", "moving average of the weights, which the authors do not sample from")
            found.ignore(r"(first_stage_model\.)?loss\..*", "losses of the autoencoder's training")
            found.ignore(
                r"(cond_stage_model\.)(text_cond_stage_model\.)?transformer\.to_logits\..*",
                "output layer of the text transformer, of which the embeddings are used",
            )
        return self.opened[key]


def load_collaborative(
    size: int = 256,
    paths: Mapping[str, Path] | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    shape: Shape | None = None,
) -> CollaborativeNetworks:
    """The networks of one size, 256 or 512, frozen, on the device.

    paths: where files are not those that `concord weights fetch` has put in place: 'codiff', 'text', 'mask' and 'vae'
    the checkpoints, 'tokenizer' a folder with BERT's. With 'text' and 'mask' but no 'codiff', there are no dynamic
    diffusers. shape: other widths than the published ones.

    Raises ConcordError when a file is missing, cannot be read, or is another model's.
    """
    shape = shape or _shape(size)
    given = dict(paths or {})
    for key in given:
        if key not in (*KINDS, "tokenizer"):
            raise ConcordError(f"paths: unknown file '{key}'; expected {', '.join([*KINDS, 'tokenizer'])}")
    files = _Files(size, given)
    together = files.open("codiff") if "codiff" in given or not {"text", "mask"} <= given.keys() else None
    diffusers: dict[str, Influence] = {}
    if together is not None:
        for condition, own in MODELS.items():
            prefix = f"model.{own}_confidence_predictor.diffusion_model."
            diffusers[condition] = _influence(together, prefix, condition, shape, device, dtype)
    experts = {condition: _expert(files, together, condition, shape, given, device, dtype) for condition in MODELS}
    autoencoder = _autoencoder(files, together, shape, device, dtype)
    for found in files.opened.values():
        found.ignore(r"first_stage_model\..*", "a second copy of the autoencoder")
        found.finish()
    cards = {files.name(key): found.card(files.name(key), dtype) for key, found in files.opened.items()}
    return CollaborativeNetworks(autoencoder, experts, diffusers, schedule(), shape.latent, size, cards)


def load_collaborative_autoencoder(
    size: int = 256,
    path: Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    shape: Shape | None = None,
) -> tuple[LatentAutoencoder, dict[str, object]]:
    """The autoencoder of `256_vae.ckpt` or `512_vae.ckpt` alone, and its card."""
    files = _Files(size, {} if path is None else {"vae": path})
    network = _autoencoder(files, None, shape or _shape(size), device, dtype)
    files.opened["vae"].finish()
    return network, files.opened["vae"].card(files.name("vae"), dtype)


def _shape(size: int) -> Shape:
    if size not in SHAPES:
        known = " and ".join(str(size) for size in SHAPES)
        raise ConcordError(f"Collaborative Diffusion at {size}x{size}: its checkpoints are for {known}")
    return SHAPES[size]


def _ready(network: nn.Module, device: torch.device | str, dtype: torch.dtype) -> Any:
    return frozen(network.to(dtype), device)


def _built(build: Callable[[], Any]) -> Any:
    """Without a random start, and never in inference mode: such weights could not be part of a guide's graph."""
    with torch.inference_mode(False), unfilled():
        return build()


def _influence(
    found: Checkpoint, prefix: str, condition: str, shape: Shape, device: torch.device | str, dtype: torch.dtype
) -> Influence:
    unet = _built(shape.influence.build)
    found.fill(unet, prefix, f"dynamic diffuser, {condition}", unet_names(shape.influence))
    return _ready(Influence(unet), device, dtype)


def _expert(
    files: _Files,
    together: Checkpoint | None,
    condition: str,
    shape: Shape,
    paths: Mapping[str, Path],
    device: torch.device | str,
    dtype: torch.dtype,
) -> NoiseExpert:
    own = MODELS[condition]
    joint = f"model.{own}_unet.diffusion_model."
    if together is not None and together.has(joint):
        found, unet_prefix, tau_prefix = together, joint, f"cond_stage_model.{own}_cond_stage_model."
    else:  # the authors, too, read the experts from their own files first
        found, unet_prefix, tau_prefix = files.open(condition), "model.diffusion_model.", "cond_stage_model."
    encoder: ConditionEncoder[Tensor]
    if condition == "text":
        encoder = _built(lambda: BertText(_tokenizer(paths.get("tokenizer"), shape.text), shape.text))
    else:
        encoder = _built(lambda: MaskTokens(shape.unet.context))
    unet = _built(shape.unet.build)
    found.fill(unet, unet_prefix, f"UNet, {condition}", unet_names(shape.unet))
    found.fill(encoder, tau_prefix, f"encoder, {condition}")
    return _ready(NoiseExpert(condition, encoder, unet), device, dtype)


def _autoencoder(
    files: _Files, together: Checkpoint | None, shape: Shape, device: torch.device | str, dtype: torch.dtype
) -> LatentAutoencoder:
    holders = [found for found in (together, files.opened.get("text")) if found is not None]
    found = next((holder for holder in holders if holder.has("first_stage_model.")), None)
    prefix = "first_stage_model."
    if found is None:
        found, prefix = files.open("vae"), ""
    network = _built(shape.autoencoder.build)
    levels = len(shape.autoencoder.multipliers)
    found.fill(network, prefix, "autoencoder", autoencoder_names(levels), squeeze=is_autoencoder_attention)
    return _ready(LatentAutoencoder(network, shape.scale), device, dtype)


def _tokenizer(folder: Path | None, shape: TextShape) -> object:
    if folder is None:
        from concord.data.download.manifest import weight_folder

        folder = weight_folder(TOKENIZER)
    if not (Path(folder) / "vocab.txt").is_file():
        raise ConcordError(
            f"{folder}: holds no vocab.txt; expected BERT's tokenizer: `concord weights fetch {TOKENIZER}`"
        )
    from transformers import BertTokenizerFast

    tokenizer = load_processor(BertTokenizerFast, Path(folder))
    if len(tokenizer) > shape.vocabulary:
        raise ConcordError(
            f"{folder}: {len(tokenizer)} word pieces, the text expert knows {shape.vocabulary}; "
            f"expected the tokenizer of {TOKENIZER}: `concord weights fetch {TOKENIZER}`"
        )
    return tokenizer


# ---------------------------------------------------------------------------------------------- roles of a profile


def load_checkpoint(
    codiff: Path, tokenizer: Path, size: int = 256, device: torch.device | str = "cpu"
) -> CollaborativeNetworks:
    """Everything that the joint checkpoint holds; the roles below are its parts. tokenizer: the folder of BERT's."""
    return load_collaborative(size, {"codiff": codiff, "tokenizer": tokenizer}, device)


def expert(networks: CollaborativeNetworks, condition: str) -> NoiseExpert:
    """The expert of 'text' or 'mask'."""
    return networks.expert(condition)


def influence(networks: CollaborativeNetworks, condition: str) -> Influence:
    """The dynamic diffuser of 'text' or 'mask'."""
    return networks.dynamic_diffuser(condition)


def space(networks: CollaborativeNetworks) -> LatentSpace:
    """The autoencoder with the shape of its latents."""
    return LatentSpace(networks.autoencoder, networks.latent_shape, networks.image_size)


def noise_schedule(networks: CollaborativeNetworks) -> Schedule:
    """The schedule that it was trained under."""
    return networks.schedule
