"""What a condition is, and the registry that finds conditions by looking.

A condition (a caption, a mask, an identity, ...) is one class in one file. It holds everything that is particular to
it: how it is read from an item of a dataset, what makes a value a sound one, how it is written for a method that lives
outside and parsed again, how it is kept and hashed, how it is drawn, and an example of it for the contract tests.
Suites, exchange, contract tests, figures, reports and keys walk the registry and know no name.

A new one is found in this folder, in the entry points `concord.conditions`, or in a plugin file that registers it.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import pkgutil
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from concord.data.errors import ConcordError

if TYPE_CHECKING:
    from concord.data.datasets.item import Item

V = TypeVar("V")
Drawing = Literal["none", "classes", "lines", "image"]
"""How a condition is shown: not at all, as flat colours (enlarged without smoothing), as lines drawn at the size that
is shown, or as an image."""


class Condition(BaseModel, Generic[V]):
    """One kind of condition, with values of type V. Its fields are what a suite has to say about it (`options`).

    The class is the kind: all that concerns a value alone is a class method. An instance, with its fields settled,
    reads values from items.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: ClassVar[str]  # as in suites: 'masked_image'
    title: ClassVar[str]  # as a heading: 'Masked image'
    order: ClassVar[int] = 1000  # its place among the others, in keys, tables and figures; equal ones by name
    datasets: ClassVar[frozenset[str]] = frozenset({"faces"})  # the kinds of datasets whose items can have it
    reads: ClassVar[frozenset[str]] = frozenset({"image"})  # parts of an item that `read` looks at (datasets/item.py)
    format: ClassVar[str]  # its files in an export, in words for whoever writes the outside method
    note: ClassVar[str] = ""  # one more sentence below that list, where the files need it
    drawing: ClassVar[Drawing] = "image"
    over_truth: ClassVar[bool] = False  # drawn over the pale ground truth, where there is one
    checked_first: ClassVar[bool] = False  # every value is read before any image is made: bad input is known early
    cached: ClassVar[bool] = False  # a request set reads it once: reading takes longer than keeping

    # ----------------------------------------------------------------------------------------------- from a dataset

    @classmethod
    @abstractmethod
    def has(cls, item: Item) -> bool:
        """Whether the item has what this condition is read from."""

    @abstractmethod
    def read(self, item: Item, size: int) -> V:
        """The value that an item gives, for images of size x size pixels."""

    def read_finer(self, item: Item, size: int, side: int) -> V:
        """The value at `side`, above `size`, where the item has it so fine; else, and unless said, that of `read`."""
        return self.read(item, size)

    @classmethod
    def check(cls, value: V) -> None:
        """Raise ConcordError, in one line with the condition's name, unless the value is a sound one."""

    # ------------------------------------------------------------------------------------------- kept, hashed, written

    @classmethod
    def pack(cls, value: V) -> dict[str, np.ndarray]:
        """The value as named arrays without objects, from which `unpack` makes it again."""
        return {"value": np.asarray(value)}

    @classmethod
    def unpack(cls, arrays: Mapping[str, np.ndarray]) -> V:
        """The value that `pack` took apart."""
        value: Any = arrays["value"]
        return value

    @classmethod
    def digest(cls, value: V) -> bytes:
        """SHA-256 of the content, types and shapes included."""
        total = hashlib.sha256(cls.name.encode())
        for part, array in sorted(cls.pack(value).items()):
            total.update(f"\x00{part}\x00{array.dtype.str}{array.shape}\x00".encode())
            total.update(np.ascontiguousarray(array).tobytes())
        return total.digest()

    @classmethod
    @abstractmethod
    def write(cls, value: V, folder: Path, stem: str) -> dict[str, Any]:
        """Write the value below `folder` as files whose names begin with `stem` ('mask/17-0').

        Returns what a request's line says of it: `file`, relative to the folder; `value` where it is short.
        """

    @classmethod
    @abstractmethod
    def parse(cls, entry: Mapping[str, object], folder: Path) -> V:
        """The value that `write` wrote; ConcordError naming the file where it cannot be read."""

    @classmethod
    def code(cls) -> str:
        """Hash of what the condition's file does (data/syntax.py): a part of what is drawn and kept of its values."""
        from concord.data.syntax import syntax_hash

        return syntax_hash(Path(_source(cls)).read_bytes())

    # -------------------------------------------------------------------------------------------------------- shown

    @classmethod
    def draw(cls, value: V, truth: np.ndarray | None, side: int) -> np.ndarray | None:
        """The value as people read it, uint8 (H, W, 3) RGB; None where it is no image.

        truth: the item's own image, uint8 RGB, where there is one. side: pixels of what is drawn with lines; others
        keep their own size.
        """
        return None

    @classmethod
    def overlay(cls, value: V, image: np.ndarray, side: int) -> np.ndarray | None:
        """An image of a row, enlarged to side x side, with the condition drawn over it; None to leave it as it is."""
        return None

    @classmethod
    def legend(cls, values: Sequence[V]) -> list[tuple[str, str]]:
        """(name, '#rrggbb') of the colours that these values are drawn in; empty where they need no words."""
        return []

    # ------------------------------------------------------------------------------------------------------- examples

    @classmethod
    @abstractmethod
    def example(cls, index: int) -> V:
        """The value of a drawn test item, for the contract tests; equal for equal indices."""


