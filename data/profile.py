"""A profile: which data, networks and sizes the one code path runs on. One YAML file, benchmarks/profiles/NAME.yaml.

    image_size: 64                      # pixels; a generator or a suite may say another
    batch_size: 32
    dtype: fp32                         # what generators compute in: fp32, or bf16 (autocast); scores are float32
    datasets:                           # 'faces', 'layouts' -> folders
    roles:                              # what every row and metric may look through
      judge/parser:
        loader: concord.metrics.networks.pretrained.parsenet:load_parsenet
        weights: parsenet               # a manifest of data/manifests, a card of data/weights, or a name of 'weights'
      freedom/parser: guide/parser      # a string: the same network in another role
    generators:                         # named sets of roles that share a space; a row draws from one
      celeba-hq-ddpm:
        methods: [freedom, z-magic]     # they draw from it where their suite names no other
        roles: {space: {...}, expert/unconditional: {...}}
    weights: {}                         # of this profile alone: where they lie, SHA-256, licence
    suites: {}                          # of a user's profile: rows, metrics, n of a suite, without an edit of it

A *loader* `module:function` is called with the local path of each weight (argument `path`, or the arguments that
`weights` names), with the networks of other roles that it `uses`, with its `options`, and, where it has such an
argument, with the `device`. `file.py:function` is a file beside the profile. Reading a profile loads nothing.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from concord.data.errors import ConcordError
from concord.data.schema import Strict, read_model

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "benchmarks" / "profiles"
CACHE = "cache:"
Option = str | int | float | bool | list[int] | list[str]


def place(folder: str) -> Path:
    """A folder of a profile: from `own_folder`, or, with 'cache:' before it, from where fetched things are kept."""
    if folder.startswith(CACHE):
        from concord.data.download.manifest import cache_folder

        return cache_folder() / folder.removeprefix(CACHE)
    from concord.data.download.manifest import own_folder

    return own_folder() / folder


class DatasetSettings(Strict):
    """Folders with no item in common: what is asked for, what FID and KID compare with, and what `tune` looks at."""

    items: str
    reference: str | None = None  # where it is the folder of the items: the faces that are no test items
    reference_n: int = Field(default=0, ge=0)
    moments: str | None = None  # file of moments of a large reference, for the metrics that need no more (FID, KID)
    tuning: str | None = None
    sources: list[str] = Field(default_factory=list)  # names in data/manifests that it is prepared from

    @property
    def items_folder(self) -> Path:
        return place(self.items)

    @property
    def reference_folder(self) -> Path | None:
        """None for a dataset that no metric compares with a set of images."""
        return None if self.reference is None else place(self.reference)

    @property
    def moments_file(self) -> Path | None:
        """None where every set metric compares with the reference's images."""
        return None if self.moments is None else place(self.moments)

    @model_validator(mode="after")
    def _both(self) -> DatasetSettings:
        if (self.reference is None) != (self.reference_n == 0):
            raise ValueError("'reference' and 'reference_n' (1 or more) come together")
        return self


QUICK = "quick"
"""The size of a first look: what a suite says of it under its key of that name, in a results folder of its own."""


class Sizes(Strict):
    """How many requests a request set takes, by the size that is asked for."""

    default: int = Field(ge=1)
    full: int = Field(ge=1)

    def of(self, size: str) -> int:
        """n of a size; ConcordError for an unknown one."""
        if size not in SIZES:
            raise ConcordError(f"unknown size '{size}': expected one of {', '.join((QUICK, *SIZES))}")
        return self.full if size == "full" else self.default


SizeName = Literal["default", "full"]
SIZES: tuple[SizeName, ...] = ("default", "full")


class Entry(Strict):
    """What a role is: the loader, the weights by the loader's argument, the roles that it is built on, its options."""

    loader: str
    weights: str | dict[str, str] = Field(default_factory=dict)
    uses: dict[str, str] = Field(default_factory=dict)  # the loader's argument -> role
    options: dict[str, Option] = Field(default_factory=dict)
    optional: bool = False  # not taken to be needed by a method that does not say what it looks through

    @property
    def files(self) -> dict[str, str]:
        """The loader's argument -> the name of the weights."""
        return {"path": self.weights} if isinstance(self.weights, str) else dict(self.weights)

    @model_validator(mode="after")
    def _named(self) -> Entry:
        if not re.fullmatch(r"[\w./-]+:\w+", self.loader):
            raise ValueError(f"loader '{self.loader}': expected 'module:function'")
        return self


class Weights(Strict):
    """Weights that a profile brings along: where the file lies, what it is, and what a user may do with it.

    path: from the profile's folder. package: 'module/inside/file' of an installed package. command: what supplies it.
    """

    path: str | None = None
    package: str | None = None
    sha256: str | None = Field(default=None, pattern="[0-9a-f]{64}")
    licence: str
    source: str = ""
    trained_on: str = ""
    command: str = ""

    @model_validator(mode="after")
    def _one_place(self) -> Weights:
        if (self.path is None) == (self.package is None):
            raise ValueError("expected either 'path' or 'package'")
        return self


