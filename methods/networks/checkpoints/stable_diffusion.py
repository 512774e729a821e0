"""Stable Diffusion v1.4 and v1.5 (Rombach et al. 2022), for text with style (Z-Magic, table 2) and text alone.

Two forms of the same weights:
    a folder as diffusers saves it     unet/, vae/, text_encoder/, tokenizer/, scheduler/
    one file of latent diffusion       model.diffusion_model.*, first_stage_model.*, cond_stage_model.transformer.*

Of a file that holds both the weights of the last training step and their moving average (`model_ema.*`), the average
is taken: it is what the smaller published files hold. One file has no tokenizer; open_clip's copy of CLIP's word pieces
serves, padded with the end mark as Stable Diffusion was trained.

The safety checker and its feature extractor are left out: neither is read from a folder that has them, and the images
are not filtered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from concord.data.errors import ConcordError
from concord.data.files import read_json
from concord.data.request import Conditions
from concord.methods.core.schedule import Schedule
from concord.methods.networks.checkpoints.ldm import (
    AutoencoderShape,
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

VERSIONS = ("v1-4", "v1-5")
SCALE = 0.18215  # of the latents
LENGTH = 77
END = 49_407  # CLIP's end mark, with which shorter texts are filled up
PARTS = ("unet", "vae", "text_encoder", "tokenizer")
WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
LEFT_OUT = ["safety_checker", "feature_extractor"]

Tokenize = Callable[[Sequence[str]], Tensor]
"""Texts -> word pieces int64 (B, 77)."""


UNET = UNetShape(320, (1, 2, 4, 4), (4, 2, 1), heads=8, context=768, inputs=4, outputs=4)
AUTOENCODER = AutoencoderShape(latents=4)
TEXT: dict[str, object] = {
    "vocab_size": 49_408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "max_position_embeddings": LENGTH, "hidden_act": "quick_gelu", "projection_dim": 768,
    "bos_token_id": END - 1, "eos_token_id": END, "pad_token_id": 1,
}  # fmt: skip  # a table


@dataclass(frozen=True)
class Shape:
    """The numbers of a single file's networks, the published ones; a folder brings its own."""

    unet: UNetShape = UNET
    autoencoder: AutoencoderShape = AUTOENCODER
    text: Mapping[str, object] = field(default_factory=lambda: dict(TEXT))


class ClipText(ConditionEncoder[Tensor]):
    """tau of a text: CLIP's last layer, normalised, (B, 77, 768); of '' where the model is to be unconditional."""

    def __init__(self, condition: str, tokenizer: Tokenize, text_encoder: nn.Module) -> None:
        super().__init__()
        self.asked, self.tokenizer, self.text_encoder = condition, tokenizer, text_encoder

    condition: ClassVar[str] = "text"

    def prepare(self, conditions: Sequence[Conditions]) -> Tensor:
        """Word pieces int64 (B, 77)."""
        return self.tokenizer([(c.text or "") if self.asked == "text" else "" for c in conditions])

    def forward(self, prepared: Tensor) -> Encoded:
        return Encoded(self.text_encoder(input_ids=prepared).last_hidden_state)


@dataclass(frozen=True)
class StableDiffusion:
    """The networks, frozen, on the device; `expert` gives the denoisers that methods ask for.

    tokenizer: texts -> word pieces int64 (B, 77). card: files with SHA-256, parameters, type, what was left out.
    """

    autoencoder: LatentAutoencoder
    text_encoder: nn.Module
    tokenizer: Tokenize
    unet: UNet2DConditionModel
    schedule: Schedule
    latent_shape: tuple[int, int, int]
    image_size: int
    card: dict[str, object]
    experts: dict[str, NoiseExpert] = field(default_factory=dict)

    def expert(self, condition: str) -> NoiseExpert:
        """'text', or 'unconditional', which is the same network under the empty text."""
        if condition not in ("text", "unconditional"):
            raise ConcordError(f"Stable Diffusion has no expert for '{condition}': expected 'text' or 'unconditional'")
        if condition not in self.experts:
            encoder = ClipText(condition, self.tokenizer, self.text_encoder).eval()
            self.experts[condition] = NoiseExpert(condition, encoder, self.unet).eval()
        return self.experts[condition]