class ImageCondition(Condition[np.ndarray]):
    """A condition that is an image, uint8 (H, W, 3) RGB."""

    @classmethod
    def check(cls, value: np.ndarray) -> None:
        check_image(cls.name, value)

    @classmethod
    def write(cls, value: np.ndarray, folder: Path, stem: str) -> dict[str, Any]:
        write_png(folder / f"{stem}.png", value)
        return {"file": f"{stem}.png"}

    @classmethod
    def parse(cls, entry: Mapping[str, object], folder: Path) -> np.ndarray:
        return read_png(entry_file(entry, folder, cls.name), "RGB")

    @classmethod
    def draw(cls, value: np.ndarray, truth: np.ndarray | None, side: int) -> np.ndarray | None:
        return np.asarray(value)


def check_image(name: str, value: Any) -> None:
    """Raise ConcordError unless the value is uint8 (H, W, 3)."""
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.ndim != 3 or value.shape[2] != 3:
        what = f"shape {value.shape} and type {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
        raise ConcordError(f"condition '{name}' has {what}: expected an image, uint8 (H, W, 3) RGB")


# --------------------------------------------------------------------------------------------------------------- files


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write uint8 (H, W, 3) or (H, W) as a PNG."""
    from PIL import Image

    Image.fromarray(pixels).save(path, format="PNG")


def read_png(path: Path, mode: Literal["RGB", "L"]) -> np.ndarray:
    """The pixels of a PNG of that mode; ConcordError naming it otherwise."""
    from concord.data.images import decode

    image = decode(path)
    if image.mode != mode:
        raise ConcordError(f"{path}: has mode {image.mode}; expected {mode}, as it was exported: export again")
    return np.asarray(image)


def entry_file(entry: Mapping[str, object], folder: Path, name: str, key: str = "file") -> Path:
    """The file that a request's line names for a condition; ConcordError where it names none below the folder."""
    file = entry.get(key)
    if not isinstance(file, str) or not file or Path(file).is_absolute() or ".." in Path(file).parts:
        raise ConcordError(f"{folder}: condition '{name}' has no '{key}' below the folder: export the suite again")
    return folder / file


def write_value(path: Path, value: Any) -> None:
    """A short value as JSON."""
    path.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")


# ------------------------------------------------------------------------------------------------------------ registry

ENTRY_POINTS = "concord.conditions"
_KINDS: dict[str, type[Condition[Any]]] = {}
_RESERVED = frozenset(dir(Mapping)) | {"names", "replace", "read"}
_searched = False


def register(kind: type[Condition[Any]]) -> type[Condition[Any]]:
    """Class decorator: make a condition known by its name; ConcordError where another has that name."""
    name = kind.name
    if not name.isidentifier() or name.startswith("_") or name in _RESERVED or name != name.lower():
        raise ConcordError(
            f"{_source(kind)}: condition '{name}': expected a name of lower-case letters, digits and '_', "
            "such as 'edge_map'"
        )
    other = _KINDS.get(name)
    if other is not None and (_source(other), other.__qualname__) != (_source(kind), kind.__qualname__):
        raise ConcordError(f"two conditions are named '{name}': {_source(other)} and {_source(kind)}; rename one")
    _KINDS[name] = kind
    return kind


def _source(kind: type[Condition[Any]]) -> str:
    try:
        return str(inspect.getsourcefile(kind))
    except (OSError, TypeError):  # defined at a prompt
        return kind.__module__


def all_conditions() -> dict[str, type[Condition[Any]]]:
    """Every condition by name, in their order: the files of this folder, the entry points, and loaded plugins."""
    global _searched
    if not _searched:
        _searched = True
        try:
            _search()
        except BaseException:
            _searched = False  # what failed is complained of again, not forgotten
            raise
    return dict(sorted(_KINDS.items(), key=lambda pair: (pair[1].order, pair[0])))


def _search() -> None:
    from concord.data import conditions

    for module in pkgutil.iter_modules(conditions.__path__):
        importlib.import_module(f"concord.data.conditions.{module.name}")
    for entry in entry_points(group=ENTRY_POINTS):
        package = entry.dist.name if entry.dist is not None else "?"
        where = f"installed package '{package}', entry point '{entry.name} = {entry.value}'"
        try:
            loaded = entry.load()
        except ConcordError:
            raise
        except Exception as error:  # a package may fail in any way; the user needs its name and one line
            raise ConcordError(f"{where}: {type(error).__name__}: {error}; fix or uninstall it") from error
        if not (isinstance(loaded, type) and issubclass(loaded, Condition)):
            raise ConcordError(f"{where}: is no condition; expected a class that derives from {Condition.__module__}")
        register(loaded)


def condition_names() -> tuple[str, ...]:
    """The names of all conditions, in their order."""
    return tuple(all_conditions())


def get_condition(name: str) -> type[Condition[Any]]:
    """The condition of that name; ConcordError with the known ones otherwise."""
    known = all_conditions()
    if name not in known:
        raise ConcordError(f"unknown condition '{name}': expected one of {', '.join(known)}")
    return known[name]


def make_condition(name: str, options: Mapping[str, object] | None = None) -> Condition[Any]:
    """The condition with what a suite says about it; ConcordError naming a missing, unknown or wrong option."""
    kind = get_condition(name)
    try:
        return kind(**(options or {}))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        known = ", ".join(kind.model_fields) or "none"
        if first["type"] == "missing":
            reason = f"option '{field}' is missing"
        elif first["type"] == "extra_forbidden":
            reason = f"unknown option '{field}'; known options: {known}"
        else:
            reason = f"option '{field}': {first['msg'].replace('Input should be', 'expected')}; got {first['input']!r}"
        raise ConcordError(f"condition '{name}': {reason}") from None


def make_conditions(
    names: Iterable[str], options: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Condition[Any]]:
    """The named conditions, each with its options."""
    return {name: make_condition(name, (options or {}).get(name)) for name in names}
