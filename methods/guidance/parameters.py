"""What a row may choose about guidance: how hard, when and by which rule each condition pulls, and the sampler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator

from concord.methods.base import Method
from concord.methods.core.sampler import Kind
from concord.methods.core.tunable import TuneRange
from concord.metrics.networks.protocols import FREEDOM_WINDOW

GUIDED = ("text", "identity", "mask", "landmarks", "style")
"""Conditions that have an energy, in the order in which Z-Magic starts from them."""

NETWORK_OF = {
    "text": "text-image",
    "identity": "identity",
    "mask": "parser",
    "landmarks": "landmarks",
    "style": "text-image",
}
"""The kind of guide network that the energy of a condition looks through."""

Sampler = Literal["auto", "ancestral", "reverse-diffusion", "ddim", "ddim-official"]
Rule = Literal["relative", "sqrt-abar", "relative-correction", "score"]


Strength = Annotated[float, TuneRange(0.03, 3, share=True)]


class Strengths(BaseModel):
    """How hard each condition pulls: FreeDoM's run scripts at 256x256. They have no meaning across models."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    text: Strength = Field(0.02, ge=0)
    identity: Strength = Field(100.0, ge=0)
    mask: Strength = Field(0.2, ge=0)
    landmarks: Strength = Field(500.0, ge=0)
    style: Strength = Field(0.2, ge=0)


