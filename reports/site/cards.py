"""Title, description and citation of the methods, read from their source without importing it.

A method file imports torch, which takes seconds; a report needs five words of it. The facts are literals at class level
(methods/base.py), so the syntax tree holds them.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

METHODS = Path(__file__).resolve().parents[2] / "methods"
FACTS = ("name", "title", "paper", "citation")


@dataclass(frozen=True)
class MethodCard:
    """What a method says of itself; '' for what it leaves out."""

    name: str
    title: str = ""
    paper: str = ""  # 'arXiv:2304.10530'
    citation: str = ""
    description: str = ""
    has_official: bool = False  # whether preset 'official' differs from the paper's values

    @property
    def reference(self) -> str:
        return ". ".join(part.rstrip(".") for part in (self.citation, self.paper) if part)


@cache
def method_cards(folder: Path = METHODS) -> dict[str, MethodCard]:
    """The card of every method in the folder, by method name."""
    found: dict[str, MethodCard] = {}
    facts: dict[str, dict[str, str]] = {}  # of all files: a method may stand on another's class
    official: dict[str, bool] = {}
    for path in sorted(folder.glob("*.py")):
        classes = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)]
        for node in classes:  # a class stands after its bases: what it does not say, they have said
            bases = [base.value if isinstance(base, ast.Subscript) else base for base in node.bases]  # Method[Params]
            inherited = [facts[base.id] for base in bases if isinstance(base, ast.Name) and base.id in facts]
            merged = {key: value for said in reversed(inherited) for key, value in said.items()}
            facts[node.name] = {**merged, **_literals(node)}
            above = [official.get(base.id, False) for base in node.bases if isinstance(base, ast.Name)]
            official[node.name] = _has_official(node) or any(above)
            description = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
            said = facts[node.name]
            if "name" in said and said["name"] not in found:
                found[said["name"]] = MethodCard(
                    **{key: said.get(key, "") for key in FACTS},
                    description=description,
                    has_official=official[node.name],
                )
    return found


def _has_official(node: ast.ClassDef) -> bool:
    """Whether the class, in its Params, says what preset 'official' changes."""
    return any(isinstance(inner, ast.FunctionDef) and inner.name == "official" for inner in ast.walk(node))


def _literals(node: ast.ClassDef) -> dict[str, str]:
    """Class-level assignments of strings: `title = "..."`, and `name, title = "...", "..."`."""
    found = {}
    for statement in node.body:
        if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
            continue
        target, value = statement.targets[0], statement.value
        pairs = (
            list(zip(target.elts, value.elts, strict=False))
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
            else [(target, value)]
        )
        for name, content in pairs:
            if isinstance(name, ast.Name) and isinstance(content, ast.Constant) and isinstance(content.value, str):
                found[name.id] = content.value
    return found
