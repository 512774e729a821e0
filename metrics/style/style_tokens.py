"""Style token distance: FreeDoM's distance between the Gram matrices of CLIP's tokens of an image and a reference.

    || T_x^T T_x - T_s^T T_s ||_F,   T (196, 768): the patches' tokens after the third block of ViT-B/16     0 .., lower

The energy that FreeDoM (Yu et al., ICCV 2023) guides styles with in its code; the class token is left out, nothing is
normalised, and the matrices are sums over the tokens. The image is brought to 224 x 224 by a bicubic filter without
antialiasing, the reference by Pillow's bilinear one, both without regard to their shape, as coded there. In the paper
profile this network is a guide, not an independent judge.
"""

from __future__ import annotations

from concord.metrics.base import Observation, SampleMetric, Score, register
from concord.metrics.image.bilinear import pillow_bilinear
from concord.metrics.image.pairs import network_of, style_references
from concord.metrics.networks.protocols import TokenFeatures

WORST = 1e9  # no upper end of its own: what a failed measurement counts as


@register
class StyleTokens(SampleMetric):
    """Frobenius distance of unnormalised Gram matrices of CLIP's tokens."""

    name = "style-token-distance"
    label = "Style (CLIP tokens)"
    unit = ""
    higher_is_better = False
    bounds = (0.0, WORST)
    needs = frozenset({"style"})
    networks = ("text-image",)
    through_guide = True

    def score(self, observation: Observation) -> list[Score]:
        import torch

        from concord.metrics.networks.embedded.perceptual import token_gram_distance

        self.require_conditions(observation)
        clip = network_of(
            observation, "freedom/text-image", TokenFeatures, self.name, "use 'style-distance', or profile 'paper'"
        )
        with torch.inference_mode():
            tokens = clip.style_tokens(observation.on_device)
            references, index = style_references(
                observation.conditions, lambda image: pillow_bilinear(image, clip.size, clip.size)
            )
            targets = clip.style_tokens(references.to(tokens.device))[index.to(tokens.device)]
            # In float64: the sums over tokens are large and their difference is small.
            distance = token_gram_distance(tokens.double(), targets.double())
        return self.scores(distance.tolist(), "tokens not finite")