def load_stable_diffusion(
    path: Path | None = None,
    version: str = "v1-4",
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    shape: Shape | None = None,
) -> StableDiffusion:
    """Stable Diffusion from a folder in diffusers' form, or from one .ckpt or .safetensors of latent diffusion.

    path: where it is not the folder that `concord weights fetch stable-diffusion-<version>` has put in place.
    shape: of a single file with other widths than the published ones.

    Raises ConcordError when something is missing, cannot be read, or is another model's.
    """
    if version not in VERSIONS:
        raise ConcordError(f"Stable Diffusion version '{version}': expected {' or '.join(VERSIONS)}")
    name = f"stable-diffusion-{version}"
    if path is None:
        from concord.data.download.manifest import weight_folder

        path = weight_folder(name)
    path = weight_path(name, path)
    with torch.inference_mode(False):  # weights born in inference mode could not be part of a guide's graph
        if path.is_dir():
            return _from_folder(path, name, device, dtype)
        return _from_file(path, name, shape or Shape(), device, dtype)


# ------------------------------------------------------------------------------------------------------------- one file


def _from_file(path: Path, name: str, shape: Shape, device: torch.device | str, dtype: torch.dtype) -> StableDiffusion:
    found = read_checkpoint(path, f"Stable Diffusion {name[-4:].replace('-', '.')}")
    schedule = Schedule.scaled_linear(0.00085, 0.012, 1000)
    found.compare_schedule(schedule.alphas_cumprod)
    found.ignore(r"cond_stage_model\.transformer\.text_model\.embeddings\.position_ids", "positions 0, 1, 2, ...")
    found.ignore(r"first_stage_model\.loss\..*", "losses of the autoencoder's training")
    found.ignore(r"model_ema\.(decay|num_updates)", "counters of the moving average")
    with unfilled():
        unet, autoencoder = shape.unet.build(), shape.autoencoder.build()
        text_encoder = _text_encoder(shape.text)
    rename = unet_names(shape.unet)
    average = "model_ema.diffusion_model"
    if found.has(average):
        found.ignore(
            r"model\.diffusion_model\..*",
            "weights of the last training step; their moving average is used, as in the smaller published files",
        )
        found.fill(unet, average, "UNet, moving average", lambda own: rename(own).replace(".", ""))
    else:
        found.fill(unet, "model.diffusion_model.", "UNet", rename)
    levels = len(shape.autoencoder.multipliers)
    found.fill(
        autoencoder, "first_stage_model.", "autoencoder", autoencoder_names(levels), squeeze=is_autoencoder_attention
    )
    found.fill(text_encoder, "cond_stage_model.transformer.text_model.", "text encoder", _text_name)
    found.finish()
    card = {**found.card(name, dtype), "left_out": LEFT_OUT}
    return _assembled(unet, autoencoder, text_encoder, _open_clip_tokens, schedule, SCALE, card, device, dtype)


def _open_clip_tokens(texts: Sequence[str]) -> Tensor:
    """CLIP's word pieces by open_clip, which fills up with 0: here with the end mark."""
    import open_clip

    tokens = open_clip.get_tokenizer("ViT-L-14")(list(texts))
    behind = torch.arange(tokens.shape[1])[None] > tokens.argmax(dim=1, keepdim=True)  # the end mark is the largest
    return tokens.masked_fill(behind, END)


# ------------------------------------------------------------------------------------------------------------- a folder


