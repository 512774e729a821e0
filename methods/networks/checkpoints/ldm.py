"""Latent diffusion's networks (Rombach et al. 2022) as diffusers builds them: the same layers under other names.

    file (ldm)                             diffusers
    input_blocks.1.0.in_layers.0           down_blocks.0.resnets.0.norm1
    input_blocks.4.1.transformer_blocks    down_blocks.1.attentions.0.transformer_blocks
    encoder.down.0.block.0.nin_shortcut    encoder.down_blocks.0.resnets.0.conv_shortcut

Both compute the same: group normalisation with 32 groups (eps 1e-5 in the UNet, 1e-6 in its transformers and in the
autoencoder), GEGLU, an autoencoder that pads right and below before it halves, timesteps as [cos, sin]. Heads are a
number, not a width: what `num_heads` means in latent diffusion is what diffusers calls `attention_head_dim` here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from concord.data.request import Conditions
from concord.methods.core.schedule import Schedule
from concord.methods.networks.experts import Bound, ConditionEncoder, Encoded, Expert

# ------------------------------------------------------------------------------------------------------------- the UNet


@dataclass(frozen=True)
class UNetShape:
    """The numbers of an `openaimodel.UNetModel` with spatial transformers; attention: the rates at which it looks."""

    channels: int
    multipliers: tuple[int, ...]
    attention: tuple[int, ...]
    heads: int
    context: int
    inputs: int
    outputs: int
    blocks: int = 2
    size: int = 64

    @property
    def attends(self) -> tuple[bool, ...]:
        """By level."""
        return tuple(2**level in self.attention for level in range(len(self.multipliers)))

    def config(self) -> dict[str, Any]:
        """As `UNet2DConditionModel` takes it."""
        down = ["CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in self.attends]
        up = ["CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(self.attends)]
        return {
            "sample_size": self.size,
            "in_channels": self.inputs,
            "out_channels": self.outputs,
            "block_out_channels": tuple(self.channels * multiplier for multiplier in self.multipliers),
            "down_block_types": tuple(down),
            "mid_block_type": "UNetMidBlock2DCrossAttn",
            "up_block_types": tuple(up),
            "layers_per_block": self.blocks,
            "cross_attention_dim": self.context,
            "attention_head_dim": self.heads,
        }

    def build(self) -> UNet2DConditionModel:
        return UNet2DConditionModel(**self.config())


_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def unet_names(shape: UNetShape) -> Callable[[str], str]:
    """A name of diffusers' UNet -> the name in latent diffusion's file."""
    modules = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }
    number, levels = 1, len(shape.multipliers)
    for level, attends in enumerate(shape.attends):
        for block in range(shape.blocks):
            modules[f"down_blocks.{level}.resnets.{block}"] = f"input_blocks.{number}.0"
            if attends:
                modules[f"down_blocks.{level}.attentions.{block}"] = f"input_blocks.{number}.1"
            number += 1
        if level < levels - 1:
            modules[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
            number += 1
    number = 0
    for level, attends in enumerate(reversed(shape.attends)):  # the output blocks begin with the coarsest level
        for block in range(shape.blocks + 1):
            modules[f"up_blocks.{level}.resnets.{block}"] = f"output_blocks.{number}.0"
            if attends:
                modules[f"up_blocks.{level}.attentions.{block}"] = f"output_blocks.{number}.1"
            if level < levels - 1 and block == shape.blocks:
                modules[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{number}.{1 + attends}.conv"
            number += 1

    def rename(name: str) -> str:
        parts = name.split(".")
        for length in range(len(parts) - 1, 0, -1):
            module = modules.get(".".join(parts[:length]))
            if module is not None:
                rest = parts[length:]
                if "resnets" in parts[:length]:
                    rest[0] = _RESNET[rest[0]]
                return ".".join([module, *rest])
        raise KeyError(name)

    return rename


# ------------------------------------------------------------------------------------------------------ the autoencoder


@dataclass(frozen=True)
class AutoencoderShape:
    """The numbers of an `AutoencoderKL` without attention but in its middle; it halves len(multipliers) - 1 times."""

    latents: int
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2
    size: int = 512

    def config(self) -> dict[str, Any]:
        """As diffusers' `AutoencoderKL` takes it."""
        levels = len(self.multipliers)
        return {
            "sample_size": self.size,
            "latent_channels": self.latents,
            "block_out_channels": tuple(self.channels * multiplier for multiplier in self.multipliers),
            "down_block_types": ("DownEncoderBlock2D",) * levels,
            "up_block_types": ("UpDecoderBlock2D",) * levels,
            "layers_per_block": self.blocks,
        }

    def build(self) -> AutoencoderKL:
        return AutoencoderKL(**self.config())


