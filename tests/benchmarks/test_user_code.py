"""Whatever a plugin does is one line that names it and the request; the other rows are made, and the exit code is 2."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import toy_world

from concord.benchmarks.plan.requests import Options
from concord.benchmarks.planner import make_plan
from concord.benchmarks.session import Session
from concord.benchmarks.settings import load_settings
from concord.benchmarks.store.run import Run
from concord.benchmarks.suite import load_suite, read_suite
from concord.data.errors import ConcordError
from concord.methods.base import all_methods, registered
from concord.methods.plugins import load_plugin

PLUGIN = """
import os, sys
import numpy as np
import torch
from concord.methods.base import Method, register
{imports}

@register
class Bad(Method):
    name, title, paper = {name}, "Bad", "none"
    conditions = frozenset({{"text", "mask"}})
    training_free = True
    {facts}

    class Params(Method.Params):
        steps: int = 2
        {params}

    def sample(self, batch, trace):
        x = torch.stack([torch.rand(3, 64, 64, generator=g) for g in batch.generators])
        {sample}
"""

RETURNED = {
    "nothing": ("return None", r"nothing \(None\)"),
    "text": ("return 'images'", "a str"),
    "bytes": ("return b'images'", "a bytes"),
    "a number": ("return 1.0", "a float"),
    "a list": ("return list(x)", "a list; .*torch.stack them"),
    "a tuple": ("return (x, x)", "a tuple"),
    "a mapping": ("return {'images': x}", "a dict"),
    "a generator": ("return (image for image in x)", "a generator"),
    "numpy": ("return x.numpy()", "a numpy.ndarray; .*torch.from_numpy"),
    "a function": ("return lambda: x", "a function"),
    "uint8": ("return (x * 255).to(torch.uint8)", "uint8 values; .*divide by 255"),
    "whole numbers": ("return x.long()", "int64 values"),
    "yes and no": ("return x > 0.5", "bool values"),
    "complex": ("return x + 0j", "complex64 values"),
    "0 to 255": ("return x * 255", "values .* to 25.*; expected \\[0, 1\\]: divide by 255"),
    "-1 to 1": ("return x * 2 - 1", "map \\[-1, 1\\]"),
    "not a number": ("return x.masked_fill(x > 0.99, float('nan'))", "NaN or infinity in the image"),
    "infinity": ("return x / 0", "NaN or infinity in the image"),
    "3 dimensions": ("return x[0]", r"shape \(3, 64, 64\)"),
    "5 dimensions": ("return x[None]", r"shape \(1, 2, 3, 64, 64\)"),
    "channels last": ("return x.permute(0, 2, 3, 1)", "move the channels first"),
    "one channel": ("return x[:, :1]", r"shape \(2, 1, 64, 64\)"),
    "too few": ("return x[:1]", "1 images for 2 requests"),
    "too many": ("return torch.cat([x, x])", "4 images for 2 requests"),
    "another size": ("return x[..., :32, :32]", r"images of shape \(2, 32, 32, 3\); expected \(2, 64, 64, 3\)"),
    "not square": ("return x[..., :32]", r"images of shape"),
    "empty": ("return x[..., :0]", r"shape \(2, 3, 64, 0\)"),
    "sparse": ("return x.to_sparse()", "a sparse tensor"),
    "meta": ("return x.to('meta')", "a tensor without values"),
}
RAISED = {
    "an error": ("raise RuntimeError('broken')", "RuntimeError: broken"),
    "two lines": ("raise RuntimeError('first\\nsecond')", "RuntimeError: first second"),
    "an order": ("raise RuntimeError('\\x1b]0;owned\\x07')", r"RuntimeError: \\u001b"),
    "no text": ("raise ValueError", "ValueError$"),
    "the end, well": ("sys.exit(0)", r"ended the process \(SystemExit 0\)"),
    "the end, with text": ("sys.exit('why')", r"ended the process \(SystemExit 'why'\)"),
    "memory": ("raise MemoryError", "out of memory"),
    "memory of a GPU": ("raise torch.OutOfMemoryError('CUDA out of memory')", "out of memory .*CUDA"),
    "the end of an iterator": ("raise StopIteration", "StopIteration"),
    "its own interrupt": ("raise KeyboardInterrupt", "raised KeyboardInterrupt by itself"),
    "the end of a generator": ("raise GeneratorExit", "GeneratorExit"),
    "nothing but a base": ("raise BaseException('odd')", "BaseException: odd"),
    "an error that cannot be shown": (
        "raise type('Odd', (Exception,), {'__str__': lambda self: 1 / 0})()",
        "Odd$",
    ),
    "endless calls": ("return self.sample(batch, trace)", "RecursionError"),
    "a wrong name": ("return self.no_such.thing", "AttributeError: .*no_such"),
    "an assertion": ("assert False", "AssertionError"),
    "a key": ("return {}['absent']", "KeyError: 'absent'"),
    "a file": ("open('/no/such/file')", "FileNotFoundError"),
    "a step before": ("trace('loss', 7, torch.zeros(2)); raise RuntimeError('x')", "after step 7: RuntimeError: x"),
}


@pytest.fixture
def forget() -> Iterator[None]:
    """Methods that a test registered are not there for the next one."""
    yield
    known = registered()
    for name in [name for name, method in known.items() if method.__module__.startswith("concord_plugin_")]:
        del known[name]


def write(folder: Path, name: str = '"bad"', **parts: str) -> Path:
    given = {"imports": "", "facts": "pass", "params": "pass", "sample": "return x", **parts}
    path = folder / "bad_method.py"
    path.write_text(PLUGIN.format(name=name, **given))
    return path


def session(folder: Path, tree: Path) -> Session:
    path = toy_world.write_suite(folder, grid="grid: 0")
    load_plugin(toy_world.TOY)
    options = Options(data=tree, limit=2, results=folder / "results")
    suite = load_suite(str(path), extra=["bad"])
    return Session(make_plan(suite, load_settings(), options, related=[read_suite(str(path))]), "cpu")


@pytest.mark.usefixtures("forget")
@pytest.mark.parametrize(("code", "words"), [*RETURNED.values(), *RAISED.values()], ids=[*RETURNED, *RAISED])
def test_a_faulty_method_is_one_line_and_the_others_are_made(
    code: str, words: str, tmp_path: Path, toy_tree: Path
) -> None:
    load_plugin(write(tmp_path, sample=code))
    work = session(tmp_path, toy_tree)
    runs = [work.plan.run("bad"), work.plan.run("toy")]
    assert [run.row.name for run in work.generate(runs)] == ["toy"]
    assert Run(runs[1].path).finished
    assert not Run(runs[0].path).finished
    assert list(work.failed) == ["bad"]
    said = str(work.failed["bad"])
    assert "\n" not in said
    assert "'bad'" in said
    assert "0-0" in said
    assert not {"\x1b", "\x07"} & set(said)
    assert re.search(words, said), said
    assert "Traceback" in work.failed["bad"].details


FACTS: dict[str, tuple[dict[str, str], str]] = {
    "a number as name": ({"name": "7"}, "its name is 7, a int"),
    "a name that reads as a number": ({"name": '"1e5"'}, "reads as a number"),
    "a path as name": ({"name": '"org/model"'}, "name 'org/model': expected letters"),
    "a way up as name": ({"name": '"../up"'}, "expected letters"),
    "an empty name": ({"name": '""'}, "name '': expected letters"),
    "a name of spaces": ({"name": '"  "'}, "expected letters"),
    "a kept name": ({"name": '"ground-truth"'}, "kept for Concord's own use"),
    "another kept name": ({"name": '"reference"'}, "kept for Concord's own use"),
    "control characters in the name": ({"name": r'"a\x1b[31m"'}, "expected letters"),
    "a name without end": ({"name": '"a" * 300'}, "at most 64"),
    "another method's name": ({"name": '"composable"'}, "two methods are named 'composable'"),
    "no name": ({"facts": "name = None"}, "its name is None"),
    "no title, paper and conditions": (
        {"facts": "title = paper = conditions = None"},
        r"class 'Bad': states no title, paper, conditions; write title = 'My method' and paper = ",
    ),
    "a title that is no text": ({"facts": "title = 3"}, "'title' is 3; expected text"),
    "conditions as text": ({"facts": "conditions = 'text'"}, "'conditions' is 'text'; expected names"),
    "an unknown condition": ({"facts": "conditions = {'smell'}"}, "unknown condition 'smell'"),
    "no conditions": ({"facts": "conditions = frozenset()"}, "'conditions' is empty"),
    "conditions that are none": ({"facts": "conditions = {1}"}, "holds 1; expected names"),
    "training_free as text": ({"facts": "training_free = 'yes'"}, "'training_free' is 'yes'"),
    "Params that are none": ({"facts": "pass", "params": "pass\n    Params = 3"}, "'Params' is 3"),
    "an exit at import": ({"imports": "sys.exit(0)"}, r"ended the process \(SystemExit 0\)"),
    "a hard exit at import": ({"imports": "os._exit(0)"}, r"ended the process \(SystemExit 0\)"),
    "a fault of the machine at import": (
        {"imports": "import ctypes; ctypes.string_at(0)"},
        r"importing it: ends the process \(killed by SIGSEGV\)",
    ),
    "a kill at import": ({"imports": "os.kill(os.getpid(), 9)"}, "killed by SIGKILL"),
    "an exit of the C library at import": (
        {"imports": "import ctypes; ctypes.CDLL(None).exit(0)"},
        r"ends the process \(exit code 0\)",
    ),
    "an interrupt at import": ({"imports": "raise KeyboardInterrupt"}, "by itself"),
    "an error at import": ({"imports": "1 / 0"}, "ZeroDivisionError"),
    "a module that is not there": ({"imports": "import no_such_module_here"}, "ModuleNotFoundError"),
    "no Python": ({"imports": "def ("}, "SyntaxError"),
}


@pytest.mark.usefixtures("forget")
@pytest.mark.parametrize(("parts", "words"), FACTS.values(), ids=FACTS)
def test_a_wrong_fact_is_refused_when_it_is_registered(parts: dict[str, str], words: str, tmp_path: Path) -> None:
    path = write(tmp_path, **parts)
    before = set(all_methods())
    with pytest.raises(ConcordError) as error:
        load_plugin(path)
    said = str(error.value)
    assert re.search(words, said), said
    assert str(path) in said
    assert "\n" not in said
    assert set(registered()) == before


@pytest.mark.usefixtures("forget")
def test_values_that_round_to_a_grey_level_are_taken(tmp_path: Path, toy_tree: Path) -> None:
    load_plugin(write(tmp_path, sample="return x * 1.0005 - 0.0002"))
    work = session(tmp_path, toy_tree)
    assert [run.row.name for run in work.generate([work.plan.run("bad")])] == ["bad"]
    assert work.failed == {}


ENDS: dict[str, tuple[str, str]] = {
    "a hard exit": ("os._exit(0)", "ended with exit code 0 while it made request 0-0"),
    "a fault of the machine": ("import ctypes; ctypes.string_at(0)", "was killed by SIGSEGV while it made request 0-0"),
    "a kill": ("os.kill(os.getpid(), 9)", "was killed by SIGKILL while it made request 0-0"),
    "a closed output": ("os.close(1); os.close(2); sys.exit(3)", "SystemExit 3"),
    "removed results": (
        "import glob, shutil; [shutil.rmtree(p) for p in glob.glob(RESULTS + '/*/*/*/bad')]; return x",
        "",
    ),
}


@pytest.mark.usefixtures("forget")
@pytest.mark.parametrize(("code", "words"), ENDS.values(), ids=ENDS)
def test_code_that_ends_its_process_ends_no_other(
    code: str, words: str, tmp_path: Path, toy_tree: Path, concord: Callable[..., object]
) -> None:
    path = write(tmp_path, imports=f"RESULTS = {str(tmp_path / 'results')!r}", sample=code)
    suite = toy_world.write_suite(tmp_path, grid="grid: 0")
    done = concord(
        "run",
        suite,
        "--data",
        toy_tree,
        "--limit",
        2,
        "--plugin",
        path,
        "--plugin",
        toy_world.TOY,
        "--methods",
        "bad,toy",
        "--results",
        tmp_path / "results",
    )
    rows = {found.parent.name for found in (tmp_path / "results").rglob("run.json")}
    assert {"toy", "ground-truth"} <= rows
    if words:
        assert done.exit_code == 2  # type: ignore[attr-defined]
        last = done.stderr.strip().splitlines()[-1]  # type: ignore[attr-defined]
        assert last.startswith("error: row not made: toys/bad")
        assert words in last
    assert "Traceback" not in done.output  # type: ignore[attr-defined]


def test_debug_shows_the_whole_traceback(
    tmp_path: Path, toy_tree: Path, concord: Callable[..., object], forget: None
) -> None:
    path = write(tmp_path, sample="raise RuntimeError('seen in the traceback')")
    suite = toy_world.write_suite(tmp_path, grid="grid: 0")
    asked = ["generate", suite, "bad", "--data", toy_tree, "--limit", 2, "--plugin", path, "--results", tmp_path / "r"]
    plain, full = concord(*asked), concord(*asked, "--debug")
    assert "Traceback" not in plain.output  # type: ignore[attr-defined]
    assert "bad_method.py" in full.stderr  # type: ignore[attr-defined]
    assert "Traceback" in full.stderr  # type: ignore[attr-defined]
    assert plain.exit_code == full.exit_code == 2  # type: ignore[attr-defined]


def test_a_circle_of_imports_through_a_plugin_is_one_line(
    tmp_path: Path, concord: Callable[..., object], forget: None
) -> None:
    path = write(tmp_path, imports="from beside_it import helper")
    (tmp_path / "beside_it.py").write_text("from bad_method import Bad\n\nhelper = 1\n")
    asked = concord("check", "--plugin", path)
    assert asked.exit_code == 2  # type: ignore[attr-defined]
    (line,) = asked.stderr.strip().splitlines()  # type: ignore[attr-defined]
    assert "bad_method.py" in line
    assert "circular import" in line or "two methods are named" in line  # as the circle is met first, or its other end
