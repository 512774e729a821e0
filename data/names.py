"""What a row or a method may be called: its name is a folder of the results, and a word of the command line."""

from __future__ import annotations

import re

from concord.data.errors import ConcordError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
KEPT = frozenset({"ground-truth", "shuffled", "reference", "report", "all", "none", "baseline", "results"})
"""Names that mean something else: rows that every suite has, words of options, folders of the results."""


def check_name(name: object, what: str) -> str:
    """The name, or a ConcordError that begins with `what`: letters, digits, '-', '_' and '.', no number, none kept."""
    if not isinstance(name, str):
        raise ConcordError(f"{what}: its name is {_short(name)}, a {type(name).__name__}; expected text")
    if not NAME.fullmatch(name):
        raise ConcordError(f"{what}: name {_short(name)}: expected letters, digits, '-', '_', '.', at most 64 of them")
    if _is_a_number(name):
        raise ConcordError(f"{what}: name '{name}' reads as a number; expected a word, such as 'method-{name}'")
    if name.lower() in KEPT:
        raise ConcordError(f"{what}: name '{name}' is kept for Concord's own use; choose another")
    return name


def _is_a_number(name: str) -> bool:
    try:
        float(name)  # also 'nan' and 'inf', and '1e5'
    except ValueError:
        return bool(re.fullmatch(r"0[xXoObB][0-9a-fA-F]+|[0-9._-]+", name))
    return True


def _short(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
