"""Identity distance: one minus the cosine between the face in an image and the person that it should show.

    1 - cos(face network(image), face network(image of the person))                       0 .. 2, lower is better

Through ArcFace (Deng et al. 2019) in the paper profile: faces found, aligned by five points, compared (insightface's
buffalo_l). An image without a face is a failure with the worst value, counted apart; so is an item whose own image
shows none, which then fails alike for every method. Z-Magic prints another distance: `identity-l2`.
"""

from __future__ import annotations

from concord.metrics.base import Observation, SampleMetric, Score, merge_statuses, register
from concord.metrics.face.identities import identities, target_identities
from concord.metrics.text.text_distance import cosine_distance


@register
class IdentityDistance(SampleMetric):
    """1 - cosine of the image's and the person's face embedding."""

    name = "identity-distance"
    label = "ID distance (1 − cosine)"
    unit = ""
    higher_is_better = False
    bounds = (0.0, 2.0)
    needs = frozenset({"identity"})
    networks = ("identity",)

    def score(self, observation: Observation) -> list[Score]:
        self.require_conditions(observation)
        vectors, statuses = observation.memo(identities("judge/identity"))
        targets, target_statuses = observation.memo(target_identities("judge/identity"))
        distance = cosine_distance(vectors.cpu().double(), targets.double()).tolist()
        return self.scores(distance, "embedding not finite", merge_statuses(statuses, target_statuses, "condition"))