def _from_folder(folder: Path, name: str, device: torch.device | str, dtype: torch.dtype) -> StableDiffusion:
    schedule = _folder_schedule(folder)
    settings = {part: _settings(folder / part / "config.json") for part in WEIGHTS}
    _require_version_1(folder, settings)
    with unfilled():
        networks: dict[str, Any] = {
            "unet": _from_config(UNet2DConditionModel, folder / "unet", settings["unet"]),
            "vae": _from_config(AutoencoderKL, folder / "vae", settings["vae"]),
            "text_encoder": _text_encoder(settings["text_encoder"], folder / "text_encoder"),
        }
    opened: dict[str, Checkpoint] = {}
    for part, network in networks.items():
        found = opened[part] = read_checkpoint(_weights(folder, part, name), f"Stable Diffusion, {part}")
        prefix, rename = "", _same
        if part == "text_encoder":
            found.ignore(r"text_model\.embeddings\.position_ids", "positions 0, 1, 2, ...")
            prefix, rename = "text_model.", _text_name
        if part == "vae" and any(".query." in own for own in found.left):
            rename = _older_attention
        found.fill(network, prefix, part, rename, squeeze=is_autoencoder_attention)
        found.finish()
    tokenizer = _folder_tokenizer(folder / "tokenizer", settings["text_encoder"])
    scale = float(settings["vae"].get("scaling_factor", SCALE))
    card = _folder_card(folder, name, opened, dtype)
    return _assembled(
        networks["unet"], networks["vae"], networks["text_encoder"], tokenizer, schedule, scale, card, device, dtype
    )


def _folder_card(folder: Path, name: str, opened: Mapping[str, Checkpoint], dtype: torch.dtype) -> dict[str, object]:
    cards = {part: found.card(name, dtype) for part, found in opened.items()}
    files = {f"{part}/{card['file']}": card["sha256"] for part, card in sorted(cards.items())}
    listing = "".join(f"{digest}  {file}\n" for file, digest in files.items())
    return {
        "name": name,
        "file": folder.name,
        "sha256": hashlib.sha256(listing.encode()).hexdigest(),  # of the listing of `files`, as sha256sum prints it
        "files": files,
        "kind": "Stable Diffusion",
        "parameters": sum(card["parameters"] for card in cards.values()),
        "parts": {part: card["parameters"] for part, card in cards.items()},
        "stored": sorted({stored for card in cards.values() for stored in card["stored"]}),
        "dtype": str(dtype).removeprefix("torch."),
        "ignored": {reason: count for card in cards.values() for reason, count in card["ignored"].items()},
        "not_read": sorted({entry for card in cards.values() for entry in card["not_read"]}),
        "left_out": LEFT_OUT,
    }


def _settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConcordError(
            f"{path}: no such file; expected Stable Diffusion as diffusers saves it: folders {', '.join(PARTS)} "
            "and scheduler, or one .ckpt or .safetensors of latent diffusion"
        )
    content = read_json(path)
    if not isinstance(content, dict):
        raise ConcordError(f"{path}: expected an object with the network's numbers; fetch the folder again")
    return content


def _require_version_1(folder: Path, settings: Mapping[str, Mapping[str, object]]) -> None:
    channels, context = settings["unet"].get("in_channels"), settings["unet"].get("cross_attention_dim")
    width = settings["text_encoder"].get("hidden_size")
    if channels == 9:
        raise ConcordError(f"{folder}: is an inpainting model (9 input planes); expected Stable Diffusion v1.4 or v1.5")
    if context != width or settings["text_encoder"].get("hidden_act", "quick_gelu") != "quick_gelu":
        raise ConcordError(
            f"{folder}: is another model (UNet looks at texts of width {context}, the text encoder gives {width}, "
            f"{settings['text_encoder'].get('hidden_act')}); expected Stable Diffusion v1.4 or v1.5"
        )


def _folder_schedule(folder: Path) -> Schedule:
    path = folder / "scheduler" / "scheduler_config.json"
    content = _settings(path)
    kind, prediction = content.get("beta_schedule"), content.get("prediction_type", "epsilon")
    if kind != "scaled_linear" or prediction != "epsilon":
        raise ConcordError(
            f"{path}: beta_schedule '{kind}', prediction_type '{prediction}'; "
            "expected scaled_linear and epsilon, as in Stable Diffusion v1.4 and v1.5"
        )
    found = content.get("beta_start"), content.get("beta_end"), content.get("num_train_timesteps", 1000)
    numbers = [number for number in found if isinstance(number, (int, float)) and number > 0]
    if len(numbers) != len(found):
        raise ConcordError(f"{path}: expected numbers in beta_start, beta_end and num_train_timesteps")
    start, end, steps = numbers
    return Schedule.scaled_linear(float(start), float(end), int(steps))


