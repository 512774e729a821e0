"""Collaborative Diffusion's files at a small width: weights, folders and conditions that their tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ldm_layout as official
import numpy as np
import torch
from torch import Tensor

from concord.data.request import Conditions
from concord.methods.networks.checkpoints import collaborative_diffusion as collab
from concord.methods.networks.checkpoints.ldm import AutoencoderShape, UNetShape

UNET: dict[str, Any] = {
    "multipliers": (1, 1, 2), "attention": (4, 2), "heads": 4, "context": 24, "inputs": 3, "blocks": 1,
}  # fmt: skip  # a table
SHAPE = collab.Shape(
    unet=UNetShape(channels=32, outputs=3, **UNET),
    influence=UNetShape(channels=32, outputs=1, **UNET),
    autoencoder=AutoencoderShape(latents=3, channels=32, multipliers=(1, 1, 2), blocks=1, size=32),
    text=collab.TextShape(width=24, layers=2, vocabulary=40),
    scale=0.058,
)
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "this", "man", "has", "a", "beard", "##ed", ".", "young", "he"]
CAPTION = "This man has a BEARD. He unheard"
PIECES = ["[CLS]", "this", "man", "has", "a", "beard", ".", "he", "[UNK]", "[SEP]"]
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def unet_layout(shape: UNetShape) -> official.Shapes:
    numbers = shape.channels, shape.multipliers, shape.attention, shape.context, shape.inputs, shape.outputs
    return official.unet_layout(*numbers, blocks=shape.blocks)


def parts(shape: collab.Shape) -> dict[str, official.Shapes]:
    """Prefix in the file of both experts -> what is under it."""
    vae = shape.autoencoder
    return {
        "model.seg_mask_unet.diffusion_model.": unet_layout(shape.unet),
        "model.text_unet.diffusion_model.": unet_layout(shape.unet),
        "model.seg_mask_confidence_predictor.diffusion_model.": unet_layout(shape.influence),
        "model.text_confidence_predictor.diffusion_model.": unet_layout(shape.influence),
        "cond_stage_model.text_cond_stage_model.": official.bert_layout(
            shape.text.width, shape.text.layers, shape.text.vocabulary
        ),
        "cond_stage_model.seg_mask_cond_stage_model.": {
            "linear.weight": (shape.unet.context, 1024),
            "linear.bias": (shape.unet.context,),
        },
        "first_stage_model.": official.autoencoder_layout(vae.channels, vae.multipliers, vae.latents, vae.blocks),
    }


DRAWN = {prefix: official.drawn(shapes, seed) for seed, (prefix, shapes) in enumerate(parts(SHAPE).items())}


def whole() -> dict[str, Tensor]:
    state = {prefix + name: value for prefix, part in DRAWN.items() for name, value in part.items()}
    return official.schedule_tables() | state


def of_one_expert(own: str) -> dict[str, Tensor]:
    """The file of one expert: `256_text.ckpt` or `256_mask.ckpt`."""
    names = {
        f"model.{own}_unet.": "model.",
        f"cond_stage_model.{own}_cond_stage_model.": "cond_stage_model.",
        "first_stage_model.": "first_stage_model.",
    }
    state = {
        to + name.removeprefix(start): value
        for name, value in whole().items()
        for start, to in names.items()
        if name.startswith(start)
    }
    loss = {f"first_stage_model.loss.{name}": torch.ones(4) for name in ("discriminator.main.0.weight", "logvar")}
    return official.schedule_tables() | state | loss


def write_folder(folder: Path) -> Path:
    """The file of both experts, and BERT's tokenizer for a few words."""
    official.write_checkpoint(folder / "256_codiff_mask_text.ckpt", whole())
    (folder / "bert").mkdir()
    (folder / "bert" / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return folder


def load(folder: Path, **paths: Path) -> collab.CollaborativeNetworks:
    given = paths or {"codiff": folder / "256_codiff_mask_text.ckpt"}
    return collab.load_collaborative(256, {**given, "tokenizer": folder / "bert"}, shape=SHAPE)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


def mask(size: int = 64) -> np.ndarray:
    drawn = np.random.default_rng(3).integers(0, 19, (size // 2, size // 2))
    return drawn.repeat(2, axis=0).repeat(2, axis=1).astype(np.int64)


def conditions() -> list[Conditions]:
    return [Conditions(text=CAPTION, mask=mask()), Conditions(text="young", mask=mask()[::-1].copy())]
