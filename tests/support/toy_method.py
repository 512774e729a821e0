"""A method for tests: colours from the request's seed, shapes from its mask. No weights, milliseconds an image."""

import time

import torch

from concord.methods.base import Batch, Method, Trace, register


class Mixer(torch.nn.Module):
    """Something with a forward that can be counted."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(x)


@register
class Toy(Method):
    """Noise of the request's own generator over the mask's classes."""

    name, title, paper = "toy", "Toy", "none"
    conditions = frozenset({"text", "mask"})
    training_free = True
    traces = ("influence",)

    class Params(Method.Params):
        steps: int = 2
        sleep: float = 0.0  # seconds a batch: gives tests time to interrupt

    mixer = Mixer()

    def denoisers(self):
        return {"mixer": self.mixer}

    def sample(self, batch: Batch, trace: Trace) -> torch.Tensor:
        time.sleep(self.params.sleep)
        noise = torch.stack([torch.randn(3, 64, 64, generator=g) for g in batch.generators])
        mask = torch.stack([torch.from_numpy(c.mask).float() / 18 for c in batch.conditions])[:, None]
        x = noise / 4 + mask
        for step in range(self.params.steps):
            x = self.mixer(x)
            weight = torch.stack([x.mean(1), 1 - x.mean(1)])[:, :, ::4, ::4]  # (M, B, 16, 16)
            trace("influence", self.params.steps - step, weight, batch_dim=1, parts=("mask", "text"))
        return x
