"""YAML files read through a schema: a mistake is one line that names the file, the field, and what was expected."""

from __future__ import annotations

import types
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from concord.data.errors import ConcordError

Model = TypeVar("Model", bound=BaseModel)


class Strict(BaseModel):
    """A model that takes no unknown keys and converts no types: '8' is not 8."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


if TYPE_CHECKING:
    _Loader = yaml.SafeLoader
else:
    _Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster where PyYAML was built with libyaml


class _UniqueKeys(_Loader):
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


def read_yaml(path: Path) -> Any:
    """The content of a YAML file; a missing or malformed one is a ConcordError with its line."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except FileNotFoundError:
        raise ConcordError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise ConcordError(f"{path}: not UTF-8 text ({error.reason}); expected a YAML file") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ConcordError(f"{path}{where}: not valid YAML ({getattr(error, 'problem', error)})") from None


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


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """The first mistake of a validation error in one line; a misspelt key before the missing one that it stands for."""
    errors = error.errors()
    first = next((found for found in errors if found["type"] == "extra_forbidden"), errors[0])
    loc = [part for part in first["loc"] if part != "[key]"]
    name = ".".join(str(part) for part in loc)
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"unknown key '{name}'; known keys: {', '.join(_known_keys(model, loc[:-1]))}{more}"
    if first["type"] == "missing":
        return f"key '{name}' is missing{more}"
    message = first["msg"].removeprefix("Value error, ").replace("Input should be", "expected").replace("\n", " ")
    got = "" if first["type"] == "value_error" else f"; got {_short(first.get('input'))}"
    return f"{f'{name!r}: ' if name else ''}{message}{got}{more}"


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
