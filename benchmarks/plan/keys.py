"""Keys of runs and of scores: a SHA-256 over named parts, and which part of two keys differs, in words.

The parts are stored beside what was made (run.json, score.json), so that a change can be named: a file, a parameter, a
package's version, the data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TypeAlias

Value: TypeAlias = "str | int | float | bool | list[Value] | dict[str, Value] | None"
Parts: TypeAlias = "dict[str, Value]"

NAMED = 3
"""So many of the things that differ in one part are named; the others are counted."""


def digest(parts: Mapping[str, object]) -> str:
    """SHA-256 of the parts, 64 hex digits; their order does not count."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def differences(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    """What differs between the parts of a key that was stored and those of today's, a line each."""
    found: list[str] = []
    for name in dict.fromkeys((*old, *new)):
        before, after = _plain(old.get(name)), _plain(new.get(name))
        if before == after:
            continue
        if isinstance(before, dict) or isinstance(after, dict):
            found += _in_groups(name, _flat(before), _flat(after))
        elif name in ("data", "requests", "images", "reference", "moments", "originals", "external"):
            found.append(f"{SAID.get(name, name)} changed")
        else:
            found.append(f"{name.replace('_', ' ')} {_said(before)} -> {_said(after)}")
    return found


SAID = {
    "data": "the data",
    "requests": "the requests",
    "images": "the images",
    "reference": "the reference images",
    "moments": "the moments of the large reference",
    "originals": "the images compared with",
    "external": "the command or its files",
}
KINDS = {
    "code": "code of {}",
    "files": "file {}",
    "versions": "{}",
    "params": "parameter {}",
    "metrics": "metric {}",
    "suites": "suite {}",
}
"""Part of a key -> how one of its entries is called."""


def _in_groups(part: str, before: dict[str, object], after: dict[str, object]) -> list[str]:
    kind = KINDS.get(part, part.replace("_", " ") + " {}")
    hashed = part in ("code", "files")
    changed: list[str] = []
    rest = 0
    for name in sorted({*before, *after}):
        if before.get(name) == after.get(name):
            continue
        if len(changed) == NAMED:
            rest += 1
            continue
        called = kind.format(_place(name) if part == "code" else name)
        if name not in after:
            changed.append(f"{called} is no longer used" if hashed else f"{called} {_said(before[name])} -> none")
        elif name not in before:
            changed.append(f"{called} is new" if hashed else f"{called} none -> {_said(after[name])}")
        else:
            both = f"{_said(before[name])} -> {_said(after[name])}"
            changed.append(f"{called} changed" if hashed else f"{called} {both}")
    return [*changed, *([f"and {rest} more"] if rest else [])]


def _place(module: str) -> str:
    """A module as the file that a reader edits: concord.methods.freedom -> methods/freedom.py."""
    if not module.startswith("concord."):
        return module
    return module.removeprefix("concord.").replace(".", "/") + ".py"


def _plain(value: object) -> object:
    """As JSON gives it back: tuples are lists."""
    return json.loads(json.dumps(value))


def _flat(value: object, before: str = "") -> dict[str, object]:
    """{'strengths': {'text': 2}} -> {'strengths.text': 2}."""
    if not isinstance(value, dict):
        return {} if value is None else {before: value}
    found: dict[str, object] = {}
    for name, inner in value.items():
        whole = f"{before}.{name}" if before else str(name)
        found |= _flat(inner, whole) if isinstance(inner, dict) else {whole: inner}
    return found


def _said(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
