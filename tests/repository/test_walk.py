"""The contributors' walk: CONTRIBUTING.md's own method, saved in `methods/` of a copy, passes lint and every test."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ABOUT_METHODS = (
    "tests/contract/test_method_contract.py::test_method_keeps_the_contract[mine]",
    "tests/repository/test_import_graph.py",
)
"""What a new method is the likeliest to break; the long test runs all the others."""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that git keeps, with the guide's method among the methods."""
    place = tmp_path_factory.mktemp("walk") / "concord"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        source, target = ROOT / name, place / name
        if not source.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            target.symlink_to(os.readlink(source))
        elif source.suffix == ".safetensors":
            target.symlink_to(source)  # weights are read alone
        else:
            shutil.copy(source, target)
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (place / "methods/mine.py").write_text(re.findall(r"```python\n(.*?)```", guide, re.DOTALL)[0], encoding="utf-8")
    for command in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *command], cwd=place, check=True)
    return place


def call(checkout: Path, *command: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"PYTHONPATH": str(checkout)}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=checkout, env=environment, capture_output=True, text=True, timeout=timeout
    )


def test_the_guides_method_passes_lint(checkout: Path) -> None:
    for command in (["ruff", "check", "methods/mine.py"], ["ruff", "format", "--check", "methods/mine.py"]):
        done = call(checkout, *command)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_guides_method_passes_the_tests_of_methods(checkout: Path) -> None:
    done = call(checkout, "pytest", "-q", "-x", "-m", "not slow and not long", "-p", "no:xdist", *ABOUT_METHODS)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


@pytest.mark.long
def test_the_guides_method_passes_every_test_and_the_types(checkout: Path) -> None:
    done = call(checkout, "mypy")
    assert done.returncode == 0, done.stdout
    done = call(checkout, "pytest", "-q", "-m", "not long", "-n", "2", "--dist", "worksteal", timeout=3600)
    assert done.returncode == 0, done.stdout[-5000:]
