"""The network of MT-Diffusion (Chen et al., ICLR 2024, sections 2.2.3, 2.2.4): one UNet, a decoder head a modality.

The UNet is that of the uni-modal experts, so that it can start from their weights. What it shares ends before the
output block: the noise and every image-like modality have an output block of their own (normalisation, SiLU,
convolution), labels a layer from the middle block (MT-Diffusion-M) or a classifier after the output (MT-Diffusion-E).
It is given the encodings of the modalities that are known as further input planes, labels as a token; an unknown one
leaves its planes at zero and enters through z_t alone. Predicts v (Salimans and Ho 2022) of the aggregated signal
(methods/mt_diffusion.py).

Encoders E_i into the diffusion space (B, 6, 16, 16), none of them trained:
    masked-image   the autoencoder; what the head predicts lies in the diffusion space already (identity)
    mask           the autoencoder, over the picture that a palette makes of the class probabilities
    label          this very UNet, with a zero image at time 0 and the label as its token
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from concord.data.checkpoints import load_network
from concord.data.conditions.masked_image import GREY
from concord.data.errors import ConcordError
from concord.data.labels import PALETTE
from concord.methods.core.schedule import Schedule
from concord.methods.networks.experts import CLASSES, IMAGE, LATENT
from concord.methods.networks.space import Codec
from concord.metrics.networks.embedded.features import CLASS_JUDGE

LABELS = 12
"""Classes of the modality 'label': six ages of each sex, as the class judge counts them: age times 2 plus sex."""
assert CLASS_JUDGE == ("Young", "Male")


@dataclass(frozen=True)
class Modality:
    """What the method has to know of one kind of data.

    space: shape of the data, class probabilities or latents, without the batch.
    heads: its decoders; the first one is used where none is chosen.
    loss: 'mse' of the encoding, or 'cross-entropy' of the class.
    as_planes: whether a known one is given to the network as planes; as a token otherwise.
    """

    name: str
    space: tuple[int, ...]
    heads: tuple[str, ...]
    loss: Literal["mse", "cross-entropy"]
    as_planes: bool = True


MODALITIES: dict[str, Modality] = {
    "masked-image": Modality("masked-image", LATENT, ("masked-image",), "mse"),
    "mask": Modality("mask", (CLASSES, IMAGE, IMAGE), ("mask",), "cross-entropy"),
    "label": Modality("label", (LABELS,), ("label-middle", "label-end"), "cross-entropy", as_planes=False),
}


def modality(name: str, known: Sequence[str] = tuple(MODALITIES)) -> Modality:
    """The modality of that name; ConcordError with the known names otherwise."""
    if name not in known or name not in MODALITIES:
        raise ConcordError(f"unknown modality '{name}': expected one of {', '.join(known)}")
    return MODALITIES[name]


class OutputBlock(nn.Module):
    """Normalisation, SiLU, convolution, to `grow` times the resolution r: (B, C, h, w) -> (B, out, r h, r w)."""

    def __init__(self, channels: int, out: int, grow: int = 1) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.convolution = nn.Conv2d(channels, out * grow**2, 3, padding=1)
        self.grow = nn.PixelShuffle(grow)

    def forward(self, features: Tensor) -> Tensor:
        return self.grow(self.convolution(nn.functional.silu(self.norm(features))))


class EndClassifier(nn.Module):
    """MT-Diffusion-E's decoder: a small convolutional classifier of the predicted clean signal (B, 6, 16, 16)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(LATENT[0], width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.GroupNorm(8, 2 * width),
            nn.SiLU(),
            nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1),
            nn.GroupNorm(8, 2 * width),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(2 * width * LATENT[1] * LATENT[2] // 16, LABELS),
        )

    def forward(self, clean: Tensor) -> Tensor:
        return self.layers(clean)


