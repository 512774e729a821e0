"""The networks of a profile by role, loaded when first asked for: one protocol for methods and metrics.

    networks = Networks(load_profile("embedded"), generator="faces", device="cuda:0")
    denoise = networks.get("expert/text", Expert).bind(conditions, networks.get("schedule", Schedule))

Roles are words of a profile's YAML: 'space', 'schedule', 'expert/<condition>', 'guide/<kind>', 'judge/<kind>',
'features/<kind>', ... Which class or protocol stands behind one is what its user asks for, and is checked.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

from concord.data.errors import ConcordError
from concord.data.profile import Entry, Profile, ProfileFile, load_profile, loader_file
from concord.data.weight_names import card_of, digest, locate

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


class Pool:
    """Networks that are loaded on one device, shared by every `Networks` that is given the pool.

    Safe for what nothing changes: evaluation mode, frozen. Kept as long as the pool is, or until `Networks.trim`.
    """

    def __init__(self) -> None:
        self.loaded: dict[str, object] = {}
        self.digests: dict[Path, str] = {}


class Networks:
    """What a method draws from and a metric looks through.

    paths: weight files by name, where they are not those that are committed or fetched.
    allowed: the roles that may be asked for; None for all that the profile and the generator have.
    sha256: name of weights -> SHA-256 of what was loaded so far. cards: role -> what is known of its weights.
    """

    def __init__(
        self,
        profile: Profile | str,
        generator: str | None = None,
        device: torch.device | str = "cpu",
        paths: Mapping[str, Path] | None = None,
        allowed: Iterable[str] | None = None,
        pool: Pool | None = None,
    ) -> None:
        import torch

        self.profile = profile if isinstance(profile, Profile) else load_profile(profile)
        if generator is not None and (reason := self.profile.generator(generator).unavailable):
            raise ConcordError(f"generator '{generator}': {reason}")
        self.generator, self.device = generator, torch.device(device)
        self.paths, self.pool = dict(paths or {}), pool or Pool()
        self.allowed = None if allowed is None else frozenset(allowed)
        self._keys: dict[str, str] = {}  # role -> of what was loaded, in the pool
        self.sha256: dict[str, str] = {}
        self.cards: dict[str, dict[str, object]] = {}

    @property
    def image_size(self) -> int:
        """Pixels of the images that its generator makes."""
        return self.profile.sizes_of(self.generator)

    @classmethod
    def of(
        cls,
        given: Mapping[str, object],
        device: torch.device | str = "cpu",
        image_size: int = 64,
        cards: Mapping[str, Mapping[str, object]] | None = None,
    ) -> Networks:
        """Networks that are there already, by role; a string stands for another role, as in a profile.

        cards: role -> {'name': ..., 'sha256': ...} of their weights.
        """
        entry = Entry(loader="concord.data.networks:Networks")
        roles: dict[str, Entry | str] = {
            role: found if isinstance(found, str) else entry for role, found in given.items()
        }
        profile = Profile.model_construct(
            **dict(ProfileFile(image_size=image_size, batch_size=1, roles=roles)), name="given", path=Path()
        )
        networks = cls(profile, device=device)
        networks.pool.loaded.update(given)
        networks._keys = {role: role for role in given}
        networks.cards = {role: dict(card) for role, card in (cards or {}).items()}
        networks.sha256 = {str(card["name"]): str(card["sha256"]) for card in networks.cards.values()}
        return networks

    def only(self, roles: Iterable[str] | None) -> Networks:
        """These networks, of which no other role may be asked for; they share what is loaded.

        None: roles that are not stated, which are those that a key takes up for them (`Profile.default_roles`).
        """
        narrowed = copy.copy(self)
        narrowed.allowed = frozenset(self.profile.default_roles(self.generator) if roles is None else roles)
        return narrowed

    def resolve(self, role: str) -> str:
        """The role that an entry stands under: 'judge/parser' for 'freedom/parser', where the one is the other."""
        return self.profile.entry(role, self.generator)[0]

    def role_sha256(self, role: str) -> str:
        """SHA-256 of the weights of a role that was loaded; of several, over theirs."""
        role = self.resolve(role)
        own = [str(card["sha256"]) for name, card in self.cards.items() if name == role or name.startswith(f"{role}-")]
        return own[0] if len(own) == 1 else hashlib.sha256("".join(own).encode()).hexdigest()

    def has(self, role: str) -> bool:
        """Whether the profile, or the generator, has the role; nothing is loaded."""
        return role in self.profile.roles_of(self.generator)

    def get(self, role: str, kind: type[T]) -> T:
        """The network of a role, in evaluation mode, frozen, on the device.

        kind: the class, or runtime-checkable protocol, that it is to be. Raises ConcordError naming role, profile and
        loader where there is no such role, weights are missing (with the command that supplies them), or what the
        loader gives is no `kind`.
        """
        if self.allowed is not None and role not in self.allowed:
            known = ", ".join(sorted(self.allowed)) or "none"
            raise ConcordError(f"role '{role}': it was not named among the roles that are looked through ({known})")
        found = self._load(role)
        if not isinstance(found, kind):
            _, entry = self.profile.entry(role, self.generator)
            raise ConcordError(
                f"profile '{self.profile.name}', role '{role}': {entry.loader} gives a {type(found).__name__}, "
                f"expected a {kind.__name__}; {_lacks(found, kind)}"
            )
        return found

    def trim(self) -> None:
        """Let go of what the pool holds for other roles: the memory of a row is that of its own networks."""
        wanted = set()
        for role in self.profile.roles_of(self.generator) if self.allowed is None else self.allowed:
            try:
                wanted |= self._keys_below(role)
            except ConcordError:  # weights that are not here, of a role that is asked for only in some cases
                continue
        for key in set(self.pool.loaded) - wanted:
            del self.pool.loaded[key]

    def _keys_below(self, role: str) -> set[str]:
        """The keys in the pool of a role and of those that it is built on."""
        _, entry = self.profile.entry(role, self.generator)
        below = (self._keys_below(other) for other in entry.uses.values())
        return {self._key(role)}.union(*below)

    def _key(self, role: str) -> str:
        """What a role's network stands under in the pool: all that its loader is called with."""
        role, entry = self.profile.entry(role, self.generator)
        if role in self._keys:
            return self._keys[role]
        places = sorted(self._places(role, entry).items())
        built_on = [(argument, self._key(other)) for argument, other in sorted(entry.uses.items())]
        options = sorted(entry.options.items())
        return repr((str(self.profile.path), entry.loader, places, options, built_on, str(self.device)))

    def _load(self, role: str) -> object:
        role, entry = self.profile.entry(role, self.generator)
        if role in self._keys:
            return self.pool.loaded[self._keys[role]]
        used = {argument: self._load(other) for argument, other in entry.uses.items()}
        key, places = self._key(role), self._places(role, entry)
        if key not in self.pool.loaded:
            import torch

            with torch.inference_mode(False):  # weights born in inference mode can never be part of a graph
                self.pool.loaded[key] = self._call(entry, places, used)
        for argument, name in entry.files.items():
            place = places[argument]
            if place not in self.pool.digests:
                self.pool.digests[place] = digest(name, place, self.profile)
            self.sha256[name] = self.pool.digests[place]
            self.cards[role if argument == "path" else f"{role}-{argument}"] = card_of(name, self.sha256[name])
        self._keys[role] = key
        return self.pool.loaded[key]

    def _places(self, role: str, entry: Entry) -> dict[str, Path]:
        """The loader's argument -> the file of its weights."""
        try:
            return {argument: self._place(name) for argument, name in entry.files.items()}
        except ConcordError as error:
            raise ConcordError(f"profile '{self.profile.name}', role '{role}' ({entry.loader}): {error}") from None

    def _place(self, name: str) -> Path:
        given = self.paths.get(name)
        if given is None:
            return locate(name, self.profile)
        if not given.exists():
            raise ConcordError(f"{given}: no such file; give the weights '{name}'")
        return given

    def _call(self, entry: Entry, places: Mapping[str, Path], used: Mapping[str, object]) -> object:
        function = loader_function(entry.loader, self.profile.path)
        given: dict[str, object] = {**places, **used, **entry.options}
        if "device" in inspect.signature(function).parameters:
            given["device"] = self.device
        try:
            inspect.signature(function).bind(**given)
        except TypeError as error:
            raise ConcordError(f"loader '{entry.loader}': {error}; correct the entry in the profile") from None
        return function(**given)


def loader_function(loader: str, profile: Path = Path()) -> Callable[..., object]:
    """The function that a loader names; a file beside the profile is imported under a private name."""
    path, (module, _, function) = loader_file(loader, profile), loader.partition(":")
    found = _module(path) if module.endswith(".py") else importlib.import_module(module)
    loaded: Callable[..., object] = getattr(found, function)
    return loaded


def _module(path: Path) -> ModuleType:
    private = f"concord_loader_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if private not in sys.modules:
        spec = importlib.util.spec_from_file_location(private, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[private] = module
    return sys.modules[private]


def _lacks(found: object, kind: type[object]) -> str:
    """What a protocol asks for that an object does not have."""
    names = sorted(set(dir(kind)) - set(dir(object)))
    missing = [name for name in names if not name.startswith("_") and name not in dir(found)]
    return f"it has no {', '.join(missing)}" if missing else "name another loader in the profile"
