"""LPIPS (Zhang et al., CVPR 2018), version 0.1, through the package `lpips`: only the trunk needs a weight file.

    d(x, y) = sum over layers of  mean over pixels of  w_l . (f_l/|f_l| - g_l/|g_l|)^2

Trunks are torchvision's AlexNet and VGG16 (`lpips-alexnet`: alexnet-owt-7be5be79.pth, `lpips-vgg16`:
vgg16-397923af.pth); the learnt w_l come with the package. Images keep their size: rescaling changes what LPIPS says.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from concord.data.errors import ConcordError
from concord.metrics.networks.pretrained.weights import frozen, load_strictly, read_state, unfilled, weight_path

Trunk = Literal["alex", "vgg"]
FILES: dict[Trunk, str] = {"alex": "lpips-alexnet", "vgg": "lpips-vgg16"}
SMALLEST = 32  # pixels: below, the pooling of a trunk leaves nothing


class LPIPS(nn.Module):
    """Pairs of images (B, 3, H, W) RGB in [0, 1] -> distances (B,), 0 for the same image; differentiable."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, originals: Tensor) -> Tensor:
        if min(images.shape[2:]) < SMALLEST:
            raise ConcordError(
                f"images of {images.shape[3]}x{images.shape[2]} pixels: LPIPS needs at least {SMALLEST} a side; "
                "enlarge them on purpose, or leave the metric out"
            )
        return self.network(images * 2 - 1, originals * 2 - 1).flatten()


def load_lpips(net: Trunk = "alex", path: Path | None = None, device: torch.device | str = "cpu") -> LPIPS:
    """LPIPS over the trunk of a torchvision weight file (its classifier is not read)."""
    path = weight_path(FILES[net], path)
    features = {name: value for name, value in read_state(path).items() if not name.startswith("classifier.")}
    import lpips

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), unfilled():
        # The package builds its trunk with random weights first: the caller's random state is not to notice.
        warnings.simplefilter("ignore", UserWarning)  # on arguments of torchvision that the package uses
        network = lpips.LPIPS(net=net, version="0.1", pnet_rand=True, verbose=False)
    # The package cuts torchvision's `features` into slices and keeps the numbers: features.3 becomes slice2.3.
    slices = {name.partition(".")[2]: name for name in network.net.state_dict()}
    state = {slices.get(name.removeprefix("features."), name): value for name, value in features.items()}
    load_strictly(network.net, state, path)
    loaded = frozen(LPIPS(network), device)
    assert isinstance(loaded, LPIPS)
    return loaded
