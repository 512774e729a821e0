"""Mutants of a module: small faults put into its code one at a time, each of which some test should find.

    .venv/bin/python tests/support/mutants.py reports/statistics.py --tests tests/reports/test_statistics.py

Every mutant runs the tests in a process of its own, forked from one that has imported the libraries; nothing is written
into the checkout. A survivor is printed with its line: it needs a test, or it is the same program in other words.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.abc
import importlib.util
import os
import random
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
OPERATIONS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.MatMult: ast.Add,
}
NAMES = {"min": "max", "max": "min", "sum": "mean", "mean": "sum", "any": "all", "all": "any", "floor": "ceil",
         "ceil": "floor", "sqrt": "square", "sin": "cos", "cos": "sin"}  # fmt: skip  # a table


def mutants(source: str) -> Iterator[tuple[int, str, str]]:
    """(line, what was changed, the changed code) of every mutant of a module."""
    tree = ast.parse(source)
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for index, node in enumerate(ast.walk(tree)):
        for change in range(len(_changes(node, docs))):
            changed = copy.deepcopy(tree)
            target = next(found for i, found in enumerate(ast.walk(changed)) if i == index)
            named = {id(found.value) for found in ast.walk(changed) if isinstance(found, ast.Expr)}
            said = _changes(target, named)[change]
            _apply(target, said)
            yield getattr(node, "lineno", 0), said, ast.unparse(ast.fix_missing_locations(changed))


def _changes(node: ast.AST, docs: set[int]) -> list[str]:
    """What can be changed about a node, in words that `_apply` knows."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        return ["call left out"]
    if isinstance(node, ast.Assign) and not any(isinstance(target, ast.Name | ast.Tuple) for target in node.targets):
        return ["assignment left out"]
    if isinstance(node, ast.If):
        return ["branch left out"]
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in COMPARISONS:
        return [f"comparison to {COMPARISONS[type(node.ops[0])].__name__}"]
    if isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in OPERATIONS:
        if isinstance(node, ast.BinOp) and isinstance(node.left, ast.Constant) and isinstance(node.left.value, str):
            return []
        change = f"operation to {OPERATIONS[type(node.op)].__name__}"
        return [change, "assignment left out"] if isinstance(node, ast.AugAssign) else [change]
    if isinstance(node, ast.BoolOp):
        return ["and / or exchanged"]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not):
        return ["sign or not left out"]
    if isinstance(node, ast.Constant) and id(node) not in docs and isinstance(node.value, int | float):
        return ["True / False exchanged"] if isinstance(node.value, bool) else ["constant plus one"]
    if isinstance(node, ast.Attribute) and node.attr in NAMES:
        return [f"{node.attr} to {NAMES[node.attr]}"]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("min", "max"):
        return [f"{node.func.id} to {NAMES[node.func.id]}"]
    if isinstance(node, ast.Raise):
        return ["another error"]
    return []


def _apply(node: ast.AST, change: str) -> None:
    if change == "call left out":
        assert isinstance(node, ast.Expr)
        node.value = ast.Constant(None)
    elif change == "branch left out":
        assert isinstance(node, ast.If)
        node.test = ast.Constant(False)
    elif isinstance(node, ast.Assign):  # the value is still computed, and kept nowhere
        node.targets = [ast.Name("_left_out", ast.Store())]
    elif isinstance(node, ast.AugAssign) and change == "assignment left out":
        node.value = ast.Constant(1 if isinstance(node.op, ast.Mult | ast.Div | ast.FloorDiv | ast.Pow) else 0)
    elif isinstance(node, ast.Compare):
        node.ops = [COMPARISONS[type(node.ops[0])]()]
    elif isinstance(node, ast.BinOp | ast.AugAssign):
        node.op = OPERATIONS[type(node.op)]()
    elif isinstance(node, ast.BoolOp):
        node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    elif isinstance(node, ast.UnaryOp):
        node.op = ast.UAdd() if isinstance(node.op, ast.USub) else ast.Not()
        if isinstance(node.op, ast.Not):
            node.operand = ast.UnaryOp(ast.Not(), node.operand)
    elif isinstance(node, ast.Constant):
        node.value = (not node.value) if isinstance(node.value, bool) else node.value + 1  # type: ignore[operator]
    elif isinstance(node, ast.Attribute):
        node.attr = NAMES[node.attr]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        node.func.id = NAMES[node.func.id]
    elif isinstance(node, ast.Raise):
        node.exc, node.cause = ast.Call(ast.Name("ArithmeticError", ast.Load()), [], []), None
    else:
        raise AssertionError(change)


class Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from other code than its file has."""

    def __init__(self, name: str, path: Path, code: str) -> None:
        self.name, self.path, self.code = name, path, code

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        if name != self.name:
            return None
        return importlib.util.spec_from_file_location(name, self.path, loader=self)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.code, str(self.path), "exec"), module.__dict__)


def survives(name: str, path: Path, code: str, tests: Sequence[str], seconds: float) -> bool:
    """Whether every test passes on the changed code; a mutant that runs too long counts as found."""
    child = os.fork()
    if child == 0:
        import pytest

        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        sys.meta_path.insert(0, Changed(name, path, code))
        signal.alarm(int(seconds))
        options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not slow and not long"]
        os._exit(int(pytest.main([*options, *tests])))
    _, status = os.waitpid(child, 0)
    return status == 0


def main() -> None:
    parser = argparse.ArgumentParser(description="Puts small faults into a module and says which no test finds.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--tests", nargs="+", required=True)
    parser.add_argument("--minutes", type=float, default=60, help="a random part of the mutants is tried in that time")
    parser.add_argument("--seconds", type=float, default=120, help="that the tests of one mutant may take")
    options = parser.parse_args()
    import numpy  # noqa: F401  # ahead of the forks
    import scipy.linalg
    import scipy.stats  # noqa: F401
    import torch

    torch.set_num_threads(1)
    os.chdir(ROOT)
    path = (ROOT / options.file).resolve()
    name = "concord." + ".".join(path.relative_to(ROOT).with_suffix("").parts)
    source = path.read_text(encoding="utf-8")
    if not survives(name, path, source, options.tests, 10 * options.seconds):
        sys.exit(f"{options.file}: the tests fail on the code as it is")
    every = list(mutants(source))
    order = random.Random(0).sample(range(len(every)), len(every))
    end, tried, survivors = time.monotonic() + 60 * options.minutes, 0, []
    for index in order:
        if time.monotonic() > end:
            break
        line, change, code = every[index]
        tried += 1
        if survives(name, path, code, options.tests, options.seconds):
            survivors.append((line, change))
            print(f"{options.file}:{line}: {change}: {source.splitlines()[line - 1].strip()}", flush=True)
    print(f"{options.file}: {tried} of {len(every)} mutants tried, {len(survivors)} survive")


if __name__ == "__main__":
    main()
