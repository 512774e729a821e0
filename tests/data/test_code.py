"""Code in keys: hashes of what code does, closures of imports, the files of a plugin."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from concord.data import code
from concord.data.code import closure, code_of, file_of, foreign_closure, loader_modules, module_of, syntax_hash
from concord.data.errors import ConcordError

EVERYTHING = r'''
"""A docstring."""
from __future__ import annotations
import a.b as c
from .d import (e, f as g)
X: int = 1_000
"""What X is."""
async def h(x, /, y: int = 2, *args, z=3.5e-7, **kwargs) -> None:
    """Doc."""
    async with x as (p, *q), y: await z
    async for i in [j async for j in k if j]: yield i
    global X; return None
@deco(1, *a, **b)
class K(Base, metaclass=M):
    """Only a docstring."""
def kinds():
    s = f"a{x!r:>{w}}b{{" f"{y=}" "tail" + u"u" + b"\xff".hex() + """t"""
    n = -1j + 1e400 + ~0x10 ** 2 // 3 @ 4 << 5
    t = [*s, {**n, 'k': ...}, {1, 2}, (yield), lambda *a: a if a else not a]
    del t[1:2, ::3]; assert t, "no"
    try: raise E from None
    except* (A, B) as error: pass
    else: nonlocal_ = (w := 1)
    finally: x.y[z] |= 1 < 2 <= 3 is not 4 not in 5
    match t:
        case [1, *rest] | {"a": 1.5, **more}: ...
        case P(x=None, y=-1) as q if q: pass
        case _: pass
    while True:
        if x: break
        elif y: continue
    return f"{x:{y}}", f""
'''
"""Every kind of statement and expression that Python 3.11 has."""


def test_the_hash_is_the_same_on_every_python() -> None:
    """CI runs this on 3.11, 3.12 and 3.13; 3.12.1 parses f-strings with nested formats otherwise than they do."""
    assert syntax_hash(EVERYTHING) == "5c065efe4cba6a032ae167381ea682c2fd8bd2301ed46b9ab4a47dc2fa79989a"


def test_words_and_layout_do_not_count() -> None:
    plain = "X = 1\ndef f(a):\n    return a + X\nclass K:\n    y = 2\n"
    worded = (
        '"""Module."""\n# note\nX = 1\n"""What it is."""\n\n\ndef f(\n    a,\n):\n    """F."""\n    return (a\n'
        '            + X)  # why\nclass K:\n    """K."""\n    y = 2\n'
    )
    assert syntax_hash(plain) == syntax_hash(worded)
    assert syntax_hash(b"X = 0x10") == syntax_hash("X=16")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x = 1", "x = 1.0"),
        ("x = 1", "x = True"),
        ("x = '1'", "x = b'1'"),
        ("x = 0.0", "x = -0.0"),
        ("f(a=1)", "f(b=1)"),
        ("f(a, b)", "f(b, a)"),
        ("x = None", "x: None"),
        ("if a:\n    b\n    c", "if a:\n    b\nc"),
        ("x = a + b", "x = a - b"),
        ("x = f'{a}'", "x = f'{a!r}'"),
        ("x = 'a'", "x = 'b'"),
        ("from a import b", "from .a import b"),
        ("x = (1, 'a')", "x = (1, )"),
        ("return_ = None", "return_ = ''"),
    ],
)
def test_what_a_program_does_counts(old: str, new: str) -> None:
    assert syntax_hash(old) != syntax_hash(new)


def test_a_file_that_is_no_python_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text("def f(:\n")
    with pytest.raises(ConcordError, match=r"x\.py, line 1: .*expected Python source"):
        code.hash_of_file(path)


def test_every_module_has_its_file() -> None:
    for module in code.imports():
        assert file_of(module).is_file(), module
        assert module_of(file_of(module)) == module


def test_a_closure_follows_imports_in_functions_and_takes_packages_along() -> None:
    found = closure(["concord.methods.freedom"])
    assert {"concord", "concord.methods", "concord.methods.base", "concord.data.request"} <= found
    assert "concord.methods.base" in closure(["concord.benchmarks.image_sources"])  # imported in a function
    assert not any(name.startswith(("concord.reports", "concord.commands")) for name in found)
    with pytest.raises(ConcordError, match=r"module 'concord\.none': expected a module of Concord"):
        closure(["concord.none"])


def test_a_package_around_a_module_brings_what_its_top_level_imports_alone() -> None:
    """`concord.metrics` imports the scorer when `evaluate` is first used; a guide network's code runs none of it."""
    assert "concord.metrics.api" in closure(["concord.metrics"])
    around = closure(["concord.metrics.networks.protocols"])
    assert "concord.metrics" in around
    assert "concord.metrics.api" not in around
    assert "concord.metrics.api" in closure(["concord.metrics.networks.protocols", "concord.metrics"])  # in any order
    assert "concord.metrics.api" in closure(["concord.benchmarks.opening", "concord.commands.evaluate"])


