"""Identity L2: FreeDoM's distance between the face embeddings of a fixed window, without looking for the face.

    || f(window of the image) - f(window of the person's image) ||_2,  f unit vectors     0 .. 2, lower is better

The energy that FreeDoM (Yu et al., ICCV 2023) and Z-Magic are guided by, over IR-SE50
(metrics/networks/pretrained/ir_se50.py has the window), and most likely what Z-Magic's tables call "ID Distance": the
paper names no network, and 1.167, which it prints, is no likely mean of 1 - cosine. On unit vectors it is
sqrt(2 (1 - cosine)). In the paper profile IR-SE50 is the guiding network, not an independent judge: `identity-distance`
is. In the embedded profile both look through the same network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from concord.metrics.base import Observation, SampleMetric, Score, merge_statuses, register
from concord.metrics.face.identities import identities, target_identities
from concord.metrics.text.text_feature_distance import feature_distance

if TYPE_CHECKING:
    from torch import Tensor


@register
class IdentityL2(SampleMetric):
    """L2 of unit face embeddings of FreeDoM's window."""

    name = "identity-l2"
    label = "ID distance (L2)"
    unit = ""
    higher_is_better = False
    bounds = (0.0, 2.0)
    needs = frozenset({"identity"})
    networks = ("identity",)
    through_guide = True
    paper_key = "id_distance"

    def score(self, observation: Observation) -> list[Score]:
        self.require_conditions(observation)
        role = observation.networks.resolve("freedom/identity")
        vectors, statuses = observation.memo(identities(role))
        targets, target_statuses = observation.memo(target_identities(role))
        distance = identity_l2(vectors.cpu().double(), targets.double()).tolist()
        return self.scores(distance, "embedding not finite", merge_statuses(statuses, target_statuses, "condition"))


def identity_l2(first: Tensor, second: Tensor) -> Tensor:
    """(B, D), (B, D) unit vectors -> (B,) in [0, 2]; each sample by itself, differentiable."""
    return feature_distance(first, second)
