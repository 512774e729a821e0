"""What methods ask of a generator's networks, whichever profile they come from (`Networks.get`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from concord.data.request import Conditions
    from concord.methods.core.schedule import Schedule
    from concord.methods.networks.experts import Encoded


@runtime_checkable
class TrainedDenoiser(Protocol):
    """A diffusion model of one condition, or of none."""

    def bind(self, conditions: Sequence[Conditions], schedule: Schedule) -> Callable[[Tensor, int], Tensor]:
        """(x_t, t) -> eps like x_t, the condition of every row encoded once for all steps."""
        ...


class BoundDenoiser(Protocol):
    """A denoiser with its condition fixed, which other networks read too."""

    @property
    def encoded(self) -> Encoded:
        """tau(c) of the batch."""
        ...

    def __call__(self, x_t: Tensor, t: int) -> Tensor:
        """eps like x_t."""
        ...


@runtime_checkable
class EncodingDenoiser(Protocol):
    """A diffusion model whose encoding of the condition other networks read too."""

    def bind(self, conditions: Sequence[Conditions], schedule: Schedule) -> BoundDenoiser:
        """(x_t, t) -> eps like x_t, the condition of every row encoded once for all steps."""
        ...

    def encode(self, conditions: Sequence[Conditions]) -> Encoded:
        """tau(c) of a batch of conditions."""
        ...


@runtime_checkable
class WithLatents(Protocol):
    """A model that says in which latents it was trained, (C, h, w); others are trained in their generator's."""

    latent_shape: tuple[int, ...]


@runtime_checkable
class WithSchedule(Protocol):
    """A bound model that says under which schedule it was trained."""

    schedule: Schedule


@runtime_checkable
class GuidedDenoiser(Protocol):
    """One that is given its strength of classifier-free guidance."""

    def bind(
        self, conditions: Sequence[Conditions], schedule: Schedule, guidance: float = 1.0
    ) -> Callable[[Tensor, int], Tensor]:
        """(x_t, t) -> eps like x_t."""
        ...


@runtime_checkable
class Influence(Protocol):
    """A dynamic diffuser: how much weight a modality gets, pixel by pixel."""

    def __call__(self, x_t: Tensor, t: Tensor | int, encoded: Encoded) -> Tensor:
        """Influence (B, 1, h, w) of x_t (B, C, h, w)."""
        ...