class Windows(BaseModel):
    """When each condition guides: low < t < high, of the 1000 training timesteps (FreeDoM's run scripts)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    text: tuple[int, int] = (-1, 1000)
    identity: tuple[int, int] = (100, 1000)
    mask: tuple[int, int] = (200, 1000)
    landmarks: tuple[int, int] = (200, 1000)
    style: tuple[int, int] = (300, 700)


class Rules(BaseModel):
    """How a strength becomes a step (`concord.methods.guidance.energies.step_size`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    text: Rule = "relative"
    identity: Rule = "sqrt-abar"
    mask: Rule = "sqrt-abar"
    landmarks: Rule = "sqrt-abar"
    style: Rule = "relative-correction"

    def rule(self, name: str) -> Rule:
        return getattr(self, name)


class EnergyParams(Method.Params):
    """What every method that follows energies lets one choose about them."""

    strengths: Strengths = Strengths()
    norm: Literal["sample", "batch"] = "sample"  # 'batch': over the whole tensor, as FreeDoM's code (see `objective`)
    text_residual: Literal["unit", "raw", "cosine"] = "unit"  # 'raw': embeddings not normalised, as FreeDoM's code
    identity_residual: Literal["unit", "mean-absolute"] = "unit"
    identity_window: tuple[int, int, int, int] = FREEDOM_WINDOW  # of IR-SE50: top, bottom, left, right at 256 x 256
    mask_residual: Literal["probabilities", "logits", "cross-entropy"] = "probabilities"
    style_residual: Literal["gram", "relative", "embedding", "cosine"] = "gram"  # see `StyleEnergy`
    style_reference: Literal["sample", "encoder", "own"] = "sample"  # how the reference gets its size (`StyleEnergy`)
    style_blocks: tuple[int, ...] = (3,)  # of the image encoder, from 1; FreeDoM takes the third
    encoder: Literal["text-image", "universal"] = "text-image"  # of text and style; Universal Guidance's CLIP RN50
    text_by: Literal["energy", "model"] = "energy"  # 'model': the text-driven model, as in Z-Magic's Table 2
    text_scale: Annotated[float, TuneRange(0.25, 2, share=True, when={"text_by": ["model"]})] = 5.0
    # classifier-free guidance of the text-driven model (FreeDoM with Stable Diffusion)
    guide: Literal["guide", "judge"] = "guide"  # whose networks the energies look through
    judge_may_guide: bool = False  # a row has to say so: a judge that guides is no independent judge

    def guide_kind(self, name: str) -> str:
        """The kind of guide network that the energy of a condition looks through."""
        if name == "style" and self.style_residual == "relative":
            return "features"
        kind = NETWORK_OF[name]
        return f"universal-{name}" if kind == "text-image" and self.encoder == "universal" else kind


class GuidedParams(EnergyParams):
    """Sampling around the energies; see `EnergyParams` for theirs."""

    old_values: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "sampler": {"ddim-coded": "ddim-official"},
        "ddim_noise": {"coded": "official"},
    }

    steps: int = Field(100, ge=1, le=1000)  # FreeDoM and Z-Magic, faces
    sampler: Sampler = "auto"  # auto: see `kind`
    eta: float = Field(0.5, ge=0, le=1)  # of DDIM (FreeDoM's run scripts)
    windows: Windows = Windows()
    rules: Rules = Rules()
    order: tuple[str, ...] = GUIDED  # of the conditions; those left out come after, in this order
    ddim_noise: Literal["paper", "official"] = "paper"  # Song et al.'s sigma_t, or FreeDoM's: eta sqrt(1 - abar_t')
    noise_last_step: bool = False  # where latents end at abar_0 < 1 (Stable Diffusion in FreeDoM's code)
    repeat: int = Field(1, ge=1)  # time travel: turns of a step (faces 1; ImageNet 10; Stable Diffusion's style 3)
    repeat_window: tuple[int, int] = (0, 1000)  # where, low <= t <= high (ImageNet 501-801, style 400-700)
    repeat_last_step: bool = False  # the last step takes its turns as well
    style_repeat: int | None = Field(None, ge=1)  # `repeat` where a style guides a text-driven model; None: the same
    style_repeat_window: tuple[int, int] = (0, 1000)  # `repeat_window` there

    @field_validator("order")
    @classmethod
    def _known(cls, order: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in order if name not in GUIDED]
        if unknown or len(set(order)) < len(order):
            raise ValueError(f"expected each of {', '.join(GUIDED)} at most once")
        return (*order, *(name for name in GUIDED if name not in order))

    def strength(self, name: str) -> float:
        """The guidance strength of a condition."""
        return getattr(self.strengths, name)

    def uses_text_model(self, names: Sequence[str]) -> bool:
        """Whether, of a request's conditions, the text drives the model itself and has no energy."""
        return self.text_by == "model" and "text" in names

    def pulling(self, names: Sequence[str]) -> list[str]:
        """The conditions of a request that pull by an energy, in `order`."""
        by_energy = [name for name in names if not (name == "text" and self.text_by == "model")]
        return [name for name in self.order if name in by_energy and self.strength(name) > 0]

    def guide_role(self, name: str) -> str:
        """The role of the network that the energy of a condition looks through."""
        return f"{self.guide}/{self.guide_kind(name)}"

    def guides(self, name: str, t: int) -> bool:
        """Whether a condition pulls at t."""
        low, high = getattr(self.windows, name)
        return self.strength(name) > 0 and low < t < high

    def repeats(self, t: int) -> int:
        """Turns of the step at t, 1 or more."""
        return self.repeat if self.repeat_window[0] <= t <= self.repeat_window[1] else 1

    def for_conditions(self, names: Sequence[str]) -> Self:
        """The parameters where these conditions are given: what depends on which ones they are stands in its place."""
        if self.style_repeat is None or self.text_by != "model" or "style" not in names:
            return self
        return self.model_copy(update={"repeat": self.style_repeat, "repeat_window": self.style_repeat_window})

    def branches(self, names: Sequence[str]) -> int:
        """How many noises of its own a step needs beside the first, where these conditions guide."""
        return 0

    def kind(self, names: Sequence[str]) -> Kind:
        """The base step; auto is what FreeDoM's code takes: ancestral where a text guides, else DDIM with eta."""
        kind = self.sampler
        if kind == "auto":
            kind = "ancestral" if "text" in names else "ddim"
        return "ddim-official" if kind == "ddim" and self.ddim_noise == "official" else kind