class Generator(Strict):
    """Roles that share a space. unavailable: why nothing here loads it, and what to do; then it has no roles."""

    image_size: int | None = Field(default=None, gt=0)
    methods: list[str] = Field(default_factory=list)
    unavailable: str | None = None
    reads: dict[str, int] = Field(default_factory=dict)  # condition -> side, where its models read it finer than images
    roles: dict[str, Entry | str] = Field(default_factory=dict)


class ProfileFile(Strict):
    """The schema of a profile's YAML."""

    title: str = ""
    image_size: int = Field(gt=0)
    batch_size: int = Field(ge=1, le=64)
    dtype: Literal["fp32", "bf16"] | None = None  # None: torch's own settings
    papers_scale: bool = False  # whether its numbers may be subtracted from the papers': their data, sizes and judges
    datasets: dict[str, DatasetSettings] = Field(default_factory=dict)
    roles: dict[str, Entry | str] = Field(default_factory=dict)
    generators: dict[str, Generator] = Field(default_factory=dict)
    weights: dict[str, Weights] = Field(default_factory=dict)
    suites: dict[str, dict[str, object]] = Field(default_factory=dict)


@dataclass(frozen=True)
class Use:
    """One entry that a row or a metric looks through. weights: names, in the order of the entry."""

    role: str
    loader: str
    weights: tuple[str, ...]
    entry: Entry


class Profile(ProfileFile):
    """A profile that was read. name: its file's, which results and tables go by."""

    name: str = ""
    path: Path = Path()

    def roles_of(self, generator: str | None) -> dict[str, Entry | str]:
        """Every role that a row of that generator may ask for; the generator's own first."""
        return {**(self.generator(generator).roles if generator else {}), **self.roles}

    def generator(self, name: str) -> Generator:
        """The generator of that name; ConcordError that lists them."""
        if name not in self.generators:
            raise ConcordError(f"generator '{name}': expected one of {', '.join(self.generators) or 'none'}")
        return self.generators[name]

    def default_roles(self, generator: str | None) -> tuple[str, ...]:
        """What a method may ask for that does not state its roles: those of its generator that are not optional."""
        roles = self.generator(generator).roles if generator else self.roles
        return tuple(role for role, entry in roles.items() if isinstance(entry, str) or not entry.optional)

    def generator_for(self, method: str, roles: Sequence[str] | None) -> str | None:
        """The generator that a method draws from: the one that names it, else the first that has all its roles."""
        for name, generator in self.generators.items():
            if method in generator.methods:
                return name
        if roles is None:
            return next((name for name, one in self.generators.items() if one.unavailable is None), None)
        own = {role for generator in self.generators.values() for role in generator.roles}
        asked = [role for role in roles if role in own or role not in self.roles]
        for name, generator in self.generators.items():
            if generator.unavailable is None and set(asked) <= set(generator.roles):
                return name
        return None

    def entry(self, role: str, generator: str | None = None) -> tuple[str, Entry]:
        """The role that an entry stands under, and the entry; ConcordError naming the roles that there are."""
        roles, first = self.roles_of(generator), role
        for _ in range(len(roles) + 1):
            found = roles.get(role)
            if found is None:
                among = f"generator '{generator}'" if generator else f"profile '{self.name}'"
                where = f" (of '{first}')" if role != first else ""
                raise ConcordError(f"{among}: has no role '{role}'{where}; it has {', '.join(roles) or 'none'}")
            if isinstance(found, Entry):
                return role, found
            role = found
        raise ConcordError(f"profile '{self.name}': role '{first}' stands for itself; give it a loader")

    def uses(self, roles: Sequence[str], generator: str | None = None) -> list[Use]:
        """The entries behind roles, those that they are built on included, each once; nothing is loaded."""
        found: dict[str, Use] = {}
        for role in roles:
            self._collect(role, generator, found, ())
        return list(found.values())

    def _collect(self, role: str, generator: str | None, found: dict[str, Use], above: tuple[str, ...]) -> None:
        name, entry = self.entry(role, generator)
        if name in above:
            raise ConcordError(
                f"profile '{self.name}': role '{name}' is built on itself: {' -> '.join((*above, name))}"
            )
        for other in entry.uses.values():
            self._collect(other, generator, found, (*above, name))
        found.setdefault(name, Use(name, entry.loader, tuple(entry.files.values()), entry))

    def missing(self, roles: Sequence[str], generator: str | None = None) -> dict[str, str]:
        """Name of weights -> the one line that says what is not here whole, and what supplies it."""
        from concord.data.weight_names import locate

        found: dict[str, str] = {}
        for use in self.uses(roles, generator):
            for name in use.weights:
                try:
                    locate(name, self)
                except ConcordError as error:
                    found[name] = str(error)
        return found

    def sizes_of(self, generator: str | None) -> int:
        """Pixels of a generator's images."""
        own = self.generator(generator).image_size if generator else None
        return own or self.image_size


