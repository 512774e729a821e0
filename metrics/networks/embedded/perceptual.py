"""Distances between the activations of two images: perceptual, style and content, as differentiable functions.

    perceptual   mean over layers and pixels of  || f/|f| - g/|g| ||^2          LPIPS without its learnt weights
    Gram         G = F F^T, F the features (C, H W) of one image; its entries say which features occur together, and
                 not where (Gatys, Ecker & Bethge, CVPR 2016)
    style loss   sum over layers of  mean (G_a - G_b)^2,  G divided by C H W    PyTorch's tutorial on neural style
    style        mean over layers of |G_a - G_b| / (|G_a| + |G_b|), in [0, 1]   the same for any scale of activations
    content      mean (f - g)^2;  for any scale of activations  mean over layers of |f - g| / (|f| + |g|), in [0, 1]

Every function takes activations (B, C, H, W) of one or several layers and gives one value for each image (B,), so that
the same distance can score and, through autograd, guide. No image of a batch touches another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from concord.data.errors import ConcordError
from concord.metrics.networks.embedded.blocks import for_scoring, load_perception
from concord.metrics.networks.embedded.features import KINDS, FeatureNetwork
from concord.metrics.networks.gram import gram

LPIPS_EPSILON = 1e-10  # added to the norm that channels are divided by, as in LPIPS
STYLE_LAYERS = (1, 4, 6)  # of the feature network's trunk: 32, 16 and 8 pixels wide at an image of 64
PERCEPTUAL_LAYERS = (1, 4, 6, 8)  # and 4 pixels wide


def trunk_activations(network: FeatureNetwork, images: Tensor, layers: Sequence[int]) -> list[Tensor]:
    """Activations (B, C, h, w) after the named layers of the feature network's trunk, from shallow to deep.

    images: (B, 3, 64, 64) in [0, 1]; gradients pass.
    """
    x = torch.nn.functional.pixel_unshuffle(images * 2 - 1, 2)
    activations = []
    for number, layer in enumerate(network.trunk.body[: max(layers) + 1]):
        x = layer(x)
        if number in layers:
            activations.append(x)
    return activations


def perceptual_distance(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """(B,) in [0, 4]: squared differences of channel vectors of length 1, mean over pixels and layers."""
    return torch.stack([_unit_difference(a, b) for a, b in zip(first, second, strict=True)]).mean(0)


def _unit_difference(a: Tensor, b: Tensor) -> Tensor:
    a, b = (x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + LPIPS_EPSILON) for x in (a, b))
    return (a - b).square().sum(1).mean((1, 2))


def style_loss(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """(B,) >= 0: mean squared difference of Gram matrices, summed over layers; the tutorial's, one image at a time."""
    return torch.stack([(gram(a) - gram(b)).square().mean((1, 2)) for a, b in zip(first, second, strict=True)]).sum(0)


def style_distance(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """(B,) in [0, 1]: Frobenius distance of Gram matrices over the sum of their norms, mean over layers.

    Relative, so that networks whose activations have another scale (a guide and a judge) give values of one range.
    """
    return torch.stack([_relative(gram(a), gram(b)) for a, b in zip(first, second, strict=True)]).mean(0)


def _relative(a: Tensor, b: Tensor) -> Tensor:
    size = torch.linalg.matrix_norm(a) + torch.linalg.matrix_norm(b)
    return torch.linalg.matrix_norm(a - b) / size.clamp(min=torch.finfo(size.dtype).tiny)


def content_loss(first: Tensor, second: Tensor) -> Tensor:
    """(B,) >= 0: mean squared difference of one layer's activations."""
    return (first - second).square().flatten(1).mean(1)


def content_distance(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """(B,) in [0, 1]: Euclidean distance of activations over the sum of their norms, mean over layers."""
    distances = []
    for a, b in zip(first, second, strict=True):
        a, b = a.flatten(1), b.flatten(1)
        size = torch.linalg.vector_norm(a, dim=1) + torch.linalg.vector_norm(b, dim=1)
        distances.append(torch.linalg.vector_norm(a - b, dim=1) / size.clamp(min=torch.finfo(size.dtype).tiny))
    return torch.stack(distances).mean(0)


def token_gram_distance(first: Tensor, second: Tensor) -> Tensor:
    """(B,) >= 0 from tokens (B, N, C): Frobenius norm of the difference of their Gram matrices (C, C), not normalised.

    FreeDoM's style distance; a sum over tokens, so that its size depends on their number.
    """
    return torch.linalg.matrix_norm(first.mT @ first - second.mT @ second)


@dataclass(frozen=True)
class SynthFeatures:
    """The feature network as it scores and guides: features of the set metrics, style, content, perceptual distance."""

    network: FeatureNetwork

    @torch.inference_mode()
    def features(self, images: Tensor, kinds: Sequence[str]) -> dict[str, Tensor]:
        """Features for the set metrics by kind, one pass for all of them: see `FeatureNetwork.views`."""
        for kind in kinds:
            if kind not in KINDS:
                raise ConcordError(f"features '{kind}': the feature network of SynthFaces gives {', '.join(KINDS)}")
        return self.network.views(for_scoring(images, self.network), kinds)

    @torch.inference_mode()
    def attributes(self, images: Tensor) -> dict[str, Tensor]:
        """Logits by attribute, (B, levels) each."""
        logits = self.network(for_scoring(images, self.network))
        return {name: logits[name] for name in self.network.heads}

    def style_features(self, images: Tensor) -> list[Tensor]:
        """Early activations (B, C, h, w) that style and content are compared by; gradients pass."""
        return trunk_activations(self.network, for_scoring(images, self.network), STYLE_LAYERS)

    def perceptual_distance(self, images: Tensor, originals: Tensor) -> Tensor:
        """(B,) in [0, 4]: LPIPS's form over the feature network, without learnt weights; gradients pass."""
        sides = (for_scoring(x, self.network) for x in (images, originals))
        return perceptual_distance(*(trunk_activations(self.network, x, PERCEPTUAL_LAYERS) for x in sides))


def load_features(path: Path, device: torch.device | str = "cpu") -> SynthFeatures:
    """The feature network of SynthFaces from its committed weights."""
    return SynthFeatures(load_perception(FeatureNetwork, path, device))
