"""The house itself: the order of imports, the lock, the Makefile, and what git keeps."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = ["data", "metrics", "methods", "benchmarks", "reports", "concord"]
TARGETS = ["bench", "test", "test-long", "report", "compare", "baseline", "train", "lint", "clean", "help"]
STATED = [
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "torchmetrics",
    "cleanfid.fid",
    "open_clip",
    "insightface.app",
    "face_alignment",
    "lpips",
    "pandas",
    "pyarrow.parquet",
    "dvc.api",
    "typer",
    "rich",
    "pydantic",
    "jinja2",
    "matplotlib",
    "safetensors.torch",
    "scipy.linalg",
    "pooch",
    "gdown",
    "filelock",
    "psutil",
    "grimp",
]
MIB = 2**20


def run(*command: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)


def lock_entries() -> list[tuple[Requirement, list[str]]]:
    """Every requirement of the lock with its hashes."""
    text = re.sub(r"\\\n", " ", (ROOT / "requirements.lock").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [(Requirement(line.split(" --hash=")[0]), re.findall(r"--hash=(\S+)", line)) for line in lines]


def direct_requirements() -> list[Requirement]:
    extras = PYPROJECT["project"]["optional-dependencies"].values()
    return [Requirement(r) for group in (PYPROJECT["project"]["dependencies"], *extras) for r in group]


# ---------------------------------------------------------------------------------------------------------------------
# Imports


def test_imports_run_one_way() -> None:
    result = run(sys.executable, "-c", "from importlinter.cli import lint_imports; exit(lint_imports(no_cache=True))")
    assert result.returncode == 0, result.stdout + result.stderr


def test_contract_covers_every_package() -> None:
    (contract,) = PYPROJECT["tool"]["importlinter"]["contracts"]
    assert contract["layers"][1:] == [f"concord.{package}" for package in PACKAGES[-2::-1]]
    assert "concord.cli" in contract["layers"][0]
    assert PYPROJECT["tool"]["importlinter"]["root_packages"] == ["concord"]


@pytest.mark.slow
def test_stated_packages_import_together() -> None:
    result = run(sys.executable, "-W", "ignore", "-c", f"import {', '.join(STATED)}")
    assert result.returncode == 0, result.stderr


EVERY_PACKAGE = [
    *PACKAGES,
    *sorted(
        {
            path.parent.relative_to(ROOT).as_posix()
            for package in PACKAGES[:-1]
            for path in (ROOT / package).glob("*/**/*.py")
        }
    ),
    "concord/commands",
]


@pytest.mark.parametrize("package", EVERY_PACKAGE)
def test_package_says_what_it_is(package: str) -> None:
    """In some lines, whose names of modules, folders and functions are true."""
    said = ast.get_docstring(ast.parse((ROOT / package / "__init__.py").read_text()))
    assert said is not None
    assert 3 <= len(said.splitlines()) <= 40
    here = ROOT / package
    code = "\n".join(path.read_text() for path in here.glob("*.py"))
    for name in re.findall(r"`([A-Za-z_]+)/?`", said):
        exists = (here / name).is_dir() or (here / f"{name}.py").is_file() or (here / f"{name}.md").is_file()
        assert exists or re.search(rf"\b(def|class) {name}\b|\b{name}:|import.*\b{name}\b", code), (
            f"{package} has no {name}"
        )
    for module, name in re.findall(r"`([a-z_]+)\.([A-Za-z_]+)`", said):
        if (here / f"{module}.py").is_file() and name != "py":
            defined = re.search(rf"^(def|class) {name}\b", (here / f"{module}.py").read_text(), re.MULTILINE)
            assert defined, f"{package}/{module}.py has no {name}"
        else:
            known = [
                here / module / f"{name}.py",
                here / f"{module}.{name}",
                ROOT / module / name,
                ROOT / module / f"{name}.py",
            ]
            assert module == "concord" or any(path.exists() for path in known), f"{package} has no {module}.{name}"


# ---------------------------------------------------------------------------------------------------------------------
# The lock


def test_lock_pins_and_hashes_everything() -> None:
    entries = lock_entries()
    assert len(entries) > 100
    for requirement, hashes in entries:
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), f"{requirement.name} is not pinned"
        assert hashes, f"{requirement.name} has no hash"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", h) for h in hashes), f"{requirement.name} has an odd hash"


def test_lock_names_no_source() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"^\s*(-i|-f|-e|--(?!hash=)\S+)", text, re.MULTILINE)
    assert "://" not in text
    assert not re.search(r"(?<![\w-])/\w+/", text), "a path of some machine"


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_lock_agrees_with_pyproject(python: str) -> None:
    environment = default_environment() | {"python_version": python, "python_full_version": f"{python}.0"}
    pins: dict[str, str] = {}
    for requirement, _ in lock_entries():
        if requirement.marker is None or requirement.marker.evaluate(environment):
            name = canonicalize_name(requirement.name)
            assert name not in pins, f"{name} is pinned twice for Python {python}"
            pins[name] = next(iter(requirement.specifier)).version
    for requirement in direct_requirements():
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{name} is not in requirements.lock: run make lock"
        assert requirement.specifier.contains(pins[name]), f"{requirement} against {pins[name]}: run make lock"


# ---------------------------------------------------------------------------------------------------------------------
# Makefile and files


def test_help_lists_every_target() -> None:
    result = run("make", "--no-print-directory", "help")
    assert result.returncode == 0, result.stderr
    listed = re.findall(r"^  make ([\w-]+)\s+\S", result.stdout, re.MULTILINE)
    assert set(TARGETS) <= set(listed), listed


def test_tracked_files_are_small() -> None:
    if run("git", "rev-parse", "--is-inside-work-tree").returncode:
        pytest.skip("not a git checkout")
    listed = run("git", "ls-files", "-z").stdout.split("\0")
    sizes = {name: (ROOT / name).stat().st_size for name in listed if name and (ROOT / name).is_file()}
    assert not {name: size for name, size in sizes.items() if size > 16 * MIB}
    assert sum(sizes.values()) < 60 * MIB


def test_ci_calls_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111, ".ci/run is not executable"
    assert "set -euo pipefail" in script.read_text()
    assert "make test" in script.read_text()
