"""A method of somebody else's inside Concord: a plugin file, and an installed package with an entry point."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import toy_world

from concord.data.errors import ConcordError
from concord.methods import base, plugins

N = 6
Cli = Callable[..., Any]
Install = Callable[..., Path]


def method_source(name: str) -> str:
    """A method file like the toy's, under another name."""
    return toy_world.TOY.read_text().replace('"toy", "Toy"', f'"{name}", "{name.capitalize()} method"')


@pytest.fixture
def registry() -> Iterator[None]:
    """What is registered here is forgotten afterwards."""
    before = base.all_methods()
    yield
    base._REGISTRY.methods.clear()
    base._REGISTRY.methods.update(before)


@pytest.fixture
def install(registry: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Call it with a package's name, its code and what its entry point names: it is as an installer leaves it."""

    def make(package: str, code: str, value: str) -> Path:
        site = tmp_path / "site-packages"
        (site / package).mkdir(parents=True)
        (site / package / "__init__.py").write_text(code)
        info = site / f"{package}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package.replace('_', '-')}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[concord.methods]\nany = {value}\n")
        monkeypatch.syspath_prepend(str(site))
        return site / package / "__init__.py"

    return make


def shown(output: str, title: str) -> str:
    """The table's line of a method."""
    (row,) = [line for line in output.splitlines() if line.startswith(f"| {title}")]
    return row


def whole_way(concord: Cli, name: str, tree: Path, folder: Path, *more: object) -> None:
    """`check`, `run --methods`, the table, and all of it again without work."""
    checked = concord("check", *more, *([] if more else [name]))
    assert checked.exit_code == 0, checked.output
    assert f"{name}: 10 of 10 checks passed" in checked.stdout
    suite = toy_world.write_suite(folder, grid="grid: 0")
    rest = [suite, "--data", tree, "--limit", N, "--results", folder / "results"]
    first = concord("run", *rest, "--methods", f"{name},toy", *more)
    assert first.exit_code == 0, first.output
    row = shown(first.stdout, name.capitalize())
    assert row.rstrip(" |").endswith("2"), "network evaluations are counted"
    compared = f"Toy and {name.capitalize()} method cannot be told apart"
    assert compared in first.stdout, "it is compared with the other rows"
    second = concord("run", *rest, "--methods", f"{name},toy", *more)
    assert second.exit_code == 0, second.output
    assert "everything is up to date" in second.stdout
    report = concord("report", suite, "--data", tree, "--limit", N, "--results", folder / "results")
    assert row in report.stdout.splitlines(), "the store knows the row without its plugin"


def test_a_plugin_file_goes_the_whole_way(concord: Cli, registry: None, toy_tree: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    plugin = tmp_path / "elsewhere" / "my_method.py"
    plugin.write_text(method_source("mine"))
    whole_way(concord, "mine", toy_tree, tmp_path, "--plugin", plugin)


def test_an_installed_package_goes_the_whole_way(
    concord: Cli, install: Install, toy_tree: Path, tmp_path: Path
) -> None:
    from concord.benchmarks.plan.sources import method_file

    file = install("their_method", method_source("theirs"), "their_method:Toy")
    listed = concord("list")
    assert listed.exit_code == 0, listed.output
    assert "Theirs method" in listed.stdout
    assert method_file("theirs") == file, "its source is part of the run's key"
    whole_way(concord, "theirs", toy_tree, tmp_path)


BROKEN = {
    "import": (
        "import no_such_module",
        "m:Toy",
        r"fix or uninstall it: ModuleNotFoundError: No module named 'no_such_module'",
    ),
    "attribute": ("", "m:Toy", "fix or uninstall it: AttributeError: .*'Toy'"),
    "no method": ("Toy = 3", "m:Toy", "is no method; expected a class that derives from concord.methods.base.Method"),
    "a function": ("def toy(): ...", "m:toy", "is no method; expected a class"),
    "raises": ("1 / 0", "m:Toy", "fix or uninstall it: ZeroDivisionError: division by zero"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_package_is_one_line_with_its_name(kind: str, install: Install) -> None:
    code, value, message = BROKEN[kind]
    package = f"broken_{kind.replace(' ', '_')}"
    install(package, code, value.replace("m:", f"{package}:"))
    with pytest.raises(ConcordError, match=message) as error:
        base.all_methods()
    name = package.replace("_", "-")
    assert str(error.value).startswith(f"installed package '{name}', entry point 'any = {package}:")
    assert "\n" not in str(error.value)


def test_a_package_with_a_name_that_is_taken(install: Install) -> None:
    file = install("greedy_method", method_source("composable"), "greedy_method:Toy")
    with pytest.raises(ConcordError, match=r"two methods are named 'composable': .*composable\.py") as error:
        base.all_methods()
    assert str(file) in str(error.value)


# ------------------------------------------------------------------------------------------------------------ the guide

GUIDE = (toy_world.ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def block(kind: str, number: int = 0) -> str:
    """A block of code of CONTRIBUTING.md."""
    return re.findall(rf"```{kind}\n(.*?)```", GUIDE, re.DOTALL)[number]


def test_the_guides_method_keeps_the_contract(registry: None, tmp_path: Path) -> None:
    from concord.benchmarks.contract import Contract
    from concord.data.networks import Networks

    (tmp_path / "mine.py").write_text(block("python"))
    (name,) = plugins.load_plugin(tmp_path / "mine.py")
    method = base.make_method(name, {"steps": 3}, lambda: Networks("embedded", "faces"))
    assert [f"{check.name}: {check.detail}" for check in Contract(method).run() if not check.passed] == []


def test_the_guides_program_answers(tmp_path: Path) -> None:
    import numpy as np

    from concord.benchmarks.external.command import run_command
    from concord.benchmarks.external.method import load_external
    from concord.data.request import Conditions, Request

    (tmp_path / "theirs.py").write_text(block("python", 1))
    (tmp_path / "theirs.yaml").write_text(block("yaml"))
    external = load_external(tmp_path / "theirs.yaml")
    assert external.spec is not None
    command = external.spec.command.replace("python", shlex.quote(sys.executable), 1)
    spec = external.spec.model_copy(update={"command": command})
    mask = np.random.default_rng(0).integers(0, 19, (64, 64))
    requests = [Request(f"{i}-0", i, Conditions(text="A face.", mask=mask)) for i in range(2)]
    images = run_command(spec, tmp_path, requests, external.conditions, 64, tmp_path / "work").images
    for i in range(2):
        colours = np.random.default_rng(i).integers(0, 256, (19, 3), dtype=np.uint8)
        np.testing.assert_array_equal(images[i], colours[mask])


COMMANDS = re.findall(r"^    concord (\w+)(.*)$", GUIDE, re.MULTILINE)


@pytest.mark.parametrize(("verb", "rest"), COMMANDS)
def test_the_guides_commands_are_commands(verb: str, rest: str) -> None:
    """Parsed by the command line as they stand, and not run."""
    from concord.cli import load_verb

    context = load_verb(verb).make_context(verb, shlex.split(rest))
    assert context.params


def test_the_guide_has_commands() -> None:
    assert {verb for verb, _ in COMMANDS} >= {"check", "run", "export", "import"}
