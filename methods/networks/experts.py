"""Uni-modal diffusion models: one latent UNet (diffusers) with an encoder tau(c) for its condition.

All share one shape, so that a conditional model can start from the weights of the unconditional one. The UNet predicts
v (Salimans and Ho 2022); `Bound` turns that into the noise eps that the papers' equations speak of.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from concord.data.checkpoints import load_network
from concord.data.errors import ConcordError
from concord.data.request import Conditions
from concord.methods.core.schedule import Schedule
from concord.metrics.networks.embedded.text import PAD, TextTransformer, Tokenizer

LATENT = (6, 16, 16)
CLASSES = 19
IMAGE = 64


@dataclass(frozen=True)
class Encoded:
    """tau(c). tokens: (B, L, D) for cross-attention; keep: (B, L), 1 where a token is real; planes: (B, P, 16, 16)."""

    tokens: Tensor
    keep: Tensor | None = None
    planes: Tensor | None = None


class OnCPU(Protocol):
    """What an encoder reads: a tensor, or several."""

    def to(self, device: torch.device) -> Self: ...


Prepared = TypeVar("Prepared", bound=OnCPU)


class ConditionEncoder(nn.Module, ABC, Generic[Prepared]):
    """tau of one condition: `prepare` on the CPU, then `forward` on the device. planes: how many it adds to x_t."""

    condition: ClassVar[str]
    planes: int = 0

    @abstractmethod
    def prepare(self, conditions: Sequence[Conditions]) -> Prepared:
        """The network's input for B conditions, on the CPU."""

    @abstractmethod
    def forward(self, prepared: Prepared) -> Encoded: ...


class NullEncoder(ConditionEncoder[Tensor]):
    """No condition: one learned token."""

    condition = "unconditional"

    def __init__(self, width: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.02)

    def prepare(self, conditions: Sequence[Conditions]) -> Tensor:
        return torch.zeros(len(conditions), dtype=torch.long)

    def forward(self, prepared: Tensor) -> Encoded:
        return Encoded(self.token.expand(len(prepared), -1, -1))


class MaskEncoder(ConditionEncoder[Tensor]):
    """One token per class from where it lies (16x16 shares -> D), and planes that a 4x4 convolution makes of the mask.

    The tokens are Collaborative Diffusion's (one-hot [19, H W] -> Linear); the planes, concatenated to x_t, let a small
    model follow edges that cross-attention alone learns slowly.
    """

    condition = "mask"

    def __init__(self, width: int, planes: int = 24) -> None:
        super().__init__()
        self.planes = planes
        self.places = nn.Linear(LATENT[1] * LATENT[2], width)
        self.names = nn.Parameter(torch.randn(CLASSES, width) * 0.02)
        self.convolution = nn.Conv2d(CLASSES, planes, 4, stride=4)

    def prepare(self, conditions: Sequence[Conditions]) -> Tensor:
        """Masks int64 (B, 64, 64)."""
        masks = []
        for condition in conditions:
            mask = condition.mask
            assert mask is not None
            if mask.shape != (IMAGE, IMAGE):
                raise ConcordError(f"condition 'mask' has shape {mask.shape}: the embedded models expect (64, 64)")
            masks.append(torch.from_numpy(np.ascontiguousarray(mask, dtype=np.int64)))
        return torch.stack(masks)

    def forward(self, prepared: Tensor) -> Encoded:
        one_hot = nn.functional.one_hot(prepared, CLASSES).movedim(-1, 1).float()  # (B, 19, 64, 64)
        shares = nn.functional.avg_pool2d(one_hot, 4).flatten(2)  # (B, 19, 256)
        return Encoded(self.places(shares) + self.names, planes=self.convolution(one_hot))


class TextEncoder(ConditionEncoder[Tensor]):
    """A small transformer over the words of the caption."""

    condition = "text"

    def __init__(self, width: int, words: Sequence[str], length: int = 40, layers: int = 3) -> None:
        super().__init__()
        self.tokenizer = Tokenizer(words, length)
        self.transformer = TextTransformer(self.tokenizer.size, length, width, layers)

    def prepare(self, conditions: Sequence[Conditions]) -> Tensor:
        """Token ids int64 (B, L); always the full length, so that a caption's ids do not depend on its batch."""
        return self.tokenizer([condition.text or "" for condition in conditions])

    def forward(self, prepared: Tensor) -> Encoded:
        return Encoded(self.transformer(prepared), keep=(prepared != PAD).float())


ENCODERS: dict[str, Callable[..., ConditionEncoder]] = {
    "unconditional": NullEncoder,
    "mask": MaskEncoder,
    "text": TextEncoder,
}


class Expert(nn.Module):
    """eps_theta_m of one modality: encoder and UNet; forward predicts v."""

    def __init__(
        self,
        condition: str,
        encoder: dict[str, Any] | None = None,
        width: int = 96,
        channels: Sequence[int] = (48, 64, 80),
    ) -> None:
        super().__init__()
        self.condition = condition
        self.encoder = self.make_encoder(condition, width, encoder or {})
        self.unet = UNet2DConditionModel(
            sample_size=LATENT[1],
            in_channels=LATENT[0] + self.encoder.planes,
            out_channels=LATENT[0],
            block_out_channels=tuple(channels),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=width,
            attention_head_dim=4,  # diffusers' name for the number of heads
            norm_num_groups=8,
        )

    def make_encoder(self, condition: str, width: int, encoder: dict[str, Any]) -> ConditionEncoder[Any]:
        """tau of that condition."""
        return ENCODERS[condition](width, **encoder)

    def forward(self, x_t: Tensor, t: Tensor | int, encoded: Encoded) -> Tensor:
        """v like x_t (B, 6, 16, 16); t an int or int64 (B,)."""
        if encoded.planes is not None:
            x_t = torch.cat([x_t, encoded.planes], dim=1)  # (B, 6 + P, 16, 16)
        keep = encoded.keep
        return self.unet(x_t, t, encoded.tokens, encoder_attention_mask=keep, return_dict=False)[0]

    def encode(self, conditions: Sequence[Conditions]) -> Encoded:
        """tau(c) of a batch of conditions, on this model's device."""
        device = next(self.parameters()).device
        return self.encoder(self.encoder.prepare(conditions).to(device))

    def bind(self, conditions: Sequence[Conditions], schedule: Schedule) -> Bound:
        """This expert with its condition fixed: a denoiser."""
        return Bound(self, self.encode(conditions), schedule)


@dataclass(frozen=True)
class Bound:
    """eps_theta_m(., ., c_m): an expert whose condition is encoded once for all steps."""

    expert: Expert
    encoded: Encoded
    schedule: Schedule

    def __call__(self, x_t: Tensor, t: int) -> Tensor:
        """The predicted noise, like x_t."""
        return self.schedule.eps_from_velocity(self.expert(x_t, t, self.encoded), x_t, t)


def load_expert(path: Path, device: torch.device | str = "cpu") -> Expert:
    """A uni-modal model of SynthFaces from its committed weights; its card says of which condition."""
    return load_network(Expert, path, device)
