"""Layers applied from a bare state dict, so that a network can be written down a second time without its modules."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Plain:
    """The weights of a state dict by name; `conv(x, 'a.b')` uses 'a.b.weight' and, where there is one, 'a.b.bias'."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.state = state

    def has(self, name: str) -> bool:
        return f"{name}.weight" in self.state

    def conv(self, x: Tensor, name: str, stride: int = 1, padding: int = 0, groups: int = 1) -> Tensor:
        weight, bias = self.state[f"{name}.weight"], self.state.get(f"{name}.bias")
        return F.conv2d(x, weight, bias, stride, padding, groups=groups)

    def norm(self, x: Tensor, name: str) -> Tensor:
        """(x - mean) / sqrt(variance + 1e-5), scaled and shifted, along dimension 1."""
        shape = (1, -1) + (1,) * (x.ndim - 2)
        mean, variance, weight, bias = (
            self.state[f"{name}.{part}"].view(shape) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(variance + 1e-5) * weight + bias

    def prelu(self, x: Tensor, name: str) -> Tensor:
        slope = self.state[f"{name}.weight"].view(1, -1, 1, 1)
        return torch.where(x > 0, x, slope * x)

    def linear(self, x: Tensor, name: str) -> Tensor:
        y = x @ self.state[f"{name}.weight"].T
        return y + self.state[f"{name}.bias"] if f"{name}.bias" in self.state else y


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """Every weight and every running statistic drawn anew, of a size that keeps activations near 1; evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if not value.is_floating_point():
                continue
            noise = torch.randn(value.shape, generator=generator)
            if name.endswith("running_var"):
                value.copy_(0.5 + torch.rand(value.shape, generator=generator))
            elif name.endswith(("bias", "running_mean")):
                value.copy_(0.2 * noise)
            elif value.ndim > 1:
                value.copy_(noise * (1.6 / value[0].numel()) ** 0.5)
            else:  # scales of normalisation and slopes of PReLU
                value.copy_(0.8 + 0.2 * noise)
    return network.eval()
