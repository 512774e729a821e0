"""The contract that every metric keeps.

A *sample metric* gives one value and one status for every image; a detector that finds nothing is a counted failure
with the metric's worst value, never a dropped row. A *set metric* (FID, KID) compares two sets of feature vectors.
Both read an `Observation`: a batch of decoded images with everything that the perception networks say about it,
computed once and shared by all metrics.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from concord.data.errors import ConcordError
from concord.data.request import Conditions

if TYPE_CHECKING:
    from torch import Tensor

    from concord.metrics.layout.instances import Instance
    from concord.metrics.networks.perception import Perception

OK = "ok"
CONFUSION = "confusion"  # kinds of features that are counted, not a network's: of the parse,
DRAWN_CONFUSION = "drawn-confusion"  # and of a picture that is a mask itself
COUNTED = (CONFUSION, DRAWN_CONFUSION)


@dataclass(frozen=True)
class Score:
    """A value with its status: 'ok', or in a word or two why the metric failed on this image."""

    value: float
    status: str = OK


class Observation:
    """A batch of images and what the networks see in them, each computed on first use and kept.

    images: float32 (B, 3, H, W) RGB in [0, 1].
    conditions: one per image: what the image was asked to agree with.
    originals: float32 like images: the picture that each condition was taken from; None where there are none.
    kinds: the kinds of features that will be asked for, so that one pass of a network can give several of them.
    """

    def __init__(
        self, images: Tensor, conditions: Sequence[Conditions], perception: Perception,
        originals: Tensor | None = None, kinds: Sequence[str] = ("pool",),
    ) -> None:  # fmt: skip
        if len(images) != len(conditions):
            raise ValueError(f"{len(images)} images but {len(conditions)} conditions")
        if originals is not None and len(originals) != len(images):
            raise ValueError(f"{len(images)} images but {len(originals)} originals")
        self.images, self.conditions, self.perception = images, list(conditions), perception
        self.originals, self.kinds = originals, tuple(kinds)
        self._features: dict[str, np.ndarray] = {}

    @cached_property
    def labels(self) -> np.ndarray:
        """Parsed classes, int64 (B, H, W), CelebAMask-HQ order."""
        return self.perception.labels(self.images).cpu().numpy()

    def features(self, kind: str = "pool") -> np.ndarray:
        """Features of one kind for the set metrics, float32 (B, D); the kinds announced come from one pass.

        'confusion' is no network's: the confusion matrix of each image's mask and parse, (B, 361). 'drawn-confusion':
        of its mask and the classes whose colours the image is drawn in.
        """
        if kind in COUNTED:
            return self.confusions if kind == CONFUSION else self.drawn_confusions
        if kind not in self._features:
            announced = [k for k in self.kinds if k not in COUNTED]
            wanted = [k for k in dict.fromkeys((kind, *announced)) if k not in self._features]
            found = self.perception.features(self.images, wanted)
            self._features.update({k: v.float().cpu().numpy() for k, v in found.items()})
        return self._features[kind]

    @cached_property
    def image_embedding(self) -> Tensor:
        """Unit vectors (B, E) of the image encoder."""
        return self.perception.embed_images(self.images)

    @cached_property
    def text_embedding(self) -> Tensor:
        """Unit vectors (B, E) of each condition's caption."""
        return self.perception.embed_texts([c.text or "" for c in self.conditions])

    @cached_property
    def instances(self) -> list[list[Instance]]:
        """What became of each instance of each image's layout, by the detector and the segmenter."""
        from concord.metrics.layout.instances import evaluate_batch

        return evaluate_batch(self)

    @cached_property
    def interactions(self) -> list[list[bool]]:
        """Of each image's layout, whether each interaction is there, by the judge of interactions; [] for none."""
        from concord.metrics.layout.instances import interactions_of_batch

        return interactions_of_batch(self)

    @cached_property
    def confusions(self) -> np.ndarray:
        """Confusion matrix of each condition's mask (rows) and its image's parse, float32 (B, 19 * 19) pixel counts."""
        from concord.metrics.segmentation.masks import confusion_matrix, mask_pairs

        matrices = [confusion_matrix(wanted, parsed).ravel() for wanted, parsed in mask_pairs(self)]
        return np.stack(matrices).astype(np.float32)  # exact: a picture has fewer than 2^24 pixels

    @cached_property
    def drawn_confusions(self) -> np.ndarray:
        """Confusion matrix of each condition's mask (rows) and the classes of its image's colours, as `confusions`."""
        from concord.metrics.segmentation.masks import confusion_matrix, drawn_pairs

        matrices = [confusion_matrix(wanted, drawn).ravel() for wanted, drawn in drawn_pairs(self)]
        return np.stack(matrices).astype(np.float32)

    @cached_property
    def identities(self) -> tuple[Tensor, list[str]]:
        """Unit vectors float32 (B, D) of the images' faces, and for each 'ok' or why it has none."""
        return self.perception.embed_faces(self.images)

    @cached_property
    def wanted_identities(self) -> tuple[Tensor, list[str]]:
        """Unit vectors (B, D) of the people whom the conditions show, by the same network; status of each."""
        return embed_people(self.conditions, self.perception.embed_faces, self.identities[0])

    @cached_property
    def landmarks(self) -> tuple[Tensor, list[str]]:
        """Landmarks of the images, float32 (B, 68, 2), x and y in pixels, and for each 'ok' or why it has none."""
        return self.perception.landmarks(self.images)

    @cached_property
    def freedom(self) -> Any:
        """The networks of FreeDoM's own distances: apart from the judges at the papers' scale, the judges elsewhere."""
        return getattr(self.perception, "freedom", self.perception)


