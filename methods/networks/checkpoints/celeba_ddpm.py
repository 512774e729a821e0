"""SDEdit's DDPM of CelebA-HQ at 256x256 (Meng et al. 2022; Ho et al. 2020): what FreeDoM and Z-Magic start from.

`celeba_hq.ckpt` is a plain state dict of the 'simple' UNet that DDIM's code has:

    temb.dense.{0,1}                              t -> 4 ch numbers; sines, then cosines, of t 10000^(-i / (ch/2 - 1))
    conv_in, norm_out, conv_out
    down.<level>.block.<j>.{norm1,conv1,temb_proj,norm2,conv2,nin_shortcut}
    down.<level>.attn.<j>.{norm,q,k,v,proj_out}   at a side of 16; one head, 1x1 convolutions
    down.<level>.downsample.conv                  3x3 with stride 2 on a picture padded right and below
    mid.{block_1,attn_1,block_2}
    up.<level>.{block,attn,upsample}              numbered by level as `down` is, run from the last level to the first

with ch 128, multiples 1, 1, 2, 2, 4, 4, two blocks a level (three on the way up), group normalisation over 32 groups
with eps 1e-6, SiLU. That is diffusers' `UNet2DModel` under other names: `renamed` gives them, and the 1x1 convolutions
of the attention become the linear layers that they are. The network sees x_t in [-1, 1] and answers with eps. Its betas
rise linearly from 0.0001 to 0.02 in 1000 steps; the variance is fixed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from concord.data.errors import ConcordError
from concord.data.files import sha256_file
from concord.data.request import Conditions
from concord.methods.core.schedule import Schedule
from concord.methods.networks.space import LatentSpace
from concord.metrics.networks.pretrained.weights import frozen, load_strictly, read_state, unfilled, weight_path

NAME = "celeba-hq-ddpm"
KIND = "the DDPM of CelebA-HQ"
BETAS = (1e-4, 0.02, 1000)

_BLOCK = {"norm1": "norm1", "conv1": "conv1", "temb_proj": "time_emb_proj", "norm2": "norm2", "conv2": "conv2",
          "nin_shortcut": "conv_shortcut"}  # fmt: skip  # a table
_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_TOP = {
    "temb.dense.0": "time_embedding.linear_1",
    "temb.dense.1": "time_embedding.linear_2",
    "conv_in": "conv_in",
    "norm_out": "conv_norm_out",
    "conv_out": "conv_out",
}
_MIDDLE = {"block_1": "resnets.0", "block_2": "resnets.1", "attn_1": "attentions.0"}


@dataclass(frozen=True)
class Architecture:
    """The numbers of the UNet; the published ones unless told otherwise. attention: the sides at which it attends."""

    width: int = 128
    multiples: Sequence[int] = (1, 1, 2, 2, 4, 4)
    blocks: int = 2
    attention: Sequence[int] = (16,)
    image_size: int = 256
    groups: int = 32

    def build(self) -> UNet2DModel:
        """The network, not filled."""
        sides = [self.image_size >> level for level in range(len(self.multiples))]
        attends = [side in self.attention for side in sides]
        return UNet2DModel(
            sample_size=self.image_size,
            in_channels=3,
            out_channels=3,
            freq_shift=1,
            flip_sin_to_cos=False,
            block_out_channels=tuple(self.width * multiple for multiple in self.multiples),
            down_block_types=tuple("AttnDownBlock2D" if attend else "DownBlock2D" for attend in attends),
            up_block_types=tuple("AttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)),
            layers_per_block=self.blocks,
            downsample_padding=0,
            norm_eps=1e-6,
            norm_num_groups=self.groups,
            attention_head_dim=None,  # one head
            dropout=0.0,
        )


class CelebADDPM(nn.Module):
    """eps(x_t, t): x_t (B, 3, H, W) in [-1, 1], t the 0-based timestep, an int or int64 (B,); H is a multiple of 32.

    card: name, sha256, file, parameters of what was loaded.
    """

    def __init__(self, unet: UNet2DModel, card: Mapping[str, object]) -> None:
        super().__init__()
        self.unet, self.card = unet, dict(card)

    @property
    def image_size(self) -> int:
        return int(self.unet.config["sample_size"])

    def forward(self, x_t: Tensor, t: Tensor | int) -> Tensor:
        return self.unet(x_t, t, return_dict=False)[0]


def load_celeba_ddpm(
    path: Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    architecture: Architecture | None = None,
) -> CelebADDPM:
    """The network with the weights of `celeba_hq.ckpt`; None takes the fetched file.

    Raises ConcordError for a file that is no weight file, is of another model, or does not hold float32.
    """
    path = weight_path(NAME, path)
    state = read_state(path)
    with unfilled():
        unet = (architecture or Architecture()).build()
    load_strictly(unet, renamed(state, len(unet.config["block_out_channels"]), path), path, KIND)
    card = {
        "name": NAME,
        "sha256": sha256_file(path),
        "file": path.name,
        "parameters": sum(value.numel() for value in state.values()),
    }
    return frozen(CelebADDPM(unet.to(dtype), card), device)


def renamed(state: Mapping[str, Tensor], levels: int, path: Path) -> dict[str, Tensor]:
    """The published names -> diffusers'; ConcordError where a name is none of the model's, or a type is not float32."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if value.dtype != torch.float32:
            raise ConcordError(
                f"{path}: no weights of {KIND}: '{name}' is {str(value.dtype).removeprefix('torch.')}, "
                "expected float32; fetch the file again"
            )
        layer, _, part = name.rpartition(".")
        place = _place(layer, levels)
        if place is None:
            raise ConcordError(
                f"{path}: no weights of {KIND}: it holds '{name}', which is no layer of that model; fetch "
                f"{NAME} again, or give its own file"
            )
        if part == "weight" and value.ndim == 4 and place.endswith(("to_q", "to_k", "to_v", "to_out.0")):
            value = value[:, :, 0, 0] if value.shape[2:] == (1, 1) else value
        found[f"{place}.{part}"] = value
    return found


