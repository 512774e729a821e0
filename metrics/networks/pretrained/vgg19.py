"""VGG19 (Simonyan & Zisserman, ICLR 2015) up to its fifth convolution: what neural style transfer compares.

The layers and the normalisation are those of PyTorch's tutorial on neural style: conv_1 to conv_5 (conv1_1, conv1_2,
conv2_1, conv2_2, conv3_1 of the paper), each before its ReLU. Weights: torchvision's (`vgg19`: vgg19-dcbb9e9d.pth).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from concord.data.errors import ConcordError
from concord.metrics.networks.pretrained.weights import frozen, load_strictly, read_state, weight_path

STYLE = (0, 1, 2, 3, 4)  # conv_1 to conv_5
CONTENT = 3  # conv_4
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels


class VGG19(nn.Module):
    """Images (B, 3, H, W) RGB in [0, 1] -> the five convolutions' outputs, before their ReLU; differentiable."""

    mean: Tensor
    std: Tensor

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(STD)[:, None, None])

    def forward(self, images: Tensor) -> list[Tensor]:
        if min(images.shape[2:]) < 4:
            raise ConcordError(f"images of shape {tuple(images.shape)}: VGG19 needs at least 4 pixels a side")
        x, activations = (images - self.mean) / self.std, []
        for layer in self.layers:
            # torchvision's ReLU works in place and would change the output that was just kept.
            x = torch.relu(x) if isinstance(layer, nn.ReLU) else layer(x)
            if isinstance(layer, nn.Conv2d):
                activations.append(x)
        return activations


def load_vgg19(path: Path | None = None, device: torch.device | str = "cpu") -> VGG19:
    """The network with torchvision's weights (the classifier is not read)."""
    path = weight_path("vgg19", path)
    state = {name: value for name, value in read_state(path).items() if not name.startswith("classifier.")}
    from torchvision.models.vgg import cfgs, make_layers

    with torch.random.fork_rng(devices=[]):  # the caller's random state is not to notice
        whole = nn.ModuleDict({"features": make_layers(cfgs["E"], batch_norm=False)})
    load_strictly(whole, state, path)
    features = whole["features"]
    assert isinstance(features, nn.Sequential)
    convolutions = [number for number, layer in enumerate(features) if isinstance(layer, nn.Conv2d)]
    network = frozen(VGG19(features[: convolutions[len(STYLE) - 1] + 1]), device)
    assert isinstance(network, VGG19)
    return network
