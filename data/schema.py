"""YAML files read through a schema: a mistake is one line that names the file, the field, and what was expected."""

from __future__ import annotations

import re
import types
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from concord.data.errors import ConcordError
from concord.data.files import DEEPEST, read_text

Model = TypeVar("Model", bound=BaseModel)


class Strict(BaseModel):
    """A model that takes no unknown keys and converts no types: '8' is not 8."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


if TYPE_CHECKING:
    _Loader = yaml.SafeLoader
else:
    _Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster where PyYAML was built with libyaml


class PlainLoader(_Loader):
    """YAML whose numbers are what they look like: by itself it takes 050 for 40 (octal) and 1:30 for 90 (base 60)."""


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(node.value)


_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
PlainLoader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] not in (_INT, _FLOAT)]
    for first, pairs in PlainLoader.yaml_implicit_resolvers.items()
}
PlainLoader.add_implicit_resolver(_INT, re.compile(r"[-+]?[0-9]+$"), list("-+0123456789"))
PlainLoader.add_implicit_resolver(
    _FLOAT,
    re.compile(
        r"(?:[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)
PlainLoader.add_constructor(_INT, _integer)


class _UniqueKeys(PlainLoader):
    """YAML in which a key that stands twice in one mapping is an error; by itself YAML takes the last one silently."""


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[object, object]:
    seen: set[str] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key '{key.value}' stands twice; expected it once", key.start_mark
                )
            seen.add(key.value)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


LARGEST_TREE = 500_000
"""Values of one file, those counted again that aliases repeat: a file of a kilobyte can name billions of them."""
_SUSPICIOUS = re.compile(r"^ {100}|(?:[-?] ){100}|[\[{](?:[^\[\]{}]*[\[{]){100}", re.MULTILINE)


def parse_yaml(text: str, place: str, loader: type[PlainLoader] = _UniqueKeys) -> Any:
    """The value of a YAML text; `place` is what an error calls it.

    Raises ConcordError for what is no YAML, with its line; for a key that stands twice in one mapping; for values
    nested more than `DEEPEST` levels deep (libyaml would end the process), within themselves, or repeated by aliases
    beyond `LARGEST_TREE`.
    """
    deep = f"{place}: nested too deep; expected a YAML file of at most {DEEPEST} levels"
    try:
        if _SUSPICIOUS.search(text) and _event_depth(text) > DEEPEST:
            raise ConcordError(deep)
        value = yaml.load(text, Loader=loader)
    except RecursionError:
        raise ConcordError(deep) from None
    except (ValueError, TypeError) as error:  # a date that is none, a number of too many digits, a list as a key
        raise ConcordError(f"{place}: not valid YAML ({error}); expected an intact YAML file") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ConcordError(f"{place}{where}: not valid YAML ({getattr(error, 'problem', error)})") from None
    count, waiting = 0, [(value, 1)]
    while waiting:
        one, depth = waiting.pop()
        count += 1
        if depth > DEEPEST or count > LARGEST_TREE:
            raise ConcordError(deep if depth > DEEPEST else f"{place}: repeats itself by aliases; write it out")
        if isinstance(one, dict | list):
            waiting += [(part, depth + 1) for part in (one.values() if isinstance(one, dict) else one)]
    return value


def _event_depth(text: str) -> int:
    depth = deepest = 0
    for event in yaml.parse(text, Loader=_UniqueKeys):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            deepest = max(deepest, depth)
            if deepest > DEEPEST:
                break
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return deepest


def parse_scalar(text: str, place: str) -> Any:
    """A value as YAML reads it: a number, true, false, null, a word, a list; ConcordError naming `place` otherwise."""
    try:
        return parse_yaml(text, place)
    except ConcordError:
        raise ConcordError(f"{place}: the value is not readable; expected a number, true, false or a word") from None


def read_yaml(path: Path) -> Any:
    """The content of a YAML file; a missing or malformed one is a ConcordError with its line."""
    return parse_yaml(read_text(path, "a YAML file"), str(path))


def read_model(path: Path, model: type[Model]) -> Model:
    """A YAML file as a checked model."""
    content = read_yaml(path)
    if not isinstance(content, dict):
        keys = ", ".join(model.model_fields)
        raise ConcordError(f"{path}: expected a mapping with the keys {keys}; got {type(content).__name__}")
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ConcordError(f"{path}: {explain(error, model)}") from None


MOST_MISTAKES = 8  # of a file, in one line


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """The mistakes of a validation error in one line; misspelt keys before the missing ones that they stand for.

    Of several about one place (a value that is none of the kinds it may be) the first.
    """
    errors = sorted(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    by_place = {str(found["loc"][:3]): found for found in reversed(errors)}
    told = [_explained(found, model) for found in errors if by_place[str(found["loc"][:3])] is found]
    more = f" (and {len(told) - MOST_MISTAKES} more)" if len(told) > MOST_MISTAKES else ""
    return "; ".join(told[:MOST_MISTAKES]) + more


def _explained(found: ErrorDetails, model: type[BaseModel]) -> str:
    loc = [part for part in found["loc"] if part != "[key]"]
    name = ".".join(str(part) for part in loc)
    if found["type"] == "extra_forbidden":
        return f"unknown key '{name}'; known keys: {', '.join(_known_keys(model, loc[:-1]))}"
    if found["type"] == "missing":
        return f"key '{name}' is missing"
    message = found["msg"].removeprefix("Value error, ").replace("Input should be", "expected").replace("\n", " ")
    got = "" if found["type"] == "value_error" else f"; got {_short(found.get('input'))}"
    return f"{f'{name!r}: ' if name else ''}{message}{got}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _known_keys(model: type[BaseModel], loc: list[Any]) -> list[str]:
    """The fields of the model that `loc` leads to, e.g. of the rows' model for ('rows', 2)."""
    for part in loc:
        if isinstance(part, str) and part in model.model_fields:
            inner = _inner_model(model.model_fields[part].annotation)
            if inner is None:
                return []
            model = inner
    return list(model.model_fields)


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    """The pydantic model inside `list[M]`, `dict[str, M]`, `M | None` or M itself."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, BaseModel) else None
    found = (_inner_model(argument) for argument in typing.get_args(annotation))
    return next((model for model in found if model is not None), None)