def _place(layer: str, levels: int) -> str | None:
    """diffusers' name of a layer; None for one that the model does not have."""
    if layer in _TOP:
        return _TOP[layer]
    if match := re.fullmatch(r"mid\.(block_1|block_2|attn_1)\.(\w+)", layer):
        inner = (_ATTENTION if match[1] == "attn_1" else _BLOCK).get(match[2])
        return inner and f"mid_block.{_MIDDLE[match[1]]}.{inner}"
    match = re.fullmatch(r"(down|up)\.(\d+)\.(?:(block|attn)\.(\d+)\.(\w+)|(downsample|upsample)\.conv)", layer)
    if match is None:
        return None
    way, level = match[1], int(match[2])
    if level >= levels:
        return None
    block = f"{way}_blocks.{level if way == 'down' else levels - 1 - level}"
    if match[6]:
        return f"{block}.{way}samplers.0.conv" if match[6] == f"{way}sample" else None
    inner = (_BLOCK if match[3] == "block" else _ATTENTION).get(match[5])
    return inner and f"{block}.{'resnets' if match[3] == 'block' else 'attentions'}.{match[4]}.{inner}"


# ---------------------------------------------------------------------------------------------- roles of a profile


class Pixels(nn.Module):
    """The space of a model of pixels: no network, [0, 1] to [-1, 1] and back."""

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) from [0, 1] to [-1, 1]."""
        return images * 2 - 1

    def decode(self, x: Tensor) -> Tensor:
        """Not clamped: a guide's gradient survives."""
        return (x + 1) / 2


class PixelExpert(nn.Module):
    """The unconditional DDPM as an expert: eps of x_t (B, 3, H, W) in [-1, 1] at the timesteps of `noise_schedule`."""

    condition = "unconditional"

    def __init__(self, network: CelebADDPM) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_t: Tensor, t: Tensor | int) -> Tensor:
        return self.network(x_t, t - 1)

    def bind(self, conditions: Sequence[Conditions], schedule: Schedule) -> Callable[[Tensor, int], Tensor]:
        """It asks for no condition."""
        return self


def expert(network: CelebADDPM) -> PixelExpert:
    """The network as an expert."""
    return PixelExpert(network)


def space(network: CelebADDPM) -> LatentSpace:
    """Pixels in [-1, 1]."""
    size = network.image_size
    return LatentSpace(Pixels(), (3, size, size), size)


def noise_schedule(start: float = BETAS[0], end: float = BETAS[1], steps: int = BETAS[2]) -> Schedule:
    """DDPM's linear betas behind one more entry, abar_0 = 1: timestep t here is t - 1 in DDPM's count.

    Samplers then end at abar = 1, the clean image, as FreeDoM's code does, and its range(0, 1000, 10) are the
    timesteps 1, 11, .., 991. Latent diffusion ends at its own abar_0 and needs no such entry.
    """
    betas = torch.linspace(start, end, steps, dtype=torch.float64)
    return Schedule(torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - betas, dim=0)]))