def _from_config(kind: Any, folder: Path, settings: Mapping[str, Any]) -> Any:
    try:
        return kind.from_config(dict(settings))
    except (TypeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ConcordError(f"{folder / 'config.json'}: no {kind.__name__} ({reason}); fetch the folder again") from None


def _text_encoder(settings: Mapping[str, Any], folder: Path | None = None) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    try:
        config = CLIPTextConfig.from_dict(dict(settings))
        return CLIPTextModel(config)
    except (TypeError, ValueError, KeyError) as error:
        where = f"{folder / 'config.json'}: " if folder else ""
        reason = " ".join(str(error).split())[:120]
        raise ConcordError(f"{where}no CLIPTextModel ({reason}); fetch the folder again") from None


def _text_name(own: str) -> str:
    """transformers before version 5 has one more level in its names, as the files do."""
    return own.removeprefix("text_model.")


def _same(own: str) -> str:
    return own


def _older_attention(own: str) -> str:
    """The autoencoders of v1 were saved by a diffusers that called these layers otherwise."""
    for new, old in ((".to_q.", ".query."), (".to_k.", ".key."), (".to_v.", ".value."), (".to_out.0.", ".proj_attn.")):
        own = own.replace(new, old)
    return own


def _weights(folder: Path, part: str, name: str) -> Path:
    for ending in (".safetensors", ".fp16.safetensors", ".bin"):
        path = folder / part / (WEIGHTS[part] + ending)
        if ending == ".bin" and part == "text_encoder":
            path = folder / part / "pytorch_model.bin"
        if path.is_file():
            return path
    missing = folder / part / f"{WEIGHTS[part]}.safetensors"
    raise ConcordError(f"{missing}: no such weight file; run `concord weights fetch {name}`")


def _folder_tokenizer(folder: Path, text: Mapping[str, Any]) -> Tokenize:
    for file in ("vocab.json", "merges.txt"):
        if not (folder / file).is_file():
            raise ConcordError(f"{folder}: holds no {file}; expected CLIP's tokenizer as transformers saves it")
    from transformers import CLIPTokenizer

    tokenizer = load_processor(CLIPTokenizer, folder)
    vocabulary = int(text.get("vocab_size", 49_408))
    if len(tokenizer) > vocabulary:
        raise ConcordError(f"{folder}: {len(tokenizer)} word pieces, the text encoder knows {vocabulary}")
    length = int(text.get("max_position_embeddings", LENGTH))

    def tokens(texts: Sequence[str]) -> Tensor:
        return tokenizer(list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")[
            "input_ids"
        ]

    return tokens


# ------------------------------------------------------------------------------------------------------------- together


def _assembled(
    unet: Any,
    autoencoder: Any,
    text_encoder: nn.Module,
    tokenizer: Tokenize,
    schedule: Schedule,
    scale: float,
    card: dict[str, object],
    device: torch.device | str,
    dtype: torch.dtype,
) -> StableDiffusion:
    latents = LatentAutoencoder(autoencoder, scale)
    for network in (unet, latents, text_encoder):
        frozen(nn.Module.to(network, dtype), device)  # diffusers' own `to` warns of a type that it has already
    halvings = len(autoencoder.config.block_out_channels) - 1
    side = int(unet.config.sample_size)
    latent_shape = (int(unet.config.in_channels), side, side)
    return StableDiffusion(latents, text_encoder, tokenizer, unet, schedule, latent_shape, side * 2**halvings, card)


# ---------------------------------------------------------------------------------------------- roles of a profile


def expert(networks: StableDiffusion, condition: str) -> NoiseExpert:
    """The denoiser under 'text', or 'unconditional' under the empty text."""
    return networks.expert(condition)


def space(networks: StableDiffusion) -> LatentSpace:
    """The autoencoder with the shape of its latents."""
    return LatentSpace(networks.autoencoder, networks.latent_shape, networks.image_size)


def noise_schedule(networks: StableDiffusion) -> Schedule:
    """The schedule that it was trained under."""
    return networks.schedule
