"""The hash of what a Python file does: that of its syntax tree without docstrings.

Comments, line breaks and documentation change nothing in it. The tree is written out by a rule of our own, since what
`ast.dump` prints differs between versions of Python.
"""

from __future__ import annotations

import ast
import hashlib

RULE = 1
"""Version of `write_tree`: another one makes every hash another one."""

SKIPPED = {"type_comment", "type_ignores", "kind"}
"""Fields without a meaning at run time (`kind` is the u of u'text')."""


def syntax_hash(source: str | bytes) -> str:
    """SHA-256 of a file's syntax tree without docstrings, 64 hex digits; SyntaxError where it is no Python.

    Equal on Python 3.11 to 3.13: fields that are empty or absent are left out, as are those that only newer versions
    have where they are empty.
    """
    parts: list[str] = [f"{RULE}"]
    write_tree(ast.parse(source), parts)
    return hashlib.sha256("\x00".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def write_tree(node: ast.AST, parts: list[str]) -> None:
    """Append the tree to `parts`: class, then each field that is not empty, by name."""
    parts.append(type(node).__name__)
    for name in sorted(node._fields):
        value = getattr(node, name, None)
        if isinstance(value, list):
            value = [entry for entry in value if not _is_text(entry)]
            if isinstance(node, ast.JoinedStr):  # Python 3.12.1 writes '' where an f-string has none
                value = [entry for entry in value if not (isinstance(entry, ast.Constant) and entry.value == "")]
        if name in SKIPPED or (value is None and not isinstance(node, ast.Constant)) or value == []:
            continue
        parts.append(f".{name}")
        if isinstance(value, list):
            parts.append(f"[{len(value)}")
            for entry in value:
                _write_value(entry, parts)
        else:
            _write_value(value, parts)
    parts.append(")")


def _write_value(value: object, parts: list[str]) -> None:
    if isinstance(value, ast.AST):
        write_tree(value, parts)
    else:
        parts.append(f"{type(value).__name__} {value!r}")


def _is_text(node: object) -> bool:
    """Whether a statement is nothing but a text: a docstring, or one below a constant."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