def test_an_edit_of_one_algorithm_leaves_the_others_alone() -> None:
    assert "concord.methods.guidance.cagrad" in closure(["concord.methods.z_magic"])
    assert "concord.methods.guidance.cagrad" not in closure(["concord.methods.composable"])


def test_imports_for_type_checkers_do_not_count() -> None:
    """methods/base.py names the networks' type under TYPE_CHECKING alone."""
    assert "concord.benchmarks.plan.runs" not in closure(["concord.benchmarks.generators"])


def test_a_hash_for_each_module() -> None:
    found = code_of(["concord.data.labels", "concord.data.request"])
    assert list(found) == ["concord.data.labels", "concord.data.request"]
    assert found["concord.data.labels"] == code.hash_of_file(file_of("concord.data.labels"))


# ------------------------------------------------------------------------------------------------------------- plugins


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_the_files_of_a_plugin_are_those_behind_its_imports(tmp_path: Path) -> None:
    main = write(tmp_path / "mine.py", "import numpy, json\nfrom helper import f\nfrom concord.methods import base\n")
    write(tmp_path / "helper.py", "def f():\n    from deep.inner import g\n    import namespace.leaf\n")
    write(tmp_path / "deep/__init__.py", "from . import other\n")
    write(tmp_path / "deep/inner.py", "from ..helper import no\nfrom .last import z\n")
    write(tmp_path / "deep/other.py")
    write(tmp_path / "deep/last.py")
    write(tmp_path / "deep/unused.py")
    write(tmp_path / "namespace/leaf.py")
    write(tmp_path / "numpy_like.py")
    files, modules = foreign_closure([main], [tmp_path])
    expected = "mine.py helper.py deep/__init__.py deep/inner.py deep/other.py deep/last.py namespace/leaf.py"
    assert {path.relative_to(tmp_path.resolve()).as_posix() for path in files} == set(expected.split())
    assert modules == {"concord.methods", "concord.methods.base"}


def test_a_change_behind_a_plugin_changes_its_hashes(tmp_path: Path) -> None:
    main = write(tmp_path / "mine.py", "import helper_of_mine\n")
    helper = write(tmp_path / "helper_of_mine.py", "X = 1\n")
    before, _ = foreign_closure([main], [tmp_path])
    write(helper, "X = 2\n")
    after, _ = foreign_closure([main], [tmp_path])
    assert [path.name for path in before if before[path] != after[path]] == ["helper_of_mine.py"]


def test_a_circle_of_imports_ends(tmp_path: Path) -> None:
    a = write(tmp_path / "circle_a.py", "import circle_b\n")
    write(tmp_path / "circle_b.py", "import circle_a\n")
    assert len(foreign_closure([a], [tmp_path])[0]) == 2


# ------------------------------------------------------------------------------------------------------------- loaders


def test_loaders_are_modules_or_files_beside_the_profile(tmp_path: Path) -> None:
    path = write(tmp_path / "own.py")
    modules, files = loader_modules(["concord.data.labels:f", "own.py:load", "json:loads"], tmp_path)
    assert modules == {"concord.data.labels"}
    assert files == (path, Path(sys.modules["json"].__file__ or ""))


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ("concord.none:f", r"loader 'concord\.none:f': Concord has no module 'concord\.none'"),
        ("none.py:f", r"loader 'none\.py:f': .*none\.py is not there; expected a Python file beside the profile"),
        ("no_such_package:f", r"loader 'no_such_package:f': no module 'no_such_package'"),
    ],
)
def test_a_loader_that_is_not_there_is_one_line(loader: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConcordError, match=message):
        loader_modules([loader], tmp_path)
