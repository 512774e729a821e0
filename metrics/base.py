"""The contract that every metric keeps.

A *sample metric* gives one value and one status for every image; a detector that finds nothing is a counted failure
with the metric's worst value, never a dropped row. A *set metric* (FID, KID) compares two sets of feature vectors.
Both read an `Observation`: a batch of decoded images, of which what several metrics need is computed once.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar, cast

import numpy as np

from concord.data.errors import ConcordError
from concord.data.request import Conditions

if TYPE_CHECKING:
    from torch import Tensor

    from concord.data.networks import Networks
    from concord.metrics.distribution.moments import Floats
    from concord.metrics.distribution.reference_moments import ReferenceMoments

OK = "ok"
GROUPS = 32
"""Groups of the delete-a-group jackknife, where a metric has no influence function."""
T = TypeVar("T")


@dataclass(frozen=True)
class Score:
    """A value with its status: 'ok', or in a word or two why the metric failed on this image."""

    value: float
    status: str = OK


class Observation:
    """A batch of images, what they were asked to agree with, and the networks that look at them.

    What several metrics need of it (the parse, embeddings, ...) is a function of the family that owns it, and computed
    once: `observation.memo(parsed_labels)`.

    images: float32 (B, 3, H, W) RGB in [0, 1].
    conditions: one per image: what the image was asked to agree with.
    originals: float32 like images: the image that each condition was taken from; None where there are none.
    kinds: the kinds of features that will be asked for, so that one pass of a network can give several of them.
    """

    def __init__(
        self,
        images: Tensor,
        conditions: Sequence[Conditions],
        networks: Networks,
        originals: Tensor | None = None,
        kinds: Sequence[str] = ("pool",),
    ) -> None:
        if len(images) != len(conditions):
            raise ValueError(f"{len(images)} images but {len(conditions)} conditions")
        if originals is not None and len(originals) != len(images):
            raise ValueError(f"{len(images)} images but {len(originals)} originals")
        self.images, self.conditions, self.networks = images, list(conditions), networks
        self.originals, self.kinds = originals, tuple(kinds)
        self._features: dict[str, np.ndarray] = {}
        self._steps: dict[Callable[[Observation], object], object] = {}

    def memo(self, step: Callable[[Observation], T]) -> T:
        """`step(self)`, computed when it is first asked for and then kept."""
        if step not in self._steps:
            self._steps[step] = step(self)
        return cast(T, self._steps[step])  # what this very step returned

    @property
    def on_device(self) -> Tensor:
        """The images where the networks are."""
        return self.images.to(self.networks.device)

    def features(self, kind: str = "pool") -> np.ndarray:
        """A network's features for the set metrics, float32 (B, D); the kinds announced come from one pass."""
        if kind not in self._features:
            missing = [k for k in dict.fromkeys((kind, *self.kinds)) if k not in self._features]
            from concord.metrics.networks.judges import set_features

            views = set_features(self.networks, self.images, missing)
            self._features.update({k: v.float().cpu().numpy() for k, v in views.items()})
        return self._features[kind]


def merge_statuses(statuses: Sequence[str], others: Sequence[str], where: str) -> list[str]:
    """Statuses of images compared with something that can fail too: the image's own reason comes first."""
    return [
        own if own != OK or theirs == OK else f"{theirs} in the {where}"
        for own, theirs in zip(statuses, others, strict=True)
    ]


class Metric(ABC):
    """Facts of a metric, read by tables, statistics and the runner."""

    name: ClassVar[str]  # as in suites and tables: 'mask-accuracy'
    aliases: ClassVar[tuple[str, ...]] = ()  # other names for it, as papers use them
    former_names: ClassVar[tuple[str, ...]] = ()  # what it was called before: understood, with a warning
    label: ClassVar[str]  # table head: 'Mask (%)'
    profile_labels: ClassVar[Mapping[str, str]] = {}  # profile -> its own head, where its networks have a name
    unit: ClassVar[str]  # '', '%'
    higher_is_better: ClassVar[bool]
    bounds: ClassVar[tuple[float, float]]
    is_rate: ClassVar[bool] = False  # every image's value is 0 or 100: Wilson's interval, McNemar's test
    version: ClassVar[int] = 1  # raised where its values come out otherwise than before: a history breaks there
    minimum_n: ClassVar[int] = 1  # below that the number makes no sense and is refused
    needs: ClassVar[frozenset[str]] = frozenset()  # conditions it scores against
    needs_originals: ClassVar[bool] = False  # compares with the image that the conditions were taken from
    networks: ClassVar[tuple[str, ...]] = ()  # which networks networks it uses: 'parser', 'text-image', 'features'
    through_guide: ClassVar[bool] = False  # at the papers' scale it looks through the networks that guide methods
    measures: ClassVar[str | None] = None  # the condition that it measures, where that is not the first of `needs`
    paper_key: ClassVar[str | None] = None  # its column in reports/papers/*.yaml, where a paper prints it
    weight_by: ClassVar[str | None] = None  # what a table weighs images by: run.json's 'level' or 'interactions'
    counts: ClassVar[bool] = False  # its value is a share of `weight_by` things, each a success or none
    per_level: ClassVar[tuple[str, str] | None] = None  # printed by level: how the papers' keys and the heads begin

    @classmethod
    def roles(cls) -> tuple[str, ...]:
        """The roles of a profile that it looks through."""
        side = "freedom" if cls.through_guide else "judge"
        return tuple(f"{side}/{kind}" for kind in cls.networks)

    @property
    def family(self) -> str:
        """The family that its file stands in: 'distribution', 'face', ...; its module, where that is a plugin."""
        return type(self).__module__.removeprefix("concord.metrics.").partition(".")[0]

    @property
    def condition(self) -> str:
        """The condition that it measures; its own name where it measures none."""
        return self.measures or min(self.needs, default=self.name)

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
        scores = []
        for value, status in zip(values, statuses if statuses is not None else [OK] * len(values), strict=True):
            if status != OK:
                scores.append(self.failure(status))
            elif not math.isfinite(value):
                scores.append(self.failure(not_finite))
            else:
                scores.append(Score(min(max(value, self.bounds[0]), self.bounds[1])))
        return scores

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
                f"metric '{self.name}' compares with the original images, which the dataset does not have; "
                "leave the metric out, or give a dataset with images"
            )


