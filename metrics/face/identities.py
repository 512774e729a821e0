"""What the identity metrics share: embeddings of the images' faces and of the identities that the conditions show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from concord.data.errors import ConcordError
from concord.data.request import Conditions
from concord.metrics.base import OK, Observation
from concord.metrics.networks.protocols import Identity

if TYPE_CHECKING:
    from torch import Tensor


@cache
def identities(role: str) -> Callable[[Observation], tuple[Tensor, list[str]]]:
    """The step that embeds the images' faces by the network of a role.

    It gives unit vectors float32 (B, D), and for each 'ok' or why it has none.
    """
    return lambda observation: _embed(observation, role)(observation.images)


@cache
def target_identities(role: str) -> Callable[[Observation], tuple[Tensor, list[str]]]:
    """Embeddings of the identities that the conditions show, by the same network: unit vectors (B, D), statuses."""

    def step(observation: Observation) -> tuple[Tensor, list[str]]:
        vectors, _ = observation.memo(identities(role))
        return embed_identities(observation.conditions, _embed(observation, role), vectors)

    return step


def _embed(observation: Observation, role: str) -> Callable[[Tensor], tuple[Tensor, list[str]]]:
    import torch

    network, device = observation.networks.get(role, Identity), observation.networks.device

    def embed(images: Tensor) -> tuple[Tensor, list[str]]:
        with torch.inference_mode():
            return network.embed_faces(images.to(device))

    return embed


def embed_identities(
    conditions: Sequence[Conditions], embed: Callable[[Tensor], tuple[Tensor, list[str]]], like: Tensor
) -> tuple[Tensor, list[str]]:
    """Unit vectors (B, D) of the conditions' identities, with statuses; images of one size are embedded together.

    An identity is an image uint8 (H, W, 3) RGB, or a vector (D,) of the network's own. like: vectors (B, D) of it.
    """
    import torch

    vectors, statuses = torch.zeros(len(conditions), like.shape[1]), [OK] * len(conditions)
    by_size: dict[tuple[int, ...], list[int]] = {}
    for number, condition in enumerate(conditions):
        identity, what = condition.identity, f"condition 'identity' of image {number} of the batch"
        if identity is None:
            raise ConcordError(f"image {number} of the batch has no condition 'identity' to score against")
        if identity.ndim == 1 and np.issubdtype(identity.dtype, np.floating):
            if identity.shape != like.shape[1:] or not np.isfinite(identity).all() or not np.any(identity):
                expected = f"{like.shape[1]} finite numbers of the scoring network, not all 0"
                raise ConcordError(f"{what} is a vector of {len(identity)}: expected {expected}, or an image")
            vector = torch.from_numpy(np.asarray(identity, np.float32))
            vectors[number] = torch.nn.functional.normalize(vector, dim=0)
        elif identity.ndim == 3 and identity.shape[2] == 3 and identity.dtype == np.uint8:
            by_size.setdefault(identity.shape, []).append(number)
        else:
            given = f"shape {identity.shape} and type {identity.dtype}"
            raise ConcordError(f"{what} has {given}: expected an image uint8 (H, W, 3) RGB of the person")
    for numbers in by_size.values():
        images = torch.from_numpy(np.stack([conditions[number].identity for number in numbers]))
        embedded, reasons = embed(images.permute(0, 3, 1, 2).float().div(255).contiguous())
        for number, vector, reason in zip(numbers, embedded.float().cpu(), reasons, strict=True):
            vectors[number], statuses[number] = vector, reason
    return vectors, statuses
