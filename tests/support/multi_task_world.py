"""Small random networks, a toys of them and a handful of invented faces, for the tests of MT-Diffusion."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from toy_networks import toy_networks

from concord.data.errors import ConcordError
from concord.data.networks import Networks
from concord.methods.core.schedule import Schedule
from concord.methods.networks.autoencoder import Autoencoder
from concord.methods.networks.experts import LATENT
from concord.methods.networks.multi_task import MultiTaskUNet

SMALL: dict[str, Any] = {"channels": (16, 16, 16), "width": 16}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_network(**config: Any) -> MultiTaskUNet:
    network = MultiTaskUNet(**{**SMALL, **config})
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator(parameter.numel())))
    return network.eval().requires_grad_(False)


def autoencoder() -> Autoencoder:
    made = Autoencoder(width=16, fine_width=16, blocks=1)
    images = torch.rand(4, 3, 64, 64, generator=generator())
    made.fit_linear(torch.nn.functional.avg_pool2d(images, 5, stride=1, padding=2))
    return made.eval().requires_grad_(False)


class SmallWorld:
    """What the methods ask of a toys, over small random networks; `others` has those beside 'mt-faces'."""

    device = torch.device("cpu")
    schedule = Schedule.scaled_linear()
    image_size = 64
    latent_shape = LATENT

    def __init__(self, **others: MultiTaskUNet) -> None:
        self.autoencoder, self.network = autoencoder(), random_network()
        self.others = {name.replace("_", "-"): network for name, network in others.items()}

    def multi_task(self, name: str = "mt-faces") -> MultiTaskUNet:
        if name != "mt-faces" and name not in self.others:
            raise ConcordError(f"{name}: no such weights")
        return self.others.get(name, self.network)

    @property
    def networks(self) -> Networks:
        named = {f"multi-task/{name}": network for name, network in {"mt-faces": self.network, **self.others}.items()}
        return toy_networks(self, **named)


class FewFaces:
    """Latents of a handful of invented faces."""

    def __init__(self, *_: Any) -> None:
        n = 6
        self.corpus = SimpleNamespace(
            masks=torch.randint(19, (n, 64, 64), generator=generator(1), dtype=torch.uint8),
            attributes=torch.randint(6, (n, 5), generator=generator(2)),
            male=torch.randint(2, (n,), generator=generator(3)),
            pictures=lambda index: torch.rand(len(index), 3, 64, 64, generator=generator(4)),
        )
        self.values = torch.randn(n, *LATENT, generator=generator(5))
