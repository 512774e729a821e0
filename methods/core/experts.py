"""The uni-modal experts that a batch's conditions call for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from concord.data.conditions.base import condition_names
from concord.data.errors import ConcordError
from concord.methods.core.schedule import Schedule
from concord.methods.networks.protocols import TrainedDenoiser

if TYPE_CHECKING:
    from concord.data.networks import Networks
    from concord.methods.base import Batch
    from concord.methods.core.sampler import Denoiser

LAYOUT_MODELS = {"interaction": "layout", "attribute": "layout", "style": "style"}
"""The models of the world of layouts, and the condition that each takes."""


def modalities(batch: Batch, order: Sequence[str] | None = None) -> list[str]:
    """The conditions that the batch brings, in a fixed order; all its requests must bring the same ones."""
    names = [request.conditions.names() for request in batch.requests]
    if len(set(names)) > 1:
        raise ConcordError(
            f"requests {batch.requests[0].id} and others bring different conditions ({names[0]} and more): "
            "expected the same in one batch; generate them apart"
        )
    return [name for name in order or condition_names() if name in names[0]]


def bind_experts(networks: Networks, batch: Batch, names: Sequence[str]) -> list[Denoiser]:
    """eps_theta_m(., ., c_m) for every modality m."""
    schedule = networks.get("schedule", Schedule)
    return [networks.get(f"expert/{name}", TrainedDenoiser).bind(batch.conditions, schedule) for name in names]


def layout_models(conditions: Iterable[str]) -> list[str]:
    """The layout models that these conditions tell something, in the order of `LAYOUT_MODELS`."""
    given = set(conditions)
    return [kind for kind, condition in LAYOUT_MODELS.items() if condition in given]


def guided_rows(guidance: float) -> int:
    """Rows that a layout model sees for one prediction: the null condition's too, unless nothing is guided."""
    return 1 if guidance == 1 else 2
