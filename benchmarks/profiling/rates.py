"""Seconds of one network evaluation on this machine, for the hours that `concord plan --profile paper` estimates.

Every network of a generator is timed by itself on random latents, forwards, and one of them backwards, as the rows
count their evaluations (benchmarks/cost.py). Guides, decoders and the first call are not in it: what a row takes is
more, and a finished row tells it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml

from concord.benchmarks.cost import RATES, Rate, read_rates
from concord.benchmarks.store.provenance import cpu_name
from concord.data.device import number_format
from concord.data.errors import ConcordError
from concord.data.files import atomic_path
from concord.data.request import Conditions

if TYPE_CHECKING:
    import torch

    from concord.data.networks import Networks

REPEATS = 5
"""Timed calls of a network; their median counts, after one that does not."""
TIMESTEP = 500
HEAD = "# Written by `concord plan --measure`: seconds of one evaluation of one image, by network.\n"


def measure_rate(
    generator: str,
    device: torch.device,
    dtype: str = "fp32",
    batch: int = 16,
    paths: Mapping[str, Path] | None = None,
    profile: str = "paper",
) -> Rate:
    """Time a generator's networks; a batch that does not fit into the device's memory is halved until it does.

    paths: as `Networks` takes them. ConcordError where a weight file is missing, or one image does not fit.
    """
    import torch

    from concord.data.networks import Networks

    networks = Networks(profile, generator, device, paths)
    while True:
        try:
            seconds = _networks(networks, device, dtype, batch)
            break
        except torch.OutOfMemoryError:
            if batch == 1:
                raise ConcordError(
                    f"generator '{generator}': one image does not fit into the memory of {device}"
                ) from None
            batch //= 2
            torch.cuda.empty_cache()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    source = f"median of {REPEATS} passes of {batch} images; guides and decoders are not in it"
    return Rate(generator=generator, device=name, dtype=dtype, batch=batch, seconds=seconds, source=source)


def _networks(networks: Networks, device: torch.device, dtype: str, batch: int) -> dict[str, float]:
    """Seconds an image by network, as `evaluations` names them."""
    import torch

    from concord.methods.core.schedule import Schedule
    from concord.methods.networks.protocols import EncodingDenoiser, Influence, TrainedDenoiser
    from concord.methods.networks.space import LatentSpace

    space, schedule = networks.get("space", LatentSpace), networks.get("schedule", Schedule)
    side = space.image_size
    conditions = [Conditions(text="A person.", mask=np.ones((side, side), np.int64)) for _ in range(batch)]
    noise = torch.randn(batch, *space.latent_shape, generator=torch.Generator().manual_seed(0)).to(device)
    calls: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {}
    for role in networks.profile.roles_of(networks.generator):
        kind, _, name = role.partition("/")
        if kind == "expert":
            expert = networks.get(role, TrainedDenoiser)
            calls[f"eps-{name}"] = _at(expert.bind(conditions, schedule))
            if networks.has(f"influence/{name}"):
                encoded = networks.get(role, EncodingDenoiser).encode(conditions)
                calls[f"influence-{name}"] = _at(networks.get(f"influence/{name}", Influence), encoded)
    with number_format(dtype, device):
        with torch.no_grad():
            found = {name: _seconds(partial(call, noise), device) / batch for name, call in calls.items()}
        first = next(iter(calls))
        leaf = noise.clone().requires_grad_(True)
        both = _seconds(lambda: torch.autograd.grad(calls[first](leaf).float().sum(), leaf), device) / batch
    return found | {"backward": max(both - found[first], 0.0)}


def _at(network: Callable[..., torch.Tensor], *more: object) -> Callable[[torch.Tensor], torch.Tensor]:
    """The network at one timestep."""
    return lambda x: network(x, TIMESTEP, *more)


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    """The median of `REPEATS` calls, after one that warms up."""
    import torch

    taken = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - start)
    return float(np.median(taken[1:]))


def write_rates(rates: Sequence[Rate], path: Path | None = None) -> Path:
    """Keep rates in benchmarks/rates.yaml, in place of those of the same generator, device and number format."""
    path = RATES if path is None else path
    new = {(rate.generator, rate.device, rate.dtype): rate for rate in rates}
    kept = [rate for rate in read_rates(path) if (rate.generator, rate.device, rate.dtype) not in new]
    content = {"rates": [rate.model_dump() for rate in (*new.values(), *kept)]}  # the newest first: it is taken
    with atomic_path(path) as temporary:
        temporary.write_text(HEAD + yaml.safe_dump(content, sort_keys=False, width=120), encoding="utf-8")
    return path
