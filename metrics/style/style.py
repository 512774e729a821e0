"""Style and content of an image by Gram matrices and activations (Gatys, Ecker & Bethge, CVPR 2016).

style-loss        sum over conv_1..conv_5 of VGG19 of  mean (G_x - G_s)^2,  G = F F^T / (C H W), before the ReLU
content-loss      mean (F_x - F_o)^2 of VGG19's conv_4
style-distance    mean over layers of |G_x - G_s| / (|G_x| + |G_s|), 0 .. 1, over the embedded feature network
content-distance  mean over layers of |F_x - F_o| / (|F_x| + |F_o|), 0 .. 1, over the same layers of it

x is the image, s its condition 'style', o its original; all lower is better. (Z-Magic takes as originals what the base
model makes of the same prompts without a style: a suite that answers its Table 2 names that row as 'originals'.) The
layers and the division by C H W are those of PyTorch's tutorial on neural style, without its weight of 10^6, which
balances an optimisation. The tutorial's Gram matrix is of the whole batch and mixes its images: here each image has its
own. The reference is brought to the image's size by Pillow's bilinear filter, since textures count at the size at which
they are seen.

`style-loss` and `content-loss` need VGG19's weight file. `style-distance` and `content-distance` are the embedded
profile's: another network, relative to the size of matrices and activations, and by their own names; the same functions
can guide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from concord.metrics.base import Observation, SampleMetric, Score, register
from concord.metrics.image.bilinear import pillow_bilinear
from concord.metrics.image.pairs import network_of, paired, style_references
from concord.metrics.networks.protocols import Activations, StyleFeatures

if TYPE_CHECKING:
    from torch import Tensor

WORST = 1e6  # where a loss has no upper end: what a failed measurement counts as, far above any image's value


def _references(observation: Observation) -> tuple[Tensor, Tensor]:
    height, width = observation.images.shape[2:]
    return style_references(observation.conditions, lambda image: pillow_bilinear(image, height, width))


@register
class StyleLoss(SampleMetric):
    """Gram style loss of VGG19 to the style reference."""

    name = "style-loss"
    label = "Style loss (VGG19)"
    unit = ""
    higher_is_better = False
    bounds = (0.0, WORST)
    needs = frozenset({"style"})
    networks = ("vgg19",)
    paper_key = "style_loss"

    def score(self, observation: Observation) -> list[Score]:
        import torch

        from concord.metrics.networks.embedded.perceptual import style_loss

        self.require_conditions(observation)
        network, device = observation.networks.get("judge/vgg19", Activations), observation.networks.device
        references, index = _references(observation)
        with torch.inference_mode():
            targets = [layer[index.to(device)] for layer in network(references.to(device))]
            loss = style_loss(network(observation.images.to(device)), targets)
        return self.scores(loss.tolist(), "activations not finite")


@register
class ContentLoss(SampleMetric):
    """Content loss of VGG19's conv_4 to the original."""

    name = "content-loss"
    label = "Content loss (VGG19)"
    unit = ""
    higher_is_better = False
    bounds = (0.0, WORST)
    needs_originals = True
    networks = ("vgg19",)
    paper_key = "content_loss"

    def score(self, observation: Observation) -> list[Score]:
        import torch

        from concord.metrics.networks.embedded.perceptual import content_loss
        from concord.metrics.networks.pretrained.vgg19 import CONTENT

        self.require_conditions(observation)
        images, originals = paired(observation, self.name)
        network, device = observation.networks.get("judge/vgg19", Activations), observation.networks.device
        with torch.inference_mode():
            loss = content_loss(network(images.to(device))[CONTENT], network(originals.to(device))[CONTENT])
        return self.scores(loss.tolist(), "activations not finite")


@register
class StyleDistance(SampleMetric):
    """Relative distance of Gram matrices of the embedded feature network to the style reference's."""

    name = "style-distance"
    label = "Style distance"
    unit = ""
    higher_is_better = False
    bounds = (0.0, 1.0)
    needs = frozenset({"style"})
    networks = ("features",)

    def score(self, observation: Observation) -> list[Score]:
        import torch

        from concord.metrics.networks.embedded.perceptual import style_distance

        self.require_conditions(observation)
        network = network_of(observation, "judge/features", StyleFeatures, self.name, "use 'style-loss'")
        features = network.style_features
        references, index = _references(observation)
        with torch.inference_mode():
            targets = [layer[index.to(layer.device)] for layer in features(references)]
            distance = style_distance(features(observation.images), targets)
        return self.scores(distance.tolist(), "activations not finite")


@register
class ContentDistance(SampleMetric):
    """Relative distance of activations of the embedded feature network to the original's."""

    name = "content-distance"
    label = "Content distance"
    unit = ""
    higher_is_better = False
    bounds = (0.0, 1.0)
    needs_originals = True
    networks = ("features",)

    def score(self, observation: Observation) -> list[Score]:
        import torch

        from concord.metrics.networks.embedded.perceptual import content_distance

        self.require_conditions(observation)
        images, originals = paired(observation, self.name)
        network = network_of(observation, "judge/features", StyleFeatures, self.name, "use 'content-loss'")
        features = network.style_features
        with torch.inference_mode():
            distance = content_distance(features(images), features(originals))
        return self.scores(distance.tolist(), "activations not finite")