# -------------------------------------------------------------------------------------------------------------- loading


def profile_names() -> list[str]:
    """The profiles that come with Concord."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


GIVEN = "CONCORD_PROFILES"
"""Environment variable with the paths of the user's profiles that were read: child processes know them by name too."""


def load_profile(name: str | Path) -> Profile:
    """A profile by its name, or by the path of a YAML file of the user's; checked, nothing loaded.

    ConcordError in one line for an unknown key, loader, role or weight, naming those that are known.
    """
    text = str(name)
    if text.endswith((".yaml", ".yml")):
        path = Path(text).resolve()
        if path.stem in profile_names() and path != FOLDER / f"{path.stem}.yaml":
            raise ConcordError(f"{path}: profile '{path.stem}' comes with Concord; give the file another name")
        if path.is_file() and path != FOLDER / path.name:
            os.environ[GIVEN] = os.pathsep.join(map(str, {**_given(), path.stem: path}.values()))
    elif text in _given():
        path = _given()[text]
    elif text in profile_names():
        path = FOLDER / f"{text}.yaml"
    else:
        known = ", ".join([*profile_names(), *_given()])
        raise ConcordError(f"unknown profile '{text}': expected one of {known}, or a path to a .yaml file")
    if not path.is_file():
        raise ConcordError(f"{path}: no such profile; expected one of {', '.join(profile_names())}, or a .yaml file")
    return _read(path, path.stat().st_mtime_ns)


def _given() -> dict[str, Path]:
    paths = [Path(path) for path in os.environ.get(GIVEN, "").split(os.pathsep) if path]
    return {path.stem: path for path in paths}


@lru_cache(maxsize=16)
def _read(path: Path, _changed: int) -> Profile:
    found = read_model(path, ProfileFile)
    profile = Profile.model_construct(**dict(found), name=path.stem, path=path)
    try:
        check_profile(profile)
    except ConcordError as error:
        raise ConcordError(f"{path}: {error}") from None
    return profile


def check_profile(profile: Profile) -> None:
    """Raise ConcordError for an unknown loader, role or weight."""
    from concord.data.weight_names import check_name

    for generator, role, found in _entries(profile):
        where = f"generator '{generator}', role '{role}'" if generator else f"role '{role}'"
        try:
            profile.uses([role], generator)
            if isinstance(found, Entry):
                loader_file(found.loader, profile.path)
                for name in found.files.values():
                    check_name(name, profile)
        except ConcordError as error:
            raise ConcordError(f"{where}: {error}") from None
    named: dict[str, str] = {}
    for name, generator_part in profile.generators.items():
        if generator_part.unavailable is not None and generator_part.roles:
            raise ConcordError(f"generator '{name}': it is unavailable and has roles; expected one of both")
        for method in generator_part.methods:
            if named.setdefault(method, name) != name:
                raise ConcordError(f"method '{method}' draws from two generators, '{named[method]}' and '{name}'")


def _entries(profile: ProfileFile) -> Iterator[tuple[str | None, str, Entry | str]]:
    for role, found in profile.roles.items():
        yield None, role, found
    for name, generator in profile.generators.items():
        for role, found in generator.roles.items():
            yield name, role, found


@lru_cache(maxsize=256)
def loader_file(loader: str, profile: Path = Path()) -> Path:
    """The source file of a loader; ConcordError where there is no such module, or no such function in it.

    The source is read, never imported. profile: the YAML file, for a loader that is a file beside it.
    """
    module, _, function = loader.partition(":")
    if module.endswith(".py"):
        path = (profile.parent / module).resolve()
    else:
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):
            spec = None
        if spec is None or spec.origin is None:
            raise ConcordError(f"loader '{loader}': there is no module '{module}'")
        path = Path(spec.origin)
    if not path.is_file():
        raise ConcordError(f"loader '{loader}': {path}: no such file")
    if path.suffix == ".py" and not re.search(
        rf"^(?:def|class) {function}\b|^{function}\b *[:=]", path.read_text(), re.M
    ):
        known = ", ".join(re.findall(r"^def (load_\w+)", path.read_text(), re.M)) or "none that begin with load_"
        raise ConcordError(f"loader '{loader}': {path.name} has no '{function}'; it has {known}")
    return path


def facts(uses: Sequence[Use]) -> Mapping[str, tuple[str, tuple[str, ...]]]:
    """role -> (loader, weights): what a key takes up of a profile."""
    return {use.role: (use.loader, use.weights) for use in uses}
