"""`--set`: other parameters for the chosen rows of a suite, each changed row under a name of its own.

`steps=20` changes every chosen row that has the parameter; the others are left as they are, and named.
`composable.weight=2` changes the rows of one method, or the row of that name. `steps=10,20,50` makes a row of each
value; several such changes make a row of every combination.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, get_args, get_origin

from pydantic import BaseModel

from concord.benchmarks.tuned import merge, nested
from concord.data.errors import ConcordError

if TYPE_CHECKING:
    from concord.benchmarks.suite import Row
    from concord.methods.base import Method


@dataclass(frozen=True)
class Change:
    """One `--set`. name: 'steps', 'strengths.text', or with a row or method before it: 'composable.steps'."""

    name: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class ChangedRows:
    """rows: the suite's row -> the rows that take its place. left: the row -> the parameters that it does not have."""

    rows: dict[str, list[Row]]
    left: dict[str, list[str]]


def read_change(text: str) -> Change:
    """'steps=10,20' -> steps with 10 and 20; values are YAML's, so that '[mask,text]' is one of them."""
    from concord.data.schema import parse_scalar

    name, sign, values = text.partition("=")
    if not sign or not name.strip():
        raise ConcordError(f"--set {text}: expected key=value, such as --set steps=10")
    return Change(name.strip(), tuple(parse_scalar(value, f"--set {text}") for value in _apart(values)))


def read_changes(texts: Sequence[str]) -> list[Change]:
    """All of them; ConcordError where one parameter is given twice, as the first would be forgotten."""
    found = [read_change(text) for text in texts]
    for one in found:
        if sum(other.name == one.name for other in found) > 1:
            raise ConcordError(f"--set {one.name}: given twice; give several values as --set {one.name}=1,2")
    return found


def _apart(text: str) -> list[str]:
    """Parts between commas, but for those inside brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote or letter in "'\"":
            quote = "" if letter == quote else quote or letter
        depth += (letter in "[{") - (letter in "]}") if not quote else 0
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def changed_rows(rows: Sequence[Row], changes: Sequence[Change], chosen: Collection[str] | None) -> ChangedRows:
    """What the changes make of the chosen rows. chosen: names of rows and methods; all of them for None.

    Raises ConcordError for a parameter that no chosen row has, and with every row that cannot take its value.
    """
    from concord.methods.base import get_method

    found = ChangedRows({}, {})
    mine = [row for row in rows if row.method and (chosen is None or row.name in chosen or row.method in chosen)]
    known = {name for row in mine for name in (row.name, row.method)}
    taken: set[str] = set()
    mistakes: list[str] = []
    for row in mine:
        assert row.method is not None
        params, given = get_method(row.method).Params, []
        for change in changes:
            name = _own_part(change.name, row, known)
            if name is None:
                continue
            if not has_parameter(params, name):
                found.left.setdefault(row.name, []).append(name)
                continue
            taken.add(change.name)
            given.append([(name, value) for value in change.values])
        if given:
            made = [row_with(row, dict(values)) for values in product(*given)]
            mistakes += [f"row '{one.name}': {why}" for one in made if (why := _mistake(one))]
            found.rows[row.name] = made
    for change in changes:
        if change.name not in taken:
            listed = ", ".join(row.name for row in mine) or "none"
            kinds = [get_method(str(row.method)).Params for row in mine]
            expected = ", ".join(sorted({name for one in kinds for name in one.model_fields})) or "none"
            raise ConcordError(
                f"--set {change.name}: unknown parameter '{change.name}': no chosen row has it (chosen: {listed}); "
                f"expected one of {expected}"
            )
    if mistakes:
        raise ConcordError(
            f"{'; '.join(mistakes)} (choose rows with --methods, or change one method alone: --set "
            f"{mine[0].method}.{changes[0].name.rpartition('.')[2]}=...)"
        )
    return found


def _own_part(name: str, row: Row, known: Collection[str | None]) -> str | None:
    """The parameter that a change means for a row; None where it means another row or method."""
    target, dot, rest = name.partition(".")
    if not dot or target not in known:
        return name
    return rest if target in (row.name, row.method) else None


def has_parameter(params: type[BaseModel], name: str) -> bool:
    """Whether a method has a parameter: 'steps', or 'strengths.text' of a group."""
    first, _, rest = name.partition(".")
    former: dict[str, str] = {}
    for kind in params.__mro__:
        former |= vars(kind).get("old_names", {})
    field = params.model_fields.get(former.get(first, first))
    if field is None or not rest:
        return field is not None
    kinds = [get_origin(kind) or kind for kind in (field.annotation, *get_args(field.annotation))]
    groups = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return any(has_parameter(kind, rest) for kind in groups) or (not groups and any(kind is dict for kind in kinds))


def row_with(row: Row, changes: dict[str, Any]) -> Row:
    """The row under changed parameters, named after them ('collaborative+steps=10') so that results never mix."""
    suffix = "".join(f"+{name}={value}" for name, value in sorted(changes.items()))
    name = "".join(letter if letter.isalnum() or letter in "._=+,-" else "_" for letter in row.name + suffix)
    return row.model_copy(update={"name": name, "params": merge(row.params, nested(changes))})


def _mistake(row: Row) -> str:
    """Why a method refuses a row's parameters; '' where it does not."""
    from concord.methods.base import get_method, make_params

    assert row.method is not None
    method: type[Method] = get_method(row.method)
    try:
        make_params(method, row.params)
    except ConcordError as error:
        return str(error)
    return ""
