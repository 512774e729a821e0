"""`concord check`: contract tests on a method."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from concord.arguments import (
    Changes,
    Device,
    Externals,
    Plugins,
    ProfileName,
)
from concord.console import collect
from concord.data.errors import ConcordError
from concord.data.printable import printable

if TYPE_CHECKING:
    from concord.benchmarks.contract import Check
    from concord.benchmarks.external.method import External


def check(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[METHOD]", help="A method; with --plugin, all of the file's.", show_default=False),
    ] = None,
    plugin: Plugins = None,
    device: Device = "auto",
    profile: ProfileName = "embedded",
    changes: Changes = None,
    external: Externals = None,
) -> None:
    """Test that a method keeps the contract: the same bits again, nothing but the request counts, clear errors.

    Exit code 0: every check passed; 1: one failed; 2: bad input.

    Examples:

      concord check collaborative

      concord check --plugin my_method.py

      concord check composable --set steps=5 --device cuda

      concord check --external my_method.yaml
    """
    _look_first(name, plugin or [], external or [])
    from concord.benchmarks.opening import load_externals, load_plugins
    from concord.methods.base import get_method, make_params

    names = load_plugins(plugin or ())
    if name is not None:
        names = [name]
    outside = load_externals(external or (), [])
    params = _parameters(changes)
    for method in names:
        make_params(get_method(method), params)  # a mistake in a name is known before networks load
    failed = sum(_check_method(method, params, device, profile) for method in names)
    failed += sum(_check_command(method) for method in outside)
    if failed:
        raise typer.Exit(1)


def _look_first(name: str | None, plugins: list[Path], externals: list[Path]) -> None:
    """Raise ConcordError for files that are not there or no Python, before torch is imported for them."""
    if name is None and not plugins and not externals:
        raise ConcordError("nothing to check: name a method (`concord list` shows them), or give a file with --plugin")
    for path in externals:
        if not path.is_file():
            raise ConcordError(f"--external {path}: no such file; expected a YAML file that names a command")
    for path in plugins:
        if not path.is_file() or path.suffix != ".py":
            raise ConcordError(
                f"--plugin {path}: expected a Python file with a registered method (copy methods/template.py)"
            )
        try:
            compile(path.read_bytes(), path.name, "exec")
        except (SyntaxError, ValueError) as error:
            raise ConcordError(f"--plugin {path}: {type(error).__name__}: {error}") from None


def _parameters(changes: list[str] | None) -> dict[str, object]:
    """The parameters of `--set`; one value each, since one method is checked at a time."""
    from concord.benchmarks.changes import read_changes
    from concord.benchmarks.tuned import nested

    read = read_changes(changes or ())
    for change in read:
        if len(change.values) > 1:
            raise ConcordError(f"--set {change.name}: `concord check` takes one value, got {len(change.values)}")
    return nested({change.name: change.values[0] for change in read})


def _check_method(name: str, params: dict[str, object], device: str, profile: str) -> int:
    from concord.benchmarks.run.check import CheckJob, check_apart, open_contract
    from concord.benchmarks.run.foreign import plugin_file
    from concord.data.device import resolve_device

    where, file = f"on {resolve_device(device)}", plugin_file(name)
    if file is not None:
        return _check(name, where, lambda: check_apart(CheckJob(name, file, params, device, profile)))
    return _check(name, where, lambda: open_contract(name, params, device, profile).run())


def _check_command(external: External) -> int:
    import tempfile

    from concord.benchmarks.external.command import command_contract

    with tempfile.TemporaryDirectory(prefix="concord-") as folder:
        return _check(external.name, "by its command", lambda: command_contract(external, Path(folder)).run())


def _check(name: str, where: str, checks: Callable[[], Iterator[Check]]) -> int:
    """Print the table of one method; returns how many checks failed."""
    import time

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from concord.benchmarks.contract import Contract
    from concord.data.progress import bar

    start = time.perf_counter()
    total = sum(attribute.startswith("check_") for attribute in dir(Contract))
    results = []
    with bar(f"check {name}") as progress:
        for result in checks():
            results.append(result)
            progress(len(results), total)
    told = [{"check": one.name, "passed": one.passed, "detail": one.detail} for one in results]
    if collect(f"{name} {where}", told):
        return sum(not result.passed for result in results)
    table = Table("check", "", "detail", title=f"{name} {where}", title_justify="left", box=None, pad_edge=False)
    for result in results:
        table.add_row(result.name, "ok" if result.passed else "[bold red]FAILED[/]", Text(printable(result.detail)))
    console = Console()
    if not console.is_terminal:
        console.width = 160
    console.print(table)
    failed = sum(not result.passed for result in results)
    seconds = time.perf_counter() - start
    typer.echo(f"{name}: {len(results) - failed} of {len(results)} checks passed in {seconds:.1f} s")
    return failed
