"""Fixtures of the machinery's tests: a toy method, a toy tree of faces, judges without weights, the command line."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import toy_world

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as concord/__init__.py does, before torch is imported
if "PYTEST_XDIST_WORKER" in os.environ:  # each has a core; more threads would only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["CONCORD_HASHES"] = tempfile.mkdtemp(prefix="concord-hashes-")  # of files of tests; gone with them
atexit.register(shutil.rmtree, os.environ["CONCORD_HASHES"], ignore_errors=True)


# ------------------------------------------------------------------------------------------- skips, where they count
# On a user's machine a test that lacks a program is skipped and says why. Continuous integration installs the programs
# (.ci/run), so a skip there means that a part of the repository is no longer tested: it fails.

IN_CI = os.environ.get("CI", "").lower() in ("1", "true")
MAY_SKIP = {"gpu", "own_files"}  # markers of what no continuous integration has


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    allowed = hasattr(report, "wasxfail") or MAY_SKIP & {mark.name for mark in item.iter_markers()}
    return report if allowed else _counted(report)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _counted((yield))


def _counted(report: Report) -> Report:
    """The report, failed where it says that something was skipped and this is continuous integration."""
    if IN_CI and report.skipped:
        report.longrepr = f"skipped, which is a failure where CI is set: {report.longrepr}"
        report.outcome = "failed"
    return report


# ----------------------------------------------------------------------------------------------------------- fixtures


@pytest.fixture(scope="session")
def toy_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CelebAMask-HQ tree of 12 faces, not to be changed."""
    return toy_world.write_tree(tmp_path_factory.mktemp("toys") / "tree", 12)


@pytest.fixture
def toy() -> Iterator[str]:
    """The toy method, registered for one test; its name."""
    from concord.methods import base, plugins

    before = base.all_methods()  # imports every method first, so that none is lost with the toy
    (name,) = plugins.load_plugin(toy_world.TOY)
    yield name
    base._REGISTRY.methods.clear()
    base._REGISTRY.methods.update(before)


@pytest.fixture
def toy_suite(tmp_path: Path) -> Path:
    """A suite file of the user's with the toy method."""
    return toy_world.write_suite(tmp_path)


@pytest.fixture
def judges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judges without weights in place of the trained ones."""
    from concord.metrics.networks.perception import Perception

    monkeypatch.setattr(Perception, "load", classmethod(lambda cls, *args, **kwargs: toy_world.make_judges()))


@pytest.fixture
def concord(toy: str, judges: None) -> Callable[..., Any]:
    """Call it with arguments of the command line: it runs `concord` in this process; exit_code, stdout, stderr."""
    from typer.testing import CliRunner

    from concord.cli import app

    return lambda *args: CliRunner().invoke(app, [str(arg) for arg in args])