@dataclass(frozen=True)
class Known:
    """The modalities that a network is given, encoded. Rows of one batch may know different ones.

    planes: by name, (B, 6, 16, 16), rows of zeros where it is unknown. label: (B, 12) probabilities, or zeros.
    """

    planes: Mapping[str, Tensor] = field(default_factory=dict)
    label: Tensor | None = None


@dataclass(frozen=True)
class Shared:
    """What the heads read. last: (B, C0, 16, 16), before the output block; middle: (B, C2, 4, 4)."""

    last: Tensor
    middle: Tensor

    def rows(self, rows: slice) -> Shared:
        """The same of some rows of the batch."""
        return Shared(self.last[rows], self.middle[rows])


class MultiTaskUNet(nn.Module):
    """The shared backbone with its heads.

    weights, predicts: the weights w_t that it was trained under (methods/mt_diffusion.py), and what its first head
    predicts, v or eps. A network of a single task has no other head (heads=False), planes of what it is always given
    alone, and the shares of the classes that it was trained with (frequencies).
    """

    def __init__(
        self,
        modalities: Sequence[str] = tuple(MODALITIES),
        width: int = 96,
        channels: Sequence[int] = (48, 64, 80),
        weights: str = "bounded",
        predicts: Literal["v", "eps"] = "v",
        planes: Sequence[str] | None = None,
        heads: bool = True,
        frequencies: Sequence[float] = (),
    ) -> None:
        super().__init__()
        self.weights, self.predicts, self.frequencies = weights, predicts, tuple(frequencies)
        self.modalities = tuple(modality(name).name for name in modalities)
        as_planes = tuple(name for name in self.modalities if MODALITIES[name].as_planes)
        self.planes = as_planes if planes is None else tuple(planes)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.unet = UNet2DConditionModel(
            sample_size=LATENT[1],
            in_channels=LATENT[0] * (1 + len(self.planes)),
            out_channels=LATENT[0],
            block_out_channels=tuple(channels),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=width,
            attention_head_dim=4,  # diffusers' name for the number of heads
            norm_num_groups=8,
        )
        self.unet.conv_norm_out, self.unet.conv_out = None, nn.Identity()  # the heads begin here
        self._middle: list[Tensor] = []
        self.unet.mid_block.register_forward_hook(self._keep)
        first, middle = channels[0], channels[-1]
        self.noise = OutputBlock(first, LATENT[0])
        made: dict[str, nn.Module] = {}
        if "masked-image" in self.modalities:
            made["masked-image"] = OutputBlock(first, LATENT[0])
        if "mask" in self.modalities:
            made["mask"] = OutputBlock(first, CLASSES, grow=IMAGE // LATENT[1])
        if "label" in self.modalities:
            self.labels = nn.Parameter(torch.randn(LABELS, width) * 0.02)
            made["label-middle"] = nn.Sequential(nn.Flatten(), nn.Linear(middle * LATENT[1] * LATENT[2] // 16, LABELS))
            made["label-end"] = EndClassifier()
        self.heads = nn.ModuleDict(made if heads else {})

    def _keep(self, _module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._middle.append(output)

    def forward(self, z_t: Tensor, t: Tensor | int, known: Known | None = None) -> Shared:
        """The shared part: z_t (B, 6, 16, 16), t an int or int64 (B,)."""
        known = known or Known()
        silent = torch.zeros_like(z_t) if len(known.planes) < len(self.planes) else z_t
        x = torch.cat([z_t, *(known.planes.get(name, silent) for name in self.planes)], dim=1)  # (B, 6 (1 + P), 16, 16)
        token = self.token.expand(len(z_t), -1, -1)
        if known.label is not None:
            there = known.label.sum(1)[:, None, None]  # 1 where the label is known
            token = there * (known.label @ self.labels)[:, None] + (1 - there) * token
        self._middle.clear()
        last = self.unet(x, t, token, return_dict=False)[0]
        return Shared(last, self._middle.pop())

    def velocity(self, shared: Shared) -> Tensor:
        """v (B, 6, 16, 16), or eps where that is what it predicts."""
        return self.noise(shared.last)

    def eps(self, shared: Shared, z_t: Tensor, t: Tensor | int, schedule: Schedule) -> Tensor:
        """The noise in z_t (B, 6, 16, 16)."""
        found = self.velocity(shared)
        return found if self.predicts == "eps" else schedule.eps_from_velocity(found, z_t, t)

    def read(self, head: str, shared: Shared, clean: Tensor) -> Tensor:
        """What a head predicts: latents (B, 6, 16, 16), or logits (B, 19, 64, 64) or (B, 12).

        clean: the predicted clean signal, which the classifier after the output looks at.
        """
        if head == "label-middle":
            return self.heads[head](shared.middle)
        return self.heads[head](clean if head == "label-end" else shared.last)

    def take_trunk(self, trunk: Mapping[str, Tensor]) -> None:
        """Start from the unconditional expert's weights: planes silent, every image head a copy of its output block."""
        own = self.state_dict()
        for key, value in trunk.items():
            if key == "encoder.token":
                own["token"] = value.clone()
            elif key == "unet.conv_in.weight":
                own[key] = torch.zeros_like(own[key])
                own[key][:, : value.shape[1]] = value
            elif key.startswith(("unet.conv_norm_out.", "unet.conv_out.")):
                part = "norm" if "norm" in key else "convolution"
                for block in ("noise", "heads.masked-image"):
                    if f"{block}.{part}.weight" in own:
                        own[f"{block}.{part}.{key.rsplit('.', 1)[1]}"] = value.clone()
            elif key in own:
                own[key] = value.clone()
        self.load_state_dict(own)

    def take_part(self, whole: MultiTaskUNet) -> None:
        """Start from a network of more modalities: all that both have; planes that it alone has were silent anyway."""
        own, first = self.state_dict(), LATENT[0]
        for key, value in whole.state_dict().items():
            if key == "unet.conv_in.weight":
                own[key] = torch.zeros_like(own[key])
                own[key][:, :first] = value[:, :first]
                for place, name in enumerate(self.planes, start=1):
                    if name in whole.planes:
                        there = first * (1 + whole.planes.index(name))
                        own[key][:, first * place : first * (place + 1)] = value[:, there : there + first]
            elif key in own:
                own[key] = value.clone()
        self.load_state_dict(own)


class Encoders:
    """E_i of every modality: data as `Modality.space` says -> (B, 6, 16, 16), without gradients."""

    def __init__(self, autoencoder: Codec, network: MultiTaskUNet) -> None:
        self.autoencoder, self.network = autoencoder, network
        self.palette = torch.from_numpy(PALETTE.copy()).float() / 255  # (19, 3)

    @torch.no_grad()
    def __call__(self, name: str, data: Tensor) -> Tensor:
        kind = modality(name, self.network.modalities)
        if data.shape[1:] != kind.space:
            raise ConcordError(f"modality '{name}' has shape {tuple(data.shape)}: expected (B, {kind.space})")
        if name == "masked-image":
            return data
        if name == "mask":
            picture = torch.einsum("bkhw,kc->bchw", data, self.palette.to(data.device))
            return self.autoencoder.encode(picture)
        nothing = data.new_zeros(len(data), *LATENT)
        return self.network.velocity(self.network(nothing, 0, Known(label=data)))

    @torch.no_grad()
    def masked_image(self, images: Tensor, known: Tensor) -> Tensor:
        """Images (B, 3, 64, 64) in [0, 1] and what is known of them, bool (B, 64, 64) -> the modality's data."""
        return self.autoencoder.encode(torch.where(known[:, None], images, GREY))


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Classes int64 (B, ...) -> probabilities float32 (B, classes, ...)."""
    return nn.functional.one_hot(labels, classes).movedim(-1, 1).float()


def load_multi_task(path: Path, device: torch.device | str = "cpu") -> MultiTaskUNet:
    """The network of all modalities, or one of its single-task baselines, from its committed weights."""
    return load_network(MultiTaskUNet, path, device)
