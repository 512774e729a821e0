"""The contract that every method keeps, and the registry that finds methods by looking.

A method is one class in one file: facts (`name`, `paper`, `conditions`, `training_free`), a pydantic `Params` whose
defaults are the paper's values, and `sample`, which reads like the paper's algorithm. `generate` around it checks the
requests, draws each request's noise from its own seed and brings the images to the boundary format.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from concord.data.errors import ConcordError, warn
from concord.data.request import Conditions, Request, request_seed
from concord.data.user_code import exits_are_errors, user_code
from concord.methods.core.registration import check_facts

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from concord.data.networks import Networks
    from concord.methods.core.schedule import Schedule
    from concord.methods.networks.space import LatentSpace

__all__ = [
    "Batch",
    "Conditions",
    "Method",
    "Request",
    "Trace",
    "all_methods",
    "make_method",
    "register",
    "request_seed",
]


class Trace:
    """What a method tells about its way to the image: `trace("influence", t, tensor)` at each step.

    Every tensor has the batch in the dimension named by `batch_dim`; it is kept on the CPU as float32.
    An unwanted name costs nothing: the tensor is dropped unread.
    """

    def __init__(self, *wanted: str) -> None:
        self.wanted = frozenset(wanted)
        self.steps: dict[str, list[int]] = {}
        self.values: dict[str, list[Tensor]] = {}
        self.parts: dict[str, tuple[str, ...]] = {}
        self.step: int | None = None  # the last one that something was told of, wanted or not

    def __call__(self, name: str, t: int, value: Tensor, batch_dim: int = 0, parts: Sequence[str] = ()) -> None:
        """Keep a value; parts: the names of its parts, in order, where one dimension of them follows the batch."""
        self.step = int(t)
        if name in self.wanted:
            self.parts[name] = tuple(parts)
            self.steps.setdefault(name, []).append(int(t))
            self.values.setdefault(name, []).append(value.detach().float().movedim(batch_dim, 0).cpu())

    def stacked(self, name: str) -> tuple[list[int], Tensor]:
        """The timesteps (S,) and the values (B, S, ...) recorded under a name."""
        import torch

        return self.steps[name], torch.stack(self.values[name], dim=1)


@dataclass(frozen=True)
class Batch:
    """The requests of one call, with their noise on the device.

    generators: one CPU generator per request, already past the initial noise; samplers with fresh noise draw from it.
    """

    requests: Sequence[Request]
    generators: Sequence[torch.Generator]
    device: torch.device

    @property
    def conditions(self) -> list[Conditions]:
        return [request.conditions for request in self.requests]

    def __len__(self) -> int:
        return len(self.requests)


P = TypeVar("P", bound="Method.Params")
"""The parameters of a method: `class Mine(Method["Mine.Params"])` makes `self.params` one of its own."""


class Method(ABC, Generic[P]):
    """One composition method. Subclasses state their facts and write `sample`.

    `class Mine(Method["Mine.Params"])` types `self.params`; plain `class Mine(Method)` works as well, untyped.
    """

    name: ClassVar[str]
    title: ClassVar[str]  # as papers write it: 'Collaborative Diffusion'
    paper: ClassVar[str]  # 'arXiv:2304.10530'
    citation: ClassVar[str] = ""  # authors, venue, year
    conditions: ClassVar[frozenset[str]]  # the conditions that it takes
    minimum_conditions: ClassVar[int] = 1  # how many of them a request has to bring
    training_free: ClassVar[bool]
    traces: ClassVar[tuple[str, ...]] = ()  # what it can tell: 'influence', ...
    is_deterministic: ClassVar[bool] = False  # True: the seed changes nothing, as of a row that shows what was given
    files: ClassVar[tuple[str, ...]] = ()  # data files beside a plugin that its images follow from
    auto_include: ClassVar[bool] = True  # False: only where a suite names it, since its strengths need choosing

    class Params(BaseModel):
        """Parameters with the paper's values as defaults; unknown names are errors."""

        model_config = ConfigDict(extra="forbid", frozen=True)
        old_names: ClassVar[Mapping[str, str]] = {}  # what a parameter was called -> its name
        old_values: ClassVar[Mapping[str, Mapping[str, str]]] = {}  # parameter -> what a value was called -> the value

        preset: Literal["paper", "official"] = "paper"

        @classmethod
        def official(cls) -> dict[str, Any]:
            """Values of preset 'official' (the authors' code) that differ from the paper's (facts/METHODS.md)."""
            return {}

        @model_validator(mode="before")
        @classmethod
        def _translate(cls, values: dict[str, Any]) -> dict[str, Any]:
            return cls.in_words_of_today(values)

        @classmethod
        def in_words_of_today(cls, values: Mapping[str, object]) -> dict[str, Any]:
            """The values with names and words of before replaced, each with a warning of one line."""
            found = dict(values)
            for kind in cls.__mro__:
                for old, new in vars(kind).get("old_names", {}).items():
                    if old in found and new not in found:
                        warn(f"parameter '{old}' is now called '{new}'; write that")
                        found[new] = found.pop(old)
            for kind in cls.__mro__:
                for name, words in vars(kind).get("old_values", {}).items():
                    old = found.get(name)
                    if isinstance(old, str) and old in words:
                        warn(f"parameter '{name}': '{old}' is now called '{words[old]}'; write that")
                        found[name] = words[old]
            return found

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "networks" in vars(cls) and "denoisers" not in vars(cls):  # a plugin of before: its count would be empty
            warn(f"{cls.__module__}.{cls.__qualname__}: method networks() is now called denoisers(); rename it")
            cls.denoisers = vars(cls)["networks"]  # type: ignore[method-assign]
        if "draws_noise" in vars(cls):
            warn(f"{cls.__module__}.{cls.__qualname__}: draws_noise is now is_deterministic, its negation; rename it")
            cls.is_deterministic = not vars(cls)["draws_noise"]
        if "joins_open_suites" in vars(cls):
            warn(f"{cls.__module__}.{cls.__qualname__}: joins_open_suites is now called auto_include; rename it")
            cls.auto_include = vars(cls)["joins_open_suites"]

    def __init__(self, params: P, networks: Networks) -> None:
        self.params, self.networks = params, networks

    @property
    def device(self) -> torch.device:
        return self.networks.device

    @property
    def space(self) -> LatentSpace:
        """The space that is sampled in: its shape, and images there and back."""
        from concord.methods.networks.space import LatentSpace

        return self.networks.get("space", LatentSpace)

    @property
    def schedule(self) -> Schedule:
        """The noise schedule of the generator's models."""
        from concord.methods.core.schedule import Schedule

        return self.networks.get("schedule", Schedule)

    @property
    def bank(self) -> NoReturn:
        """What networks were taken from once; ConcordError that says where they are now."""
        raise ConcordError(
            f"method '{self.name}': `self.bank` is now `self.networks.get(role, kind)`, beside `self.space` and "
            "`self.schedule`; see methods/template.py"
        )

    @abstractmethod
    def sample(self, batch: Batch, trace: Trace) -> Tensor:
        """Images (B, 3, H, W), floats in [0, 1]; `generate` refuses anything else."""

    def denoisers(self) -> Mapping[str, nn.Module]:
        """The networks whose evaluations the runner counts, by the name that results carry: 'eps-text', ..."""
        return {}

    @classmethod
    def roles(cls, params: P, conditions: Sequence[str]) -> tuple[str, ...] | None:
        """The roles of a profile's networks that a row draws on: 'space', 'schedule', 'expert/text', ...

        conditions: those that each request of the row brings. It may ask for no other; they are what its key holds.
        None: not stated, so all that its generator has, but no judge and no guide.
        """
        return None

    @classmethod
    def evaluations(
        cls, params: P, conditions: Sequence[str], timesteps: Sequence[int] | None = None
    ) -> Mapping[str, float] | None:
        """Network evaluations that one image takes, by the names of `denoisers`; None: not stated, so unknown.

        conditions: those that the request brings. timesteps: descending, where they are not `ddim_timesteps` of 1000.
        """
        return None

    def generate(self, requests: Sequence[Request], trace: Trace | None = None) -> Tensor:
        """Images float32 (B, 3, H, W), RGB in [0, 1], on the CPU; image i depends on requests[i] alone.

        Raises ConcordError when a request brings a condition that this method does not take, or too few.
        """
        import torch

        from concord.methods.core.output import checked_images

        if not requests:
            raise ConcordError(f"method '{self.name}': no requests were given; expected at least one")
        for request in requests:
            self.check(request)
        generators = [torch.Generator("cpu").manual_seed(request.seed) for request in requests]
        images: object = self.sample(Batch(list(requests), generators, self.device), trace or Trace())
        if type(self).__module__.startswith("concord.methods.") and isinstance(images, torch.Tensor):
            images = images.clamp(0, 1)  # our decoders go a little beyond; NaN stays NaN
        images = checked_images(images, [request.id for request in requests], self.name)
        return images.detach().float().clamp(0, 1).cpu()

    def check(self, request: Request) -> None:
        """Raise ConcordError unless the request brings conditions that this method takes, and enough of them."""
        given = request.conditions.names()
        for name in given:
            if name not in self.conditions:
                raise ConcordError(
                    f"request {request.id}: method '{self.name}' does not take condition '{name}'; "
                    f"it takes {', '.join(sorted(self.conditions))}"
                )
        if len(given) < self.minimum_conditions:
            raise ConcordError(
                f"request {request.id}: method '{self.name}' needs at least {self.minimum_conditions} of "
                f"{', '.join(sorted(self.conditions))}; got {', '.join(given) or 'none'}"
            )


