"""The uni-modal experts that a batch's conditions call for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from concord.data.conditions.base import condition_names
from concord.data.errors import ConcordError

if TYPE_CHECKING:
    from concord.methods.base import Batch
    from concord.methods.networks.bank import Bank
    from concord.methods.networks.experts import Bound


def modalities(batch: Batch, order: Sequence[str] | None = None) -> list[str]:
    """The conditions that the batch brings, in a fixed order; all its requests must bring the same ones."""
    names = [request.conditions.names() for request in batch.requests]
    if len(set(names)) > 1:
        raise ConcordError(
            f"requests {batch.requests[0].id} and others bring different conditions ({names[0]} and more): "
            "expected the same in one batch; generate them apart"
        )
    return [name for name in order or condition_names() if name in names[0]]


def bind_experts(bank: Bank, batch: Batch, names: Sequence[str]) -> list[Bound]:
    """eps_theta_m(., ., c_m) for every modality m."""
    return [bank.expert(name).bind(batch.conditions, bank.schedule) for name in names]