class SetMetric(Metric):
    """One value per set of images, from float32 features (N, D).

    Metrics of one feature kind share its pass; a metric that looks at the generated images alone (`needs_reference`
    False, such as the Inception Score) is given an empty reference (0, D).
    """

    features: ClassVar[str] = "pool"  # 'pool', 'logits', 'spatial', ...: the kind, which names the protocol
    counted: ClassVar[bool] = False  # its features are counted in the images, by no feature network
    needs_reference: ClassVar[bool] = True

    @classmethod
    def roles(cls) -> tuple[str, ...]:
        """The role of its kind of features; of counted ones, what they are counted in."""
        return super().roles() if cls.counted else (f"features/{cls.features}",)

    def observe(self, observation: Observation) -> np.ndarray:
        """Features of each image, float32 (B, D); the same for all metrics of one kind."""
        return observation.features(self.features)

    @abstractmethod
    def compute(self, generated: np.ndarray, reference: np.ndarray) -> float:
        """The value of `generated` (N, D) against `reference` (M, D)."""

    @abstractmethod
    def leave_group_out(self, generated: np.ndarray, reference: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """Delete-a-group jackknife replicates, float64 (G,): replicate g is the value without the images of group g.

        groups: int (N,), values 0..G-1. Rows of one table share the grouping, so that differences can be paired.
        """

    def replicates(self, generated: np.ndarray, reference: np.ndarray, items: np.ndarray) -> Floats:
        """What intervals and paired tests are made of, float64 (K,): the jackknife's formula gives the standard error.

        items: int (N,), the item of each image, 0..G-1; images of one item under several seeds are one unit. The
        number K and what each replicate leaves out follow from `items` alone, so that rows of one table are paired.
        Here: `leave_group_out` over 32 groups of items; metrics with an influence function have one replicate an item
        (metrics/distribution/influence.py).
        """
        count = int(items.max(initial=-1)) + 1
        if count < 2:
            return np.zeros(0)
        return self.leave_group_out(generated, reference, items % min(GROUPS, count))

    def check_features(self, generated: np.ndarray, reference: np.ndarray | ReferenceMoments) -> None:
        """Raise unless both are finite (N, D) with one D and two rows at least; a bad image is named by its row."""
        if not isinstance(reference, np.ndarray):
            if generated.ndim != 2 or generated.shape[1] != reference.dimensions:
                raise ValueError(
                    f"features of shape {generated.shape} beside moments of {reference.dimensions} dimensions"
                )
            reference = generated  # its moments were checked when they were read
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


class MomentMetric(SetMetric):
    """A set metric that needs no more of the reference than its moments: FID two of them, KID three."""

    @abstractmethod
    def compute(self, generated: np.ndarray, reference: np.ndarray | ReferenceMoments) -> float: ...

    @abstractmethod
    def replicates(
        self, generated: np.ndarray, reference: np.ndarray | ReferenceMoments, items: np.ndarray
    ) -> Floats: ...


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
    """Every metric, by name: the files of the families, the entry points `concord.metrics`, and loaded plugins."""
    _load_all()
    return dict(sorted(_METRICS.items()))


@cache
def _load_all() -> None:
    folder = Path(__file__).parent
    for family in pkgutil.iter_modules([str(folder)]):
        if family.ispkg and family.name != "networks":  # distribution, face, ...
            for module in pkgutil.iter_modules([str(folder / family.name)]):
                importlib.import_module(f"concord.metrics.{family.name}.{module.name}")
    for entry in entry_points(group="concord.metrics"):
        _load_entry(entry)


def _load_entry(entry: EntryPoint) -> None:
    """Register the metric of an installed package; ConcordError naming the package when it cannot be had."""
    package = entry.dist.name if entry.dist is not None else "?"
    where = f"installed package '{package}', entry point '{entry.name} = {entry.value}'"
    try:
        loaded = entry.load()
    except ConcordError:
        raise
    except Exception as error:  # a package may fail in any way; the user needs its name and one line
        raise ConcordError(f"{where}: {type(error).__name__}: {error}; fix or uninstall it") from error
    if not (isinstance(loaded, type) and issubclass(loaded, Metric)):
        raise ConcordError(f"{where}: is no metric; expected a class that derives from concord.metrics.base.Metric")
    register(loaded)


def metric_name(name: str) -> str:
    """The name of the metric that goes by this one too; a name that no metric has is left as it is."""
    known = all_metrics()
    if name in known:
        return name
    return next((own for own, metric in known.items() if name in (*metric.aliases, *metric.former_names)), name)


def get_metric(name: str) -> Metric:
    """The metric of that name, alias or former name; raises ConcordError with the known names otherwise."""
    known, own = all_metrics(), metric_name(name)
    if own not in known:
        raise ConcordError(f"unknown metric '{name}': expected one of {', '.join(known)}")
    if name in known[own].former_names:
        warnings.warn(f"metric '{name}' is called '{own}' now", FutureWarning, stacklevel=2)
    return known[own]()