_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def autoencoder_names(levels: int) -> Callable[[str], str]:
    """A name of diffusers' autoencoder -> the name in latent diffusion's file."""

    def rename(name: str) -> str:
        name = re.sub(r"encoder\.down_blocks\.(\d+)\.", r"encoder.down.\1.", name)
        name = re.sub(r"decoder\.up_blocks\.(\d+)\.", lambda found: f"decoder.up.{levels - 1 - int(found[1])}.", name)
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
        attention = re.fullmatch(r"(\w+)\.mid_block\.attentions\.0\.(.+)\.(weight|bias)", name)
        if attention is not None:
            return f"{attention[1]}.mid.attn_1.{_ATTENTION[attention[2]]}.{attention[3]}"
        name = re.sub(r"\.(down|up)samplers\.0\.conv", r".\1sample.conv", name)
        name = name.replace(".resnets.", ".block.").replace("conv_norm_out", "norm_out")
        return name.replace("conv_shortcut", "nin_shortcut")

    return rename


def is_autoencoder_attention(name: str) -> bool:
    """Names (diffusers') of linear layers that the files hold as 1x1 convolutions."""
    return re.search(r"attentions\.0\.to_(q|k|v|out\.0)\.weight$", name) is not None


class LatentAutoencoder(nn.Module):
    """encode: images (B, 3, H, W) in [0, 1] -> latents (B, C, h, w), scaled; decode: back, not clamped.

    The latents are the mean of the encoder's Gaussian (the authors train on draws from it), times the scale factor.
    """

    def __init__(self, network: AutoencoderKL, scale: float) -> None:
        super().__init__()
        self.network, self.scale = network, scale
        self.channels = int(network.config.latent_channels)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> the posterior's mode, scaled, (B, C, h, w)."""
        moments = self.network.encode((images * 2 - 1).to(self.dtype), return_dict=False)[0]
        return moments.mode().to(images.dtype) * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents (B, C, h, w) -> images (B, 3, H, W), [0, 1] where the network keeps to it."""
        decoded = self.network.decode((latents / self.scale).to(self.dtype), return_dict=False)[0]
        return (decoded.to(latents.dtype) + 1) / 2

    def forward(self, images: Tensor) -> Tensor:
        """The reconstruction."""
        return self.decode(self.encode(images))


# --------------------------------------------------------------------------------------------------- what methods see


class NoiseExpert(Expert):
    """An expert whose UNet predicts the noise itself, as published latent diffusion models do.

    forward: x_t (B, C, h, w), t an int or int64 (B,), the tokens -> eps like x_t. Where the network is kept in half
    precision it computes in that, and eps comes back in x_t's type.
    """

    def __init__(self, condition: str, encoder: ConditionEncoder[Tensor], unet: UNet2DConditionModel) -> None:
        nn.Module.__init__(self)  # the embedded expert would build its own networks
        self.condition, self.encoder, self.unet = condition, encoder, unet

    def forward(self, x_t: Tensor, t: Tensor | int, encoded: Encoded) -> Tensor:
        dtype = next(self.unet.parameters()).dtype
        eps = self.unet(x_t.to(dtype), t, encoded.tokens.to(dtype), return_dict=False)[0]
        return eps.to(x_t.dtype)

    def bind(self, conditions: Sequence[Conditions], schedule: Schedule) -> NoiseBound:
        return NoiseBound(self, self.encode(conditions), schedule)


@dataclass(frozen=True)
class NoiseBound(Bound):
    """eps_theta_m(., ., c_m) of a network that predicts the noise."""

    def __call__(self, x_t: Tensor, t: int) -> Tensor:
        return self.expert(x_t, t, self.encoded)


class Influence(nn.Module):
    """A dynamic diffuser: a UNet with one output plane. x_t (B, C, h, w), t, tau(c_m) -> influence (B, 1, h, w)."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x_t: Tensor, t: Tensor | int, encoded: Encoded) -> Tensor:
        dtype = next(self.unet.parameters()).dtype
        logits = self.unet(x_t.to(dtype), t, encoded.tokens.to(dtype), return_dict=False)[0]
        return logits.to(x_t.dtype)
