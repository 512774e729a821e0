"""Fixtures of the machinery's tests: a toy method, a toy tree of faces, judges without weights, the command line."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import toy_world

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as concord/__init__.py does, before torch is imported
os.environ["CONCORD_HASHES"] = tempfile.mkdtemp(prefix="concord-hashes-")  # of files of tests; gone with them
atexit.register(shutil.rmtree, os.environ["CONCORD_HASHES"], ignore_errors=True)


@pytest.fixture(scope="session")
def toy_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CelebAMask-HQ tree of 12 faces, not to be changed."""
    return toy_world.write_tree(tmp_path_factory.mktemp("toys") / "tree", 12)


@pytest.fixture
def toy() -> Iterator[str]:
    """The toy method, registered for one test; its name."""
    from concord.methods import base

    before = base.all_methods()  # imports every method first, so that none is lost with the toy
    (name,) = base.load_plugin(toy_world.TOY)
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
