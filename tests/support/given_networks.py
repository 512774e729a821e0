"""Networks of a test's own behind the roles of a profile."""

from __future__ import annotations

from typing import Any

from concord.data.networks import Networks

KINDS = ("parser", "identity", "landmarks", "text-image", "features", "detector", "segmenter", "interactions")


FEATURES = ("pool", "spatial", "logits", "pool-tf", "spatial-tf", "logits-tf", "pool-legacy", "dinov2", "clip-l-336")


def seen_by(fake: object, kinds: tuple[str, ...] = FEATURES, freedom: object | None = None, **more: object) -> Networks:
    """Networks of which every judge is the one object `fake`; it has the methods that the test's metrics call.

    kinds: of features that it gives. freedom: another object behind FreeDoM's own distances.
    more: other networks by kind, such as vgg19=network.
    """
    given: dict[str, object] = {f"judge/{kind}": fake for kind in KINDS}
    for kind in ("parser", "identity", "landmarks", "text-image"):
        given[f"freedom/{kind}"] = freedom or f"judge/{kind}"
    given |= {f"features/{kind}": "judge/features" for kind in kinds}
    given |= {f"judge/{kind.replace('_', '-')}": network for kind, network in more.items()}
    cards: dict[str, Any] = getattr(fake, "cards", {})
    return Networks.of(given, cards={f"judge/{kind}": card for kind, card in cards.items()})