# ---------------------------------------------------------------------------------------------------------- registry


@dataclass
class _Registry:
    methods: dict[str, type[Method]] = field(default_factory=dict)


_REGISTRY = _Registry()
M = TypeVar("M", bound=Method)


def register(method: type[M]) -> type[M]:
    """Class decorator: make a method known by its name; its facts are checked here, once."""
    check_facts(method, Method)
    other = _REGISTRY.methods.get(method.name)
    if other is not None and _source(other) != _source(method):
        raise ConcordError(f"two methods are named '{method.name}': {_source(other)} and {_source(method)}; rename one")
    _REGISTRY.methods[method.name] = method
    return method


def _source(method: type[Method]) -> str:
    return str(inspect.getsourcefile(method))


def registered() -> dict[str, type[Method]]:
    """The methods that are registered now, by name, in the order in which they came; nothing is imported."""
    return _REGISTRY.methods


def all_methods() -> dict[str, type[Method]]:
    """Every method, by name: the files of this folder, the entry points `concord.methods`, and loaded plugins."""
    for name in _own():
        importlib.import_module(name)
    for entry in _installed(tuple(sys.path)):
        _load_entry(entry)
    return dict(sorted(_REGISTRY.methods.items()))


@lru_cache(maxsize=1)
def _own() -> tuple[str, ...]:
    """The modules of this folder that hold methods: a plan asks for them a thousand times."""
    from concord import methods

    found = [module.name for module in pkgutil.iter_modules(methods.__path__) if not module.ispkg]
    return tuple(f"concord.methods.{name}" for name in found if name not in ("base", "template"))


