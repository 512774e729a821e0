"""The facts of a method's class, checked when it is registered: a mistake is one line then, not a traceback later."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel

from concord.data.conditions.base import condition_names
from concord.data.errors import ConcordError
from concord.data.names import check_name

WORDS = ("title", "paper", "citation")
STATED = {
    "name": "name = 'my-method'",
    "title": "title = 'My method'",
    "paper": "paper = 'arXiv:0000.00000'",
    "conditions": "conditions = frozenset({'text', 'mask'})",
    "training_free": "training_free = True",
}
"""Facts that every class states itself, and how one writes them."""
YES_OR_NO = ("training_free", "is_deterministic", "auto_include")


def check_facts(method: type, base: type) -> None:
    """Raise ConcordError that names the class and the fact that is missing or of another kind.

    base: the class that every method derives from.
    """
    what = f"class '{method.__name__}'" if isinstance(method, type) else f"{method!r}"
    if not (isinstance(method, type) and issubclass(method, base)):
        raise ConcordError(f"{what}: is no method; expected a class that derives from concord.methods.base.Method")
    wanted = ("name", *WORDS, *YES_OR_NO, "conditions", "traces", "minimum_conditions", "Params", "sample")
    facts: dict[str, object] = {name: getattr(method, name, None) for name in wanted}
    unsaid = [name for name in STATED if facts[name] is None]
    if unsaid and unsaid != ["name"]:
        raise ConcordError(f"{what}: states no {', '.join(unsaid)}; write {' and '.join(STATED[n] for n in unsaid)}")
    what = f"method '{check_name(facts['name'], what)}'"
    for name in WORDS:
        if not isinstance(facts.get(name), str):
            raise ConcordError(f"{what}: '{name}' is {_got(facts.get(name))}; expected text")
    for name in YES_OR_NO:
        if not isinstance(facts.get(name), bool):
            raise ConcordError(f"{what}: '{name}' is {_got(facts.get(name))}; expected True or False")
    _check_names(what, "conditions", facts["conditions"], condition_names())
    _check_names(what, "traces", facts["traces"], None)
    least = facts.get("minimum_conditions")
    if not isinstance(least, int) or isinstance(least, bool) or least < 0:
        raise ConcordError(f"{what}: 'minimum_conditions' is {_got(least)}; expected a number of conditions")
    if least and not facts["conditions"]:
        raise ConcordError(f"{what}: 'conditions' is empty; expected some of {', '.join(condition_names())}")
    params = facts.get("Params")
    if not (isinstance(params, type) and issubclass(params, BaseModel) and hasattr(params, "official")):
        raise ConcordError(f"{what}: 'Params' is {_got(params)}; expected a class that derives from Method.Params")
    abstract: frozenset[str] = getattr(method, "__abstractmethods__", frozenset())
    if abstract or not callable(facts["sample"]):
        lacking = ", ".join(sorted(abstract)) or "sample"
        raise ConcordError(f"{what}: does not define {lacking}; expected a method that returns images")


def _check_names(what: str, name: str, value: object, known: Iterable[str] | None) -> None:
    if isinstance(value, str) or not isinstance(value, frozenset | set | tuple | list):
        raise ConcordError(f"{what}: '{name}' is {_got(value)}; expected names, such as frozenset({{'text', 'mask'}})")
    for one in value:
        if not isinstance(one, str):
            raise ConcordError(f"{what}: '{name}' holds {_got(one)}; expected names")
        if known is not None and one not in known:
            raise ConcordError(f"{what}: unknown condition {one!r}; known: {', '.join(known)}")


def _got(value: object) -> str:
    text = ascii(value)
    return "missing" if value is None else text if len(text) <= 60 else f"{text[:57]}..."