def embed_people(
    conditions: Sequence[Conditions], embed: Callable[[Tensor], tuple[Tensor, list[str]]], like: Tensor
) -> tuple[Tensor, list[str]]:
    """Unit vectors (B, D) of the conditions' identities, with statuses; pictures of one size are embedded together.

    An identity is a picture uint8 (H, W, 3) RGB, or a vector (D,) of the network's own. like: vectors (B, D) of it.
    """
    import torch

    vectors, statuses = torch.zeros(len(conditions), like.shape[1]), [OK] * len(conditions)
    by_size: dict[tuple[int, ...], list[int]] = {}
    for number, condition in enumerate(conditions):
        identity, what = condition.identity, f"condition 'identity' of image {number} of the batch"
        if identity is None:
            raise ConcordError(f"image {number} of the batch has no condition 'identity' to score against")
        if identity.ndim == 1 and np.issubdtype(identity.dtype, np.floating):
            if identity.shape != like.shape[1:] or not np.isfinite(identity).all() or not np.any(identity):
                expected = f"{like.shape[1]} finite numbers of the scoring network, not all 0"
                raise ConcordError(f"{what} is a vector of {len(identity)}: expected {expected}, or a picture")
            vector = torch.from_numpy(np.asarray(identity, np.float32))
            vectors[number] = torch.nn.functional.normalize(vector, dim=0)
        elif identity.ndim == 3 and identity.shape[2] == 3 and identity.dtype == np.uint8:
            by_size.setdefault(identity.shape, []).append(number)
        else:
            given = f"shape {identity.shape} and type {identity.dtype}"
            raise ConcordError(f"{what} has {given}: expected a picture uint8 (H, W, 3) RGB of the person")
    for numbers in by_size.values():
        pictures = torch.from_numpy(np.stack([conditions[number].identity for number in numbers]))  # type: ignore[misc]
        found, reasons = embed(pictures.permute(0, 3, 1, 2).float().div(255).contiguous())
        for number, vector, reason in zip(numbers, found.float().cpu(), reasons, strict=True):
            vectors[number], statuses[number] = vector, reason
    return vectors, statuses


def joined(statuses: Sequence[str], wanted: Sequence[str], where: str) -> list[str]:
    """Statuses of images compared with something that can fail too: the image's own reason comes first."""
    return [
        own if own != OK or theirs == OK else f"{theirs} in the {where}"
        for own, theirs in zip(statuses, wanted, strict=True)
    ]


class Metric(ABC):
    """Facts of a metric, read by tables, statistics and the runner."""

    name: ClassVar[str]  # as in suites and tables: 'mask-accuracy'
    label: ClassVar[str]  # table head: 'Mask (%)'
    unit: ClassVar[str]  # '', '%'
    higher_is_better: ClassVar[bool]
    bounds: ClassVar[tuple[float, float]]
    is_rate: ClassVar[bool] = False  # every image's value is 0 or 100: Wilson's interval, McNemar's test
    minimum_n: ClassVar[int] = 1  # below that the number makes no sense and is refused
    needs: ClassVar[frozenset[str]] = frozenset()  # conditions it scores against
    needs_originals: ClassVar[bool] = False  # compares with the picture that the conditions were taken from
    networks: ClassVar[tuple[str, ...]] = ()  # which perception networks it uses: 'parser', 'text-image', 'features'
    paper_key: ClassVar[str | None] = None  # its column in reports/papers/*.yaml, where a paper prints it

    @property
    def worst(self) -> float:
        """The end of its range that no measured image can be worse than."""
        return self.bounds[0] if self.higher_is_better else self.bounds[1]


