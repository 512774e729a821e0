"""The graph of imports: no circle of files, nothing imported by the names that the folders have at the top."""

from __future__ import annotations

import ast

import grimp
import pytest

from concord.benchmarks.settings import ROOT

FOLDERS = ("data", "metrics", "methods", "benchmarks", "reports")

KNOWN_CIRCLES: set[frozenset[str]] = set()
"""Circles that are still to be cut; an entry that is cut has to be taken out."""


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("concord", exclude_type_checking_imports=True, cache_dir=None)


def circles(imports: dict[str, set[str]]) -> set[frozenset[str]]:
    """The strongly connected components of more than one module (Tarjan 1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: set[frozenset[str]] = set()

    def visit(module: str) -> None:
        order[module] = low[module] = len(order)
        stack.append(module)
        for other in imports[module]:
            if other not in order:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], order[other])
        if low[module] == order[module]:
            component = set[str]()
            while module not in component:
                component.add(stack.pop())
            if len(component) > 1:
                found.add(frozenset(component))

    for module in sorted(imports):
        if module not in order:
            visit(module)
    return found


def test_circles_are_found() -> None:
    imports = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": {"d"}, "f": {"a"}}
    assert circles(imports) == {frozenset("abc"), frozenset("de")}


def test_no_circle_of_files(graph: grimp.ImportGraph) -> None:
    imports = {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}
    found = circles(imports)
    new = [sorted(circle) for circle in found if not any(circle <= known for known in KNOWN_CIRCLES)]
    assert new == [], "cut this circle: values never import the factories that know all kinds of them"
    cut = [sorted(known) for known in KNOWN_CIRCLES if not any(circle <= known for circle in found)]
    assert cut == [], "this circle is cut: take it out of KNOWN_CIRCLES"


def test_nothing_is_imported_by_a_bare_name() -> None:
    """`import data` would get a user's own folder of that name."""
    wrong = []
    for folder in ("concord", *FOLDERS, "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            if folder == "concord" and path.relative_to(ROOT / folder).parts[0] in FOLDERS:
                continue  # a link to a folder that is looked at anyway
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    names = [node.module]
                wrong += [f"{path.relative_to(ROOT)}:{node.lineno}" for n in names if n.split(".")[0] in FOLDERS]
    assert wrong == [], "import it as concord.data, concord.metrics, ..."
