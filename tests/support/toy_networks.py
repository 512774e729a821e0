"""Networks by role out of parts that a test made itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from concord.data.networks import Networks
from concord.methods.networks.space import LatentSpace


def toy_networks(toys: Any, guides: Mapping[str, object] | None = None, **roles: object) -> Networks:
    """The networks of a test's own class: its schedule, autoencoder, experts and influences, as far as it has them.

    guides: by kind, on both sides of the profile. roles: others.
    """
    given: dict[str, object] = dict(roles)
    if hasattr(toys, "schedule"):
        given["schedule"] = toys.schedule
    size = getattr(toys, "image_size", 64)
    if hasattr(toys, "autoencoder"):
        given["space"] = LatentSpace(toys.autoencoder, tuple(getattr(toys, "latent_shape", ())), size)
    given |= {f"expert/{name}": expert for name, expert in getattr(toys, "experts", {}).items()}
    given |= {f"influence/{name}": network for name, network in getattr(toys, "diffusers", {}).items()}
    for kind, network in (guides or {}).items():
        given |= {f"guide/{kind}": network, f"judge/{kind}": network}
    return Networks.of(given, image_size=size)