class SampleMetric(Metric):
    """One value per image."""

    @abstractmethod
    def score(self, observation: Observation) -> list[Score]:
        """One `Score` per image, in order."""

    def failure(self, reason: str) -> Score:
        """The score of an image that could not be measured: the worst value, so that failing never pays.

        Needs a finite worst value; a metric without one sets its `bounds` to the worst that it will count.
        """
        if not math.isfinite(self.worst):
            raise ValueError(f"metric '{self.name}' has no finite worst value for a failure: bounds {self.bounds}")
        return Score(self.worst, reason)

    def scores(self, values: Sequence[float], not_finite: str, statuses: Sequence[str] | None = None) -> list[Score]:
        """Values as scores, cut to the bounds; a status that is not 'ok', or a value that is no number, is a failure.

        not_finite: the reason that is given for NaN and infinity.
        """
        made = []
        for value, status in zip(values, statuses if statuses is not None else [OK] * len(values), strict=True):
            if status != OK:
                made.append(self.failure(status))
            elif not math.isfinite(value):
                made.append(self.failure(not_finite))
            else:
                made.append(Score(min(max(value, self.bounds[0]), self.bounds[1])))
        return made

    def require_conditions(self, observation: Observation) -> None:
        """Raise ConcordError where a condition that the metric scores against is missing."""
        for number, conditions in enumerate(observation.conditions):
            lacking = sorted(self.needs - set(conditions.names()))
            if lacking:
                raise ConcordError(
                    f"metric '{self.name}' scores against condition '{lacking[0]}', which image {number} of the batch "
                    "does not have; leave the metric out, or give every item that condition"
                )
        if self.needs_originals and observation.originals is None:
            raise ConcordError(
                f"metric '{self.name}' compares with the original pictures, which the dataset does not have; "
                "leave the metric out, or give a dataset with images"
            )


class SetMetric(Metric):
    """One value per set of images, from float32 features (N, D).

    Metrics of one feature kind share its pass; a metric that looks at the generated images alone (`needs_reference`
    False, such as the Inception Score) is given an empty reference (0, D).
    """

    features: ClassVar[str] = "pool"  # 'pool', 'logits', 'spatial', ...: what `Perception.features` calls it
    needs_reference: ClassVar[bool] = True

    @abstractmethod
    def compute(self, generated: np.ndarray, reference: np.ndarray) -> float:
        """The value of `generated` (N, D) against `reference` (M, D)."""

    @abstractmethod
    def leave_group_out(self, generated: np.ndarray, reference: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """Delete-a-group jackknife replicates, float64 (G,): replicate g is the value without the images of group g.

        groups: int (N,), values 0..G-1. Rows of one table share the grouping, so that differences can be paired.
        """

    def check_features(self, generated: np.ndarray, reference: np.ndarray) -> None:
        """Raise unless both are finite (N, D) with one D and two rows at least; a bad image is named by its row."""
        if generated.ndim != 2 or reference.ndim != 2 or generated.shape[1] != reference.shape[1]:
            raise ValueError(
                f"features of shapes {generated.shape} (generated) and {reference.shape} (reference): "
                "expected (N, D) and (M, D) of one feature network"
            )
        for side, features in (("generated", generated), ("reference", reference)):
            if len(features) < 2:
                raise ConcordError(f"metric '{self.name}': {len(features)} {side} image(s), at least 2 have a spread")
            # A sum is finite only if every addend is (or overflows, which is as bad); no second array of the size.
            with np.errstate(invalid="ignore", over="ignore"):
                sums = features.sum(axis=1, dtype=np.float64)
            if not np.isfinite(sums).all():
                row = int(np.flatnonzero(~np.isfinite(sums))[0])
                raise ConcordError(
                    f"metric '{self.name}': the features of {side} image {row} are not finite; look for NaN pixels"
                )


def group_sizes(groups: np.ndarray, n: int) -> np.ndarray:
    """Sizes int64 (G,) of the jackknife's groups of n images; each of 0..G-1 must occur and leave two images over."""
    if groups.shape != (n,) or not np.issubdtype(groups.dtype, np.integer) or (n and groups.min() < 0):
        raise ValueError(f"groups {groups.shape} of {groups.dtype}: expected integers 0..G-1 of shape ({n},)")
    sizes = np.bincount(groups)
    if len(sizes) < 2 or sizes.min() == 0:
        raise ValueError(f"groups of sizes {sizes.tolist()}: expected two or more groups, none empty")
    if n - sizes.max() < 2:
        raise ConcordError(f"{n} images in {len(sizes)} groups: fewer than 2 are left without one of the groups")
    return sizes


_METRICS: dict[str, type[Metric]] = {}


def register(metric: type[Metric]) -> type[Metric]:
    """Class decorator: make a metric known by its name."""
    if metric.name in _METRICS and _METRICS[metric.name].__module__ != metric.__module__:
        raise ValueError(f"two metrics are named '{metric.name}'")
    _METRICS[metric.name] = metric
    return metric


def all_metrics() -> dict[str, type[Metric]]:
    """Every metric of the families, by name; files are found by looking, no list is kept."""
    from concord import metrics

    for package in pkgutil.iter_modules(metrics.__path__):
        if package.ispkg and package.name != "networks":  # families: distribution, face, ...
            folder = importlib.import_module(f"concord.metrics.{package.name}")
            for module in pkgutil.iter_modules(folder.__path__):
                importlib.import_module(f"concord.metrics.{package.name}.{module.name}")
    return dict(sorted(_METRICS.items()))


def get_metric(name: str) -> Metric:
    """The metric of that name; raises ConcordError with the known names otherwise."""
    known = all_metrics()
    if name not in known:
        raise ConcordError(f"unknown metric '{name}': expected one of {', '.join(known)}")
    return known[name]()