@lru_cache(maxsize=8)
def _installed(path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """The entry points of the packages on `sys.path`, which takes as long to look through as a suite to read."""
    return tuple(entry_points(group="concord.methods"))


def _load_entry(entry: EntryPoint) -> None:
    """Register the method of an installed package; ConcordError naming the package when it cannot be had."""
    package = entry.dist.name if entry.dist is not None else "?"
    where = f"installed package '{package}', entry point '{entry.name} = {entry.value}'"
    with user_code(f"{where}, fix or uninstall it"), exits_are_errors():
        loaded = entry.load()
        register(loaded)


def get_method(name: str) -> type[Method]:
    """The method class of that name; raises ConcordError with the known names otherwise."""
    known = all_methods()
    if name not in known:
        raise ConcordError(f"unknown method '{name}': expected one of {', '.join(known)}")
    return known[name]


def make_params(method: type[Method], values: Mapping[str, object] | None = None) -> Method.Params:
    """Checked parameters: the preset's values first, then what was given by name."""
    with user_code(f"method '{method.name}', parameters", names_itself=True):  # its validators may fail in any way
        given = method.Params.in_words_of_today(dict(values or {}))
        if given.get("preset") == "official":
            given = {**method.Params.official(), **given}
        try:
            return method.Params(**given)
        except ValidationError as error:
            raise ConcordError(_mistake(method, error)) from None


def _mistake(method: type[Method], error: ValidationError) -> str:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"]) or "params"
    if first["type"] == "extra_forbidden":
        known = ", ".join(method.Params.model_fields)
        return f"method '{method.name}': unknown parameter '{name}'; expected one of {known}"
    return f"method '{method.name}', parameter '{name}': {first['msg']}; got {first.get('input')!r}"


def make_method(
    name: str,
    values: Mapping[str, object] | None,
    networks: Callable[[], Networks] | Networks,
    conditions: Sequence[str] | None = None,
) -> Method:
    """The method, ready to generate; it can get the networks of its own `roles` alone.

    networks: may be a function, called only after the parameters proved valid. conditions: those that its requests
    bring; all that it takes where absent.
    """
    kind = get_method(name)
    params = make_params(kind, values)
    with user_code(f"method '{name}', roles", names_itself=True):
        roles = kind.roles(params, sorted(kind.conditions) if conditions is None else conditions)
    opened = networks() if callable(networks) else networks
    with user_code(f"method '{name}', opening", names_itself=True):
        return kind(params, opened.only(roles))
